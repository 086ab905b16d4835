"""Options of the command line for searches on several workers."""

from typing import TYPE_CHECKING, Annotated

import typer

from .errors import SettingError

if TYPE_CHECKING:
    from .search.workers import Cluster

Where = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        help="Judge on several workers with Ray: local starts them here, auto takes the cluster that runs here, "
        "host:port joins one (with RAY_AUTH_MODE=token where that asks for a token). In this process if not given.",
    ),
]
Workers = Annotated[int | None, typer.Option(help="With --cluster: plans judged at once; all that fit if not given.")]
CpusPerTrial = Annotated[float | None, typer.Option(help="With --cluster: cores per worker, or a part of one; 1.")]
GpusPerTrial = Annotated[float | None, typer.Option(help="With --cluster: GPUs per worker, or a part of one; 0.")]


def cluster(where: str | None, workers: int | None, cpus: float | None, gpus: float | None) -> "Cluster | None":
    """Reads what is asked of a cluster; None where none is.

    Raises:
        SettingError: if something is asked of a cluster and none is given, or it cannot be.
    """
    asked = {"--workers": workers, "--cpus-per-trial": cpus, "--gpus-per-trial": gpus}
    given = [name for name, value in asked.items() if value is not None]
    if where is None:
        if given:
            raise SettingError(f"{' and '.join(given)} say how a cluster is used; add --cluster local, or leave out.")
        return None
    from .search.workers import Cluster

    return Cluster(where, workers, 1.0 if cpus is None else cpus, 0.0 if gpus is None else gpus)
