"""The workbench of one run: model, data, device and runtime together, and everything learned so far."""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import DataError, ModelError
from ..profilers.devices import Device
from ..profilers.runtimes import Executable, Runtime
from ..spaces import axes
from ..spaces.anatomy import anatomy_of
from ..spaces.build import build
from ..spaces.factoring import Factoring
from ..spaces.palette import Palette
from ..spaces.plan import ORIGINAL_WEIGHTS, Plan, Slot
from ..spaces.ties import distinct_tensors
from ..spaces.workbench import Inputs, Material, RemovalOrder
from .cache import Cache, writing
from .data import Examples, Tables
from .greedy import Ties, best_layer, greedy_order
from .modular import Modular
from .prepared import Prepared, train_modular_layers
from .progress import Progress, Report
from .quality import Quality, judge
from .tasks import Task, TaskKind, load
from .training import Training, fine_tune

SCORERS = ("training_free", "fine_tune")
_CALIBRATION_BATCH = 32
# What is being done while something is learned, by the first word of its key.
_LEARNING = {
    "bits": "calibrating inputs",
    "rounding": "rounding weights",
    "harm": "how much each part minds rounding",
    "factors": "factorising weights",
}


@dataclass(frozen=True, slots=True)
class Greedy:
    """How the removal order of layers is found.

    Attributes:
        scorer: "training_free" scores every candidate as it is; "fine_tune" trains each on the training split first,
            as the paper does, and a plan of that depth then starts from the weights so trained.
        decimals: digits of a score that count; None for all. The paper has 3.
        ties: which of equally good layers goes first; the paper has "high".
        training: how "fine_tune" trains.
        metric: what scores a step; None for the metric of the task, or a cheaper one where the kind of task has it:
            seq2seq takes "log_likelihood", for which nothing need be written.
    """

    scorer: str = "training_free"
    decimals: int | None = 3
    ties: Ties = "high"
    training: Training = field(default_factory=Training)
    metric: str | None = None


class LocalWorkbench:
    """Implements `spaces.workbench.Workbench` for one model, task, device and runtime, and judges plans.

    Attributes:
        model: the original.
        anatomy: of the original.
        metric: name of the metric.
        search: what candidates are compared on.
        test: what the front is judged on.
        train: what is trained on; None where nothing is.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        task: Task,
        tables: Tables,
        *,
        device: Device,
        runtime: Runtime,
        threads: int,
        greedy: Greedy,
        folder: Path,
        progress: Progress,
        modular: Modular | None = None,
        prepared: Prepared | None = None,
        identity: Mapping[str, str] | None = None,
        palette: Palette | None = None,
        factoring: Factoring | None = None,
    ) -> None:
        """Encodes the data; learns nothing yet.

        Args:
            model: the original.
            tokenizer: beside it.
            task: what the model is judged on.
            tables: rows of every split.
            device: where it shall run.
            runtime: what runs it.
            threads: that one call may use.
            greedy: how removal orders are found.
            folder: where what is learned is kept.
            progress: where to say how far it is.
            modular: how modular layers are trained when they are needed; None if they will not be.
            prepared: modular layers that are there already, instead.
            identity: of the model and the training rows, for layers trained here; see `prepared.identity_of`.
            palette: which precisions there are to choose from.
            factoring: which ways to factorise weights there are to choose from.

        Raises:
            DataError: if the data do not fit the model.
            ModelError: if the model does not fit the task, or its family is unknown.
        """
        self._modular = modular if prepared is None else prepared.settings
        self._prepared, self._identity = prepared, identity or {}
        granularities = () if self._modular is None else self._modular.granularities
        self.model = model
        anatomy = anatomy_of(model).with_modular_layers(granularities)
        self.anatomy = replace(anatomy, palette=palette or Palette(), factoring=factoring or Factoring())
        self.device, self.runtime, self._threads = device, runtime, threads
        self._greedy, self._progress = greedy, progress
        self._cache, self._weights_folder = Cache(folder / "cache"), folder / "weights"
        self._modular_folder = folder / "modular"
        self._report: Report = lambda share, now: None
        self._orders: dict[tuple[str, str, int], RemovalOrder] = {}
        self._kind: TaskKind = load(task.name)
        self.metric = self._kind.metric(task, model)
        step_metric = greedy.metric or self._kind.greedy_metric
        self._step_metric = self._kind.metric(replace(task, metric=step_metric), model) if step_metric else self.metric

        def encode(split: str, table: pd.DataFrame) -> Examples:
            return self._kind.encode(table, split, task, model, tokenizer)

        self.search, self.test = encode("search", tables.search), encode("test", tables.test)
        self._calibration = encode("calibration", tables.calibration)
        self.train: Examples | None = None
        if greedy.scorer == "fine_tune" or (modular is not None and prepared is None):
            if tables.train is None:
                fix = "use training_free" if greedy.scorer == "fine_tune" else "give modular layers that were prepared"
                what = "the fine_tune scorer" if greedy.scorer == "fine_tune" else "the axis 'assembly'"
                raise DataError(f"{what} needs a train split, and the data have none; {fix}.")
            self.train = encode("train", tables.train)

    @property
    def is_taught(self) -> bool:
        """Its models are judged."""
        return True

    def build(self, plan: Plan) -> PreTrainedModel:
        """The compressed model of a plan, on the CPU."""
        materials = {name: axes.load(name).prepare(plan, self) for name in axes.names()}
        return build(self.model, plan, materials=materials, weights=self._weights(plan.weights))

    def calibration(self) -> Sequence[Inputs]:
        """Batches of model inputs that are neither searched nor tested on."""
        examples = self._calibration
        if not self._kind.generates:
            return [inputs for _, inputs in examples.batches(_CALIBRATION_BATCH)]
        # With the target, so that the decoder has something to read.
        return [examples.with_labels(rows.tolist()) for rows, _ in examples.batches(_CALIBRATION_BATCH)]

    def remember(self, key: str, learn: Callable[[], Material]) -> Material:
        """What `learn` returns, from the run folder where it is already known."""
        known: Material | None = self._cache.get_tensors(key)
        if known is None:
            with self._progress.stage(_LEARNING.get(key.partition("-")[0], "learning"), 1) as report:
                self._report, before = report, self._report
                try:
                    known = learn()
                finally:
                    self._report = before
                report(1, "")
            self._cache.put_tensors(key, known)
        return known

    def report(self, share: float, now: str) -> None:
        """Shows how far it is."""
        self._report(share, now)

    def modular_layers(self) -> Material:
        """The parameters of every modular layer: those prepared, or trained here when first asked for.

        Raises:
            SearchError: if training diverges.
        """
        return self.prepared().layers

    def prepared(self) -> Prepared:
        """The modular layers and how they were made."""
        if self._prepared is None:
            if self._modular is None or self.train is None:
                raise ModelError(
                    "this run has no modular layers; search with the axis 'assembly', or give prepared ones."
                )
            self._prepared = train_modular_layers(
                self.model,
                self.anatomy,
                self.train,
                self._modular,
                folder=self._modular_folder,
                identity=self._identity,
                device=self.device.torch_device,
                progress=self._progress,
            )
        return self._prepared

    def executable(self, model: PreTrainedModel) -> Executable:
        """A compressed model on this run's runtime and device."""
        return self.runtime.load(model, self.device, threads=self._threads)

    def quality(
        self,
        plan: Plan,
        examples: Examples,
        executable: Executable | None = None,
        *,
        again: bool = False,
        metric: str | None = None,
    ) -> Quality:
        """Judges a plan, or looks the judgement up: the same plan is never judged twice on the same split.

        Args:
            plan: what is judged.
            examples: the split to judge on.
            executable: the plan's model, where it is already loaded.
            again: judges even so, for instance an exported model that must prove itself.
            metric: another one than the run's.

        Raises:
            MeasurementError: if the model gives answers that are not finite.
        """
        metric = metric or self.metric
        named = "" if metric == self.metric else f"{metric}-"
        key = f"quality-{named}{examples.split}-{plan.fingerprint}"
        known = self._cache.get(key)
        if known is None or again:
            found = self._judge(executable or self.executable(self.build(plan)), examples, metric)
            self._cache.put(key, found.to_json())
            return found
        return Quality.from_json(known)

    def score(self, labels: np.ndarray, outcomes: np.ndarray) -> float:
        """The metric of this run."""
        return self._kind.score(self.metric, labels, outcomes)

    def removal_order(self, plan: Plan, stack: str, depth: int) -> RemovalOrder:
        """The greedy order of a stack as it stands in a plan; scores already known are not asked for again."""
        key = (plan.fingerprint, stack, depth)
        if key not in self._orders:
            self._orders[key] = self._find_order(plan, stack, depth)
        return self._orders[key]

    def _find_order(self, plan: Plan, stack: str, depth: int) -> RemovalOrder:
        standing = [position for position, slot in enumerate(plan.stack(stack).slots) if slot.layer is not None]
        total = sum(len(standing) - step for step in range(depth))
        with self._progress.stage(f"greedy order of {stack}", total) as report:
            seen = 0

            def score(removed: tuple[int, ...]) -> float:
                nonlocal seen
                value = self._score_without(plan, stack, tuple(standing[index] for index in removed))
                seen += 1
                report(seen, f"without {' '.join(str(standing[index]) for index in removed)}: {value:.4f}")
                return value

            found = greedy_order(len(standing), score, depth, decimals=self._greedy.decimals, ties=self._greedy.ties)
        order = tuple(standing[index] for index in found.order)
        tuned = self._greedy.scorer == "fine_tune"
        names = [_tuned_name(_without(plan, stack, order[: step + 1])) for step in range(depth)]
        return RemovalOrder(order, tuple(names) if tuned else (ORIGINAL_WEIGHTS,) * depth)

    def _judge(self, executable: Executable, examples: Examples, metric: str) -> Quality:
        outcomes = self._kind.answer(executable, examples, metric)
        return judge(metric, partial(self._kind.score, metric), examples.labels, outcomes, examples.split)

    def _score_without(self, plan: Plan, stack: str, removed: tuple[int, ...]) -> float:
        """The quality on the search split of the plan in float without these slots, by the run's scorer."""
        candidate = _without(plan, stack, removed)
        if self._greedy.scorer == "training_free":
            return self.quality(candidate, self.search, metric=self._step_metric).value
        name = _tuned_name(candidate)
        key = f"score-{name}" if self._step_metric == self.metric else f"score-{self._step_metric}-{name}"
        known = self._cache.get(key)
        if known is None:
            known = self._fine_tune(candidate, name)
            self._cache.put(key, known)
        self._keep_leader(plan, stack, removed, known)
        return float(known)

    def _fine_tune(self, candidate: Plan, name: str) -> float:
        """Trains the candidate from the original's weights and keeps what was trained."""
        assert self.train is not None
        whole = copy.deepcopy(self.model)
        # `build` shares parameters, so training the shorter model trains these layers of the whole one.
        shorter = build(whole, candidate, materials={})
        fine_tune(shorter, self.train, self._greedy.training, self._progress, what=f"fine-tuning {candidate}")
        with writing(self._weights_folder):
            self._weights_folder.mkdir(parents=True, exist_ok=True)
            save_file(distinct_tensors(whole), self._weights_file(name))
        return self._judge(self.executable(shorter), self.search, self._step_metric).value

    def _keep_leader(self, plan: Plan, stack: str, removed: tuple[int, ...], value: float) -> None:
        """Of the candidates of one greedy step, only the weights of the best so far stay on the disk."""
        *before, layer = removed
        key = f"leader-{_without(plan, stack, tuple(before)).fingerprint}"
        leader = self._cache.get(key)
        scores = {layer: value} if leader is None else {int(leader["layer"]): leader["value"], layer: value}
        best = best_layer(scores, decimals=self._greedy.decimals, ties=self._greedy.ties)
        self._cache.put(key, {"layer": best, "value": scores[best]})
        for loser in set(scores) - {best}:
            self._weights_file(_tuned_name(_without(plan, stack, (*before, loser)))).unlink(missing_ok=True)

    def _weights(self, name: str) -> dict[str, Tensor] | None:
        """A set of weights that this run trained; None for those of the original."""
        if name == ORIGINAL_WEIGHTS:
            return None
        path = self._weights_file(name)
        if not path.is_file():
            raise ModelError(f"the weights {name!r} are not in {path.parent}: the run folder is incomplete.")
        return load_file(path)

    def _weights_file(self, name: str) -> Path:
        return self._weights_folder / f"{name}.safetensors"


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer beside a model.

    Raises:
        ModelError: if there is none.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except Exception as error:  # each tokenizer class fails in its own way
        raise ModelError(f"no tokenizer loads from {source!r}: {str(error).splitlines()[0]}") from error
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer


def _without(plan: Plan, stack: str, removed: tuple[int, ...]) -> Plan:
    """The plan with more slots of a stack emptied."""
    old = plan.stack(stack)
    slots = tuple(Slot(None) if position in removed else slot for position, slot in enumerate(old.slots))
    return plan.with_stack(replace(old, slots=slots))


def _tuned_name(candidate: Plan) -> str:
    return f"tuned-{candidate.fingerprint}"
