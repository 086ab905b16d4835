"""Predicted costs: known costs are found again, errors are honest, and nothing unseen is guessed."""

import json
import random
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from transformers import PreTrainedModel

from paring.errors import MeasurementError
from paring.profilers.counting import OF_MEMORY, Shapes, counted
from paring.profilers.estimates import Estimate, PredictedLatency, PredictedMemory
from paring.profilers.memory import Memory
from paring.profilers.prediction import CostModel, Measured, Table, UnseenError, ridge
from paring.profilers.profile import Profile
from paring.profilers.timing import Latency
from paring.spaces.anatomy import anatomy_of
from paring.spaces.factorisation import Factorisation
from paring.spaces.plan import Layer, Plan, Slot, Stack, Treatment, Treatments
from paring.spaces.precision import Precision

INT8, SHORT = Precision(8, 8), Precision(4, 8, (64, 64), power_of_two=True)
KINDS = ("query", "key", "value", "attention_output", "ffn_in", "ffn_out")
SHAPES = Shapes({"encoder": 6}, {"encoder": dict.fromkeys(KINDS[:4], (8, 8)) | {"ffn_in": (32, 8), "ffn_out": (8, 32)}})


def drawn_plan(draw: random.Random) -> Plan:
    """Depth, layers merged or not, and a precision for every Linear."""
    slots = []
    for index in range(draw.randint(1, 6)):
        treatments = {kind: Treatment(precision=draw.choice((None, INT8, SHORT))) for kind in KINDS}
        slots.append(Slot(Layer(index, draw.choice((1, 2))), Treatments.of(treatments)))
    table = Treatments.of({"embeddings": Treatment(precision=draw.choice((None, Precision(8))))})
    return Plan((Stack("encoder", tuple(slots)),), table)


def scripted_cost(plan: Plan, draw: random.Random | None = None) -> float:
    """0.1 per request and 0.15 a layer; int8 halves, 4 bits take 0.6; an FFN all in integers saves 0.01 more."""
    cost = 0.1
    for slot in plan.stack("encoder").slots:
        precisions = {kind: slot.treatments.get(kind).precision for kind in KINDS}
        for kind in KINDS:
            cost += (
                {None: 1.0, INT8: 0.5, SHORT: 0.6}[precisions[kind]] * 0.15 * (4 if kind.startswith("ffn") else 1) / 12
            )
        cost -= 0.01 if precisions["ffn_in"] and precisions["ffn_out"] else 0
    return cost * (1.0 if draw is None else draw.gauss(1.0, 0.01))


def learned(count: int, seed: int, *, noisy: bool = False) -> CostModel:
    draw = random.Random(seed)
    plans = [drawn_plan(draw) for _ in range(count)]
    costs = [scripted_cost(plan, draw if noisy else None) for plan in plans]
    return CostModel([counted(plan, SHAPES) for plan in plans], costs)


def test_costs_that_add_up_with_an_interaction_are_found_again() -> None:
    model, draw = learned(60, seed=0), random.Random(99)
    for plan in (drawn_plan(draw) for _ in range(50)):
        assert model.predict(counted(plan, SHAPES)).ratio == pytest.approx(scripted_cost(plan), rel=0.005)


def test_under_noise_the_stated_errors_and_intervals_are_those_of_new_plans() -> None:
    stated, errors, inside = [], [], []
    for seed in range(10):
        model, draw = learned(40, seed, noisy=True), random.Random(1000 + seed)
        stated.append(model.error)
        for plan in (drawn_plan(draw) for _ in range(100)):
            found, seen = model.predict(counted(plan, SHAPES)), scripted_cost(plan, draw)
            errors.append(abs(found.ratio / seen - 1))
            inside.append(found.low <= seen <= found.high)
    assert np.mean(errors) < 0.015
    assert 0.8 < np.mean(stated) / np.mean(errors) < 1.2
    assert 0.92 < np.mean(inside) < 0.98


def test_of_two_plans_it_is_told_which_surely_costs_no_more() -> None:
    """Wrong in at most 2.5 % of what it says, by costs without noise; and it says more than intervals do."""
    said, wrong, apart = 0, 0, 0
    for seed in range(10):
        draw = random.Random(seed)
        plans = [drawn_plan(draw) for _ in range(40)]
        costs = tuple(Measured(counted(plan, SHAPES), scripted_cost(plan, draw)) for plan in plans)
        # Copies of the original lie some per cent apart, which says nothing about two plans.
        model = Table({}, costs, None, 1.0, tuple(draw.gauss(1.0, 0.03) for _ in range(5))).latency()
        for one, other in ((drawn_plan(draw), drawn_plan(draw)) for _ in range(200)):
            features = counted(one, SHAPES), counted(other, SHAPES)
            intervals = [model.predict(own) for own in features]
            apart += intervals[0].high <= intervals[1].low
            if model.costs_no_more(*features):
                said += 1
                wrong += scripted_cost(one) > scripted_cost(other)
                assert not model.costs_no_more(*reversed(features))
    assert said > 1.1 * apart
    assert said > 700  # of 2,000 pairs in either order, half are no dearer
    assert wrong <= 0.025 * said


def test_where_the_original_lies_in_memory_is_in_the_interval() -> None:
    errors, inside, blind = [], [], []
    for seed in range(60):
        draw = random.Random(seed)
        # Each copy of the original is up to several per cent quicker or slower than the next.
        reference, *others, beside = (draw.gauss(1.0, 0.03) for _ in range(8))
        plans = [drawn_plan(draw) for _ in range(40)]
        measured = tuple(Measured(counted(plan, SHAPES), scripted_cost(plan, draw) / reference) for plan in plans)
        table = Table({}, measured, None, 1.0, tuple(other / reference for other in others))
        model, ignorant = table.latency(), replace(table, copies=()).latency()
        for plan in (drawn_plan(draw) for _ in range(20)):
            seen = scripted_cost(plan, draw) / beside
            found, naive = model.predict(counted(plan, SHAPES)), ignorant.predict(counted(plan, SHAPES))
            errors.append((abs(found.ratio / seen - 1), abs(naive.ratio / seen - 1)))
            inside.append(found.low <= seen <= found.high)
            blind.append(naive.low <= seen <= naive.high)
    assert np.mean(inside) > 0.92 and np.mean(blind) < 0.75
    known, unknown = np.mean(errors, axis=0)
    assert known < unknown


def test_the_more_plans_the_smaller_the_error() -> None:
    few, many = learned(12, seed=5, noisy=True), learned(200, seed=5, noisy=True)
    plan = counted(drawn_plan(random.Random(7)), SHAPES)
    assert many.predict(plan).half_width < few.predict(plan).half_width
    assert many.error < few.error


def test_errors_left_out_are_those_of_fits_without_the_plan() -> None:
    generator = np.random.default_rng(0)
    design = generator.uniform(0.2, 1.0, (14, 9))
    found = ridge(design, noise=0.1)
    for place in range(14):
        rest = np.delete(design, place, axis=0)
        # Ridge regression as least squares of the plans and of one row per prior.
        stacked = np.vstack([rest, 0.1 * np.eye(9)])
        weights, *_ = np.linalg.lstsq(stacked, np.concatenate([np.ones(13), np.zeros(9)]), rcond=None)
        assert found.left_out[place] == pytest.approx(1 - design[place] @ weights)


def test_what_no_plan_had_is_said_and_not_guessed() -> None:
    model = learned(30, seed=0)
    slot = Slot(Layer(0), Treatments.of({"query": Treatment(precision=Precision(3, 8))}))
    plan = Plan((Stack("encoder", (slot,)),))
    with pytest.raises(UnseenError, match=r"kind: encoder\.query w3a8, products: encoder w3a8; measure this one"):
        model.predict(counted(plan, SHAPES))


def test_a_refinement_no_plan_had_only_widens_nothing_else() -> None:
    model = learned(30, seed=0)
    known = counted(drawn_plan(random.Random(3)), SHAPES)
    assert model.predict({**known, "pair: encoder unheard of": 1.0}).ratio == model.predict(known).ratio


def test_a_plan_without_positive_cost_is_refused() -> None:
    model = learned(30, seed=0)
    with pytest.raises(UnseenError, match="too unlike those measured"):
        model.predict({"fixed: request": -5.0})


@pytest.mark.parametrize(
    ("counts", "costs", "message"),
    [
        ([{"fixed: request": 1.0}] * 7, [1.0] * 7, "at least 8 plans, got 7"),
        ([{"fixed: request": 1.0}] * 8, [1.0] * 7 + [float("nan")], "finite and above 0"),
        ([{"fixed: request": 1.0}] * 8, [1.0] * 7 + [0.0], "finite and above 0"),
    ],
    ids=["few", "nan", "zero"],
)
def test_costs_that_say_nothing_are_refused(counts: list[dict[str, float]], costs: list[float], message: str) -> None:
    with pytest.raises(MeasurementError, match=message):
        CostModel(counts, costs)


def test_an_estimate_is_finite_and_positive() -> None:
    with pytest.raises(MeasurementError, match="finite and above 0"):
        Estimate(float("nan"), 0.1)
    assert Estimate(1.0, 3.0).low > 0


def test_a_prediction_takes_less_than_a_millisecond() -> None:
    model, plan = learned(60, seed=0), counted(drawn_plan(random.Random(3)), SHAPES)
    times = []
    for _ in range(50):
        started = time.perf_counter()
        model.predict(plan)
        times.append(time.perf_counter() - started)
    assert np.median(times) < 1e-3


def test_a_table_comes_back_from_json_and_predicts_the_same() -> None:
    draw = random.Random(0)
    plans = [drawn_plan(draw) for _ in range(20)]
    measured = tuple(
        Measured(counted(plan, SHAPES), scripted_cost(plan), 0.9 if number < 10 else None)
        for number, plan in enumerate(plans)
    )
    table = Table({"machine": "here"}, measured, 400_000_000, 12.5, (1.01, 0.98))
    again = Table.from_json(json.loads(json.dumps(table.to_json())))
    assert again == table
    counts = counted(plans[3], SHAPES)
    assert again.latency().predict(counts) == table.latency().predict(counts)
    memory = again.memory()
    assert memory is not None
    assert memory.predict(counts).ratio == pytest.approx(0.9, rel=0.01)
    assert Table({}, measured[10:], None, 1.0).memory() is None


def test_a_profile_tells_predicted_from_measured_and_comes_back() -> None:
    late, peak = Estimate(0.5, 0.04), Estimate(0.8, 0.01)
    guessed = Profile(1000, "float", "m", "w", PredictedLatency.of(late), PredictedMemory.of(peak, 1_000_000))
    seen = Profile(1000, "float", "m", "w", Latency((1.0, 2.0), 0.5, 0.4, 0.6), Memory(10, 5, 7))
    assert Profile.from_json(json.loads(json.dumps(guessed.to_json()))) == guessed
    assert Profile.from_json(json.loads(json.dumps(seen.to_json()))) == seen
    assert (guessed.is_predicted, seen.is_predicted) == (True, False)
    assert guessed.memory == PredictedMemory(800_000, 790_000, 810_000)
    assert guessed.latency is not None
    assert guessed.latency.is_faster


def test_counts_are_shares_of_the_original() -> None:
    slot = Slot(Layer(0, 2), Treatments.of({"ffn_in": Treatment(precision=INT8), "ffn_out": Treatment(precision=INT8)}))
    outside = Treatments.of({"embeddings": Treatment(precision=Precision(8))})
    plan = Plan((Stack("encoder", (slot, Slot(None), Slot(Layer(2)))),), outside)
    assert counted(plan, SHAPES) == pytest.approx(
        {
            "fixed: request": 1,
            "layers: encoder": 2 / 6,
            "modular: encoder": 1 / 6,
            "products: encoder w8a8": 8 / 12 / 6,
            "kind: encoder.ffn_in w8a8": 4 / 12 / 6,
            "kind: encoder.ffn_out w8a8": 4 / 12 / 6,
            "pair: encoder ffn_in then ffn_out": 1 / 6,
            "outside: embeddings w8": 1,
        }
    )


def test_tables_count_by_their_size() -> None:
    shapes = replace(SHAPES, outside={"embeddings": (90, 10), "positions": (10, 10)})
    outside = Treatments.of({"embeddings": Treatment(precision=Precision(8))})
    found = counted(Plan((Stack("encoder", (Slot(Layer(0)),)),), outside), shapes)
    assert (found["outside: embeddings w8"], found["tables: w8"]) == (1, 0.9)


def test_memory_goes_by_bytes_whatever_their_kind() -> None:
    draw = random.Random(0)
    counts = [counted(drawn_plan(draw), SHAPES) for _ in range(20)]
    peaks = [0.7 + 0.3 * one["layers: encoder"] - 0.1 * one.get("products: encoder w8a8", 0.0) for one in counts]
    memory = CostModel(counts, peaks, groups=OF_MEMORY)
    assert not any(name.startswith("kind:") for name in memory.features)
    slot = Slot(Layer(0), Treatments.of({"an unheard of kind": Treatment(precision=INT8)}))
    plan = Plan((Stack("encoder", (slot,)),))
    shapes = replace(SHAPES, linears={"encoder": {"an unheard of kind": (1, 1)}})
    assert memory.predict(counted(plan, shapes)).ratio == pytest.approx(0.7 + 0.05 - 0.1 / 6, rel=0.01)


def test_a_pair_reaches_from_one_layer_to_the_next() -> None:
    both = Treatments.of({kind: Treatment(precision=INT8) for kind in ("query", "ffn_out")})
    plan = Plan((Stack("encoder", (Slot(Layer(0), both), Slot(None), Slot(Layer(2), both))),))
    assert counted(plan, SHAPES)["pair: encoder ffn_out then query"] == pytest.approx(1 / 6)


def test_a_rank_counts_the_products_it_leaves_out() -> None:
    slot = Slot(Layer(0), Treatments.of({"ffn_in": Treatment(factors=Factorisation("svd", 2), precision=INT8)}))
    found = counted(Plan((Stack("encoder", (slot,)),)), SHAPES)
    # 2 (32 + 8) of 32 * 8 products are left, of 768 in a layer.
    assert found["left out: encoder"] == pytest.approx((256 - 80) / 768 / 6)
    assert found["products: encoder w8a8"] == pytest.approx(80 / 768 / 6)


@pytest.mark.parametrize("family", ["bert", "t5", "mbart"])
def test_shapes_are_read_from_any_model(make_model: Callable[..., PreTrainedModel], family: str) -> None:
    model = make_model(family)
    anatomy = anatomy_of(model)
    shapes = Shapes.of(anatomy)
    assert counted(anatomy.identity(), shapes) == pytest.approx(
        {"fixed: request": 1.0, **{f"layers: {stack.name}": 1.0 for stack in anatomy.stacks}}
    )
    assert shapes.linears["encoder"]["ffn_in"] == (64, 32)
    assert shapes.outside["embeddings"] == (64, 32)
    json.dumps(shapes.to_json())
