"""Bits allocated by sensitivity, under budgets of bytes or of seconds."""

from collections.abc import Mapping

from torch import nn

from ..errors import BudgetError
from ..profilers.workload import Workload
from ..spaces.allocation import Option, allocate
from ..spaces.artefact import stored_bytes
from ..spaces.calibration import standing_linears
from ..spaces.factor_bytes import part_bytes
from ..spaces.palette import FLOAT
from ..spaces.plan import Treatment
from ..spaces.sensitivity import part_harms
from .kind_latency import seconds_saved
from .workbench import LocalWorkbench


def allocated_bits(bench: LocalWorkbench, ratio: float) -> dict[str, str]:
    """The precisions of least predicted harm that make the original so many times smaller.

    Args:
        bench: of the model; its anatomy's palette says which precisions there are.
        ratio: bytes of the original over those wanted, everything counted.

    Returns:
        Part, such as "encoder.3.query" or "embeddings" -> "float" or a precision.

    Raises:
        BudgetError: if the model cannot be made that small.
    """
    options, rest = byte_options(bench)
    whole = stored_bytes(bench.model)
    least = rest + sum(min(option.cost for option in found) for found in options.values())
    if whole / ratio < least:
        raise BudgetError(
            f"the precisions {_words(bench)} make the model at most {whole / least:.2f} times smaller, "
            f"wanted {ratio:g}; ask for less, or allow fewer bits."
        )
    return allocate(options, whole / ratio - rest)


def fast_bits(bench: LocalWorkbench, workload: Workload, speed_up: float, *, seed: int) -> dict[str, str]:
    """The precisions of least predicted harm that make a request so many times faster.

    Tables stay float: looking words up takes no time that matters.

    Args:
        bench: of the model; its anatomy's palette says which precisions there are.
        workload: what is served.
        speed_up: seconds of the original over those wanted.
        seed: of the order of measurements.

    Returns:
        As `allocated_bits`.

    Raises:
        BudgetError: if the precisions do not save as much time.
    """
    whole, saved = seconds_saved(bench, workload, seed=seed)
    harms = part_harms(bench)
    options, fastest = {}, whole
    for name in harms:
        if name.startswith("outside."):
            continue
        stack, _, kind = name.split(".")
        by_precision = {FLOAT: 0.0, **saved[f"{stack}.{kind}"]}
        # Costs must not be below 0, so each part's are counted from its fastest option.
        most = max(by_precision.values())
        fastest -= most
        options[name] = [Option(way, most - gain, harms[name].get(way, 0.0)) for way, gain in by_precision.items()]
    if whole / speed_up < fastest:
        raise BudgetError(
            f"the precisions {_words(bench)} make a request at most {whole / fastest:.2f} times faster, "
            f"wanted {speed_up:g}; ask for less, or take another runtime."
        )
    return allocate(options, whole / speed_up - fastest)


def _words(bench: LocalWorkbench) -> str:
    palette = bench.anatomy.palette
    return ", ".join(map(str, (*palette.linears, *palette.tables)))


def byte_options(bench: LocalWorkbench) -> tuple[dict[str, list[Option]], int]:
    """What may be done to each part at what cost in bytes, and the bytes of all that no precision changes."""
    palette, anatomy, harms = bench.anatomy.palette, bench.anatomy, part_harms(bench)
    shapes = _shapes(bench)
    options = {}
    for name, (rows, columns) in shapes.items():
        outside = name.startswith("outside.")
        found = [Option(FLOAT, 4 * rows * columns, 0.0)]
        for precision in palette.tables if outside else palette.linears:
            cost = part_bytes((rows, columns), Treatment(precision=precision))
            found.append(Option(str(precision), cost, harms[name][str(precision)]))
        options[name.removeprefix("outside.")] = found
    assert anatomy.outside.keys() <= options.keys()
    return options, stored_bytes(bench.model) - sum(4 * rows * columns for rows, columns in shapes.values())


def _shapes(bench: LocalWorkbench) -> dict[str, tuple[int, int]]:
    """Rows and columns of every part that may have a precision."""
    identity = bench.anatomy.identity()
    parts: Mapping[str, nn.Module] = {
        **dict(standing_linears(bench.model, identity, bench.anatomy)),
        **{f"outside.{kind}": bench.model.get_submodule(path) for kind, path in bench.anatomy.outside.items()},
    }
    return {name: (int(part.weight.shape[0]), int(part.weight.shape[1])) for name, part in parts.items()}  # type: ignore[index]
