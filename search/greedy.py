"""The greedy order in which layers go, as [Peer2022] finds it.

[Peer2022]: Peer, Stabinger, Engl, Rodriguez-Sanchez, "Greedy-layer pruning", Pattern Recognition Letters 157, 2022,
arXiv 2105.14839. The procedure: at each step try the removal of every remaining layer on top of those already gone,
and keep the best; every prefix of the order is an answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from ..errors import SearchError, SettingError

Ties = Literal["high", "low"]


@dataclass(frozen=True, slots=True)
class GreedyOrder:
    """What the procedure found.

    Attributes:
        order: layers in the order they go.
        scores: one mapping per step: layer tried -> score of the model without it and without all earlier ones.
        evaluations: how many models were scored.
    """

    order: tuple[int, ...]
    scores: tuple[Mapping[int, float], ...]
    evaluations: int


def greedy_order(
    n_layers: int,
    score: Callable[[tuple[int, ...]], float],
    depth: int,
    *,
    decimals: int | None = None,
    ties: Ties = "high",
    foreseen: Callable[[Sequence[tuple[int, ...]]], None] | None = None,
) -> GreedyOrder:
    """Finds the nested order in which layers are removed.

    The paper rounds scores to 3 decimals and lets the highest layer win a tie: `decimals=3, ties="high"`.
    n * K - K * (K - 1) / 2 models are scored for K removals from n layers; no set of layers twice.

    Args:
        n_layers: layers of the stack, at least 1.
        score: the quality, larger is better, of the model without the given layers. They come in order of removal,
            the one being tried last.
        depth: how many to remove, at least 0; at most n_layers - 1 are removed whatever is asked, as in the paper.
        decimals: digits after the point that count in a comparison; None compares exactly.
        ties: which of several equally good layers goes: the one with the highest or the lowest index.
        foreseen: told before every step what will be scored in it, as `score` gets it.

    Raises:
        SettingError: if n_layers, depth or ties is not legal.
        SearchError: if a score is not finite.
    """
    if n_layers < 1 or depth < 0:
        raise SettingError(f"greedy removal needs n_layers >= 1 and depth >= 0, got {n_layers} and {depth}.")
    if ties not in ("high", "low"):
        raise SettingError.unknown("tie rule", ties, ("high", "low"))
    gone: tuple[int, ...] = ()
    steps: list[Mapping[int, float]] = []
    for _ in range(min(depth, n_layers - 1)):
        tried = [(*gone, layer) for layer in range(n_layers) if layer not in gone]
        if foreseen is not None:
            foreseen(tried)
        scores = {removed[-1]: _finite(score(removed), removed) for removed in tried}
        steps.append(scores)
        gone = (*gone, best_layer(scores, decimals=decimals, ties=ties))
    return GreedyOrder(gone, tuple(steps), sum(len(scores) for scores in steps))


def best_layer(scores: Mapping[int, float], *, decimals: int | None, ties: Ties) -> int:
    """The layer whose removal leaves the best score, by the stated rounding and tie rule.

    Args:
        scores: layer -> score, larger is better; not empty.
        decimals: digits that count; None for all.
        ties: which index wins among equals.
    """
    sign = 1 if ties == "high" else -1
    return max(
        scores, key=lambda layer: (scores[layer] if decimals is None else round(scores[layer], decimals), sign * layer)
    )


def _finite(score: float, removed: tuple[int, ...]) -> float:
    if not isfinite(score):
        raise SearchError(f"scores must be finite, got {score} for the model without layers {removed}.")
    return score
