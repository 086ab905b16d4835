"""Metrics of generated texts, each as statistics per example that add up to the exact score of a corpus.

So a score costs one sum over examples, whichever of them a bootstrap draws. All scores are fractions: a BLEU of 33.68
is 0.3368. The libraries are imported when first used, because they take longer than the rest of paring.
"""

from collections.abc import Sequence
from functools import cache
from itertools import zip_longest
from typing import Any

import numpy as np

SUMMED = ("bleu", "chrf")
AVERAGED = ("rouge1", "rouge2", "rougeL")


def statistics(metric: str, texts: Sequence[str], references: Sequence[Sequence[str]]) -> np.ndarray:
    """What the score of a corpus is computed from.

    Args:
        metric: one of `SUMMED` or `AVERAGED`.
        texts: what the model wrote, n of them.
        references: one or more right texts for each; where a metric knows no better, the one nearest counts.

    Returns:
        n x k: sacrebleu's counts, or the F-measure for ROUGE.
    """
    if metric in AVERAGED:
        scores = [_rouge(metric).score_multi(right, text) for text, right in zip(texts, references, strict=True)]
        return np.array([[score[metric].fmeasure] for score in scores], dtype=float)
    # sacrebleu wants the first references of all examples, then the second ones, with None where there is none.
    columns = list(zip_longest(*references))
    return np.array(_sacrebleu(metric)._extract_corpus_statistics(texts, columns), dtype=float)


def score(metric: str, rows: np.ndarray) -> float:
    """The score of a corpus, 0 to 1.

    Args:
        metric: one of `SUMMED` or `AVERAGED`.
        rows: n x k, from `statistics`.
    """
    if metric in AVERAGED:
        return float(rows.mean())
    # Counts are whole numbers, so their float sums are exact.
    return float(_sacrebleu(metric)._compute_score_from_stats(rows.sum(axis=0).tolist()).score) / 100


@cache
def _sacrebleu(metric: str) -> Any:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    # `force` only silences a remark on texts that look tokenised.
    return BLEU(force=True) if metric == "bleu" else CHRF()


@cache
def _rouge(metric: str) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([metric], use_stemmer=False)
