"""What one standing layer of each stack costs in time, measured; for speed-first assembling."""

from dataclasses import replace

from ..errors import MeasurementError
from ..profilers.timing import Effort, measure
from ..profilers.workload import Workload, serving
from ..spaces.plan import Plan, Slot
from .workbench import LocalWorkbench

_EFFORT = Effort(seconds=10.0, half_width=0.005)
_WHOLE = "the original"


def slot_seconds(bench: LocalWorkbench, workload: Workload, *, seed: int) -> dict[str, float]:
    """Stack -> seconds of a request that one of its layers takes.

    Measured beside each other: the original, and for every stack the original without all but one of its layers. For
    generation, a layer of the decoder runs once per token and one of the encoder once per request.

    Args:
        bench: of the model.
        workload: what is served.
        seed: of the order within the rounds.

    Raises:
        MeasurementError: if a model without most layers of a stack is not faster.
    """
    identity = bench.anatomy.identity()
    plans = {_WHOLE: identity, **{stack.name: _with_one_layer(identity, stack.name) for stack in identity.stacks}}
    config = bench.model.config
    calls = {name: serving(bench.executable(bench.build(plan)), workload, config) for name, plan in plans.items()}
    found = measure(calls, baseline=_WHOLE, effort=_EFFORT, seed=seed, clock=bench.device.clock)
    whole = found[_WHOLE].seconds
    seconds = {}
    for stack in identity.stacks:
        saved = whole * (1 - found[stack.name].ratio)
        if not saved > 0:
            raise MeasurementError(
                f"leaving out all but one layer of {stack.name} saves no time in a request of {workload}; "
                "measure on a quieter machine, or assemble by size."
            )
        seconds[stack.name] = saved / max(1, len(stack.slots) - 1)
    return seconds


def _with_one_layer(plan: Plan, name: str) -> Plan:
    stack = plan.stack(name)
    return plan.with_stack(replace(stack, slots=(stack.slots[0], *(Slot(None) for _ in stack.slots[1:]))))
