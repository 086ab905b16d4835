from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from scipy.stats import binomtest

from paring.profilers.estimates import PredictedLatency, PredictedMemory
from paring.profilers.prediction import UnseenError
from paring.profilers.profile import Profile
from paring.search.heats import WRONG_DROPS, Heat, Rules
from paring.search.objectives import Limits, Measures
from paring.search.paired import level_test, paired_test, sign_test
from paring.search.quality import Quality, judge
from paring.search.racing import Pairing, Race
from paring.search.rungs import sizes
from paring.search.trial import State, Trial
from paring.spaces.plan import Layer, Plan, Slot, Stack

EXAMPLES = 872
LABELS = np.zeros(EXAMPLES)
COSTS = ("quality", "latency", "memory", "size")
PLANS = [Plan((Stack("encoder", tuple(Slot(Layer(index)) for index in range(depth))),)) for depth in (1, 2)]


def accuracy(labels: np.ndarray, outcomes: np.ndarray) -> float:
    return float(np.mean(labels == outcomes))


def ratio(labels: np.ndarray, outcomes: np.ndarray) -> float:
    """A metric of a corpus: sums over sums, as BLEU's are."""
    return float(outcomes[:, 0].sum() / outcomes[:, 1].sum())


def quality(outcomes: np.ndarray, metric: str = "accuracy") -> Quality:
    score = accuracy if metric == "accuracy" else ratio
    value = score(LABELS[: len(outcomes)], outcomes)
    answers = tuple(map(tuple, outcomes.tolist())) if outcomes.ndim > 1 else tuple(outcomes.tolist())
    return Quality(metric, value, value, value, "search", answers)


def profile(late: float = 0.5, error: float = 0.0, memory: int = 100, spread: int = 0, size: int = 100) -> Profile:
    return Profile(
        size,
        "float",
        "machine",
        "workload",
        PredictedLatency(late, late - error, late + error),
        PredictedMemory(memory, memory - spread, memory + spread),
    )


def judged(number: int, found: Quality, costs: Profile) -> Trial:
    return Trial(number, State.JUDGED, None, "", found, costs, Measures(found.value, 0.0, 1.0, 1.0, 1.0))


class Racing:
    """The race of a run, and the rules of its heats."""

    def __init__(self, baseline: np.ndarray, budget: Limits, pairing: Pairing | None) -> None:
        metric, score = ("accuracy", accuracy) if baseline.ndim == 1 else ("ratio", ratio)
        self.race = Race(COSTS, pairing)
        self._rules = Rules(budget, quality(baseline, metric), LABELS[: len(baseline)], score)

    def heat(self, costs: Profile, plan: Plan | None = None) -> Heat:
        return Heat(self._rules, self.race.rival(plan, costs))


def race_of(
    rivals: Sequence[tuple[np.ndarray, Profile]],
    baseline: np.ndarray,
    budget: Limits | None = None,
    pairing: Pairing | None = None,
    plans: Sequence[Plan] = (),
) -> Racing:
    racing, metric = Racing(baseline, budget or Limits(), pairing), "accuracy" if baseline.ndim == 1 else "ratio"
    for number, (outcomes, costs) in enumerate(rivals, start=1):
        trial = judged(number, quality(outcomes, metric), costs)
        racing.race.enter(replace(trial, plan=plans[number - 1]) if plans else trial)
    return racing


def run(heat: Heat, outcomes: np.ndarray, order: np.ndarray) -> int | None:
    """After how many examples a candidate leaves; None where it stays."""
    for size in sizes(len(outcomes))[:-1]:
        if heat(order[:size], outcomes[order[:size]]):
            return size
    return None


def right(share: float, draw: np.random.Generator) -> np.ndarray:
    """Outcomes of a model of exactly this accuracy: 0 is right."""
    wrong = np.zeros(EXAMPLES)
    wrong[draw.permutation(EXAMPLES)[: round((1 - share) * EXAMPLES)]] = 1
    return wrong


def as_good(rival: np.ndarray, changed: int, draw: np.random.Generator) -> np.ndarray:
    """Another model of exactly the same accuracy: as many examples turn right as turn wrong."""
    own = rival.copy()
    for answer in (0.0, 1.0):
        own[draw.choice(np.flatnonzero(rival == answer), changed, replace=False)] = 1 - answer
    return own


def wrong_drops(seeds: int, once: Callable[[np.random.Generator], tuple[Heat, np.ndarray]]) -> float:
    """Share of candidates that leave though they should not."""
    left = 0
    for seed in range(seeds):
        draw = np.random.default_rng(seed)
        heat, outcomes = once(draw)
        left += run(heat, outcomes, draw.permutation(len(outcomes))) is not None
    return left / seeds


@pytest.mark.parametrize("changed", [5, 20, 80])
def test_candidates_as_good_as_their_rival_seldom_leave(changed: int) -> None:
    def once(draw: np.random.Generator) -> tuple[Heat, np.ndarray]:
        rival = right(0.9, draw)
        return race_of([(rival, profile())], rival).heat(profile()), as_good(rival, changed, draw)

    assert wrong_drops(700, once) <= WRONG_DROPS


@pytest.mark.parametrize(
    "budget", [Limits(min_quality=0.8), Limits(max_drop=0.1), Limits(min_quality=0.1, max_drop=0.1)]
)
def test_candidates_that_just_keep_the_limit_seldom_leave(budget: Limits) -> None:
    def once(draw: np.random.Generator) -> tuple[Heat, np.ndarray]:
        baseline = right(0.9, draw)
        return race_of([], baseline, budget).heat(profile()), right(0.8, draw)

    assert wrong_drops(700, once) <= WRONG_DROPS


def test_candidates_as_good_by_a_metric_of_the_corpus_seldom_leave() -> None:
    """Statistics of two models, the same in sum and drawn for every example anew."""

    def once(draw: np.random.Generator) -> tuple[Heat, np.ndarray]:
        total = draw.integers(5, 30, 512)
        shared = draw.random(512)
        rival = np.stack([total * (0.5 * shared + 0.5 * draw.random(512)), total], axis=1)
        own = np.stack([total * (0.5 * shared + 0.5 * draw.random(512)), total], axis=1)
        own[:, 0] *= rival[:, 0].sum() / own[:, 0].sum()
        return race_of([(rival, profile())], rival).heat(profile()), own

    assert wrong_drops(150, once) <= WRONG_DROPS


def test_a_bad_candidate_leaves_after_the_first_rung() -> None:
    draw = np.random.default_rng(0)
    rival, bad = right(0.92, draw), right(0.7, draw)
    heat = race_of([(rival, profile())], rival).heat(profile())
    assert run(heat, bad, draw.permutation(EXAMPLES)) == 109
    assert heat.loss is not None
    assert (heat.loss.examples, heat.loss.rival) == (109, 1)
    assert heat.loss.quality < accuracy(LABELS, rival)
    assert heat.loss.quality == pytest.approx(0.7, abs=0.1)
    assert heat.loss.cause.startswith("after 109 of 872 examples: trial 1 costs no more and is better by 0.2")


def test_a_candidate_that_is_somewhat_worse_leaves_later() -> None:
    """Of 872 answers 45 turn wrong, and 8 turn right."""
    draw = np.random.default_rng(0)
    rival = right(0.9, draw)
    own = rival.copy()
    own[draw.choice(np.flatnonzero(rival == 0), 45, replace=False)] = 1
    own[draw.choice(np.flatnonzero(rival == 1), 8, replace=False)] = 0
    left = [
        run(race_of([(rival, profile())], rival).heat(profile()), own, draw.permutation(EXAMPLES)) for _ in range(20)
    ]
    assert set(left) <= {218, 436, None}
    assert left.count(436) > 10


def test_a_bad_candidate_leaves_by_a_metric_of_the_corpus() -> None:
    draw = np.random.default_rng(0)
    total = draw.integers(5, 30, 512)
    rival, bad = (np.stack([total * share * draw.random(512), total], axis=1) for share in (1.0, 0.5))
    heat = race_of([(rival, profile())], rival).heat(profile())
    assert run(heat, bad, draw.permutation(512)) == 64


@pytest.mark.parametrize("metric", ["accuracy", "ratio"])
def test_twins_stay(metric: str) -> None:
    draw = np.random.default_rng(0)
    twin = right(0.9, draw) if metric == "accuracy" else np.stack([draw.random(512), np.ones(512)], axis=1)
    heat = race_of([(twin, profile())], twin).heat(profile())
    assert run(heat, twin, draw.permutation(len(twin))) is None


@pytest.mark.parametrize(
    ("costs", "leaves"),
    [
        (profile(), True),
        (profile(late=0.6, error=0.1), True),
        (profile(late=0.6, error=0.11), False),
        (profile(late=0.49), False),
        (profile(memory=120, spread=10), True),
        (profile(memory=120, spread=11), False),
        (profile(size=101), True),
        (profile(size=99), False),
    ],
)
def test_costs_count_with_their_error(costs: Profile, leaves: bool) -> None:
    """The rival costs at most 0.5, 110 bytes at the peak, and stores 100."""
    draw = np.random.default_rng(0)
    rival, bad = right(0.92, draw), right(0.6, draw)
    known = profile(late=0.4, error=0.1, memory=100, spread=10)
    costs = costs if costs.memory != profile().memory else replace(costs, memory=PredictedMemory(110, 110, 110))
    heat = race_of([(rival, known)], rival).heat(costs)
    assert (run(heat, bad, draw.permutation(EXAMPLES)) is not None) == leaves


def test_predicted_costs_are_compared_as_a_pair() -> None:
    """Intervals that meet leave open what the pair does not, and the other way round; bytes are as they are."""
    draw = np.random.default_rng(0)
    rival, bad, (one, other) = right(0.92, draw), right(0.6, draw), PLANS
    wide = profile(late=0.5, error=0.2)
    for is_sure, costs, leaves in ((True, wide, True), (False, profile(late=0.9), False), (True, profile(size=99), 0)):
        asked: list[tuple[str, Plan, Plan]] = []

        def pairing(cost: str, first: Plan, second: Plan, seen: list[Any] = asked, is_sure: bool = is_sure) -> bool:
            seen.append((cost, first, second))
            return is_sure

        heat = race_of([(rival, wide)], rival, None, pairing, [one]).heat(costs, other)
        assert (run(heat, bad, draw.permutation(EXAMPLES)) is not None) == leaves
        assert asked[0] == ("latency", one, other)


def test_what_an_earlier_table_knew_is_compared_by_its_interval() -> None:
    draw = np.random.default_rng(0)
    rival, bad = right(0.92, draw), right(0.6, draw)

    def pairing(cost: str, first: Plan, second: Plan) -> bool:
        raise UnseenError("not in this table")

    for late, leaves in ((0.9, True), (0.49, False)):
        heat = race_of([(rival, profile())], rival, None, pairing, PLANS[:1]).heat(profile(late=late), PLANS[1])
        assert (run(heat, bad, draw.permutation(EXAMPLES)) is not None) == leaves


def test_the_rival_is_the_best_of_those_that_cost_no_more() -> None:
    draw = np.random.default_rng(0)
    best, good, fair, bad = (right(share, draw) for share in (0.95, 0.92, 0.85, 0.6))
    rivals = [(fair, profile()), (best, profile(late=0.9)), (good, profile()), (good, profile())]
    heat = race_of(rivals, best).heat(profile())
    run(heat, bad, draw.permutation(EXAMPLES))
    assert heat.loss is not None
    assert heat.loss.rival == 3


def test_only_trials_that_keep_the_budget_beat_others() -> None:
    draw = np.random.default_rng(0)
    good, bad = right(0.92, draw), right(0.6, draw)
    racing = race_of([], good)
    racing.race.enter(replace(judged(1, quality(good), profile()), state=State.INFEASIBLE))
    racing.race.enter(Trial(2, State.FAILED, None, "it broke"))
    assert run(racing.heat(profile()), bad, draw.permutation(EXAMPLES)) is None


def test_what_breaks_the_limit_leaves_whatever_it_costs() -> None:
    draw = np.random.default_rng(0)
    baseline, bad = right(0.92, draw), right(0.6, draw)
    heat = race_of([], baseline, Limits(max_drop=0.05)).heat(profile(late=0.01))
    assert run(heat, bad, draw.permutation(EXAMPLES)) == 109
    assert heat.loss is not None
    assert heat.loss.rival is None
    assert heat.loss.quality < 0.92 - 0.05
    assert "its accuracy is surely below 0.8697, the least of the budget" in heat.loss.cause


def test_a_small_split_is_no_race() -> None:
    rival = np.zeros(100)
    heat = race_of([(rival, profile())], rival).heat(profile())
    assert run(heat, rival + 1, np.arange(100)) is None


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (0, 1), (2, 9), (9, 2), (30, 51)])
def test_the_sign_test_is_the_binomial_one(wins: int, losses: int) -> None:
    one = np.array([True] * wins + [False] * losses + [True] * 5)
    other = np.array([False] * wins + [True] * losses + [True] * 5)
    expected = binomtest(wins, wins + losses, alternative="less").pvalue if wins + losses else 1.0
    assert sign_test(one, other) == pytest.approx(expected)


@pytest.mark.parametrize("level", [0.0, 0.3, 0.5, 0.75, 1.0])
def test_the_level_test_counts_all_ways_to_draw(level: float) -> None:
    """Of 8 examples the least that the level asks for are right; every part of 4 is as likely."""
    answers = [number < -(-8 * level // 1) for number in range(8)]
    rights = [sum(answers[place] for place in part) for part in combinations(range(8), 4)]
    for seen in range(5):
        assert level_test(seen, 4, 8, level) == pytest.approx(np.mean([one <= seen for one in rights]))


def test_a_paired_test_sees_what_is_sure() -> None:
    labels, ones = np.zeros(100), np.ones(100)
    assert paired_test(accuracy, labels, ones, labels) == 0.0
    assert paired_test(accuracy, labels, labels, ones) == 1.0
    assert paired_test(accuracy, labels, ones, labels, margin=1.0) == 1.0
    few = np.zeros(100)
    few[:4] = 1
    # A mean of 0.04 in 100 is two standard errors.
    assert paired_test(accuracy, labels, few, labels) == pytest.approx(0.0217, abs=0.01)


def test_judging_agrees_with_what_is_raced() -> None:
    """The race reads what `judge` writes."""
    outcomes = right(0.9, np.random.default_rng(0))
    found = judge("accuracy", accuracy, LABELS, outcomes, "search")
    assert np.array(found.outcomes).tolist() == outcomes.tolist()
