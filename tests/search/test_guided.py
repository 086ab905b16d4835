"""The sampler made for this: what it finds, what it keeps, what it remembers, and how long it takes."""

import random
from collections.abc import Callable
from itertools import product
from time import process_time
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState
from threadpoolctl import threadpool_info, threadpool_limits

from paring.profilers.counting import Shapes
from paring.reports.dominance import hypervolume
from paring.search.objectives import Limits
from paring.search.samplers import sampler
from paring.search.samplers.costs import Costs
from paring.search.samplers.distributions import distribution_of
from paring.search.samplers.features import Features
from paring.search.samplers.guide import Guide, Sketch
from paring.search.samplers.moves import Moves
from paring.search.samplers.scores import Scores
from paring.search.samplers.told import Told
from paring.spaces.allocation import Option
from paring.spaces.axes import Choice, Parameter, Value
from paring.spaces.plan import Plan
from paring.spaces.plan_bytes import PlanBytes
from paring.spaces.space import Space
from paring.spaces.workbench import Workbench

MakeGuide = Callable[..., Guide]
# What each layer loses when its Linears are rounded to 8 or 4 bits; chance moves every plan by up to a third of that.
LOSSES = {"w8a8": 0.002, "w4a8-64x64-pow2": 0.012}


class FewChoices(Space):
    """Depth, and one precision per layer: 3 x 3 x 3 x 3 choices."""

    def __init__(self, bench: Workbench) -> None:
        super().__init__(bench.anatomy, ("depth", "bits"))
        self._whole = Space(bench.anatomy, ("depth", "bits"))
        choices = self.parameters["bits"][0].choices
        layers = tuple(Parameter(f"bits.encoder.{layer}", choices) for layer in range(3))
        self.parameters = {"depth": self.parameters["depth"], "bits": layers}

    def resolve(self, choice: Any, bench: Workbench) -> Plan:
        whole = self._whole.identity()
        for name in whole:
            axis, *rest = name.split(".")
            if axis == "depth":
                whole[name] = choice[name]
            elif rest[0] == "encoder":
                whole[name] = choice[f"bits.encoder.{rest[1]}"]
        return self._whole.resolve(whole, bench)


@pytest.fixture(scope="module")
def bench(make_model: Any, make_bench: Any) -> Any:
    return make_bench(make_model("bert"))


@pytest.fixture(scope="module")
def make_guide(bench: Any) -> MakeGuide:
    def make(objectives: tuple[str, ...] = ("quality", "size"), limits: Limits | None = None, **known: Any) -> Guide:
        space, shapes = FewChoices(bench), Shapes.of(bench.anatomy)
        costs = Costs(PlanBytes(bench.model, bench.anatomy), shapes, None)
        limits = limits or Limits()
        return Guide(
            space,
            lambda choice: (space.resolve(choice, bench), True),
            Features(shapes, {}),
            costs,
            objectives=objectives,
            limits=limits,
            **known,
        )

    return make


def quality(plan: Plan) -> float:
    slots = plan.stacks[0].slots
    lost = 0.03 * sum(slot.layer is None for slot in slots) ** 1.5
    for place, slot in enumerate(slots):
        lost += sum(LOSSES[str(one.precision)] * (1 + place) for _, one in slot.treatments.items) / 6
    chance = random.Random(plan.fingerprint).uniform(-0.0007, 0.0007)
    return 0.9 - lost + (0.0 if plan.is_identity else chance)


def worth(sketch: Sketch) -> dict[str, float]:
    standing = sum(slot.layer is not None for slot in sketch.plan.stacks[0].slots)
    rounded = sum(len(slot.treatments.items) for slot in sketch.plan.stacks[0].slots)
    size = 1000 * (sketch.predicted("size") or 0.0)
    return {"quality": quality(sketch.plan), "latency": 0.01 * (0.1 + standing - 0.08 * rounded), "size": size}


def ask(study: optuna.Study, guide: Guide) -> optuna.Trial:
    return study.ask({one.name: distribution_of(one) for one in guide.space})


def tell(study: optuna.Study, trial: optuna.Trial, guide: Guide) -> Sketch:
    plan = guide.sketch(trial.params)
    found = worth(plan)
    study.tell(trial, [-found[name] if name == "quality" else found[name] for name in guide.objectives])
    return plan


def study_of(guide: Guide, seed: int = 0, name: str = "guided") -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = ["minimize"] * len(guide.objectives)
    return optuna.create_study(directions=directions, sampler=sampler(name, seed=seed, guide=guide))


def searched(guide: Guide, proposals: int, **which: Any) -> list[Sketch]:
    study = study_of(guide, **which)
    return [tell(study, ask(study, guide), guide) for _ in range(proposals)]


def volume(guide: Guide, plans: list[Sketch]) -> float:
    """Of the front, in units of the original, as reports have it."""
    origin = worth(guide.sketch(guide.space.identity()))
    found = [worth(plan) for plan in plans]
    rows = [[(-1 if name == "quality" else 1) * own[name] / origin[name] for name in guide.objectives] for own in found]
    return hypervolume(np.array(rows), np.array([-0.9 if name == "quality" else 1.0 for name in guide.objectives]))


def all_plans(guide: Guide) -> list[Sketch]:
    values = product(*(one.choices for one in guide.space))
    return list({guide.sketch(dict(zip(guide.space.identity(), one, strict=True))): None for one in values})


@pytest.mark.parametrize("objectives", [("quality", "size"), ("quality", "latency", "size")])
def test_a_known_front_is_found_in_a_third_of_the_plans(make_guide: MakeGuide, objectives: tuple[str, ...]) -> None:
    guide = make_guide(objectives=objectives)
    whole = all_plans(guide)
    best = volume(guide, whole)
    assert len(whole) == 39
    for seed in range(3):
        plans = searched(guide, len(whole) // 3, seed=seed)
        assert plans[0].plan.is_identity
        assert len({*plans}) == len(plans)
        assert volume(guide, plans) > 0.95 * best
        assert volume(guide, plans) > volume(guide, searched(guide, len(whole) // 3, seed=seed, name="random"))


def test_an_exhausted_space_is_answered_with_what_is_known(make_guide: MakeGuide) -> None:
    guide = make_guide()
    count = len(all_plans(guide))
    plans = searched(guide, count + 3)
    assert len({*plans[:count]}) > 0.95 * count
    assert all(plan in plans[:count] for plan in plans[count + 2 :])


def test_a_search_that_goes_on_proposes_what_it_would_have(make_guide: MakeGuide) -> None:
    """Its state is in the study: another object, with caches of its own, goes on where the first one stopped."""
    guide = make_guide()
    study = study_of(guide)
    for number in range(6):
        trial = ask(study, guide)
        if number == 3:
            study.tell(trial, state=TrialState.FAIL)
        else:
            tell(study, trial, guide)
    again = study_of(make_guide())
    again.add_trials(study.get_trials())
    assert ask(again, guide).params == ask(study, guide).params


def test_a_trial_that_was_cut_off_and_tried_again_changes_nothing(make_guide: MakeGuide) -> None:
    guide = make_guide()
    smooth, cut_off = study_of(guide), study_of(guide)
    for number in range(8):
        trial = ask(smooth, guide)
        again = ask(cut_off, guide)
        assert trial.params == again.params
        if number == 4:
            cut_off.tell(again, state=TrialState.FAIL)
            cut_off.enqueue_trial(again.params)
            again = ask(cut_off, guide)
        tell(smooth, trial, guide)
        tell(cut_off, again, guide)


def test_what_is_not_told_yet_is_not_proposed_again(make_guide: MakeGuide) -> None:
    guide = make_guide()
    study = study_of(guide)
    for _ in range(4):
        tell(study, ask(study, guide), guide)
    plans = [guide.sketch(ask(study, guide).params) for _ in range(5)]
    assert len({*plans}) == 5


def test_before_the_original_is_told_of_it_is_proposed(make_guide: MakeGuide) -> None:
    guide = make_guide()
    study = study_of(guide)
    study.enqueue_trial({**guide.space.identity(), "depth.encoder": 1})
    tell(study, ask(study, guide), guide)
    assert Told.of(study, guide) is None
    assert tell(study, ask(study, guide), guide).plan.is_identity
    told = Told.of(study, guide)
    assert told is not None
    assert len(told.losses) == 2


LIMITS = [Limits(size_bytes=700), Limits(max_drop=0.02), Limits(min_quality=0.88, size_bytes=800)]


def keeps(guide: Guide, plan: Sketch) -> bool:
    found, limits = worth(plan), guide.limits
    enough = max(limits.min_quality or 0.0, 0.9 - (limits.max_drop or 1.0))
    return found["size"] <= (limits.size_bytes or 1e9) and found["quality"] >= enough


def searched_with_limits(guide: Guide, proposals: int) -> list[Sketch]:
    """What limits speak of is recorded as a search does."""
    study, plans = study_of(guide), []
    for _ in range(proposals):
        trial = ask(study, guide)
        found = worth(guide.sketch(trial.params))
        trial.set_user_attr("measures", {"quality": found["quality"], "size_bytes": found["size"]})
        plans.append(tell(study, trial, guide))
    return plans


@pytest.mark.parametrize("limits", LIMITS)
def test_limits_are_kept_by_most_proposals(make_guide: MakeGuide, limits: Limits) -> None:
    guide = make_guide(objectives=("quality", "latency"), limits=limits)
    plans, whole = searched_with_limits(guide, 14), all_plans(guide)
    by_chance = sum(keeps(guide, plan) for plan in whole) / len(whole)
    assert sum(keeps(guide, plan) for plan in plans[2:]) >= min(10, 12 * by_chance + 3)


@pytest.mark.parametrize("limits", LIMITS)
def test_the_fastest_plan_that_keeps_limits_is_found(make_guide: MakeGuide, limits: Limits) -> None:
    guide = make_guide(objectives=("latency",), limits=limits)

    def fastest(plans: list[Sketch]) -> float:
        return min(worth(plan)["latency"] for plan in plans if keeps(guide, plan))

    assert fastest(searched_with_limits(guide, 14)) == fastest(all_plans(guide))


def test_what_it_costs_is_learned_from_what_was_told(make_guide: MakeGuide) -> None:
    guide = make_guide()
    plans = all_plans(guide)
    origin = worth(plans[0])["latency"]
    true = np.array([worth(plan)["latency"] / origin for plan in plans])
    errors = {}
    for count in (1, 6, 15):
        chosen = random.Random(1).sample(range(1, len(plans)), count - 1)
        told = {plans[place]: true[place] for place in (0, *chosen)}
        found = guide.predict("latency", plans, told)
        errors[count] = np.abs(found / true - 1).mean()
        assert (found > 0).all()
    assert errors[1] < 0.5
    assert errors[15] < 0.05
    assert errors[15] < errors[6] < errors[1]


def test_a_layer_that_is_gone_is_farther_from_the_original_than_any_that_is_rounded(make_guide: MakeGuide) -> None:
    guide = make_guide()
    identity = guide.space.identity()
    rounded = {**identity, **{f"bits.encoder.{layer}": "w4a8-64x64-pow2" for layer in range(3)}}
    gone, treated, original = (
        guide.sketch(choice).features for choice in ({**identity, "depth.encoder": 1}, rounded, identity)
    )
    assert not original
    assert {name for name in gone if not name.startswith("gone: encoder")} == set()
    assert sum(value**2 for value in gone.values()) > sum(value**2 for value in treated.values())


def test_moves_and_allocations_are_legal(make_guide: MakeGuide) -> None:
    ways = [Option("float", 100.0, 0.0), Option("w8a8", 25.0, 1.0), Option("w4a8-64x64-pow2", 13.0, 4.0)]
    guide = make_guide(options=[{f"bits.encoder.{layer}": ways for layer in range(3)}, {}])
    legal = {one.name: one.choices for one in guide.space}
    draw = random.Random(0)
    moves = Moves(guide.space, draw, guide.allocated)
    one: dict[str, Value] = guide.space.identity()
    seen = set()
    for _ in range(200):
        other = moves.far()
        for choice in (moves.near(one), other, moves.cross(one, other)):
            assert list(choice) == list(legal)
            assert all(value in legal[name] for name, value in choice.items())
            seen.add(tuple(choice.values()))
        one = moves.near(other)
    assert len(seen) > 60
    bits = [guide.allocated(draw) for _ in range(30)]
    assert all(one is not None for one in bits)
    assert len({str(one) for one in bits}) > 3


def test_a_proposal_takes_one_thread_and_leaves_the_others_as_they_were(
    make_guide: MakeGuide, monkeypatch: pytest.MonkeyPatch
) -> None:
    during: list[dict[str, int]] = []
    original = Scores.of
    monkeypatch.setattr(Scores, "of", lambda *given: during.append(blas_threads()) or original(*given))
    with threadpool_limits(limits=2, user_api="blas"):
        before = blas_threads()
        searched(make_guide(), 3)
        assert blas_threads() == before
    assert set(before.values()) == {2}
    assert during
    assert all(set(one.values()) == {1} for one in during)


def blas_threads() -> dict[str, int]:
    return {one["filepath"]: one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}


@pytest.mark.parametrize("objectives", [("quality", "latency", "memory", "size")])
def test_a_large_space_is_answered_in_time(make_model: Any, make_bench: Any, objectives: tuple[str, ...]) -> None:
    """Bits of every Linear of 24 layers, 147 parameters, with 120 trials told. A generous bound: it takes 0.3 s."""
    bench = make_bench(make_model("bert", layers=24))
    space, shapes = Space(bench.anatomy, ("depth", "bits")), Shapes.of(bench.anatomy)
    assert len(list(space)) > 145
    costs = Costs(PlanBytes(bench.model, bench.anatomy), shapes, None)
    features = Features(shapes, {})

    def resolve(choice: Choice) -> tuple[Plan, bool]:
        return space.resolve(choice, bench), True

    guide = Guide(space, resolve, features, costs, objectives=objectives, limits=Limits())
    study = study_of(guide)
    moves = Moves(space, random.Random(0), guide.allocated)
    distributions = {one.name: distribution_of(one) for one in space}
    for number in range(120):
        choice = moves.far() if number else space.identity()
        found = worth(guide.sketch(choice)) | {"memory": 5.0 + number % 3}
        values = [-found[name] if name == "quality" else found[name] for name in objectives]
        study.add_trial(optuna.trial.create_trial(params=choice, distributions=distributions, values=values))
    spent = []
    for _ in range(3):
        begun = process_time()
        trial = study.ask(distributions)
        spent.append(process_time() - begun)
        study.tell(trial, values)
    assert sorted(spent)[1] < 3.0
