"""The workbench of one run: model, data, device and runtime together, and everything learned so far."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..errors import DataError, ModelError
from ..profilers.devices import Device
from ..profilers.runtimes import Executable, Runtime
from ..spaces import axes
from ..spaces.anatomy import anatomy_of
from ..spaces.build import build
from ..spaces.factoring import Factoring
from ..spaces.palette import Palette
from ..spaces.plan import Plan
from ..spaces.workbench import Inputs, Material, RemovalOrder
from .cache import Cache
from .data import Tables
from .examiner import Examiner, Referee
from .examples import Examples
from .halved import JUDGED_IN, halved
from .modular import Modular
from .prefix_reuse import PrefixReuse
from .prepared import Prepared, train_modular_layers
from .progress import Progress, Report
from .quality import Quality
from .removal import SCORERS as SCORERS
from .removal import Greedy as Greedy
from .removal import Removal, Scorers
from .tasks import Task, TaskKind, load

_CALIBRATION_BATCH = 32
# What is being done while something is learned, by the first word of its key.
_LEARNING = {
    "bits": "calibrating inputs",
    "rounding": "rounding weights",
    "harm": "how much each part minds rounding",
    "factors": "factorising weights",
}


class LocalWorkbench:
    """Implements `spaces.workbench.Workbench` for one model, task, device and runtime, and judges plans.

    Attributes:
        model: the original.
        anatomy: of the original.
        metric: name of the metric.
        search: what candidates are compared on.
        test: what the front is judged on.
        train: what is trained on; None where nothing is.
        examiner: who judges models.
        removal: who finds greedy orders.
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
        reuses_prefixes: bool = True,
        judge_in: str = "float32",
        cache: Cache | None = None,
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
            reuses_prefixes: whether layers that were computed for a model before are not computed again.
            judge_in: in what float parts are judged on the search split; one of `halved.JUDGED_IN`.
            cache: where facts are kept, if not in that folder alone.

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
        self._progress, self._judge_in = progress, judge_in
        self._cache = cache or Cache(folder / "cache")
        self._modular_folder = folder / "modular"
        self._report: Report = lambda share, now: None
        self._kind: TaskKind = load(task.name)
        self.metric = self._kind.metric(task, model)
        wanted = greedy.metric or self._kind.greedy_metric
        step_metric = self._kind.metric(replace(task, metric=wanted), model) if wanted else self.metric

        def encode(split: str, table: pd.DataFrame) -> Examples:
            return self._kind.encode(table, split, task, model, tokenizer)

        reuse = PrefixReuse(self.anatomy, device.torch_device) if reuses_prefixes else None
        self.examiner = Examiner(self._kind, self.metric, self._cache, device.torch_device, reuse)
        self.search, self.test = encode("search", tables.search), encode("test", tables.test)
        self._calibration = encode("calibration", tables.calibration)
        self.train: Examples | None = None
        if greedy.scorer == "fine_tune" or (modular is not None and prepared is None):
            if tables.train is None:
                fix = "use training_free" if greedy.scorer == "fine_tune" else "give modular layers that were prepared"
                what = "the fine_tune scorer" if greedy.scorer == "fine_tune" else "the axis 'assembly'"
                raise DataError(f"{what} needs a train split, and the data have none; {fix}.")
            self.train = encode("train", tables.train)

        def score(plan: Plan) -> float:
            return self.quality(plan, self.search, metric=step_metric).value

        def known(plan: Plan) -> float | None:
            found = self.examiner.known(plan, self.search, step_metric)
            return None if found is None else found.value

        def score_tuned(model: PreTrainedModel) -> float:
            return self.examiner.judged(self.search, self.executable(model), model, step_metric).value

        scorers = Scorers(score, known, score_tuned, "" if step_metric == self.metric else step_metric)
        self.removal = Removal(model, self.train, greedy, scorers, self._cache, folder / "weights", progress)

    @property
    def is_taught(self) -> bool:
        """Its models are judged."""
        return True

    def build(self, plan: Plan) -> PreTrainedModel:
        """The compressed model of a plan, on the CPU."""
        materials = {name: axes.load(name).prepare(plan, self) for name in axes.names()}
        return build(self.model, plan, materials=materials, weights=self.removal.weights(plan.weights))

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
        model: PreTrainedModel | None = None,
        again: bool = False,
        metric: str | None = None,
    ) -> Quality:
        """Judges a plan, or looks the judgement up: the same plan is never judged twice on the same split.

        Args:
            plan: what is judged.
            examples: the split to judge on.
            executable: the plan's model, where it is already loaded.
            model: what that was loaded from, unchanged since: with it, layers that are known are not computed again.
            again: judges even so, for instance an exported model that must prove itself.
            metric: another one than the run's.

        Raises:
            MeasurementError: if the model gives answers that are not finite.
        """
        known = None if again else self.examiner.known(plan, examples, metric)
        if known is not None:
            return known
        if executable is None:
            model = self.build(plan)
            executable = self.executable(model)
        if examples.split == self.search.split:
            executable, model = self._as_judged(executable, model)
        return self.examiner.quality(plan, examples, executable, model, metric)

    def raced(self, plan: Plan, executable: Executable, model: PreTrainedModel, referee: Referee) -> Quality | None:
        """The same on the search split, unless a referee has seen enough before all is asked: then None.

        Args:
            plan: what is judged.
            executable: the plan's model.
            model: what that was loaded from, unchanged since.
            referee: who is shown the answers rung by rung; nobody where the judgement is known.
        """
        known = self.examiner.known(plan, self.search)
        return known or self.examiner.raced(plan, self.search, *self._as_judged(executable, model), referee)

    def _as_judged(
        self, executable: Executable, model: PreTrainedModel | None
    ) -> tuple[Executable, PreTrainedModel | None]:
        """An executable and its model in the numbers in which candidates are judged."""
        if model is None or self._judge_in == JUDGED_IN[0]:
            return executable, model
        own = halved(model)
        return self.executable(own), own

    def score(self, labels: np.ndarray, outcomes: np.ndarray) -> float:
        """The metric of this run."""
        return self.examiner.score(labels, outcomes)

    def removal_order(self, plan: Plan, stack: str, depth: int) -> RemovalOrder:
        """The greedy order of a stack as it stands in a plan; scores already known are not asked for again."""
        return self.removal.order(plan, stack, depth)


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
