from collections.abc import Callable
from dataclasses import replace

import pytest

from paring.profilers.estimates import PredictedLatency
from paring.profilers.timing import Latency
from paring.reports.verdict import kernels_of, verdict_of
from paring.search.trial import Final
from paring.spaces.factorisation import Factorisation
from paring.spaces.plan import Layer, Plan, Slot, Stack, Treatment, Treatments
from paring.spaces.precision import Precision

MakeFinal = Callable[..., Final]
Interval = tuple[float, float, float]
FASTER, SAME, SLOWER = (0.4, 0.5, 0.8), (0.99, 1.03, 1.07), (1.6, 2.0, 2.5)


def plan_with(*, dropped: bool = False, outside: str = "", factors: str | None = None, **bits: str) -> Plan:
    """Two layers; kinds of Linear with a precision, all tables with another, queries with a rank."""
    parts = {kind: Treatment(precision=Precision.parse(text)) for kind, text in bits.items()}
    if factors is not None:
        parts["query"] = Treatment(factors=Factorisation.parse(factors))
    slot = Slot(Layer(0), Treatments.of(parts))
    tables = {"embeddings": Treatment(precision=Precision.parse(outside))} if outside else {}
    return Plan((Stack("encoder", (slot, Slot(None) if dropped else Slot(Layer(1)))),), Treatments.of(tables))


def verdict(make_final: MakeFinal, plan: Plan, kernels: str, interval: Interval) -> str:
    low, ratio, high = interval
    profile = make_final(1).profile
    return verdict_of(plan, replace(profile, latency=Latency((0.01,), ratio, low, high), kernels=kernels))


@pytest.mark.parametrize("kernels", ["float", "int8 0/6 Linears", "int8 6/6 Linears"])
def test_faster_is_who_is_faster_with_its_whole_interval(make_final: MakeFinal, kernels: str) -> None:
    found = verdict(make_final, plan_with(query="w8a8"), kernels, FASTER)
    assert found == "faster than the original: 2.00 times as fast (95 % interval 1.25 to 2.50)"


@pytest.mark.parametrize("interval", [(0.9, 0.95, 1.0), (0.96, 0.99, 1.02), (1.0, 1.1, 1.2), SAME])
def test_who_may_be_as_slow_is_never_called_faster(make_final: MakeFinal, interval: Interval) -> None:
    found = verdict(make_final, plan_with(dropped=True), "float", interval)
    low, ratio, high = interval
    speed = f"{1 / ratio:.2f} times as fast (95 % interval {1 / high:.2f} to {1 / low:.2f})"
    assert found == f"NOT faster than the original: {speed}; the difference is within the noise of this machine"


IN_FLOAT = "there is no kernel here for the integer products of 1 of 1 Linears, so they run in float"
OF_INTEGERS = "at batch 1, making integers of the inputs costs what the integer products save"
REASONS = [
    (plan_with(query="w3-1x64"), "w3 0/1 Linears", "here for the 3-bit weights of 1 of 1 Linears, so they are"),
    (plan_with(query="w8a8"), "int8 0/1 Linears", IN_FLOAT),
    (plan_with(query="w8a8"), "int8 4/6 Linears", "no kernel here for the integer products of 2 of 6 Linears"),
    (plan_with(query="w4a8-64x64"), "int8 0/1 Linears", "no powers of two have no integer form: w4a8-64x64)"),
    (plan_with(query="w16a16"), "bf16 0/1 Linears", "no kernel here for the bfloat16 products of 1 of 1 Linears"),
    (plan_with(query="w8a8"), "int8 1/1 Linears", OF_INTEGERS),
    (plan_with(query="w16a16"), "bf16 1/1 Linears", "at batch 1, making bfloat16 of the inputs costs what"),
    (plan_with(query="w4-1x64"), "w4 1/1 Linears", "at batch 1, reading fewer bytes of weights saves no more than"),
    (plan_with(softmax="a8"), "float", "results between Linears that are kept in 8 bits are still computed in float"),
    (plan_with(outside="w8"), "float", "only tables were changed, which saves bytes and no products"),
    (plan_with(factors="svd-8"), "factors 2/2 Linears", "two thin products cost as much as the one"),
    (plan_with(factors="svd-8"), "factors 0/2 Linears", "no quicker than one for 2 of 2 Linears"),
    (plan_with(factors="autoencoder-8"), "decoder 0/2 Linears", "made dense when the model is loaded"),
    (replace(plan_with(), weights="tuned-1"), "float", "it does as many products as the original"),
    (plan_with(dropped=True), "float", "what ran of it does not show why"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("plan", "kernels", "reason"), REASONS, ids=lambda value: value if isinstance(value, str) else ""
)
def test_why_it_is_not_faster(make_final: MakeFinal, plan: Plan, kernels: str, reason: str) -> None:
    slower = verdict(make_final, plan, kernels, SLOWER)
    assert slower.startswith("NOT faster than the original: 0.50 times as fast (95 % interval 0.40 to 0.62); ")
    assert reason in slower and "noise" not in slower
    same = verdict(make_final, plan, kernels, SAME)
    assert "; the difference is within the noise of this machine" in same
    assert (reason in same) is (reason != "what ran of it does not show why")


def test_reasons_that_do_not_hold_are_not_given(make_final: MakeFinal) -> None:
    for plan, kernels, reason in REASONS:
        others = {other for _, _, other in REASONS} - {reason}
        found = verdict(make_final, plan, kernels, SLOWER)
        also = {"int8 0/1 Linears": {IN_FLOAT}, "int8 4/6 Linears": {OF_INTEGERS}}.get(kernels, set())
        assert {other for other in others if other in found} <= also, plan


def test_a_measurement_that_tells_nothing_asks_for_another(make_final: MakeFinal) -> None:
    advice = "; measure again when less disturbs it, see `paring doctor`"
    assert verdict(make_final, plan_with(query="w8a8"), "int8 1/1 Linears", (0.1, 0.65, 4.0)).endswith(advice)
    vague = verdict(make_final, plan_with(query="w8a8"), "int8 1/1, w3 0/1 Linears", (0.1, 0.65, 4.0))
    assert "3-bit weights" in vague and OF_INTEGERS not in vague
    assert advice not in verdict(make_final, plan_with(query="w8a8"), "int8 1/1 Linears", SAME)


def test_several_reasons_are_all_given(make_final: MakeFinal) -> None:
    found = verdict(make_final, plan_with(query="w8a8", key="w3-1x64"), "int8 1/1, w3 0/1 Linears", SLOWER)
    assert "3-bit weights of 1 of 1 Linears" in found and "the integer products save" in found


def test_what_was_not_measured_is_said(make_final: MakeFinal) -> None:
    plan, profile = plan_with(query="w8a8"), make_final(1).profile
    unmeasured = verdict_of(plan, replace(profile, latency=None))
    assert unmeasured == "NOT known to be faster than the original: latency was not measured"
    guessed = verdict_of(plan, replace(profile, latency=PredictedLatency(0.5, 0.4, 0.8)))
    assert guessed == "faster than the original: 2.00 times as fast (predicted 95 % interval 1.25 to 2.50)"
    assert verdict_of(plan_with(), profile) == "the original, unchanged"


@pytest.mark.parametrize(
    ("text", "kernels"),
    [
        ("float", ()),
        ("int8 30/36 Linears", (("int8", 30, 36),)),
        ("bf16 1/1, int8 30/36, w4 0/2 Linears", (("bf16", 1, 1), ("int8", 30, 36), ("w4", 0, 2))),
    ],
)
def test_kernels_are_read_as_runtimes_write_them(text: str, kernels: tuple[tuple[str, int, int], ...]) -> None:
    assert kernels_of(text) == kernels
