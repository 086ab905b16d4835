"""A trial as attributes of Optuna's, and back."""

from dataclasses import asdict
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from ..profilers.profile import Profile
from ..spaces.plan import Plan
from .damage import damage_named
from .objectives import Measures
from .quality import Quality
from .trial import Dropped, State, Trial

_STOPPED = "the process was stopped while this trial ran"


def attributes_of(judged: Trial) -> dict[str, Any]:
    """What is kept of a trial that was judged or dropped."""
    assert judged.plan and judged.profile
    common = {
        "state": judged.state.value,
        "plan": judged.plan.to_json(),
        "label": str(judged.plan),
        "profile": judged.profile.to_json(),
    }
    if judged.dropped is not None:
        return {**common, "cause": judged.cause, "dropped": judged.dropped.to_json()}
    assert judged.quality and judged.measures
    return {**common, "quality": judged.quality.to_json(), "measures": asdict(judged.measures)}


def trial_of(frozen: FrozenTrial) -> Trial:
    """A finished trial as it was kept.

    Raises:
        RunError: if it is damaged.
    """
    with damage_named(f"trial {frozen.number} of the run"):
        found = frozen.user_attrs
        state = State(found.get("state", State.INTERRUPTED))
        plan = None if found.get("plan") is None else Plan.from_json(found["plan"])
        is_told = frozen.state == TrialState.COMPLETE
        if "dropped" in found and plan is not None and is_told:
            profile, dropped = Profile.from_json(found["profile"]), Dropped.from_json(found["dropped"])
            return Trial(frozen.number, state, plan, found["cause"], profile=profile, dropped=dropped)
        if "measures" not in found or not is_told:
            cause = found.get("cause", _STOPPED)
            # Who was stopped before the sampler was told has no numbers, whatever was written of them.
            has_numbers = state in (State.JUDGED, State.INFEASIBLE, State.DROPPED)
            return Trial(frozen.number, State.INTERRUPTED if has_numbers else state, plan, cause)
        return Trial(
            frozen.number,
            state,
            plan,
            "",
            Quality.from_json(found["quality"]),
            Profile.from_json(found["profile"]),
            Measures(**found["measures"]),
        )


def was_stopped(frozen: FrozenTrial) -> bool:
    """Whether a failed trial has no state of ours: nobody was left to record one."""
    return "state" not in frozen.user_attrs
