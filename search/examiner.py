"""Puts models to the examples of a split, as often as is needed and no oftener.

What was judged is kept. Examples come in batches of like length. On the search split they come rung by rung
(`search/rungs.py`), so that who has seen enough may end it, and layers that are known from a model before are not
computed again (`search/prefix_reuse.py`). The batches are the same for every candidate, whoever ends what when: what a
batch holds beside an example may move its answer in the last digits.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial

import numpy as np
import torch
from torch import nn

from ..profilers.runtimes import Executable
from ..spaces.plan import Plan
from .cache import Cache
from .examples import BATCH_TOKENS, Examples
from .prefix_reuse import PrefixReuse
from .quality import Quality, check_finite, judge
from .rungs import rungs
from .tasks import TaskKind

# Rows asked so far and the answers to them, rung after rung -> whether that was enough.
Referee = Callable[[np.ndarray, np.ndarray], bool]

_SEARCHED = "search"
# A GPU needs more at once to be busy.
_GPU_BATCH_TOKENS = 32 * BATCH_TOKENS


class Examiner:
    """Judges models on the splits of one run.

    Attributes:
        metric: name of the run's metric.
        reuse: of layers, on the search split; None where each model runs whole.
    """

    def __init__(
        self, kind: TaskKind, metric: str, cache: Cache, device: torch.device, reuse: PrefixReuse | None
    ) -> None:
        """Judges nothing yet.

        Args:
            kind: of the task.
            metric: name of the run's metric.
            cache: where judgements are kept.
            device: where models run.
            reuse: of layers; None for none.
        """
        self._kind, self.metric, self._cache, self.reuse = kind, metric, cache, reuse
        self._batch_tokens = BATCH_TOKENS if device.type == "cpu" else _GPU_BATCH_TOKENS
        self._rungs: list[np.ndarray] = []

    def known(self, plan: Plan, examples: Examples, metric: str | None = None) -> Quality | None:
        """A judgement made before; None where there is none."""
        known = self._cache.get(self._key(plan, examples, metric))
        return None if known is None else Quality.from_json(known)

    def quality(
        self, plan: Plan, examples: Examples, executable: Executable, model: nn.Module | None, metric: str | None = None
    ) -> Quality:
        """Judges a plan and keeps the judgement; see `LocalWorkbench.quality`."""
        found = self.judged(examples, executable, model, metric or self.metric)
        self._cache.put(self._key(plan, examples, metric), found.to_json())
        return found

    def raced(
        self, plan: Plan, examples: Examples, executable: Executable, model: nn.Module | None, referee: Referee
    ) -> Quality | None:
        """The same by the run's metric, unless the referee has seen enough before the last rung: then None."""
        outcomes = self._asked(examples, executable, model, self.metric, referee)
        if outcomes is None:
            return None
        found = self._quality(examples, outcomes, self.metric)
        self._cache.put(self._key(plan, examples, None), found.to_json())
        return found

    def judged(self, examples: Examples, executable: Executable, model: nn.Module | None, metric: str) -> Quality:
        """Asks a model for all answers, and keeps nothing.

        Args:
            examples: the split.
            executable: what is asked.
            model: what it was loaded from, unchanged since, so that known layers need not run; None runs all.
            metric: what to judge by.

        Raises:
            MeasurementError: if an answer is not finite.
        """
        outcomes = self._asked(examples, executable, model, metric, None)
        assert outcomes is not None
        return self._quality(examples, outcomes, metric)

    def score(self, labels: np.ndarray, outcomes: np.ndarray) -> float:
        """The metric of the run."""
        return self._kind.score(self.metric, labels, outcomes)

    def _asked(
        self,
        examples: Examples,
        executable: Executable,
        model: nn.Module | None,
        metric: str,
        referee: Referee | None,
    ) -> np.ndarray | None:
        """The answers in the order of the examples; None where the referee ended it."""
        parts, answers = self._parts(examples), []
        # What is reported of the test split is what a model gives that runs whole.
        reuse = self.reuse if examples.split == _SEARCHED and model is not None else None
        with nullcontext() if reuse is None or model is None else reuse.between(model, executable):
            for number, rows in enumerate(parts, start=1):
                found = self._kind.answer(executable, examples.at(rows), metric, batch_tokens=self._batch_tokens)
                check_finite(found)
                answers.append(found)
                seen = np.concatenate(parts[:number])
                if referee is not None and number < len(parts) and referee(seen, np.concatenate(answers)):
                    return None
        return np.concatenate(answers)[np.argsort(np.concatenate(parts))]

    def _parts(self, examples: Examples) -> list[np.ndarray]:
        """The rows of a split, in the parts in which they are asked."""
        if examples.split != _SEARCHED:
            return [np.arange(len(examples))]
        self._rungs = self._rungs or rungs(examples)
        return self._rungs

    def _quality(self, examples: Examples, outcomes: np.ndarray, metric: str) -> Quality:
        return judge(metric, partial(self._kind.score, metric), examples.labels, outcomes, examples.split)

    def _key(self, plan: Plan, examples: Examples, metric: str | None) -> str:
        named = "" if metric in (None, self.metric) else f"{metric}-"
        return f"quality-{named}{examples.split}-{plan.fingerprint}"
