"""Which workers judge a search, where it is not this process alone."""

from dataclasses import dataclass
from math import floor

from ..errors import SettingError
from ..profilers.machine import available_cores

LOCAL, AUTO = "local", "auto"


@dataclass(frozen=True, slots=True)
class Cluster:
    """What is asked of a Ray cluster.

    Attributes:
        address: "local" starts workers on this machine, "auto" takes the cluster that runs on it, "host:port" joins the
            one whose head listens there.
        workers: plans judged at once; None for as many as fit.
        cpus_per_trial: cores, or a part of one, that judging a plan takes.
        gpus_per_trial: GPUs, or a part of one; several plans may share one.
    """

    address: str = LOCAL
    workers: int | None = None
    cpus_per_trial: float = 1.0
    gpus_per_trial: float = 0.0

    def __post_init__(self) -> None:
        if self.address not in (LOCAL, AUTO) and self.endpoint is None:
            raise SettingError(
                f"a cluster is {LOCAL!r}, {AUTO!r} or the address of its head as host:port, got {self.address!r}."
            )
        if self.workers is not None and self.workers < 1:
            raise SettingError(f"a cluster needs at least 1 worker, got {self.workers}.")
        if not self.cpus_per_trial > 0:
            raise SettingError(f"the cores per trial must be above 0, got {self.cpus_per_trial:g}.")
        if not self.gpus_per_trial >= 0:
            raise SettingError(f"the GPUs per trial must be at least 0, got {self.gpus_per_trial:g}.")
        if self.address == LOCAL:
            self.fitting(available_cores(), None, "this machine")

    @property
    def endpoint(self) -> tuple[str, int] | None:
        """Host and port of the head; None where none are given."""
        host, _, port = self.address.rpartition(":")
        return (host, int(port)) if host and "/" not in host and port.isdecimal() and int(port) < 2**16 else None

    @property
    def threads(self) -> int:
        """That a worker may use."""
        return max(1, floor(self.cpus_per_trial))

    def fitting(self, cores: float, gpus: float | None, where: str) -> int:
        """How many workers there will be.

        Args:
            cores: that there are.
            gpus: the same; None where that is not known yet.
            where: there are so many, in words.

        Raises:
            SettingError: if those asked for do not fit, or none does.
        """
        most = floor(cores / self.cpus_per_trial + 1e-9)
        has = f"{cores:g} cores"
        if self.gpus_per_trial and gpus is not None:
            most, has = min(most, floor(gpus / self.gpus_per_trial + 1e-9)), f"{has} and {gpus:g} GPUs"
        wanted = 1 if self.workers is None else self.workers
        if wanted > most:
            each = f"{self.cpus_per_trial:g} cores" + (
                f" and {self.gpus_per_trial:g} GPUs" if self.gpus_per_trial else ""
            )
            raise SettingError(
                f"{where} has {has}, on which {most} workers of {each} fit, asked for {wanted}; ask for "
                "fewer workers, or give each less."
            )
        return most if self.workers is None else self.workers
