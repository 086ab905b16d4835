"""What each precision saves in time, measured per kind of Linear; for bits allocated under a budget of seconds."""

from dataclasses import replace

from ..profilers.timing import Effort, measure
from ..profilers.workload import Workload, serving
from ..spaces.plan import Plan, Treatment, Treatments
from ..spaces.precision import Precision
from .workbench import LocalWorkbench

_EFFORT = Effort(seconds=20.0, half_width=0.005)
_WHOLE = "the original"


def seconds_saved(bench: LocalWorkbench, workload: Workload, *, seed: int) -> tuple[float, dict[str, dict[str, float]]]:
    """What a request takes, and what less where one Linear has a precision.

    Measured beside each other: the original, and for every kind of every stack and every precision of the palette the
    original with all its Linears of that kind so treated.

    Args:
        bench: of the model.
        workload: what is served.
        seed: of the order within the rounds.

    Returns:
        Seconds of the original; and "encoder.query" -> precision as it is written -> seconds saved per Linear, below 0
        where it costs time.
    """
    identity = bench.anatomy.identity()
    names = [
        (f"{stack.name}.{kind}", precision)
        for stack in bench.anatomy.stacks
        for kind in stack.linears
        for precision in bench.anatomy.palette.linears
    ]
    config = bench.model.config
    calls = {
        f"{name} {precision}": serving(
            bench.executable(bench.build(_treated(identity, name, precision))), workload, config
        )
        for name, precision in names
    }
    calls[_WHOLE] = serving(bench.executable(bench.build(identity)), workload, config)
    found = measure(calls, baseline=_WHOLE, effort=_EFFORT, seed=seed, clock=bench.device.clock)
    whole = found[_WHOLE].seconds
    saved: dict[str, dict[str, float]] = {}
    for name, precision in names:
        layers = len(identity.stack(name.partition(".")[0]).slots)
        ratio = found[f"{name} {precision}"].ratio
        saved.setdefault(name, {})[str(precision)] = whole * (1 - ratio) / layers
    return whole, saved


def _treated(plan: Plan, name: str, precision: Precision) -> Plan:
    stack, _, kind = name.partition(".")
    old = plan.stack(stack)
    treatments = Treatments.of({kind: Treatment(precision=precision)})
    return plan.with_stack(replace(old, slots=tuple(replace(slot, treatments=treatments) for slot in old.slots)))
