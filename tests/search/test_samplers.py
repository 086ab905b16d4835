"""Every named sampler proposes legal choices, the same for the same seed; and any sampler object may be passed."""

from collections.abc import Callable, Mapping
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from paring.errors import SettingError
from paring.profilers.counting import Shapes
from paring.search.objectives import Limits
from paring.search.samplers import NAMES, check, name_of, sampler
from paring.search.samplers.costs import Costs
from paring.search.samplers.distributions import distribution_of
from paring.search.samplers.features import Features
from paring.search.samplers.guide import Guide, Sketch
from paring.spaces.axes import Parameter, Value
from paring.spaces.plan_bytes import PlanBytes
from paring.spaces.space import Space

# Beyond the random start of TPE and GP and the first two populations of NSGA-II.
PROPOSALS = {"guided": 8, "tpe": 16, "nsga2": 45, "gp": 13, "random": 12}
MakeGuide = Callable[..., Guide]


@pytest.fixture(scope="module")
def make_guide(make_model: Any, make_bench: Any) -> MakeGuide:
    """A guide of a tiny model whose depth and bits are searched for quality and size."""
    bench = make_bench(make_model("bert"))
    space, shapes = Space(bench.anatomy, ("depth", "bits")), Shapes.of(bench.anatomy)

    def make(objectives: tuple[str, ...] = ("quality", "size"), limits: Limits | None = None) -> Guide:
        return Guide(
            space,
            lambda choice: (space.resolve(choice, bench), True),
            Features(shapes, {}),
            Costs(PlanBytes(bench.model, bench.anatomy), shapes, None),
            objectives=objectives,
            limits=limits or Limits(),
        )

    return make


def worth(sketch: Sketch) -> dict[str, float]:
    """Quality that falls with what is dropped and rounded, and what a plan costs."""
    slots = sketch.plan.stacks[0].slots
    standing = sum(slot.layer is not None for slot in slots)
    rounded = sum(len(slot.treatments.items) * (1 + place) for place, slot in enumerate(slots))
    size = sketch.predicted("size") or 0.0
    return {"quality": 0.9 - 0.1 * (len(slots) - standing) - 0.002 * rounded, "latency": standing / 3, "size": size}


def ask(study: optuna.Study, guide: Guide) -> optuna.Trial:
    return study.ask({one.name: distribution_of(one) for one in guide.space})


def tell(study: optuna.Study, trial: optuna.Trial, guide: Guide) -> Sketch:
    """Tells what its plan is worth; a limit on size reaches samplers as a constraint."""
    plan = guide.sketch(trial.params)
    found = worth(plan)
    if guide.limits.size_bytes is not None:
        trial.set_constraint("size", found["size"] - guide.limits.size_bytes)
    study.tell(trial, [-found[name] if name == "quality" else found[name] for name in guide.objectives])
    return plan


def study_of(name: str, guide: Guide, seed: int) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    directions = ["minimize"] * len(guide.objectives)
    study = optuna.create_study(directions=directions, sampler=sampler(name, seed=seed, guide=guide))
    study.enqueue_trial(guide.space.identity())
    return study


def proposals(name: str, guide: Guide, seed: int) -> list[Mapping[str, Value]]:
    """What a sampler proposes in a fresh study; some trials fail, some break the limit."""
    study = study_of(name, guide, seed)
    found = []
    for number in range(PROPOSALS[name]):
        trial = ask(study, guide)
        found.append(trial.params)
        if number % 7 == 3:
            study.tell(trial, state=TrialState.FAIL)
        else:
            tell(study, trial, guide)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_contract_same_seed_same_legal_proposals(name: str, make_guide: MakeGuide) -> None:
    guide = make_guide(limits=Limits(size_bytes=0.6))
    legal = {one.name: one.choices for one in guide.space}
    first = proposals(name, guide, seed=3)
    assert first == proposals(name, guide, seed=3)
    assert first[1:] != proposals(name, guide, seed=4)[1:]
    assert len({tuple(choice.values()) for choice in first}) > len(first) // 2
    for choice in first:
        assert choice.keys() == legal.keys()
        assert all(type(value) is type(legal[key][0]) for key, value in choice.items())
        assert all(value in legal[key] for key, value in choice.items())


@pytest.mark.parametrize(("name", "objectives"), [(name, ("size",)) for name in NAMES] + [("guided", ("quality",))])
def test_contract_one_objective(name: str, objectives: tuple[str, ...], make_guide: MakeGuide) -> None:
    found = proposals(name, make_guide(objectives), seed=0)
    assert len({tuple(choice.values()) for choice in found}) > 3


def test_integers_are_ranges_and_names_are_categories() -> None:
    assert distribution_of(Parameter("a", (0, 1, 2))) == optuna.distributions.IntDistribution(0, 2)
    for choices in (("float", "w8"), (0, 2, 4), (1, "x")):
        assert distribution_of(Parameter("a", choices)) == optuna.distributions.CategoricalDistribution(choices)


def test_unknown_name() -> None:
    with pytest.raises(
        SettingError, match=r"unknown sampler 'nsga'.*gp, guided, nsga2, random, tpe.*Did you mean 'nsga2'"
    ):
        check("nsga")


def test_an_object_is_taken_as_it_is_and_remembered_by_its_kind(make_guide: MakeGuide) -> None:
    given = optuna.samplers.TPESampler(seed=1)
    guide = make_guide()
    assert sampler(given, seed=0, guide=guide) is given
    assert [name_of(which) for which in ("tpe", given)] == ["tpe", "object TPESampler"]
    check("object TPESampler")
    with pytest.raises(SettingError, match=r"made with an object TPESampler.*give such an object again"):
        sampler("object TPESampler", seed=0, guide=guide)
