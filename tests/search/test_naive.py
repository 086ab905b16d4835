from collections.abc import Sequence
from dataclasses import replace

import pytest

from paring.profilers.profile import Profile
from paring.search.naive import ALL_INT8, TOP_DROPPED, all_int8, naive_plans, without_top_layers
from paring.search.objectives import Measures
from paring.search.trial import State, Trial
from paring.spaces.plan import Layer, Plan, Slot, Stack, Treatment, Treatments
from paring.spaces.precision import Precision

W8A8, W8, W4 = (Treatment(precision=Precision.parse(text)) for text in ("w8a8", "w8", "w4"))


def plan_of(query: Treatment, key: Treatment, table: Treatment, *, layers: Sequence[int | None] = (0, 1)) -> Plan:
    treated = Treatments.of({"query": query, "key": key})
    slots = tuple(Slot(None) if layer is None else Slot(Layer(layer), treated) for layer in layers)
    return Plan((Stack("encoder", slots),), Treatments.of({"embeddings": table}))


def judged(*plans: Plan) -> list[Trial]:
    profile, measures = Profile(1, "", "", ""), Measures(0.9, 0.0, None, None, 1.0)
    return [Trial(n, State.JUDGED, plan, "", None, profile, measures) for n, plan in enumerate(plans)]


UNIFORM = plan_of(W8A8, W8A8, W8)
OTHERS = (
    plan_of(Treatment(), Treatment(), Treatment()),
    plan_of(W8A8, W4, W8),
    plan_of(W8A8, Treatment(), W8),
    plan_of(W8A8, W8A8, Treatment()),
    plan_of(W8, W8, W8),
    plan_of(W8A8, W8A8, W4),
    plan_of(W8A8, W8A8, W8, layers=(0, None)),
    replace(UNIFORM, weights="tuned"),
)


def test_all_int8_is_the_one_plan_of_8_bits_everywhere_and_nothing_else() -> None:
    assert all_int8(judged(*OTHERS)) is None
    assert all_int8(judged(*OTHERS, UNIFORM)) == UNIFORM


def test_all_int8_counts_only_where_it_was_judged() -> None:
    failed = [replace(trial, state=State.FAILED, measures=None) for trial in judged(UNIFORM)]
    assert all_int8([*judged(*OTHERS), *failed]) is None
    assert all_int8([]) is None


def test_a_search_without_bits_has_no_all_int8() -> None:
    plain = plan_of(Treatment(), Treatment(), Treatment())
    assert all_int8(judged(plain, replace(plain, weights="tuned"))) is None


@pytest.mark.parametrize(("layers", "dropped"), [(2, 1), (3, 1), (4, 1), (6, 2), (12, 4), (24, 8)])
def test_the_top_third_goes(layers: int, dropped: int) -> None:
    plan = without_top_layers(Plan((Stack("encoder", tuple(Slot(Layer(i)) for i in range(layers))),)))
    assert plan is not None
    assert plan.stack("encoder").dropped == tuple(range(layers - dropped, layers))


def test_a_stack_of_one_layer_keeps_it() -> None:
    one, three = Stack("encoder", (Slot(Layer(0)),)), Stack("decoder", tuple(Slot(Layer(i)) for i in range(3)))
    assert without_top_layers(Plan((one,))) is None
    plan = without_top_layers(Plan((one, three)))
    assert plan is not None
    assert [stack.dropped for stack in plan.stacks] == [(), (2,)]


def test_naive_plans_are_named() -> None:
    identity = plan_of(Treatment(), Treatment(), Treatment())
    found = naive_plans(identity, judged(identity, UNIFORM))
    assert found[ALL_INT8] == UNIFORM
    assert found[TOP_DROPPED].stack("encoder").dropped == (1,)
    assert naive_plans(Plan((Stack("encoder", (Slot(Layer(0)),)),)), []) == {}
