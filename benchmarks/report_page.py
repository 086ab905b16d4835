"""The report of a long search: how long it takes to write, what it weighs, and when a browser has painted it.

    python benchmarks/report_page.py [--trials 2000] [--layers 12] [--examples 872] [--visits 5] [--run DIR]

The plans are real ones of a BERT as deep as asked, drawn as a search draws them, and records have their real form. What
they say is made up by a formula: this measures the page, and says nothing of any model. The last trials failed, and
others break a budget, so that every kind of row is there. With Chromium and Playwright installed (`paring[browser]`)
the page is opened that often, each time in a fresh context; "drawn" is when all charts are there.
"""

import argparse
import random
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import optuna
import torch
from optuna.trial import TrialState
from results import keep
from transformers import BertConfig, BertForSequenceClassification

from paring.profilers.memory import Memory
from paring.profilers.profile import Profile
from paring.profilers.timing import Latency
from paring.reports.page import write_report
from paring.search.objectives import Measures
from paring.search.quality import Difference, Quality
from paring.search.study import Record
from paring.search.trial import Final
from paring.search.untaught import UntaughtBench, drawn_choice
from paring.spaces.anatomy import anatomy_of
from paring.spaces.axes import Value
from paring.spaces.plan import Plan
from paring.spaces.space import Space

AXES, OBJECTIVES = ("depth", "bits"), ("quality", "latency", "memory")
SECONDS, BYTES, MEMORY, QUALITY = 0.03, 400_000_000, 900_000_000, 0.93
# Of all trials, the last so many per cent failed.
FAILED_PART = 0.02
FINALS = 24
# Of every layer.
LINEARS = 6
PAINTS = "performance.getEntriesByType('paint').find((one) => one.name === 'first-contentful-paint').startTime"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--examples", type=int, default=872)
    parser.add_argument("--visits", type=int, default=5)
    parser.add_argument("--run", type=Path, help="where the run is made, or was made before; else it is thrown away")
    parser.add_argument("--name", default="report_page")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.run or Path(scratch) / "run"
        if not folder.exists():
            started = time.monotonic()
            make_run(folder, arguments.trials, arguments.layers, arguments.examples)
            print(f"a run of {arguments.trials} trials made in {time.monotonic() - started:.0f} s")
        started = time.monotonic()
        page = write_report(Record.open(folder))
        row = {
            "trials": arguments.trials,
            "report_s": time.monotonic() - started,
            "page_mb": page.stat().st_size / 1e6,
            **visits(page, arguments.visits),
        }
    keep(arguments.name, [row], layers=arguments.layers, examples=arguments.examples)


def make_run(folder: Path, trials: int, layers: int, examples: int) -> Record:
    """A run folder as a search of so many trials leaves it."""
    config = BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=layers, num_attention_heads=2, intermediate_size=32
    )
    anatomy = anatomy_of(BertForSequenceClassification(config))
    space, draw = Space(anatomy, AXES), random.Random(0)
    bench = UntaughtBench(torch.nn.Module(), anatomy, [{}], seed=0)  # type: ignore[arg-type]  # it builds nothing here
    record = Record.create(folder, settings(), len(OBJECTIVES), optuna.samplers.RandomSampler(seed=0))
    choices = [space.identity(), space.uniform_choices()[1]]
    known: dict[str, tuple[dict[str, Value], Plan]] = {}
    while len(known) < trials:
        choice = choices[len(known)] if len(known) < len(choices) else drawn_choice(space, draw)
        plan = space.resolve(choice, bench)
        known.setdefault(plan.fingerprint, (choice, plan))
    ways = {one.name: optuna.distributions.CategoricalDistribution(one.choices) for one in space}
    plans = list(known.values())
    failing = int(trials * (1 - FAILED_PART))
    record.study.add_trials(
        [frozen(choice, plan, ways, examples, fails=n >= failing) for n, (choice, plan) in enumerate(plans)]
    )
    best = [trial.plan for trial in Record.open(folder).best() if trial.plan is not None][:FINALS]
    original = plans[0][1]
    record.set_finals([final(plan, examples) for plan in dict.fromkeys([original, *best])])
    return Record.open(folder)


def frozen(
    choice: dict[str, Value], plan: Plan, ways: dict[str, Any], examples: int, *, fails: bool
) -> optuna.trial.FrozenTrial:
    """A trial in the form in which `Record` keeps it."""
    if fails:
        told = {"state": "failed", "cause": "the model gave 872 answers that are not finite.", "plan": plan.to_json()}
        return optuna.create_trial(state=TrialState.FAIL, params=choice, distributions=ways, user_attrs=told)
    found = final(plan, examples, "search")
    measures = found.measures
    numbers = {"quality": measures.quality, "drop": measures.drop, "latency_seconds": measures.latency_seconds}
    told = {
        "state": "judged" if measures.drop < 0.2 else "infeasible",
        "plan": plan.to_json(),
        "label": str(plan),
        "quality": found.quality.to_json(),
        "profile": found.profile.to_json(),
        "measures": {**numbers, "memory_bytes": measures.memory_bytes, "size_bytes": measures.size_bytes},
    }
    values = [measures.minimised(objective) for objective in OBJECTIVES]
    return optuna.create_trial(
        values=values,
        params=choice,
        distributions=ways,
        user_attrs=told,
        constraints={"max_drop": measures.drop - 0.2},
    )


def final(plan: Plan, examples: int, split: str = "test") -> Final:
    """A plan with numbers that a formula made up: fewer layers and bits cost less, and answer worse."""
    slots = [slot for stack in plan.stacks for slot in stack.slots]
    kept = sum(slot.layer is not None for slot in slots) / len(slots)
    treated = [treatment for slot in slots for _, treatment in slot.treatments.items]
    saved = sum(1 - (one.precision.weight_bits or 32) / 32 for one in treated if one.precision is not None)
    share = 1 - saved / (LINEARS * len(slots) * kept)
    noise = random.Random(plan.fingerprint + split)
    ratio = 1.0 if plan.is_identity else (0.1 + 0.9 * kept * (0.3 + 0.7 * share)) * noise.uniform(0.95, 1.05)
    quality = QUALITY - (
        0.0 if plan.is_identity else 0.3 * (1 - kept) ** 2 + 0.05 * (1 - share) + noise.uniform(0, 0.01)
    )
    late = Latency(
        tuple(SECONDS * ratio * noise.uniform(0.98, 1.02) for _ in range(40)), ratio, 0.98 * ratio, 1.02 * ratio
    )
    size = int(BYTES * (0.2 + 0.8 * kept) * share)
    held = Memory(int(MEMORY - BYTES + size), 50_000_000, 100_000_000)
    outcomes = tuple(float(noise.random() < quality) for _ in range(examples))
    return Final(
        plan,
        Quality("accuracy", quality, quality - 0.02, quality + 0.02, split, outcomes),
        Difference(quality - QUALITY, quality - QUALITY - 0.01, quality - QUALITY + 0.01),
        Profile(size, "int8 36/72 Linears", "a machine", "batch 1", late, held),
        Measures(quality, QUALITY - quality, SECONDS * ratio, float(held.peak_bytes), float(size)),
        True,
    )


def settings() -> dict[str, Any]:
    """What a run folder remembers of a search, as far as the page reads it."""
    machine = {"facts": {"name": "none"}, "cores": 1, "system": "none", "instruction_sets": [], "versions": {}}
    return {
        "identity": {
            "model": "made up", "data": "made up", "task": {"name": "classification", "metric": "accuracy"},
            "device": "cpu", "runtime": "torch", "machine": "none", "axes": list(AXES), "objectives": list(OBJECTIVES),
            "budget": {"max_drop": 0.2}, "workload": {"batch": 1, "tokens": 128, "threads": 1}, "seed": 0,
            "sampler": "tpe",
        },
        "sources": {"model": "numbers made up to weigh the page", "data": "made up"},
        "facts": {"machine": machine, "splits": {"search": "-", "test": "-", "calibration": "-"}, "paring": "-"},
    }  # fmt: skip


def visits(page: Path, count: int) -> dict[str, float | None]:
    """Medians over fresh visits: the first paint with content, and all charts drawn, in seconds since navigation."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        print("no Chromium or no Playwright here: the page was not opened")
        return {"first_paint_s": None, "slowest_first_paint_s": None, "drawn_s": None}
    paints, drawn = [], []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(count):
            context = browser.new_context(viewport={"width": 1280, "height": 900})
            tab = context.new_page()
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-ready]", timeout=60_000)
            drawn.append(tab.evaluate("performance.now()") / 1e3)
            paints.append(tab.evaluate(PAINTS) / 1e3)
            context.close()
        browser.close()
    return {"first_paint_s": median(paints), "slowest_first_paint_s": max(paints), "drawn_s": median(drawn)}


if __name__ == "__main__":
    main()
