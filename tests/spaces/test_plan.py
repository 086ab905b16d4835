import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from paring.errors import PlanError
from paring.spaces.factorisation import Factorisation
from paring.spaces.plan import SCHEMA, Layer, Plan, Slot, Stack, Treatment, Treatments
from paring.spaces.precision import Precision

KINDS = ("attention_output", "ffn_in", "ffn_out", "key", "query", "value")
RANK_4 = Factorisation("svd", 4)
FACTORS = (None, RANK_4, Factorisation("activation", 16), Factorisation("autoencoder", 3, (Layer(0, 2), Layer(2, 2))))
W8, W8A8 = Treatment(precision=Precision(8)), Treatment(precision=Precision(8, 8))


def random_plan(draw: random.Random) -> Plan:
    def treatment() -> Treatment:
        bits = (None, *range(2, 9))
        weight, inputs = draw.choice(bits), draw.choice(bits)
        return Treatment(draw.choice(FACTORS), None if weight is None else Precision(weight, inputs))

    def treatments() -> Treatments:
        return Treatments.of({kind: treatment() for kind in draw.sample(KINDS, draw.randint(0, len(KINDS)))})

    def slot() -> Slot:
        return Slot(None) if draw.random() < 0.3 else Slot(Layer(draw.randint(0, 11), draw.randint(1, 3)), treatments())

    def stack(name: str) -> Stack:
        return Stack(name, (Slot(Layer(0)), *(slot() for _ in range(draw.randint(0, 5)))))

    names = ("encoder", "decoder")[: draw.randint(1, 2)]
    return Plan(tuple(stack(name) for name in names), treatments(), draw.choice(("original", "tuned-1")))


def random_plans(count: int = 300) -> list[Plan]:
    draw = random.Random(0)
    return [random_plan(draw) for _ in range(count)]


def encoder(*slots: Slot) -> Plan:
    return Plan((Stack("encoder", slots),))


def as_json(**changes: object) -> dict[str, Any]:
    return {"schema": SCHEMA, "weights": "original", "outside": {}, "stacks": {"encoder": [{"layer": "0"}]}, **changes}


def test_json_round_trip() -> None:
    for plan in random_plans():
        assert Plan.from_json(json.loads(json.dumps(plan.to_json()))) == plan
        assert Plan.from_json(json.loads(plan.dumps())).dumps() == plan.dumps()


def test_equality_hash_and_fingerprint_agree() -> None:
    plans = random_plans()
    copies = [Plan.from_json(plan.to_json()) for plan in plans]
    assert [hash(copy) for copy in copies] == [hash(plan) for plan in plans]
    assert [copy.fingerprint for copy in copies] == [plan.fingerprint for plan in plans]
    assert len({plan.fingerprint for plan in plans}) == len(set(plans)) > 250


def test_fingerprints_of_old_records_stay_valid() -> None:
    """A change here orphans every stored judgement: raise the schema, and only then this literal."""
    identity = encoder(*(Slot(Layer(i)) for i in range(3)))
    assert identity.dumps() == (
        '{"schema":2,"weights":"original","outside":{},'
        '"stacks":{"encoder":[{"layer":"0"},{"layer":"1"},{"layer":"2"}]}}'
    )
    assert identity.fingerprint == "17cec0af2362"


def test_order_of_treatments_does_not_count() -> None:
    one, other = Treatments.of({"query": W8A8, "key": W8}), Treatments.of({"key": W8, "query": W8A8})
    assert one == other
    assert Treatments().with_("query", W8A8).with_("key", W8) == one
    assert one.with_("query", Treatment()).with_("key", Treatment()) == Treatments()


def test_sites_are_the_slots_and_what_is_outside() -> None:
    slot = Slot(Layer(1, 2), Treatments.of({"query": W8A8, "key": Treatment(factors=RANK_4)}))
    plan = Plan(
        (Stack("encoder", (Slot(None), slot)), Stack("decoder", (Slot(Layer(0)),))), Treatments.of({"head": W8})
    )
    assert list(plan.sites()) == [
        ("encoder.0", None, Treatments()),
        ("encoder.1", slot.layer, slot.treatments),
        ("decoder.0", Layer(0), Treatments()),
        ("outside", None, plan.outside),
    ]
    assert list(plan.precisions()) == [
        ("encoder.1.query", slot.layer, Precision(8, 8)),
        ("outside.head", None, Precision(8)),
    ]
    assert plan.treatments() == (Treatment(factors=RANK_4), W8A8, W8)


def test_factorisations_are_written_for_people() -> None:
    for text in ("svd-64", "activation-109@0-5", "autoencoder-31@m2.0-m2.2"):
        assert str(Factorisation.parse(text)) == text
    assert Factorisation.parse("svd-2@m2.0-m2.2").members == (Layer(0, 2), Layer(1, 2), Layer(2, 2))
    for text in ("svd", "svd-", "64", "svd-64@0", "svd-64@5-0", "svd-64@0-m2.1", "magic-3", "svd-0", "svd--4"):
        with pytest.raises(PlanError):
            Factorisation.parse(text)


def test_ranks_are_described_together() -> None:
    def slot(index: int, rank: int) -> Slot:
        factors = Factorisation("sensitivity", rank)
        return Slot(Layer(index), Treatments.of({"query": Treatment(factors, Precision(8, 8)), "key": W8}))

    assert (
        str(encoder(slot(0, 8), slot(1, 8)))
        == "encoder 2/2 layers, sensitivity-8 on 2 Linears, w8 on 2 Linears, w8a8 on 2 Linears"
    )
    assert "sensitivity-3..8 on 2 Linears" in str(encoder(slot(0, 8), slot(1, 3)))


def test_whole_leaves_the_structure_only() -> None:
    for plan in random_plans():
        whole = plan.whole()
        assert not whole.treatments()
        assert whole.weights == plan.weights
        assert [[s.layer for s in stack.slots] for stack in whole.stacks] == [
            [s.layer for s in stack.slots] for stack in plan.stacks
        ]


def test_in_float_takes_away_precisions_only() -> None:
    for plan in random_plans():
        bare = plan.in_float()
        assert all(treatment.precision is None for treatment in bare.treatments())
        assert bare.in_float() == bare
        assert [str(t.factors) for t in bare.treatments()] == [str(t.factors) for t in plan.treatments() if t.factors]
        layers = [[slot.layer for slot in stack.slots] for stack in plan.stacks]
        assert [[slot.layer for slot in stack.slots] for stack in bare.stacks] == layers
        assert bare.weights == plan.weights


@pytest.mark.parametrize(
    ("plan", "plain"),
    [
        (encoder(Slot(Layer(0)), Slot(Layer(1))), True),
        (encoder(Slot(None), Slot(Layer(1))), True),
        (encoder(Slot(Layer(0, 2))), True),
        (encoder(Slot(Layer(0), Treatments.of({"query": Treatment(factors=RANK_4)}))), False),
        (Plan((Stack("encoder", (Slot(Layer(0)),)),), Treatments.of({"embeddings": W8})), False),
        (Plan((Stack("encoder", (Slot(Layer(0)),)),), weights="tuned-1"), True),
    ],
)
def test_is_plain(plan: Plan, plain: bool) -> None:
    assert plan.is_plain is plain


@pytest.mark.parametrize(
    ("plan", "identity"),
    [
        (encoder(Slot(Layer(0)), Slot(Layer(1))), True),
        (encoder(Slot(None), Slot(Layer(1))), False),
        (encoder(Slot(Layer(0, 2)), Slot(Layer(2))), False),
        (encoder(Slot(Layer(0), Treatments.of({"key": W8}))), False),
        (Plan((Stack("encoder", (Slot(Layer(0)),)),), weights="tuned-1"), False),
    ],
)
def test_is_identity(plan: Plan, identity: bool) -> None:
    assert plan.is_identity is identity


@pytest.mark.parametrize(
    ("plan", "text"),
    [
        (encoder(Slot(Layer(0)), Slot(Layer(1))), "encoder 2/2 layers"),
        (encoder(Slot(None), Slot(Layer(1)), Slot(None)), "encoder 1/3 layers (without 0 2)"),
        (encoder(Slot(Layer(0)), Slot(None), Slot(Layer(1, 2))), "encoder 2 layers (0 m2.1)"),
        (encoder(Slot(Layer(0, 6))), "encoder 1 layer (m6.0)"),
        (
            Plan(
                (Stack("encoder", (Slot(Layer(0), Treatments.of({"key": W8A8, "query": W8A8})), Slot(None))),),
                Treatments.of({"embeddings": W8}),
                "tuned-1",
            ),
            "encoder 1/2 layers (without 1), w8a8 on 2 Linears; embeddings w8; weights tuned-1",
        ),
    ],
)
def test_a_person_can_read_it(plan: Plan, text: str) -> None:
    assert str(plan) == text


@pytest.mark.parametrize("text", ["0", "11", "m2.0", "m6.1"])
def test_layer_text_round_trip(text: str) -> None:
    assert str(Layer.parse(text)) == text


def test_texts_mean_what_they_say() -> None:
    assert Layer.parse("m2.1") == Layer(index=1, granularity=2)


@pytest.mark.parametrize("text", ["", "-1", "m2", "m.1", "m0.1", "2.1", "4 ", "four"])
def test_layer_refuses(text: str) -> None:
    with pytest.raises(PlanError):
        Layer.parse(text)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Layer(-1),
        lambda: Layer(0, 0),
        lambda: Precision(8, 1),
        lambda: Factorisation("svd", 0),
        lambda: Factorisation("magic", 4),
        lambda: Factorisation("svd", 4, (Layer(2), Layer(1))),
        lambda: Factorisation("svd", 4, (Layer(0), Layer(1, 2))),
        lambda: Treatments((("query", W8), ("key", W8))),
        lambda: Treatments((("key", W8), ("key", W8A8))),
        lambda: Treatments((("key", Treatment()),)),
        lambda: Slot(None, Treatments.of({"key": W8})),
        lambda: Stack("encoder", ()),
        lambda: encoder(Slot(None), Slot(None)),
        lambda: encoder(Slot(Layer(0))).stack("decoder"),
        lambda: encoder(Slot(Layer(0))).with_stack(Stack("decoder", (Slot(Layer(0)),))),
        lambda: Plan((Stack("encoder", (Slot(Layer(0)),)), Stack("encoder", (Slot(Layer(1)),)))),
    ],
)
def test_illegal_plans_cannot_be_made(make: Callable[[], object]) -> None:
    with pytest.raises(PlanError):
        make()


@pytest.mark.parametrize(
    "data",
    [
        {},
        [],
        "plan",
        as_json(schema=3),
        as_json(schema="1"),
        as_json(stacks=None),
        as_json(stacks=[[{"layer": "0"}]]),
        as_json(stacks={"encoder": []}),
        as_json(stacks={"encoder": [None]}),
        as_json(stacks={"encoder": [{"layer": "first"}]}),
        as_json(stacks={"encoder": [{"layer": 0}]}),
        as_json(stacks={"encoder": [{"query": {"bits": "w8"}}]}),
        as_json(stacks={"encoder": [{"layer": "0", "query": {"bits": 8}}]}),
        as_json(stacks={"encoder": [{"layer": "0", "query": {"bits": "w17"}}]}),
        as_json(stacks={"encoder": [{"layer": "0", "query": {"bitz": "w8"}}]}),
        as_json(stacks={"encoder": [{"layer": "0", "query": {"factors": "4"}}]}),
        as_json(outside=None),
        as_json(weights=3),
        {key: value for key, value in as_json().items() if key != "weights"},
    ],
    ids=str,
)
def test_what_is_not_a_plan_is_refused(data: Any) -> None:
    with pytest.raises(PlanError):
        Plan.from_json(data)


def test_a_newer_schema_is_named() -> None:
    with pytest.raises(PlanError, match=r"schema 2, got schema 3"):
        Plan.from_json(as_json(schema=3))
