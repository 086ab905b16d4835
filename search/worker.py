"""A worker: what it is sent once, the workbench it opens with it, and what it answers."""

import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..profilers import devices, runtimes
from ..spaces.factoring import Factoring
from ..spaces.palette import Palette
from ..spaces.plan import ORIGINAL_WEIGHTS, Plan
from ..spaces.workbench import Material
from .assessment import Assessment, Brief, assess
from .data import Tables, read_tables
from .objectives import Limits
from .outcome import ENDING, failure_of
from .prepared import Prepared
from .progress import Silent
from .settings import Settings
from .shelf_cache import Line, ShelfCache
from .tasks import Task, load
from .trial import State
from .workbench import Greedy, LocalWorkbench, load_tokenizer


@dataclass(frozen=True, slots=True)
class Shipment:
    """Model, data and all that decides how plans are built and judged, for a machine that may have neither.

    Attributes:
        model: the original.
        tokenizer: beside it.
        tables: rows of every split but those only trained on.
        task: what the model is judged on.
        device: kind of device the workers judge on, "cpu" or "cuda"; which GPU is theirs, the cluster says.
        runtime: what runs the models.
        threads: that a worker may use.
        palette: which precisions there are.
        factoring: which ways to factorise there are.
        prepared: modular layers, where the axis "assembly" is searched.
        reuses_prefixes: whether layers that were computed for a model before are not computed again.
        judge_in: in what float parts are judged.
        budget: whose limits on quality end the race of a candidate.
        step_metric: what scores the steps of a greedy order; see `Greedy`.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    tables: Tables
    task: Task
    device: str
    runtime: str
    threads: int
    palette: Palette
    factoring: Factoring
    prepared: Prepared | None
    reuses_prefixes: bool
    judge_in: str
    budget: Limits
    step_metric: str | None

    @classmethod
    def of(cls, settings: Settings, bench: LocalWorkbench, *, threads: int) -> Self:
        """Packs what a search has opened.

        Args:
            settings: what is asked.
            bench: of the driver.
            threads: that a worker may use.
        """
        task = settings.task
        text = load(task.name).generates
        tables = read_tables(task.data, task.required_columns, task.label, limit=task.limit, label_is_text=text)
        return cls(
            bench.model,
            load_tokenizer(settings.model),
            replace(tables, train=None),
            task,
            bench.device.torch_device.type,
            settings.runtime,
            threads,
            settings.palette,
            settings.factoring,
            bench.prepared() if "assembly" in settings.axes else None,
            settings.reuses_prefixes,
            settings.judge_in,
            settings.budget,
            settings.greedy.metric,
        )

    def packed(self) -> bytes:
        """As bytes, so that who only hands them on need not load the libraries."""
        return pickle.dumps(self)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a worker found of a plan.

    Attributes:
        assessment: None where it failed, or where the plan was only scored.
        state: why it failed, as a trial's state; None where it did not.
        cause: the same in words.
        ends_search: whether the failure is no fault of the plan: a disk that refuses, something that cannot work.
    """

    assessment: Assessment | None
    state: State | None = None
    cause: str = ""
    ends_search: bool = False


class WorkerBench(LocalWorkbench):
    """The workbench of a worker: judges, and learns what the plans it judges need, unless another worker has.

    Attributes:
        budget: see `Shipment`.
    """

    def __init__(self, shipment: Shipment, folder: Path, call: Line) -> None:
        """Encodes the data.

        Args:
            shipment: what was sent.
            folder: of this worker alone.
            call: reaches the shelf.
        """
        super().__init__(
            shipment.model,
            shipment.tokenizer,
            shipment.task,
            shipment.tables,
            device=devices.find(shipment.device),
            runtime=runtimes.find(shipment.runtime),
            threads=shipment.threads,
            greedy=Greedy(metric=shipment.step_metric),
            folder=folder,
            progress=Silent(),
            prepared=shipment.prepared,
            palette=shipment.palette,
            factoring=shipment.factoring,
            reuses_prefixes=shipment.reuses_prefixes,
            judge_in=shipment.judge_in,
            cache=(cache := ShelfCache(folder / "cache", call)),
        )
        self._shelf_cache, self._weights_folder = cache, folder / "weights"
        self.budget = shipment.budget

    def build(self, plan: Plan) -> PreTrainedModel:
        """The compressed model of a plan, with the weights that the driver trained for it, if any."""
        if plan.weights != ORIGINAL_WEIGHTS:
            self._shelf_cache.fetch("weights", f"{plan.weights}.safetensors", self._weights_folder)
        return super().build(plan)

    def remember(self, key: str, learn: Callable[[], Material]) -> Material:
        """What `learn` returns; where another worker learned it meanwhile, what that one found."""
        known = self._shelf_cache.get_tensors(key)
        if known is not None:
            return known
        own = super().remember(key, learn)
        return self._shelf_cache.get_tensors(key) or own


def opened(call: Line, folder: Path) -> WorkerBench:
    """Opens the workbench of this process with what the shelf holds for it.

    Args:
        call: reaches the shelf.
        folder: of this worker alone.
    """
    shipment: Shipment = pickle.loads(call("shipment"))
    torch.set_num_threads(shipment.threads)
    return WorkerBench(shipment, folder, call)


def answer_to(bench: WorkerBench, brief: str) -> Answer:
    """Judges a plan, whatever it raises: one bad candidate never ends a worker.

    Args:
        bench: of this process.
        brief: as JSON.
    """
    try:
        with devices.clean_after_failure(bench.device):
            asked = Brief.loads(brief)
            if not asked.is_step:
                return Answer(assess(bench, asked, bench.budget))
            bench.removal.score(asked.plan)
            return Answer(None)
    except ENDING as error:
        return Answer(None, State.FAILED, str(error), ends_search=True)
    except Exception as error:
        state, cause = failure_of(error)
        return Answer(None, state, cause)
