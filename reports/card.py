"""The model card of an exported model, in Markdown; every number is one that was measured on the exported files."""

import html
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData

from ..search.trial import Final
from ..spaces.artefact import PLAN_FILE

NUMBERS = "measured.json"


def card_of(
    final: Final,
    baseline: Final,
    verdict: str,
    described: Mapping[str, Any],
    *,
    stated: Mapping[str, Any] | None = None,
    beside: Collection[str] = (),
) -> str:
    """The card.

    Args:
        final: the exported model's numbers.
        baseline: the original's, from the same session.
        verdict: whether it is faster, in words.
        described: the search it comes from; see `Settings.describe`.
        stated: what the original's card states, see `origin.stated_by`.
        beside: names of the files in which the runtime keeps the model in its own form.
    """
    facts, identity, stated = described["facts"], described["identity"], stated or {}
    gain, metric = final.gain, final.quality.metric
    return f"""---
{_metadata(final, stated)}
---

# {as_text(Path(described["sources"]["model"]).name)}, pared

{final.plan}

It is {verdict}.

| | original | this model |
| --- | --- | --- |
{_rows(final, baseline)}

The drop of {metric} is {final.measures.drop:+z.4f} (95 % interval {-gain.high:+z.4f} to {-gain.low:+z.4f})
on {len(final.quality.outcomes)} test examples. Measured on {as_text(facts["machine"]["facts"]["name"])}
({identity["device"]}, machine {identity["machine"]}) with {identity["runtime"]},
{final.profile.workload}; kernels: {final.profile.kernels}.
Intervals are those of 95 %. On another machine, batch or length the times differ: measure there.

{_how_to_load(final, described, beside)}

{_licence(stated)}

Made by paring {facts["paring"]}; all samples are in `{NUMBERS}`, the plan is in `{PLAN_FILE}`.
"""


def as_text(name: str) -> str:
    """A name from outside so that Markdown and HTML show it as it is, on one line."""
    shown = html.escape(" ".join(name.split()), quote=False)
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", shown)


def _metadata(final: Final, stated: Mapping[str, Any]) -> str:
    """The head of the card, which the hub reads."""
    library = "transformers" if final.plan.is_plain else "paring"
    data = ModelCardData(**stated, library_name=library, metrics=[final.quality.metric], tags=["paring"])
    return str(data.to_yaml()).strip()


def _how_to_load(final: Final, described: Mapping[str, Any], beside: Collection[str]) -> str:
    load = f'import paring  # pip install paring=={described["facts"]["paring"]}\n\nmodel = paring.load("this folder")'
    plain = "All its parts are ordinary ones: plain `AutoModel...from_pretrained` loads it too."
    packed = "Plain `from_pretrained` refuses it: its weights are packed as paring keeps them."
    texts = [f"```python\n{load}\n```", plain if final.plan.is_plain else packed]
    if beside:
        names = ", ".join(f"`{name}`" for name in sorted(beside))
        texts.append(f"The same model for {described['identity']['runtime']} alone: {names}.")
    return "\n\n".join(texts)


def _licence(stated: Mapping[str, Any]) -> str:
    """What the original says of its licence and of what it was made from."""
    licence = stated.get("license_name") or stated.get("license")
    told = (
        "The original states no licence" if licence is None else f"Licence, as the original states: {_listed(licence)}"
    )
    base = stated.get("base_model")
    return f"{told}." if base is None else f"{told}. Base model: {_listed(base)}."


def _listed(value: str | list[str]) -> str:
    return as_text(value if isinstance(value, str) else ", ".join(value))


def _rows(final: Final, baseline: Final) -> str:
    """Quality and costs of both, as rows of a Markdown table; what was not measured is "-"."""
    both = (baseline, final)
    rows = {f"{final.quality.metric}, test split": [f"{one.quality.value:.4f}" for one in both]}
    rows["its interval"] = [f"{one.quality.low:.4f} to {one.quality.high:.4f}" for one in both]
    costs = {
        "latency, ms": ("latency_seconds", 1e3, ".2f"),
        "stored, MB": ("size_bytes", 1e-6, ".1f"),
        "peak memory of the process, MB": ("memory_bytes", 1e-6, ".0f"),
    }
    for name, (field, unit, form) in costs.items():
        values = [getattr(one.measures, field) for one in both]
        rows[name] = ["-" if value is None else format(value * unit, form) for value in values]
    if final.profile.latency is not None:
        late = final.profile.latency
        rows["latency, of the original's"] = ["1", f"{late.ratio:.3f} ({late.ratio_low:.3f} to {late.ratio_high:.3f})"]
    if final.profile.first_token is not None:
        firsts = [one.profile.first_token for one in both]
        rows["first token, ms"] = ["-" if late is None else f"{late.seconds * 1e3:.2f}" for late in firsts]
        further = [one.profile.seconds_per_token for one in both]
        rows["every further token, ms"] = ["-" if seconds is None else f"{seconds * 1e3:.2f}" for seconds in further]
    return "\n".join(f"| {name} | {original} | {pared} |" for name, (original, pared) in rows.items())
