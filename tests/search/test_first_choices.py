"""What a search begins with: what says most first, legal, and nothing learned for what is not searched."""

from dataclasses import replace
from pathlib import Path

import pytest
from optuna.samplers import BaseSampler, RandomSampler

from paring.profilers.workload import Workload
from paring.search import hints
from paring.search.first_choices import n_starts, starting_choices
from paring.search.hints import Hints, hints_of
from paring.search.opening import open_workbench
from paring.search.progress import Silent
from paring.search.settings import Settings
from paring.search.tasks import Task
from paring.search.workbench import LocalWorkbench
from paring.spaces.allocation import Option
from paring.spaces.factoring import Factoring, Way
from paring.spaces.palette import Palette
from paring.spaces.space import Space


@pytest.fixture(scope="module")
def bench(model_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> LocalWorkbench:
    """One for all, so that harms are learned once."""
    settings = Settings(
        str(model_folder),
        Task("classification", str(data_folder)),
        tmp_path_factory.mktemp("run"),
        axes=("depth", "factors", "bits"),
        workload=Workload(tokens=8),
        factoring=Factoring(linears=(Way("sensitivity", 1.5), Way("sensitivity", 3.0)), tables=()),
    )
    return open_workbench(settings, Silent())[0]


def test_the_first_few_span_the_space(bench: LocalWorkbench) -> None:
    space = Space(bench.anatomy, ("depth", "factors", "bits"))
    known = hints_of(space, bench)
    choices = starting_choices(space, known)
    identity = space.identity()
    changed = [{name.partition(".")[0] for name in choice if choice[name] != identity[name]} for choice in choices]
    assert choices[0] == identity
    assert len({tuple(choice.values()) for choice in choices}) == len(choices)
    assert set.union(*changed[:4]) == {"depth", "factors", "bits"}
    # The greedy path is among the first dozen, all of it, and so are bits and factors of several sizes.
    first = choices[:14]
    assert {choice["depth.encoder"] for choice in first if choice != identity} >= {0, 1, 2}
    assert sum(own == {"bits"} for own in changed[:14]) >= 3
    assert sum(own == {"factors"} for own in changed[:14]) >= 2
    assert {"factors", "bits"} in changed[:14]
    for choice in choices:
        assert choice.keys() == identity.keys()
        space.resolve(choice, bench)
    assert all(choice in choices for choice in space.uniform_choices())


def test_the_first_ones_lie_along_the_front(bench: LocalWorkbench) -> None:
    """Steps from gentle to harsh, all with bits, no two alike; bits that are not set alike are among them."""
    anatomy = replace(bench.anatomy, stacks=tuple(replace(one, n_layers=12) for one in bench.anatomy.stacks))
    space = Space(anatomy, ("depth", "bits"))
    parts = [one.name for one in space.parameters["bits"]]
    gentle, harsh = (space.levels("bits")[level] for level in (1, 2))
    options = {name: [Option("float", 4.0, 0.0), Option(str(gentle[name]), 1.0, 1.0)] for name in parts[:-1]}
    whole = 4 * len(options)
    first = starting_choices(space, Hints(whole, bits=options))[:7]
    assert [choice["depth.encoder"] for choice in first] == [0, 0, 2, 0, 4, 6, 8]
    bits = [{name: choice[name] for name in parts} for choice in first]
    assert bits[:3] == [space.levels("bits")[0], gentle, harsh]
    assert bits[4:] == [gentle, harsh, gentle]
    assert len(set(bits[3].values())) > 1


def test_a_space_without_precisions_has_starting_points_too(bench: LocalWorkbench) -> None:
    anatomy = replace(bench.anatomy, palette=Palette(linears=(), tables=()))
    choices = starting_choices(Space(anatomy, ("depth", "bits")), Hints(1))
    assert [choice["depth.encoder"] for choice in choices] == [0, 1, 2]


@pytest.mark.parametrize(
    ("sampler", "trials", "expected"),
    [
        ("guided", 3, 5),
        ("guided", 18, 6),
        ("guided", 2000, 8),
        ("guided", None, 8),
        ("tpe", 40, 20),
        ("tpe", None, 30),
        (RandomSampler(), 1, 1),
    ],
)
def test_ours_soon_does_without_starting_points(sampler: str | BaseSampler, trials: int | None, expected: int) -> None:
    assert n_starts(sampler, trials) == expected


def test_hints_speak_of_parameters_and_of_parts(bench: LocalWorkbench) -> None:
    space = Space(bench.anatomy, ("depth", "factors", "bits"))
    known = hints_of(space, bench)
    legal = {one.name: one.choices for one in space}
    for options in (known.bits, known.factors):
        for name, found in options.items():
            assert tuple(option.name for option in found) == legal[name]
    choice = {**space.identity(), "factors.encoder.ffn_in": "sensitivity-3", "bits.encoder.1.query": "w8a8"}
    plan = space.resolve(choice, bench)
    parts = [f"{name} {one.factors or one.precision}" for name, _, one in plan.parts()]
    assert sum(part.startswith("encoder.1.query w8a8") for part in parts) == 1
    harm = next(option.harm for option in known.factors["factors.encoder.ffn_in"] if option.name == "sensitivity-3")
    factored = [known.harms[part] for part in parts if "ffn_in" in part]
    assert sum(factored) == pytest.approx(harm)
    assert known.harms["encoder.1.query w8a8"] > 0
    assert known.harms.keys() >= set(parts)


def test_nothing_is_learned_for_an_axis_that_is_not_searched(
    bench: LocalWorkbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("part_harms", "byte_options", "factor_options"):
        monkeypatch.setattr(hints, name, lambda *_: pytest.fail("asked for harms"))
    space = Space(bench.anatomy, ("depth",))
    assert starting_choices(space, hints_of(space, bench)) == [{"depth.encoder": depth} for depth in (0, 1, 2)]


def test_assemblies_are_allocated_by_what_they_were_seen_to_harm(bench: LocalWorkbench) -> None:
    """Of three tilings the one that is smaller and harms less stands for the others."""
    anatomy = bench.anatomy.with_modular_layers((3,))
    space = Space(anatomy, ("assembly", "depth"))
    (parameter,) = space.parameters["assembly"]
    ways = [Option(str(name), 100.0 / (1 + place), float(place)) for place, name in enumerate(parameter.choices)]
    choices = starting_choices(space, Hints(1000, assemblies={parameter.name: ways}))
    assert {choice[parameter.name] for choice in choices[:6]} == set(parameter.choices)
