"""Whether a model is faster than the original beyond the noise; where it is not, why, from what ran of it."""

import re
from collections.abc import Iterator
from typing import NamedTuple

from ..profilers.estimates import PredictedLatency
from ..profilers.latency import Latency
from ..profilers.profile import Profile
from ..spaces.plan import Plan
from ..spaces.precision import Precision

# A difference within an interval wider than this part to either side was hardly measured.
_NOISY = 0.1
_IN_WORDS = {"int8": "integer products", "bf16": "bfloat16 products"}


class Kernel(NamedTuple):
    """How often one kernel ran: on `ran` of the `asked` Linears whose precision asks for it."""

    name: str
    ran: int
    asked: int


def verdict_of(plan: Plan, profile: Profile) -> str:
    """Whether a candidate is faster than the original, in words that follow "it is"; if not, why.

    It is called faster only where the whole 95 % interval of its time lies below the original's.

    Args:
        plan: the candidate.
        profile: with its latency, measured or predicted.
    """
    if plan.is_identity:
        return "the original, unchanged"
    late = profile.latency
    if late is None:
        return "NOT known to be faster than the original: latency was not measured"
    guess = "predicted " if profile.is_predicted else ""
    interval = f"{guess}95 % interval {1 / late.ratio_high:.2f} to {1 / late.ratio_low:.2f}"
    speed = f"{1 / late.ratio:.2f} times as fast ({interval})"
    if late.is_faster:
        return f"faster than the original: {speed}"
    return f"NOT faster than the original: {speed}; {'; '.join(_reasons(plan, profile, late))}"


def _reasons(plan: Plan, profile: Profile, late: Latency | PredictedLatency) -> list[str]:
    """Why it is not faster, as far as the measurement lets one say."""
    in_float, costs = _in_float(plan, profile), list(_costs(plan, profile))
    if late.ratio_low > 1:
        return [*in_float, *costs] or ["what ran of it does not show why"]
    if late.ratio_high - late.ratio_low > 2 * _NOISY * late.ratio:
        costs = ["measure again when less disturbs it, see `paring doctor`"]
    return ["the difference is within the noise of this machine", *in_float, *costs]


def kernels_of(text: str) -> tuple[Kernel, ...]:
    """Reads what `runtimes.kernels_text` writes: "int8 30/36, w4 0/2 Linears"; nothing for "float"."""
    return tuple(Kernel(name, int(ran), int(asked)) for name, ran, asked in re.findall(r"(\w+) (\d+)/(\d+)", text))


def _in_float(plan: Plan, profile: Profile) -> list[str]:
    """Which Linears run in float for want of a kernel."""
    precisions = [precision for _, _, precision in plan.precisions()]
    return [_why_in_float(one, precisions) for one in kernels_of(profile.kernels) if one.ran < one.asked]


def _costs(plan: Plan, profile: Profile) -> Iterator[str]:
    """What of that which ran costs time, or saves none."""
    ran = {kernel.name for kernel in kernels_of(profile.kernels) if kernel.ran}
    if "int8" in ran:
        yield f"at {profile.workload}, making integers of the inputs costs what the integer products save"
    if "bf16" in ran:
        yield f"at {profile.workload}, making bfloat16 of the inputs costs what its products save"
    if any(name.startswith("w") for name in ran):
        yield f"at {profile.workload}, reading fewer bytes of weights saves no more than unpacking them costs"
    if any(precision.weight_bits is None for _, _, precision in plan.precisions()):
        yield "results between Linears that are kept in 8 bits are still computed in float, and rounded on top"
    if "factors" in ran:
        yield f"at {profile.workload}, two thin products cost as much as the one that they stand for"
    if not any(stack.dropped or any(slot.treatments.items for slot in stack.slots) for stack in plan.stacks):
        tables = "only tables were changed, which saves bytes and no products"
        yield tables if plan.outside.items else "it does as many products as the original"


def _why_in_float(kernel: Kernel, precisions: list[Precision]) -> str:
    """Why Linears of a precision were computed in float: this runtime has no kernel for them on this machine."""
    where = f"{kernel.asked - kernel.ran} of {kernel.asked} Linears"
    if kernel.name == "factors":
        return f"two thin products were measured to be no quicker than one for {where}, so they run as one"
    if kernel.name == "decoder":
        return f"what a decoder gives is made dense when the model is loaded, so {where} are products as before"
    if kernel.name in _IN_WORDS:
        text = f"there is no kernel here for the {_IN_WORDS[kernel.name]} of {where}, so they run in float"
        blocks = [one for one in precisions if one.has_integer_inputs and one.block != (1, None)]
        uneven = sorted({str(one) for one in blocks if not one.power_of_two})
        if kernel.name == "int8" and uneven:
            text += f" (blocks whose scales are no powers of two have no integer form: {', '.join(uneven)})"
        return text
    return (
        f"there is no kernel here for the {kernel.name[1:]}-bit weights of {where}, "
        "so they are unpacked and multiplied in float"
    )
