"""Who is asked what, in which batches, and how often."""

from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from paring.errors import MeasurementError, SettingError
from paring.profilers import devices, runtimes
from paring.profilers.runtimes import Executable
from paring.search import quality
from paring.search.data import Tables
from paring.search.examples import Examples
from paring.search.halved import halved, refuse_halving
from paring.search.progress import Silent
from paring.search.rungs import sizes
from paring.search.tasks import Task
from paring.search.workbench import Greedy, LocalWorkbench
from paring.spaces.quantised import BFloat16Linear
from paring.spaces.workbench import Inputs

SEARCHED, TESTED = 520, 40
Rows = list[dict[str, object]]


@pytest.fixture(autouse=True, scope="module")
def _rough_intervals() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality, "_RESAMPLES", 20)
        yield


class Watched:
    """An executable that keeps what it was asked."""

    def __init__(self, answer: Callable[[Inputs], Tensor]) -> None:
        self.answer, self.asked, self.kernels = answer, list[Tensor](), "float"

    def __call__(self, inputs: Inputs) -> Tensor:
        self.asked.append(inputs["input_ids"])
        return self.answer(inputs)

    @property
    def examples(self) -> int:
        return sum(map(len, self.asked))


def sure(inputs: Inputs) -> Tensor:
    """Always the second class."""
    return torch.tensor([[0.0, 1.0]]).repeat(len(inputs["input_ids"]), 1)


@pytest.fixture
def make(
    trained_bert: PreTrainedModel,
    make_tokenizer: Callable[[], PreTrainedTokenizerFast],
    make_reviews: Callable[[int, int], Rows],
    tmp_path: Path,
) -> Callable[..., LocalWorkbench]:
    searched, tested = (pd.DataFrame(make_reviews(count, seed)) for seed, count in enumerate((SEARCHED, TESTED)))

    def make_bench(judge_in: str = "float32") -> LocalWorkbench:
        return LocalWorkbench(
            trained_bert,
            make_tokenizer(),
            Task("classification", "data"),
            Tables(searched, tested, tested, None, {}),
            device=devices.find("cpu"),
            runtime=runtimes.find("torch"),
            threads=1,
            greedy=Greedy(),
            folder=tmp_path,
            progress=Silent(),
            judge_in=judge_in,
        )

    return make_bench


@pytest.fixture
def bench(make: Callable[..., LocalWorkbench]) -> LocalWorkbench:
    return make()


def test_a_referee_sees_the_answers_rung_by_rung(bench: LocalWorkbench) -> None:
    seen: list[np.ndarray] = []

    def referee(rows: np.ndarray, outcomes: np.ndarray) -> bool:
        assert outcomes.tolist() == [1.0] * len(rows)
        seen.append(rows)
        return False

    plan, watched = bench.anatomy.identity(), Watched(sure)
    found = bench.raced(plan, watched, bench.model, referee)
    assert [len(rows) for rows in seen] == list(sizes(SEARCHED))[:-1]
    for fewer, more in pairwise(seen):
        assert more[: len(fewer)].tolist() == fewer.tolist()
    assert watched.examples == SEARCHED
    assert found is not None
    assert bench.quality(plan, bench.search) == found  # kept, so nobody is asked again


def test_who_has_seen_enough_ends_it(bench: LocalWorkbench) -> None:
    plan, watched = bench.anatomy.identity(), Watched(sure)
    assert bench.raced(plan, watched, bench.model, lambda rows, _: len(rows) >= 130) is None
    assert watched.examples == 130
    assert bench.examiner.known(plan, bench.search) is None


def test_a_known_judgement_is_no_race(bench: LocalWorkbench) -> None:
    plan, watched = bench.anatomy.identity(), Watched(sure)
    known = bench.quality(plan, bench.search)
    assert bench.raced(plan, watched, bench.model, lambda *_: True) == known
    assert watched.examples == 0


def test_batches_are_the_same_whether_candidates_race_or_not(bench: LocalWorkbench) -> None:
    plan, raced, whole = bench.anatomy.identity(), Watched(sure), Watched(sure)
    bench.raced(plan, raced, bench.model, lambda *_: False)
    bench.examiner.quality(plan, bench.search, whole, None)
    assert len(raced.asked) == len(whole.asked) > 4
    assert all(torch.equal(one, other) for one, other in zip(raced.asked, whole.asked, strict=True))


def test_answers_come_in_the_order_of_the_examples(bench: LocalWorkbench) -> None:
    """A model that says whether a text has an odd number of tokens."""

    def parity(inputs: Inputs) -> Tensor:
        odd = inputs["attention_mask"].sum(1) % 2
        return torch.stack([1 - odd, odd], dim=1).float()

    expected = [len(one["input_ids"]) % 2 for one in bench.search.encoded]
    found = bench.examiner.judged(bench.search, Watched(parity), None, "accuracy")
    assert list(found.outcomes) == expected


def test_answers_that_are_no_numbers_end_it_at_once(bench: LocalWorkbench) -> None:
    lost = Watched(lambda inputs: sure(inputs) * float("nan"))
    with pytest.raises(MeasurementError, match="the model gave 65 answers that are not finite"):
        bench.quality(bench.anatomy.identity(), bench.search, lost)
    assert lost.examples == 65


def test_layers_are_reused_on_the_search_split_only(bench: LocalWorkbench) -> None:
    plan, reuse = bench.anatomy.identity(), bench.examiner.reuse
    assert reuse is not None
    model = bench.build(plan)
    executable = bench.executable(model)
    for split in (bench.test, bench.test):
        bench.quality(plan, split, executable, model=model, again=True)
    assert (reuse.store.layers_run, reuse.store.layers_saved) == (0, 0)
    first = bench.quality(plan, bench.search, executable, model=model)
    ran = reuse.store.layers_run
    assert ran > 0
    assert bench.quality(plan, bench.search, executable, model=model, again=True) == first
    assert (reuse.store.layers_run, reuse.store.layers_saved) == (ran, ran)
    bench.quality(plan, bench.search, executable, again=True)  # nobody says what it was loaded from
    assert (reuse.store.layers_run, reuse.store.layers_saved) == (ran, ran)


def test_a_halved_model_has_no_float_linear_and_nearly_the_same_answers(bench: LocalWorkbench) -> None:
    own, half = bench.model, halved(bench.model)
    assert [part for part in half.modules() if type(part) is nn.Linear] == []
    assert len([part for part in half.modules() if isinstance(part, BFloat16Linear)]) == 3 * 6 + 2
    assert [part for part in own.modules() if isinstance(part, BFloat16Linear)] == []
    inputs = bench.search.batch(range(64))
    expected, found = (one(**inputs).logits for one in (own, half))
    noise = (expected - found).square().sum() / expected.square().sum()
    assert 1e-8 < noise < 1e-3


def test_candidates_are_judged_in_half_and_the_front_as_it_is(
    make: Callable[..., LocalWorkbench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, answers = make("bf16"), dict[str, Tensor]()
    real = bench.examiner._kind.answer

    def answer(executable: Executable, examples: Examples, metric: str, **more: int) -> np.ndarray:
        answers[examples.split] = executable(bench.test.batch(range(8)))
        return real(executable, examples, metric, **more)

    monkeypatch.setattr(type(bench.examiner._kind), "answer", staticmethod(answer))
    model = bench.build(bench.anatomy.identity())
    executable = bench.executable(model)
    for split in (bench.search, bench.test):
        bench.quality(bench.anatomy.identity(), split, executable, model=model)
    inputs = bench.test.batch(range(8))
    assert torch.equal(answers["test"], executable(inputs))
    assert torch.equal(answers["search"], bench.executable(halved(model))(inputs))
    assert not torch.equal(answers["search"], answers["test"])


def test_halves_that_are_no_quicker_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingError, match=r"in bf16 on the runtime torch only, got 'openvino'; leave --judge-in out"):
        refuse_halving("openvino", devices.find("cpu"))
    monkeypatch.setattr("paring.search.halved.has_bfloat16", lambda _: False)
    with pytest.raises(SettingError, match="cpu does not multiply bfloat16 by itself"):
        refuse_halving("torch", devices.find("cpu"))
