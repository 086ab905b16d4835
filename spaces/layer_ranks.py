"""Which layer gets which rank: those whose errors the answers mind most get more of the numbers of their kind."""

from collections.abc import Sequence
from functools import partial
from weakref import WeakKeyDictionary

from .anatomy import Anatomy
from .calibration import standing_linears
from .error_metrics import harms, metric_of
from .factoring import Way
from .homes import home_of
from .plan import Layer, Plan
from .rank_allocation import allocate_ranks
from .seen import look_at
from .workbench import Material, Workbench

Ranks = dict[Layer, int | None]

# Bench -> what was asked of it -> the answer, as long as the bench lives.
_KNOWN: WeakKeyDictionary[Workbench, dict[tuple[Way, str, str, tuple[Layer, ...]], Ranks]] = WeakKeyDictionary()


def layer_ranks(way: Way, stack: str, kind: str, members: Sequence[Layer], bench: Workbench) -> Ranks:
    """The ranks of one kind of Linear that do least harm at a ratio.

    Args:
        way: its method and the ratio, of the numbers of all these layers to those kept.
        stack: where they stand.
        kind: of Linear.
        members: the layers, of one granularity.
        bench: where their harms are learned.

    Returns:
        Layer -> its rank; None where its weight stays whole.

    Raises:
        BudgetError: if even ranks of 1 are too many numbers.
    """
    if not bench.is_taught:
        alike = way.of(bench.anatomy.stack(stack).shapes[kind])
        return dict.fromkeys(members, None if alike is None else alike.rank)
    # A search resolves hundreds of choices for every one it judges, and each asks once per slot and kind.
    known = _KNOWN.setdefault(bench, {})
    asked = (way, stack, kind, tuple(members))
    if asked not in known:
        known[asked] = _allocated(way, stack, kind, members, bench)
    return known[asked]


def _allocated(way: Way, stack: str, kind: str, members: Sequence[Layer], bench: Workbench) -> Ranks:
    home, _ = _home(stack, kind, members[0], bench.anatomy)
    found = bench.remember(
        f"factors-ranks-1-{home.fingerprint}-{stack}-{way.method}", partial(_learn, home, stack, way, bench)
    )
    names = {layer: _home(stack, kind, layer, bench.anatomy)[1] for layer in members}
    rows, columns = bench.anatomy.stack(stack).shapes[kind]
    ranks = allocate_ranks(
        {name: found[name]["harms"] for name in names.values()},
        dict.fromkeys(names.values(), (rows, columns)),
        len(members) * rows * columns / way.ratio,
    )
    return {layer: ranks[name] for layer, name in names.items()}


def _home(stack: str, kind: str, layer: Layer, anatomy: Anatomy) -> tuple[Plan, str]:
    return home_of(anatomy.identity(), f"{stack}.{layer.index}.{kind}", layer, anatomy)


def _learn(home: Plan, stack: str, way: Way, bench: Workbench) -> Material:
    """Name of every Linear of a stack -> "harms", what its best product of rank 0, 1, ... costs."""
    model = bench.build(home)
    standing = standing_linears(model, home, bench.anatomy)
    linears = {name: part for name, part in standing if name.startswith(f"{stack}.")}
    seen = look_at(model, linears, bench)
    found = {}
    for number, (name, linear) in enumerate(linears.items()):
        bench.report(number / len(linears), f"harm of ranks of {name}")
        metric = metric_of(way.method, seen[name], centred=linear.bias is not None)
        found[name] = {"harms": harms(linear.weight, metric).float()}
    return found
