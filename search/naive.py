"""What one would deploy without a search, to compare with: all parts in 8 bits; the top layers dropped."""

from collections.abc import Sequence

from ..spaces.plan import ORIGINAL_WEIGHTS, Plan, Slot, Stack, Treatment
from .trial import Trial

ALL_INT8, TOP_DROPPED = "all int8", "top layers dropped"
# Of the rules that need no search, dropping the top is the best one of Sajjad et al. (arXiv 2004.03844), who then
# fine-tune and lose little by up to 40 %. Here nothing is trained after it.
_DROPPED_PART = 1 / 3
# Of the names of tables, which have no inputs to give bits to.
_OUTSIDE = "outside."


def naive_plans(identity: Plan, trials: Sequence[Trial]) -> dict[str, Plan]:
    """The plans to compare a front with, by name; a name is missing where there is no such plan.

    Args:
        identity: the plan of the original.
        trials: of the search.
    """
    candidates = {ALL_INT8: all_int8(trials), TOP_DROPPED: without_top_layers(identity)}
    # What the search tried and could not judge is not tried again.
    broken = {trial.plan for trial in trials if trial.told is None}
    return {name: plan for name, plan in candidates.items() if plan is not None and plan not in broken}


def all_int8(trials: Sequence[Trial]) -> Plan | None:
    """The judged plan in which every Linear has 8 bits for weights and inputs, every table 8, and that is all.

    A search of bits judges it among its first. What there is to treat is seen from all plans of the search.

    Args:
        trials: of the search; None is answered where none of them is that plan.
    """
    plans = [trial.plan for trial in trials if trial.plan is not None]
    parts = {name for plan in plans for name, _, treatment in plan.parts() if _bits(treatment)[0] is not None}
    judged = (trial.plan for trial in trials if trial.plan is not None and trial.told is not None)
    return next((plan for plan in judged if parts and _is_all_int8(plan, parts)), None)


def without_top_layers(identity: Plan) -> Plan | None:
    """The original without the top third of every stack's layers, one at least; None where no stack can spare one.

    Args:
        identity: the plan of the original.
    """
    plan = Plan(tuple(map(_without_top, identity.stacks)), identity.outside, identity.weights)
    return None if plan == identity else plan


def _without_top(stack: Stack) -> Stack:
    layers = len(stack.slots)
    dropped = min(max(1, round(layers * _DROPPED_PART)), layers - 1)
    return Stack(stack.name, (*stack.slots[: layers - dropped], *(Slot(None),) * dropped))


def _is_all_int8(plan: Plan, parts: set[str]) -> bool:
    layers = [slot.layer for stack in plan.stacks for slot in stack.slots]
    treated = {name: treatment for name, _, treatment in plan.parts()}
    return (
        plan.weights == ORIGINAL_WEIGHTS
        and all(layer is not None and layer.granularity == 1 for layer in layers)
        and treated.keys() == parts
        and all(_bits(one) == ((8, None) if name.startswith(_OUTSIDE) else (8, 8)) for name, one in treated.items())
    )


def _bits(treatment: Treatment) -> tuple[int | None, int | None]:
    precision = treatment.precision
    if precision is None or treatment != Treatment(precision=precision):
        return None, None
    return precision.weight_bits, precision.activation_bits
