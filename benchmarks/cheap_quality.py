"""What it costs to judge candidates on the search split, with and without each of the three ways to spare it.

    python benchmarks/cheap_quality.py --model MODEL --data DATA [--runtime torch] [--plans 24] [--threads 1]
        [--limit EXAMPLES] [--seconds SECONDS] [--work FOLDER] [--name cheap_quality]

Plans as a search draws them (its starting points, moves of one parameter from those before, and random ones) are judged
by several judges, one plan after the other by all of them in random order, so that ratios of their times mean something
on a machine that others use, too. Latencies are predicted from a table that is learned first, as in a search; the
table, building a plan's model and loading it are not in the seconds, as they are the same for all. In what is printed,
`of_all_off` and the columns of the kinds of plans are seconds over those of the last row; `padding` and `layers_saved`
are shares.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from results import keep
from torch import nn

from paring.profilers.counting import Shapes
from paring.profilers.estimates import PredictedLatency
from paring.profilers.profile import Profile
from paring.profilers.runtimes import Executable
from paring.profilers.workload import Workload
from paring.search.cache import Cache
from paring.search.cost_table import Subject, cost_table
from paring.search.examiner import Examiner
from paring.search.examples import BATCH_TOKENS, Examples
from paring.search.first_choices import starting_choices
from paring.search.heats import Heat, Loss, Rules
from paring.search.hints import hints_of
from paring.search.objectives import Limits, Measures
from paring.search.opening import open_workbench
from paring.search.predictor import Predictor
from paring.search.prefix_reuse import PrefixReuse
from paring.search.progress import Terminal
from paring.search.quality import Quality
from paring.search.racing import Race
from paring.search.rungs import rungs
from paring.search.settings import Settings
from paring.search.tasks import Task, load
from paring.search.trial import State, Trial
from paring.search.workbench import LocalWorkbench
from paring.spaces.artefact import stored_bytes
from paring.spaces.plan import Plan
from paring.spaces.space import Space

AXES, OBJECTIVES = ("depth", "bits"), ("quality", "latency", "size")
# What a user may ask for.
BUDGET = Limits(max_drop=0.05)
KINDS = ("starting", "moves", "random")
# As it was before there were buckets.
FIXED_BATCH = 64


class FixedBatches(Examples):
    """Examples that come in batches of as many rows each, whatever their length."""

    def bucketed(self, tokens: int) -> Iterator[Any]:
        """See `Examples.bucketed`."""
        return self.batches(FIXED_BATCH)


@dataclass
class Judge:
    """One way to judge, and what it found.

    Attributes:
        name: of the way.
        examiner: who asks.
        examples: how they come.
        race: of the candidates; None where all are asked everything.
        budget: its limit on quality counts.
        seconds: per plan.
        found: the quality of those plans that were judged in full.
        lost: the others: how many examples each was asked, and by which it was beaten.
    """

    name: str
    examiner: Examiner
    examples: Examples
    race: Race | None
    budget: Limits = Limits()  # noqa: RUF009  (frozen)
    rules: Rules | None = None
    seconds: list[float] = field(default_factory=list)
    found: dict[Plan, Quality] = field(default_factory=dict)
    lost: dict[Plan, Loss] = field(default_factory=dict)

    def judge(self, number: int, plan: Plan, model: nn.Module, executable: Executable, profile: Profile) -> None:
        """Asks a model for its answers, as a search would; the first is the original."""
        heat = None
        if self.race is not None and self.rules is not None:
            heat = Heat(self.rules, self.race.rival(plan, profile))
        started = time.perf_counter()
        if heat is None:
            found = self.examiner.judged(self.examples, executable, model, self.examiner.metric)
        else:
            found = self.examiner.raced(plan, self.examples, executable, model, heat)
        self.seconds.append(time.perf_counter() - started)
        if found is None:
            self.lost[plan] = heat.loss
            return
        self.found[plan] = found
        self.rules = self.rules or Rules(self.budget, found, self.examples.labels, self.examiner.score)
        least = self.budget.least_quality(next(iter(self.found.values())).value)
        if self.race is not None and (least is None or found.value >= least):
            measures = Measures(found.value, 0.0, None, None, float(profile.stored_bytes))
            self.race.enter(Trial(number, State.JUDGED, plan, "", found, profile, measures))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--runtime", default="torch")
    parser.add_argument("--plans", type=int, default=24)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--limit", type=int, help="at most so many examples")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--work", type=Path, help="a folder where what is learned of the model is kept for another time"
    )
    parser.add_argument("--seconds", type=float, default=1e9, help="after which no further plan is judged")
    parser.add_argument("--name", default="cheap_quality")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        settings = Settings(
            arguments.model,
            Task("classification", arguments.data, limit=arguments.limit),
            arguments.work or Path(scratch),
            runtime=arguments.runtime,
            axes=AXES,
            objectives=OBJECTIVES,
            workload=Workload(threads=arguments.threads),
        )
        bench, described = open_workbench(settings, Terminal())
        predictor = learned(bench, described, settings)
        plans = drawn(Space(bench.anatomy, AXES), bench, arguments.plans, arguments.seed)
        judges = judges_of(bench, predictor, Path(scratch))
        done = contest(bench, plans, judges, predictor, arguments.seed, arguments.seconds)
    keep(
        arguments.name,
        rows_of(judges, [plans[plan] for plan in done]),
        examples=len(bench.search),
        plans=[{"plan": str(plan), "kind": plans[plan]} for plan in done],
        threads=arguments.threads,
        runtime=arguments.runtime,
        prediction=predictor.facts(),
        **checks_of(judges, done),
    )


def learned(bench: LocalWorkbench, described: dict[str, Any], settings: Settings) -> Predictor:
    """Who predicts latencies, learned as a search learns them."""
    identity = described["identity"]
    subject = Subject(identity["model"], settings.runtime, identity["machine"], AXES, settings.workload)
    table = cost_table(bench, subject, cache=Cache(settings.out / "cache"), meter=None, progress=Terminal(), seed=0)
    return Predictor(table, Shapes.of(bench.anatomy))


def drawn(space: Space, bench: LocalWorkbench, count: int, seed: int) -> dict[Plan, str]:
    """Plans and how they were come by, as many of each kind: starting points of a search, moves, and random ones."""
    draw = random.Random(seed)
    choices = starting_choices(space, hints_of(space, bench))[: count // 3]
    plans = {space.resolve(choice, bench): "starting" for choice in choices}
    while len(plans) < count:
        kind = "random" if len(plans) % 2 else "moves"
        if kind == "moves":
            one = draw.choice(list(space))
            choice = {**draw.choice(choices), one.name: draw.choice(one.choices)}
        else:
            choice = {one.name: draw.choice(one.choices) for one in space}
        plan = space.resolve(choice, bench)
        if plan not in plans:
            choices.append(choice)
            plans[plan] = kind
    return plans


def judges_of(bench: LocalWorkbench, predictor: Predictor, folder: Path) -> list[Judge]:
    """Everything on; with a budget; each of the three off; all off: the whole split at once in batches of 64."""
    own = bench.search
    fixed = FixedBatches("search", own.encoded, own.labels, own.padding, own.writing)
    ways = {
        "all on": (True, True, own),
        "all on, with a budget": (True, True, own),
        "no prefix reuse": (False, True, own),
        "no racing": (True, False, own),
        "no bucketing": (True, True, fixed),
        "all off": (False, False, replace(fixed, split="whole")),
    }
    device, kind = bench.device.torch_device, load("classification")
    judges = []
    for name, (reuses, races, examples) in ways.items():
        reuse = PrefixReuse(bench.anatomy, device) if reuses else None
        examiner = Examiner(kind, bench.metric, Cache(folder / name), device, reuse)
        race = Race(OBJECTIVES, predictor.costs_no_more) if races else None
        judges.append(Judge(name, examiner, examples, race, BUDGET if "budget" in name else Limits()))
    return judges


def contest(
    bench: LocalWorkbench, plans: Iterable[Plan], judges: list[Judge], predictor: Predictor, seed: int, seconds: float
) -> list[Plan]:
    """Every plan by every judge, these in a random order for every plan.

    Returns:
        The plans in the order in which they were judged, the original first: all, or as many as there was time for.
    """
    draw, started, done = random.Random(seed), time.perf_counter(), list[Plan]()
    for plan in plans:  # as drawn: a move comes after the plan that it begins from, as in a search
        if time.perf_counter() - started > seconds:
            break
        model = bench.build(plan)
        executable = bench.executable(model)
        late = PredictedLatency(1.0, 1.0, 1.0) if plan.is_identity else predictor.latency(plan)
        profile = Profile(stored_bytes(model), executable.kernels, "machine", "workload", late)
        executable(bench.search.batch(range(64)))  # the first call of a model is slower, whoever makes it
        for judge in draw.sample(judges, len(judges)):
            judge.judge(len(done), plan, model, executable, profile)
        done.append(plan)
        took = ", ".join(f"{judge.name} {judge.seconds[-1]:.2f}" for judge in judges)
        print(f"plan {len(done)}, seconds: {took}", flush=True)
    return done


def rows_of(judges: list[Judge], kinds: list[str]) -> list[dict[str, Any]]:
    """One row per way to judge."""
    total = {judge.name: sum(judge.seconds) for judge in judges}
    rows = []
    for judge in judges:
        store = None if judge.examiner.reuse is None else judge.examiner.reuse.store
        layers = 0 if store is None else store.layers_saved + store.layers_run
        row = {
            "way": judge.name,
            "seconds": total[judge.name],
            "times_all_on": total[judge.name] / total["all on"],
            "of_all_off": total[judge.name] / total["all off"],
            **{kind: seconds_of(judge, kinds, kind) / seconds_of(judges[-1], kinds, kind) for kind in KINDS},
            "layers_saved": store.layers_saved / layers if store is not None and layers else 0.0,
            "dropped": len(judge.lost),
            "examples_asked": asked(judge) / (len(judge.seconds) * len(judge.examples)),
            "padding": padding(judge.examples),
        }
        rows.append({**row, "seconds_per_plan": judge.seconds})
    return rows


def seconds_of(judge: Judge, kinds: list[str], wanted: str) -> float:
    """What the plans of one kind took."""
    return sum(seconds for seconds, kind in zip(judge.seconds, kinds, strict=True) if kind == wanted)


def asked(judge: Judge) -> int:
    """Examples, times plans, that were put to a model."""
    return len(judge.found) * len(judge.examples) + sum(loss.examples for loss in judge.lost.values())


def padding(examples: Examples) -> float:
    """The share of what is computed in a whole split that is padding."""
    parts = [examples.at(rows) for rows in rungs(examples)] if examples.split == "search" else [examples]
    held = sum(inputs["input_ids"].numel() for part in parts for _, inputs in part.bucketed(BATCH_TOKENS))
    return 1 - sum(len(one["input_ids"]) for one in examples.encoded) / held


def checks_of(judges: list[Judge], plans: list[Plan]) -> dict[str, Any]:
    """Whether all ways agree on what they judged, and whether what was dropped was rightly dropped."""
    by_name = {judge.name: judge for judge in judges}
    whole, fast = by_name["no racing"], by_name["all on"]
    same = [name for name in ("all on", "all on, with a budget", "no prefix reuse") if agree(by_name[name], whole)]
    wrong = [
        str(plan) for plan, loss in fast.lost.items() if whole.found[plan].value >= whole.found[plans[loss.rival]].value
    ]
    moved = [
        abs(judge.found[plan].value - whole.found[plan].value)
        for judge in (by_name["no bucketing"], by_name["all off"])
        for plan in judge.found
    ]
    return {
        "same_outcomes_as_without_racing": same,
        "wrongly_dropped": wrong,
        "largest_change_of_quality_by_other_batches": max(moved),
    }


def agree(one: Judge, other: Judge) -> bool:
    """Whether two judges found the same answers to every example, of all plans that both judged in full."""
    both = one.found.keys() & other.found.keys()
    return all(one.found[plan].outcomes == other.found[plan].outcomes for plan in both)


if __name__ == "__main__":
    main()
