"""Rounded weights are remembered per model, and what is remembered is read once per plan."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from paring.search.untaught import UntaughtBench
from paring.spaces import rounded_weights as rounded_weights_module
from paring.spaces.palette import Palette
from paring.spaces.plan import Treatment, Treatments
from paring.spaces.precision import Precision
from paring.spaces.rounded_weights import rounded_model, rounded_weights


@pytest.fixture(scope="module")
def bench(make_model: Callable[..., PreTrainedModel], make_bench: Callable[[PreTrainedModel], Any]) -> Any:
    bench = make_bench(make_model("bert"))
    palette = Palette(tuple(map(Precision.parse, ("w8a8", "w4", "w3-1x16"))), tuple(map(Precision.parse, ("w4", "w2"))))
    bench.anatomy = replace(bench.anatomy, palette=palette)
    return bench


def test_what_is_remembered_is_read_once_per_plan(bench: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def done(text: str) -> Treatment:
        return Treatment(precision=Precision.parse(text))

    plan = replace(
        bench.anatomy.identity(),
        outside=Treatments.of({"embeddings": done("w4"), "positions": done("w2")}),
    )
    inside = Treatments.of({"query": done("w4"), "key": done("w3-1x16"), "value": done("w8a8")})
    stack = plan.stack("encoder")
    plan = plan.with_stack(replace(stack, slots=tuple(replace(slot, treatments=inside) for slot in stack.slots)))
    reads: Counter[str] = Counter()
    remember = bench.remember
    monkeypatch.setattr(bench, "remember", lambda key, learn: (reads.update([key]), remember(key, learn))[1])
    found = rounded_weights(plan, bench)
    assert sorted(reads.values()) == [1, 1]
    assert found.keys() == {
        "outside.embeddings",
        "outside.positions",
        *(f"encoder.{slot}.{kind}" for slot in range(3) for kind in ("query", "key")),
    }
    for text, kind in (("w4", "query"), ("w3-1x16", "key")):
        alone = rounded_model(bench.anatomy.identity(), Precision.parse(text), bench, outside=False)
        for slot in range(3):
            one, other = found[f"encoder.{slot}.{kind}"], alone[f"encoder.{slot}.{kind}"]
            assert one.keys() == other.keys() == {"codes", "scales"}
            assert all(torch.equal(one[name], other[name]) for name in one)


def test_models_that_are_only_timed_hold_the_same_shapes_and_are_not_made_up_for(
    bench: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    precision, home = Precision.parse("w3-1x16"), bench.anatomy.identity()
    taught = rounded_model(home, precision, bench, outside=False)
    untaught = UntaughtBench(bench.model, bench.anatomy, bench.calibration(), seed=0)
    monkeypatch.setattr(rounded_weights_module, "round_with_feedback", None)  # would take its time
    rough = rounded_model(home, precision, untaught, outside=False)
    assert rough.keys() == taught.keys()
    for name, stored in taught.items():
        assert {piece: (value.shape, value.dtype) for piece, value in rough[name].items()} == {
            piece: (value.shape, value.dtype) for piece, value in stored.items()
        }
    assert any(not torch.equal(rough[name]["codes"], stored["codes"]) for name, stored in taught.items())
