"""What a search knows of costs before it judges anything: learned by it, or by an earlier one on this machine."""

from collections.abc import Mapping
from typing import Any

from ..errors import StorageError, UserError
from ..profilers import kept
from ..profilers.counting import Shapes
from ..profilers.factored_products import PRODUCTS
from ..profilers.memory import Memory, MemoryMeter
from .cache import Cache
from .cost_table import Subject, cost_table
from .predictor import Predictor
from .progress import Progress
from .reference import Reference
from .settings import Settings
from .study import Record
from .workbench import LocalWorkbench

_REFERENCE = "reference"


class KnownCosts:
    """The table of a search, and what the original costs.

    Where candidates are predicted, both are those of the first search of this subject on this machine, whatever is
    searched for: so the same seed proposes the same plans again.

    Attributes:
        predictor: who predicts candidates; None where they are measured, and the record says why if that was not asked.
        baseline_memory: of the original, where an earlier search measured it; else it is measured.
    """

    def __init__(
        self,
        settings: Settings,
        bench: LocalWorkbench,
        record: Record,
        meter: MemoryMeter,
        described: Mapping[str, Any],
        progress: Progress,
    ) -> None:
        """Learns the table, if candidates are predicted and it is not known.

        Args:
            settings: what is asked.
            bench: of the run.
            record: is told how candidates are predicted, and what the original costs if an earlier search knows.
            meter: measures memory.
            described: what `Settings.describe` said.
            progress: where to say how far it is.

        Raises:
            StorageError: if the disk refuses.
        """
        self._bench, self._record = bench, record
        if settings.relearn_costs:
            kept.forget(PRODUCTS)
        identity = described["identity"]
        subject = Subject(identity["model"], settings.runtime, identity["machine"], settings.axes, settings.workload)
        has_memory = "memory" in settings.measured
        self._key = subject.key(bench, has_memory=has_memory)
        self._meter = meter if has_memory else None
        self.predictor = self._learned(settings, subject, progress) if settings.predicts else None
        known = None if self.predictor is None or settings.relearn_costs else kept.get(_REFERENCE, self._key)
        self._known = None if known is None else Reference.from_json(known)
        self.baseline_memory: Memory | None = None if self._known is None else self._known.memory
        if self._known is not None and record.reference_seconds is None:
            record.set_reference(self._known.seconds, noise=self._known.noise)

    def keep_reference(self) -> None:
        """Keeps what this search measured of the original for later ones, unless an earlier one did."""
        found = Reference.of(self._record, self._bench.anatomy.identity())
        if self.predictor is not None and self._known is None and found is not None:
            kept.put(_REFERENCE, self._key, found.to_json())

    def _learned(self, settings: Settings, subject: Subject, progress: Progress) -> Predictor | None:
        try:
            table = cost_table(
                self._bench,
                subject,
                cache=Cache(self._record.folder / "cache"),
                meter=self._meter,
                progress=progress,
                seed=settings.seed,
                relearn=settings.relearn_costs,
            )
        except (StorageError, UserError):
            raise
        except Exception as error:  # what one model cannot do must not end a search that can measure each by itself
            self._record.set_prediction({"refused": f"the table could not be learned: {error}"})
            return None
        predictor, reason = Predictor.or_reason(table, Shapes.of(self._bench.anatomy))
        self._record.set_prediction({"refused": reason} if predictor is None else predictor.facts())
        return predictor
