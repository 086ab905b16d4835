"""Bits for a model, by a target of size or speed: allocated by sensitivity, exported, judged and measured."""

import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import SettingError
from ..search.opening import open_workbench
from ..search.progress import Progress, Silent
from ..search.settings import Settings
from ..search.starts import allocated_bits, fast_bits
from ..spaces.space import Space
from .drafting import refuse_full
from .export import Exported, export_plan

_FLOAT_BITS = 32


@dataclass(frozen=True, slots=True)
class Allocated:
    """Bits of every part, and what the model costs beside the original.

    Attributes:
        bits: part, such as "encoder.3.query" -> "float" or a precision.
        exported: where it is, with quality, bytes and latency.
    """

    bits: Mapping[str, str]
    exported: Exported

    @property
    def effective_bits(self) -> float:
        """Bits stored per number of the original, everything counted."""
        stored = self.exported.final.profile.stored_bytes
        return _FLOAT_BITS * stored / self.exported.baseline.profile.stored_bytes

    def to_json(self) -> dict[str, object]:
        """Plain data, SI units said in the names; all samples are in the exported folder."""
        return {"bits": dict(self.bits), "effective_bits": self.effective_bits, **self.exported.to_json()}

    def lines(self) -> tuple[str, ...]:
        """What was allocated and what it is worth, for a person."""
        counts = ", ".join(f"{bits} for {count}" for bits, count in Counter(self.bits.values()).most_common())
        return (
            f"{self.effective_bits:.2f} bits a number, of {len(self.bits)} parts: {counts}.",
            *self.exported.lines(),
            f"kernels: {self.exported.final.profile.kernels}",
        )


def allocate_model(
    settings: Settings,
    folder: Path,
    *,
    ratio: float | None = None,
    effective_bits: float | None = None,
    speed_up: float | None = None,
    progress: Progress | None = None,
) -> Allocated:
    """Gives every part of a model its bits, and exports the result.

    Args:
        settings: of its search only model, task, device, runtime, palette, workload and seed are used.
        folder: new or empty.
        ratio: how many times smaller the whole model shall be.
        effective_bits: instead, bits per number: 32 over the ratio.
        speed_up: instead, how many times faster a request shall be, as far as precisions of Linears can make it.
        progress: where to say how far it is.

    Raises:
        SettingError: if not exactly one target is given, or it is not above 1 (for bits: not below 32).
        BudgetError: if the target is out of reach; the message says what can be reached.
        UserError: if something else asked for cannot work.
    """
    if sum(target is not None for target in (ratio, effective_bits, speed_up)) != 1:
        raise SettingError("say what is wanted by exactly one of a ratio, effective bits and a speed-up.")
    if effective_bits is not None:
        if not 0 < effective_bits < _FLOAT_BITS:
            raise SettingError(f"effective bits must be above 0 and below {_FLOAT_BITS}, got {effective_bits:g}.")
        ratio = _FLOAT_BITS / effective_bits
    for name, target in (("the ratio", ratio), ("the speed-up", speed_up)):
        if target is not None and not target > 1:
            raise SettingError(f"{name} must be above 1, got {target:g}.")
    refuse_full(folder)
    progress = progress or Silent()
    with tempfile.TemporaryDirectory(prefix="paring-") as scratch:
        bench, described = open_workbench(settings, progress, folder=Path(scratch))
        if ratio is not None:
            bits = allocated_bits(bench, ratio)
        else:
            assert speed_up is not None
            bits = fast_bits(bench, settings.workload, speed_up, seed=settings.seed)
        space = Space(bench.anatomy, ("bits",))
        plan = space.resolve({**space.identity(), **{f"bits.{part}": value for part, value in bits.items()}}, bench)
        exported = export_plan(settings, bench, described, plan, folder, progress)
    return Allocated(bits, exported)
