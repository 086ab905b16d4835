"""Learning what plans cost, and a search that predicts with it."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import PreTrainedModel

from paring.errors import MeasurementError
from paring.profilers import kept
from paring.profilers.counting import Shapes, counted
from paring.profilers.estimates import PredictedLatency, PredictedMemory
from paring.profilers.memory import Memory, MemoryMeter
from paring.profilers.prediction import Measured, Table, UnseenError
from paring.profilers.profile import Profile
from paring.profilers.timing import Effort, Latency
from paring.profilers.workload import Workload
from paring.search import cost_table, finals, judge, quality
from paring.search.cache import Cache
from paring.search.cost_table import Subject, telling_plans
from paring.search.driver import search
from paring.search.near_front import hoped, near_front
from paring.search.objectives import Limits, Measures
from paring.search.opening import open_workbench
from paring.search.predictor import Predictor
from paring.search.progress import Silent
from paring.search.settings import Settings
from paring.search.study import Record
from paring.search.tasks import Task
from paring.search.trial import State, Trial
from paring.search.untaught import UntaughtBench, drawn_choice
from paring.search.workbench import LocalWorkbench
from paring.spaces.anatomy import anatomy_of
from paring.spaces.artefact import save, stored_bytes
from paring.spaces.factoring import Factoring, Way
from paring.spaces.plan import Layer, Plan, Slot, Stack
from paring.spaces.space import Space

EFFORT = Effort(seconds=0.0, min_rounds=3, max_rounds=3, calls=1)
AXES = ("assembly", "depth", "bits")
PEAK = 200_000_000


@pytest.fixture(autouse=True)
def _little_effort(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((judge, "_CANDIDATE_EFFORT"), (judge, "_REFERENCE_EFFORT"), (cost_table, "_EFFORT")):
        monkeypatch.setattr(module, name, EFFORT)
    monkeypatch.setattr(finals, "_SECONDS_PER_MODEL", 0.0)
    monkeypatch.setattr(quality, "_RESAMPLES", 20)
    monkeypatch.setattr(cost_table, "PLANS", 24)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """Costs by rule instead of by clock and meter; lists the plans that were asked for."""
    asked: list[Plan] = []

    def time(_: object, session: Sequence[Plan]) -> dict[str, float]:
        asked.extend(session)
        return {plan.fingerprint: scripted_ratio(plan) for plan in session}

    monkeypatch.setattr(cost_table._Lesson, "_time", time)
    monkeypatch.setattr(MemoryMeter, "measure", lambda *_: Memory(PEAK, 10, 20))
    return asked


def scripted_ratio(plan: Plan) -> float:
    """0.1 a request and 0.3 for each of three layers, less 0.01 for every treated Linear."""
    slots = [slot for slot in plan.stack("encoder").slots if slot.layer is not None]
    return 0.1 + 0.3 * len(slots) - 0.01 * sum(len(slot.treatments.items) for slot in slots)


@pytest.fixture
def settings(model_folder: Path, data_folder: Path, tmp_path: Path) -> Settings:
    return Settings(
        str(model_folder),
        Task("classification", str(data_folder)),
        tmp_path / "run",
        workload=Workload(1, 16, 1),
        trials=12,
        latency="predicted",
    )


def untaught(model: PreTrainedModel, make_bench: Callable[[PreTrainedModel], object]) -> UntaughtBench:
    anatomy = anatomy_of(model).with_modular_layers((2, 3))
    return UntaughtBench(model, anatomy, make_bench(model).calibration(), seed=0)  # type: ignore[attr-defined]


def test_factors_are_not_learned_for_models_that_are_only_timed(
    make_model: Callable[..., PreTrainedModel],
    make_bench: Callable[[PreTrainedModel], object],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model("bert")
    for place in ("learned_factors.look_at", "layer_ranks.look_at", "fitting.factorise", "fitting.train_autoencoder"):
        monkeypatch.setattr(f"paring.spaces.{place}", lambda *_, **__: pytest.fail("learned"))
    ways = ("sensitivity-allocated-2", "svd-concatenated-2", "autoencoder-concatenated-2", "sensitivity-2")
    for way in ways:
        anatomy = replace(anatomy_of(model), factoring=Factoring(linears=(Way.parse(way),), tables=()))
        bench = UntaughtBench(model, anatomy, make_bench(model).calibration(), seed=0)  # type: ignore[attr-defined]
        space = Space(anatomy, ("factors",))
        plan = space.resolve({parameter.name: parameter.choices[-1] for parameter in space}, bench)
        built = bench.build(plan)
        assert stored_bytes(built) < stored_bytes(model)
        queries = [built.get_submodule(f"bert.encoder.layer.{place}.attention.self.query") for place in (0, 1)]
        parts = [getattr(query, "narrow", None) or query.decoder.layers[2] for query in queries]
        assert (parts[0].weight.data_ptr() == parts[1].weight.data_ptr()) is ("concatenated" in way)


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_plans_to_learn_from_begin_with_the_original_and_show_every_feature(
    make_model: Callable[..., PreTrainedModel], make_bench: Callable[[PreTrainedModel], object], family: str
) -> None:
    model = make_model(family, layers=6)
    bench = untaught(model, make_bench)
    space, shapes = Space(bench.anatomy, AXES), Shapes.of(bench.anatomy)
    plans = telling_plans(space, bench, shapes, count=24, seed=0)
    assert plans[0] == bench.anatomy.identity()
    assert len({plan.fingerprint for plan in plans}) == 24
    seen = {name for plan in plans for name in counted(plan, shapes)}
    draw = random.Random(5)
    for _ in range(40):
        assert set(counted(space.resolve(drawn_choice(space, draw), bench), shapes)) <= seen
    assert telling_plans(space, bench, shapes, count=24, seed=0) == plans


@pytest.mark.parametrize("family", ["bert", "t5"])
def test_an_untaught_model_takes_the_bytes_of_the_taught_one(
    make_model: Callable[..., PreTrainedModel], make_bench: Callable[[PreTrainedModel], object], family: str
) -> None:
    model = make_model(family, layers=6)
    bench, taught = untaught(model, make_bench), make_bench(model)
    taught.anatomy = bench.anatomy  # type: ignore[attr-defined]
    space, draw = Space(bench.anatomy, AXES), random.Random(1)
    for _ in range(4):
        plan = space.resolve(drawn_choice(space, draw), bench)
        assert stored_bytes(bench.build(plan)) == stored_bytes(taught.build(plan))  # type: ignore[attr-defined]


def test_untaught_layers_are_each_their_own(
    make_model: Callable[..., PreTrainedModel], make_bench: Callable[[PreTrainedModel], object], tmp_path: Path
) -> None:
    bench = untaught(make_model("bert", layers=6), make_bench)
    slots = (Slot(Layer(0, 2)), Slot(Layer(1, 2)), Slot(Layer(4)), Slot(Layer(5)))
    plan = Plan((Stack("encoder", slots),))
    built = bench.build(plan)
    assert len({weight.data_ptr() for weight in built.state_dict().values()}) == len(built.state_dict())
    save(built, plan, tmp_path, original=built.config)


def test_weights_of_a_trained_plan_need_not_be_there(
    make_model: Callable[..., PreTrainedModel], make_bench: Callable[[PreTrainedModel], object]
) -> None:
    bench = untaught(make_model("bert", layers=6), make_bench)
    plan = replace(bench.anatomy.identity(), weights="tuned-somewhere")
    assert bench.build(plan).num_parameters() == make_model("bert", layers=6).num_parameters()


@pytest.fixture
def bench(settings: Settings) -> LocalWorkbench:
    return open_workbench(settings, Silent())[0]


def learn(bench: LocalWorkbench, subject: Subject, cache: Cache, meter: MemoryMeter | None = None) -> Table:
    return cost_table.cost_table(bench, subject, cache=cache, meter=meter, progress=Silent(), seed=0)


SUBJECT = Subject("model", "torch", "here", ("depth", "bits"), Workload(1, 16, 1))


def test_a_table_is_learned_once_and_anew_for_anything_it_depends_on(
    bench: LocalWorkbench, scripted: list[Plan], tmp_path: Path
) -> None:
    cache = Cache(tmp_path / "cache")
    table = learn(bench, SUBJECT, cache)
    assert len(table.measured) == len(scripted) == 24
    assert learn(bench, SUBJECT, cache) == table
    assert len(scripted) == 24
    others = [
        replace(SUBJECT, machine="there"),
        replace(SUBJECT, runtime="another"),
        replace(SUBJECT, model="another"),
        replace(SUBJECT, axes=("bits",)),
        replace(SUBJECT, workload=Workload(2, 16, 1)),
    ]
    for number, other in enumerate(others, 2):
        learn(bench, other, cache)
        assert len(scripted) == number * 24
    bench.anatomy = replace(bench.anatomy, palette=replace(bench.anatomy.palette, tables=()))
    learn(bench, SUBJECT, cache)
    assert len(scripted) == 7 * 24


def test_a_learned_table_predicts_the_rule(bench: LocalWorkbench, scripted: list[Plan], tmp_path: Path) -> None:
    with MemoryMeter("cpu", "torch", SUBJECT.workload) as meter:
        table = learn(bench, SUBJECT, Cache(tmp_path), meter)
    shapes = Shapes.of(bench.anatomy)
    predictor = Predictor(table, shapes)
    space, draw = Space(bench.anatomy, SUBJECT.axes), random.Random(3)
    guide = UntaughtBench(bench.model, bench.anatomy, bench.calibration(), seed=0)
    for _ in range(20):
        plan = space.resolve(drawn_choice(space, draw), guide)
        assert predictor.latency(plan).ratio == pytest.approx(scripted_ratio(plan), rel=0.03)
        assert predictor.memory(plan).peak_bytes == pytest.approx(PEAK, rel=0.03)


def test_learning_stops_when_its_time_is_over(bench: LocalWorkbench, scripted: list[Plan], tmp_path: Path) -> None:
    table = cost_table.cost_table(
        bench, SUBJECT, cache=Cache(tmp_path), meter=None, progress=Silent(), seed=0, seconds=0.0
    )
    assert (table.measured, scripted) == ((), [])
    predictor, reason = Predictor.or_reason(table, Shapes.of(bench.anatomy))
    assert predictor is None
    assert "at least 8 plans, got 0" in reason


@pytest.mark.parametrize("was_kept", [False, True])
def test_only_a_table_that_predicts_serves_later_searches(
    bench: LocalWorkbench, scripted: list[Plan], tmp_path: Path, was_kept: bool
) -> None:
    short = cost_table.cost_table(
        bench, SUBJECT, cache=Cache(tmp_path / "short"), meter=None, progress=Silent(), seed=0, seconds=0.0
    )
    if was_kept:  # by a version that kept all
        kept.put(cost_table.COSTS, short.key, short.to_json())
    table = learn(bench, SUBJECT, Cache(tmp_path / "second"))
    assert len(table.measured) == len(scripted) == 24
    assert learn(bench, SUBJECT, Cache(tmp_path / "third")) == table
    assert len(scripted) == 24


def test_real_models_are_timed_a_few_at_once(
    bench: LocalWorkbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held: list[int] = []
    measure = cost_table.measure
    monkeypatch.setattr(cost_table, "measure", lambda calls, **how: held.append(len(calls)) or measure(calls, **how))
    table = learn(bench, SUBJECT, Cache(tmp_path))
    # Eight plans, the copy of the original that they are compared with, and a fresh one.
    assert held == [10, 10, 10]
    assert all(one.latency > 0 for one in table.measured)
    assert len(table.copies) == 3 and all(copy > 0 for copy in table.copies)


def test_of_large_models_fewer_are_held_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Free:
        available = 16_000_000_000

    monkeypatch.setattr(cost_table.psutil, "virtual_memory", Free)
    sizes = [cost_table._session_size(size) for size in (90_000_000, 440_000_000, 4_000_000_000)]
    assert sizes == [8, 4, 2]


def test_a_table_that_errs_too_much_is_not_used() -> None:
    draw, shapes = random.Random(0), Shapes({"encoder": 6}, {"encoder": {"query": (8, 8)}})
    plans = [
        Plan((Stack("encoder", tuple(Slot(Layer(place)) for place in range(depth))),)) for depth in (1, 2, 3, 4, 5, 6)
    ]
    measured = tuple(Measured(counted(plan, shapes), draw.uniform(0.2, 2.0)) for plan in plans * 3)
    predictor, reason = Predictor.or_reason(Table({}, measured, None, 1.0), shapes)
    assert predictor is None
    assert "more than 10% is not trusted" in reason


def test_a_search_predicts_candidates_and_measures_the_front(settings: Settings, scripted: list[Plan]) -> None:
    record = search(settings)
    trials = {trial.plan.fingerprint: trial for trial in record.trials() if trial.plan and trial.profile}
    assert len(trials) == 12
    for trial in trials.values():
        assert trial.plan is not None
        assert trial.profile is not None
        assert trial.profile.is_predicted != trial.plan.is_identity
        if trial.profile.is_predicted:
            assert isinstance(trial.profile.latency, PredictedLatency)
            assert isinstance(trial.profile.memory, PredictedMemory)
            assert trial.profile.latency.ratio == pytest.approx(scripted_ratio(trial.plan), rel=0.05)
    finals_ = record.finals()
    assert {final.plan.fingerprint for final in finals_} >= {
        trial.plan.fingerprint for trial in record.best() if trial.plan
    }
    assert all(isinstance(final.profile.latency, Latency) for final in finals_)
    facts = record.prediction
    assert facts is not None
    assert facts["plans"] == 24
    assert facts["latency_error"] < 0.03
    assert len(scripted) == 24
    search(replace(settings, trials=14))
    assert len(scripted) == 24
    search(replace(settings, trials=15, latency="measured"))
    measured = [
        trial for trial in Record.open(settings.out).trials() if trial.profile and not trial.profile.is_predicted
    ]
    assert len(measured) == 2


def test_a_search_that_cannot_learn_measures_and_says_so(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> dict[str, float]:
        raise MeasurementError("the runtime has no kernel")

    monkeypatch.setattr(cost_table._Lesson, "_time", refuse)
    record = search(replace(settings, trials=3, objectives=("quality", "latency")))
    assert not any(trial.profile.is_predicted for trial in record.trials() if trial.profile)
    assert record.prediction == {"refused": "the table could not be learned: the runtime has no kernel"}


def test_a_candidate_with_something_unseen_is_measured(
    settings: Settings, scripted: list[Plan], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unseen(*_: object) -> PredictedLatency:
        raise UnseenError("never seen")

    monkeypatch.setattr(Predictor, "latency", unseen)
    record = search(replace(settings, trials=3, objectives=("quality", "latency")))
    assert all(isinstance(trial.profile.latency, Latency) for trial in record.trials() if trial.profile)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"latency": None, "trials": 60}, False),
        ({"latency": None, "trials": 100}, True),
        ({"latency": None, "trials": None, "minutes": 5.0}, False),
        ({"latency": None, "trials": None, "minutes": 30.0}, True),
        ({"latency": "measured", "trials": 1000}, False),
        ({"latency": "predicted", "trials": 3}, True),
        ({"latency": "predicted", "objectives": ("quality", "size")}, False),
    ],
)
def test_long_searches_predict_unless_told_otherwise(
    settings: Settings, changes: dict[str, object], expected: bool
) -> None:
    assert replace(settings, **changes).predicts == expected  # type: ignore[arg-type]


def trial_of(number: int, accuracy: float, ratio: float, width: float | None, state: State = State.JUDGED) -> Trial:
    """Latencies in units of seconds; measured where there is no width."""
    late = (
        Latency((ratio,), ratio, ratio, ratio)
        if width is None
        else PredictedLatency(ratio, ratio - width, ratio + width)
    )
    plan = Plan((Stack("encoder", tuple(Slot(Layer(place)) for place in range(number + 1))),))
    measures = Measures(accuracy, 0.0, ratio, None, 1000.0)
    return Trial(number, state, plan, "", None, Profile(1000, "float", "m", "w", late), measures)


def test_near_the_front_is_who_would_be_on_it_within_the_error() -> None:
    trials = [
        trial_of(0, 0.9, 1.0, None),
        trial_of(1, 0.9, 0.50, 0.05),
        trial_of(2, 0.9, 0.53, 0.05),  # within its error of 1
        trial_of(3, 0.9, 0.52, 0.05),  # nearer
        trial_of(4, 0.9, 0.70, 0.05),  # too far
        trial_of(5, 0.9, 0.51, None),  # measured: no error to speak of
        trial_of(6, 0.8, 0.30, 0.05),  # on the front
    ]
    near = near_front(trials, ("quality", "latency"), Limits())
    assert [trial.number for trial in near] == [3, 2]


def test_who_may_keep_the_budget_is_measured_too() -> None:
    trials = [
        trial_of(0, 0.9, 1.0, None),
        trial_of(1, 0.85, 0.48, 0.05),
        trial_of(2, 0.9, 0.52, 0.05, State.INFEASIBLE),
        trial_of(3, 0.9, 0.60, 0.05, State.INFEASIBLE),
    ]
    near = near_front(trials, ("quality", "latency"), Limits(latency_seconds=0.5))
    assert [trial.number for trial in near] == [2]


def test_no_more_than_one_session_is_measured_beside_the_front() -> None:
    trials = [trial_of(0, 0.9, 0.5, 0.1)] + [trial_of(number, 0.9, 0.5 + number / 200, 0.1) for number in range(1, 15)]
    near = near_front(trials, ("quality", "latency"), Limits())
    assert [trial.number for trial in near] == list(range(1, 9))


def test_hope_goes_as_far_as_the_interval() -> None:
    trial = trial_of(1, 0.9, 0.5, 0.05)
    assert hoped(trial, 0.5).latency_seconds == pytest.approx(0.475)
    assert hoped(trial, 1.0).latency_seconds == pytest.approx(0.45)
    assert hoped(trial_of(1, 0.9, 0.5, None), 1.0).latency_seconds == 0.5


def test_old_and_new_runs_come_back_with_how_they_found_latencies(settings: Settings) -> None:
    _, described = open_workbench(settings, Silent())
    described = json.loads(json.dumps(described))
    assert Settings.of_run(described, settings.out).latency == "predicted"
    del described["effort"]["latency"]
    assert Settings.of_run(described, settings.out).latency is None
