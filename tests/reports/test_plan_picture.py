from collections.abc import Callable

import pytest

from paring.reports.plan_picture import Pictures, changed_axes, rank_of
from paring.spaces.factorisation import Factorisation
from paring.spaces.plan import Layer, Plan, Slot, Stack, Treatment, Treatments
from paring.spaces.precision import Precision

MakePlan = Callable[..., Plan]

W8A8, W4 = Treatment(precision=Precision(8, 8)), Treatment(precision=Precision(4))
BOTH = Treatment(Factorisation("svd", 4), Precision(8))


def encoder(*slots: Slot) -> Plan:
    return Plan((Stack("encoder", slots),))


def slot(layer: Layer | None, **treatments: Treatment) -> Slot:
    return Slot(layer, Treatments.of(treatments))


def test_a_plan_of_kept_and_dropped_layers(make_plan: MakePlan) -> None:
    pictures = Pictures([make_plan(layers=3), make_plan(1, bits=True, layers=3)])
    shared = pictures.shared()
    assert (shared["kinds"], shared["layers"]) == ({"encoder": ["query"]}, {"encoder": 3})
    assert [treatment["text"] for treatment in shared["treatments"]] == ["as it was", "w8a8"]
    picture = pictures.picture(make_plan(1, bits=True, layers=3))
    assert picture == {"stacks": [["encoder", [[0, 1, "0", [1]], [1, 2, None, None], [2, 3, "2", [1]]]]], "outside": []}
    assert pictures.picture(make_plan(layers=3))["stacks"][0][1] == [[i, i + 1, str(i), [0]] for i in range(3)]


def test_merged_layers_are_as_wide_as_what_they_stand_for() -> None:
    original = encoder(*(slot(Layer(i)) for i in range(6)))
    merged = encoder(slot(Layer(0)), slot(Layer(1)), slot(Layer(1, 2)), slot(None))
    (_, blocks), *_ = Pictures([original, merged]).picture(merged)["stacks"]
    assert blocks == [[0, 1, "0", []], [1, 2, "1", []], [2, 4, "m2.1", []], [4, 6, None, None]]


def test_neighbours_that_were_dropped_share_what_lies_between() -> None:
    original = encoder(*(slot(Layer(i)) for i in range(6)))
    merged = encoder(slot(None), slot(None), slot(Layer(2, 2)))
    (_, blocks), *_ = Pictures([original, merged]).picture(merged)["stacks"]
    assert [block[:3] for block in blocks] == [[0, 2, None], [2, 4, None], [4, 6, "m2.2"]]


def test_kinds_stand_as_data_flows_and_are_those_that_any_plan_treats() -> None:
    one = encoder(slot(Layer(0), ffn_out=W4, query=W8A8))
    other = encoder(slot(Layer(0), value=W8A8, softmax=Treatment(precision=Precision(None, 8))))
    pictures = Pictures([one, other])
    assert pictures.kinds == {"encoder": ["query", "value", "ffn_out", "softmax"]}
    texts = [treatment["text"] for treatment in pictures.shared()["treatments"]]
    (_, [[*_, cells]]), *_ = pictures.picture(one)["stacks"]
    assert [texts[number] for number in cells] == ["w8a8", "as it was", "w4", "as it was"]


def test_a_rank_is_a_width_and_the_largest_is_narrower_than_a_dense_linear() -> None:
    plan = encoder(
        slot(
            Layer(0),
            query=Treatment(factors=Factorisation("svd", 8)),
            key=Treatment(factors=Factorisation("svd", 32)),
            value=W4,
        )
    )
    by_text = {treatment["text"]: treatment for treatment in Pictures([plan]).shared()["treatments"]}
    assert by_text["as it was"]["width"] == by_text["w4"]["width"] == 1.0
    assert 0.2 < by_text["rank 8"]["width"] < by_text["rank 32"]["width"] < 1.0
    assert (by_text["rank 8"]["rank"], by_text["w4"]["rank"]) == (8, None)


def test_tables_and_trained_weights_are_said() -> None:
    slots = (slot(Layer(0)),)
    plan = Plan((Stack("encoder", slots),), Treatments.of({"embeddings": W4}), "tuned-abc")
    picture = Pictures([plan]).picture(plan)
    assert (picture["outside"], picture["weights"]) == ([["embeddings", 1]], "tuned-abc")


@pytest.mark.parametrize(
    ("plan", "axes"),
    [
        (encoder(slot(Layer(0)), slot(Layer(1))), set()),
        (encoder(slot(Layer(0)), slot(None)), {"depth"}),
        (encoder(slot(Layer(0, 2))), {"assembly"}),
        (encoder(slot(Layer(0), query=W8A8)), {"bits"}),
        (encoder(slot(Layer(0), query=Treatment(factors=Factorisation("svd", 4)))), {"factors"}),
        (encoder(slot(Layer(0, 2)), slot(None), slot(Layer(2, 2), query=BOTH)),
         {"assembly", "depth", "factors", "bits"}),
        (Plan((Stack("encoder", (slot(Layer(0)),)),), weights="tuned"), {"depth"}),
        (Plan((Stack("encoder", (slot(Layer(0)),)),), Treatments.of({"embeddings": W4})), {"bits"}),
    ],
)  # fmt: skip
def test_the_axes_that_a_plan_used_are_seen_in_it(plan: Plan, axes: set[str]) -> None:
    assert changed_axes(plan) == axes


def test_a_rank_is_found() -> None:
    assert (rank_of(Treatment(factors=Factorisation("svd", 4))), rank_of(W4), rank_of(Treatment())) == (4, None, None)
