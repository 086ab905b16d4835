"""Predicted harm against the truth: a model whose answers are linear, and tiny models that are really rounded."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest
import torch
from scipy.stats import spearmanr
from torch import nn
from transformers import PreTrainedModel

from paring.spaces.palette import Palette
from paring.spaces.plan import Plan, Treatment, Treatments
from paring.spaces.precision import Precision
from paring.spaces.sensitivity import Rounded, part_harms
from paring.spaces.workbench import Workbench

MakeModel = Callable[..., PreTrainedModel]
MakeBench = Callable[[PreTrainedModel], Workbench]

PALETTE = Palette(
    tuple(map(Precision.parse, ("w8a8", "w4a8-16x16-pow2", "w3-1x16", "w2", "w16a16"))),
    tuple(map(Precision.parse, ("w8", "w4-1x16", "w2"))),
)


def treated(plan: Plan, name: str, precision: str) -> Plan:
    treatment = Treatments.of({name.rpartition(".")[2]: Treatment(precision=Precision.parse(precision))})
    if name.startswith("outside."):
        return replace(plan, outside=treatment)
    stack, position, _ = name.split(".")
    old = plan.stack(stack)
    slots = [
        replace(slot, treatments=treatment if i == int(position) else slot.treatments)
        for i, slot in enumerate(old.slots)
    ]
    return plan.with_stack(replace(old, slots=tuple(slots)))


def answers(bench: Workbench, plan: Plan) -> torch.Tensor:
    """Centred logits to the calibration batches: answers x classes."""
    model = bench.build(plan)
    with torch.no_grad():
        logits = torch.cat([model(**batch).logits.flatten(0, -2) for batch in bench.calibration()])
    return logits - logits.mean(dim=-1, keepdim=True)


@pytest.mark.parametrize("family", ["bert", "distilbert", "bart", "t5"])
def test_predictions_rank_parts_as_rounding_them_does(
    make_model: MakeModel, make_bench: MakeBench, family: str
) -> None:
    bench = make_bench(make_model(family, layers=2))
    bench.anatomy = replace(bench.anatomy, palette=PALETTE)
    harms = part_harms(bench)
    pairs = [(name, way) for name, ways in harms.items() for way in ways]
    assert {name for name, _ in pairs} >= {"encoder.1.query", "encoder.0.ffn_in", "outside.embeddings"}
    predicted = [harms[name][way] for name, way in pairs]
    identity = bench.anatomy.identity()
    right = answers(bench, identity)
    rounded = (answers(bench, treated(identity, name, way)) for name, way in pairs)
    true = [float((found - right).square().sum(dim=-1).mean()) for found in rounded]
    assert min(predicted) >= 0
    # Keys shift all scores of a softmax alike: their harm may be nothing but rounding.
    assert spearmanr(predicted, true).statistic > 0.85
    ratios = [p / t for p, t in zip(predicted, true, strict=True) if t > 1e-9]
    assert 0.3 < sorted(ratios)[len(ratios) // 2] < 3


def test_fewer_bits_harm_more(make_model: MakeModel, make_bench: MakeBench) -> None:
    bench = make_bench(make_model("bert"))
    bench.anatomy = replace(bench.anatomy, palette=PALETTE)
    for name, ways in part_harms(bench).items():
        order = ("w8", "w4-1x16", "w2") if name.startswith("outside.") else ("w16a16", "w4a8-16x16-pow2", "w2")
        found = [ways[way] for way in order]
        assert found == sorted(found), name


def test_what_is_not_rounded_does_no_harm() -> None:
    linear, table = nn.Linear(8, 4), nn.Embedding(9, 8)
    inputs, ids = torch.randn(5, 8), torch.tensor([0, 3, 8])
    assert torch.equal(Rounded(linear.weight).outputs(linear, inputs), linear(inputs))
    assert torch.equal(Rounded(table.weight).outputs(table, ids), table(ids))


def test_it_is_learned_once(make_model: MakeModel, make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench(make_model("bert"))
    first: Mapping[str, Mapping[str, float]] = part_harms(bench)
    monkeypatch.setattr(bench, "calibration", lambda: pytest.fail("asked for data again"))
    assert part_harms(bench) == first
