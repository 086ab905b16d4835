"""The model card of an exported model, in Markdown; every number is one that was measured on the exported files."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..search.trial import Final
from ..spaces.artefact import PLAN_FILE

NUMBERS = "measured.json"


def card_of(final: Final, baseline: Final, verdict: str, described: Mapping[str, Any]) -> str:
    """The card.

    Args:
        final: the exported model's numbers.
        baseline: the original's, from the same session.
        verdict: whether it is faster, in words.
        described: the search it comes from; see `Settings.describe`.
    """
    facts, identity = described["facts"], described["identity"]
    gain, metric = final.gain, final.quality.metric
    plain = (
        "All its parts are ordinary ones: plain `AutoModel...from_pretrained` loads it too.\n\n"
        if final.plan.is_plain
        else ""
    )
    return f"""# {Path(described["sources"]["model"]).name}, pared

{final.plan}

It is {verdict}.

| | original | this model |
| --- | --- | --- |
{_rows(final, baseline)}

The drop of {metric} is {final.measures.drop:+z.4f} (95 % interval {-gain.high:+z.4f} to {-gain.low:+z.4f})
on {len(final.quality.outcomes)} test examples. Measured on {facts["machine"]["facts"]["name"]} ({identity["device"]},
machine {identity["machine"]}) with {identity["runtime"]}, {final.profile.workload}; kernels: {final.profile.kernels}.

```python
import paring

model = paring.load("this folder")
```

{plain}Made by paring {facts["paring"]}; all samples are in `{NUMBERS}`, the plan is in `{PLAN_FILE}`.
"""


def _rows(final: Final, baseline: Final) -> str:
    """Quality and costs of both, as rows of a Markdown table; what was not measured is "-"."""
    rows = {f"{final.quality.metric}, test split": [f"{one.quality.value:.4f}" for one in (baseline, final)]}
    costs = {
        "latency, ms": ("latency_seconds", 1e3, ".2f"),
        "stored, MB": ("size_bytes", 1e-6, ".1f"),
        "peak memory of the process, MB": ("memory_bytes", 1e-6, ".0f"),
    }
    for name, (field, unit, form) in costs.items():
        values = [getattr(one.measures, field) for one in (baseline, final)]
        rows[name] = ["-" if value is None else format(value * unit, form) for value in values]
    if final.profile.first_token is not None:
        firsts = [one.profile.first_token for one in (baseline, final)]
        rows["first token, ms"] = ["-" if late is None else f"{late.seconds * 1e3:.2f}" for late in firsts]
        further = [one.profile.seconds_per_token for one in (baseline, final)]
        rows["every further token, ms"] = ["-" if seconds is None else f"{seconds * 1e3:.2f}" for seconds in further]
    return "\n".join(f"| {name} | {original} | {pared} |" for name, (original, pared) in rows.items())
