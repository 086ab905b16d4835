"""What is known of single parts before any plan is judged: what each choice saves, and what it is predicted to harm."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..spaces.allocation import Option
from ..spaces.artefact import stored_bytes
from ..spaces.sensitivity import part_harms
from ..spaces.space import Space
from ..spaces.tilings import read
from .factor_starts import factor_options, option_plan
from .starts import byte_options
from .workbench import LocalWorkbench


@dataclass(frozen=True, slots=True)
class Hints:
    """What is known of the parts of one model.

    Attributes:
        whole: bytes of the original.
        bits: parameter of the axis "bits" -> its choices; empty where bits are not searched.
        rest: bytes of all that no precision changes.
        factors: parameter of the axis "factors" -> its choices; empty where factors are not searched.
        assemblies: parameter of the axis "assembly" -> its tilings; empty where those are not searched.
        harms: see `samplers.features.Harms`.
    """

    whole: int
    bits: Mapping[str, list[Option]] = field(default_factory=dict)
    rest: int = 0
    factors: Mapping[str, list[Option]] = field(default_factory=dict)
    assemblies: Mapping[str, list[Option]] = field(default_factory=dict)
    harms: Mapping[str, float] = field(default_factory=dict)


def hints_of(space: Space, bench: LocalWorkbench) -> Hints:
    """Learns them, or looks them up where the run folder has them.

    Args:
        space: what is searched; nothing is learned for an axis that is not.
        bench: where they are learned.
    """
    bits: dict[str, list[Option]] = {}
    factors: dict[str, list[Option]] = {}
    harms: dict[str, float] = {}
    rest = 0
    if "bits" in space.axes:
        found, rest = byte_options(bench)
        bits = {f"bits.{part}": options for part, options in found.items()}
        harms |= {
            f"{part} {precision}": harm for part, ways in part_harms(bench).items() for precision, harm in ways.items()
        }
    if "factors" in space.axes:
        factors = factor_options(space, bench)
        harms |= _factor_harms(space, bench, factors)
    assemblies = _tilings(space, bench) if "assembly" in space.axes else {}
    return Hints(stored_bytes(bench.model), bits, rest, factors, assemblies, harms)


def _tilings(space: Space, bench: LocalWorkbench) -> dict[str, list[Option]]:
    """What every tiling of a block costs in bytes, and what it was seen to harm while all else was original."""
    found: dict[str, list[Option]] = {}
    for one in space.parameters["assembly"]:
        _, stack, block = one.name.split(".")
        places = bench.anatomy.stack(stack)
        layer = stored_bytes(bench.model.get_submodule(f"{places.path}.{places.n_layers - 1}"))
        harms = bench.prepared().harm(stack).get(int(block), {})
        tilings = [(str(choice), read(str(choice))) for choice in one.choices]
        found[one.name] = [Option(name, layer * len(sizes), harms.get(sizes, 0.0)) for name, sizes in tilings]
    return found


def _factor_harms(space: Space, bench: LocalWorkbench, options: Mapping[str, list[Option]]) -> dict[str, float]:
    """Of every layer alone: what a way harms is shared out evenly, since it is only known of all its layers."""
    found: dict[str, float] = {}
    for one in (one for one in space.parameters["factors"] if one.name in options):
        for option in options[one.name][1:]:
            parts = list(option_plan(one, option.name, bench).factorisations())
            for name, _, factors in parts:
                found[f"{name} {factors}"] = option.harm / len(parts)
    return found
