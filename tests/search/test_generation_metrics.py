import random

import numpy as np
import pytest
from sacrebleu.metrics import BLEU, CHRF

from paring.search import generation_metrics
from paring.search.generation_metrics import AVERAGED, SUMMED, score, statistics
from paring.search.quality import judge

TEXTS = (
    "The quick brown fox jumps over the lazy dog .",
    "Ein Mann mit einem orangefarbenen Hut, der etwas anstarrt.",
    "",
    "It costs $3.50 - 50% off!",
    "zwei",
    "Ein Boston Terrier läuft über saftig-grünes Gras vor einem weißen Zaun.",
)
RIGHT = (
    ("The quick brown fox jumped over a lazy dog.", "A fast brown fox jumps over the lazy dog."),
    ("Ein Mann mit einem orangefarbenen Hut, der etwas anstarrt.",),
    ("Nichts.", "Leer.", "Kein Text."),
    ("It costs $3.50 (50% off)!",),
    ("zwei Hunde",),
    ("Ein Boston-Terrier läuft über saftiges Gras vor einem Zaun.", "Ein Hund rennt."),
)
WHOLE = {"bleu": BLEU, "chrf": CHRF}


def sacrebleu_score(metric: str, texts: list[str], right: list[tuple[str, ...]]) -> float:
    """The library's own score; it wants the k-th references of all texts together, None where there is none."""
    longest = max(map(len, right))
    columns = [[own[k] if k < len(own) else None for own in right] for k in range(longest)]
    return float(WHOLE[metric]().corpus_score(texts, columns).score) / 100


def random_corpus(seed: int) -> tuple[list[str], list[tuple[str, ...]]]:
    """Sentences of which some words are wrong, missing or moved, with one to three references."""
    draw = random.Random(seed)
    words = [f"w{n}" for n in range(12)] + [",", "."]
    right = [
        tuple(" ".join(draw.choices(words, k=draw.randint(1, 14))) for _ in range(draw.randint(1, 3)))
        for _ in range(draw.randint(1, 40))
    ]
    texts = []
    for own in right:
        kept = [word if draw.random() < 0.8 else draw.choice(words) for word in own[0].split() if draw.random() < 0.9]
        texts.append(" ".join(kept))
    return texts, right


@pytest.mark.parametrize("metric", SUMMED)
@pytest.mark.parametrize("seed", range(12))
def test_scores_are_sacrebleus_own(metric: str, seed: int) -> None:
    texts, right = random_corpus(seed)
    rows = statistics(metric, texts, right)
    assert rows.shape[0] == len(texts)
    assert score(metric, rows) == pytest.approx(sacrebleu_score(metric, texts, right), abs=1e-12)


@pytest.mark.parametrize("metric", SUMMED)
def test_scores_of_real_sentences_are_sacrebleus_own(metric: str) -> None:
    found = score(metric, statistics(metric, TEXTS, RIGHT))
    assert found == pytest.approx(sacrebleu_score(metric, list(TEXTS), list(RIGHT)), abs=1e-12)
    assert 0.2 < found < 0.9


@pytest.mark.parametrize("metric", SUMMED)
@pytest.mark.parametrize("seed", range(5))
def test_any_draw_of_examples_has_its_own_corpus_score(metric: str, seed: int) -> None:
    texts, right = random_corpus(100 + seed)
    drawn = np.random.default_rng(seed).integers(0, len(texts), len(texts))
    expected = sacrebleu_score(metric, [texts[row] for row in drawn], [right[row] for row in drawn])
    assert score(metric, statistics(metric, texts, right)[drawn]) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("metric", [*SUMMED, *AVERAGED])
def test_the_right_text_scores_one_and_nothing_scores_zero(metric: str) -> None:
    texts = ["a long enough sentence of words", "and another one to write"]
    assert score(metric, statistics(metric, texts, [(text,) for text in texts])) == pytest.approx(1.0)
    assert score(metric, statistics(metric, ["", ""], [(text,) for text in texts])) == 0.0


@pytest.mark.parametrize(
    ("metric", "expected"),
    # "the cat sat" for "on a mat the cat": unigrams 2 of 3 and 2 of 5, bigrams 1 of 2 and 1 of 4, longest "the cat".
    [("rouge1", 2 * 2 / 8), ("rouge2", 2 * 1 / 6), ("rougeL", 2 * 2 / 8)],
)
def test_rouge_by_hand(metric: str, expected: float) -> None:
    right = ("on a mat the cat",)
    assert statistics(metric, ["the cat sat"], [right]).tolist() == [[pytest.approx(expected)]]
    rows = statistics(metric, ["the cat sat", "x"], [right, ("y",)])
    assert score(metric, rows) == pytest.approx(expected / 2)


def test_rouge_l_keeps_the_order_and_words_are_not_stemmed() -> None:
    assert statistics("rougeL", ["c b a"], [("a b c",)]).tolist() == [[pytest.approx(1 / 3)]]
    assert statistics("rouge1", ["running dogs"], [("run dog",)]).tolist() == [[0.0]]


@pytest.mark.parametrize("metric", AVERAGED)
def test_rouge_takes_the_nearest_reference(metric: str) -> None:
    found = statistics(metric, ["a good text"], [("nothing of that", "a good text", "a text")])
    assert found.tolist() == [[pytest.approx(1.0)]]


@pytest.mark.parametrize("metric", [*SUMMED, *AVERAGED])
def test_an_interval_reads_no_text_again(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts, right = random_corpus(3)
    rows = statistics(metric, texts, right)
    for name in ("_rouge",) if metric in AVERAGED else ():
        monkeypatch.setattr(generation_metrics, name, lambda _: pytest.fail("read a text"))
    for library in WHOLE.values():
        monkeypatch.setattr(library, "_compute_segment_statistics", lambda *_: pytest.fail("read a text"))
    found = judge(metric, lambda _, drawn: score(metric, drawn), np.zeros(len(rows)), rows, "test")
    assert found.low < found.value < found.high
