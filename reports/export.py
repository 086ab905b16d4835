"""The model to deploy: exported, reloaded, measured again, and described by a card with the numbers."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import MeasurementError, ModelError, SettingError
from ..search.cache import replace_file, writing
from ..search.finals import measure_whole
from ..search.opening import open_workbench
from ..search.progress import Progress, Silent
from ..search.settings import Settings
from ..search.study import Record
from ..search.trial import Final
from ..search.workbench import LocalWorkbench, load_tokenizer
from ..spaces import artefact
from ..spaces.plan import Plan
from .card import NUMBERS, card_of

CARD = "README.md"


@dataclass(frozen=True, slots=True)
class Exported:
    """What was exported, and what it measured.

    Attributes:
        folder: where it is.
        final: its numbers, taken from the exported files.
        baseline: those of the original, from the same session.
        verdict: in words, whether it is faster than the original beyond the noise, and if not, why.
    """

    folder: Path
    final: Final
    baseline: Final
    verdict: str

    def to_json(self) -> dict[str, object]:
        """Plain data, SI units said in the names; all samples are in the exported folder."""

        def costs(one: Final) -> dict[str, object]:
            return {
                "quality": one.measures.quality,
                "stored_bytes": one.profile.stored_bytes,
                "latency_seconds": one.measures.latency_seconds,
                "memory_bytes": one.measures.memory_bytes,
            }

        return {
            "metric": self.final.quality.metric,
            "compressed": costs(self.final),
            "original": costs(self.baseline),
            "kernels": self.final.profile.kernels,
            "exported": str(self.folder),
            "verdict": self.verdict,
        }

    def lines(self) -> tuple[str, ...]:
        """What it is worth, for a person."""
        final, baseline, gain = self.final, self.baseline, self.final.gain
        before, after = baseline.profile.stored_bytes, final.profile.stored_bytes
        return (
            f"{final.quality.metric} on test {final.quality.value:.4f}, the original {baseline.quality.value:.4f} "
            f"(95 % interval of the difference {gain.low:+.4f} to {gain.high:+.4f})",
            f"stored {after / 1e6:.1f} MB of {before / 1e6:.1f} MB, {before / after:.2f} times smaller",
            f"Exported to {self.folder}: it is {self.verdict}.",
        )


def export(record: Record, plan: Plan, folder: Path, progress: Progress | None = None) -> Exported:
    """Writes a plan of a run as a model that loads, and measures what was written.

    Args:
        record: of the run the plan is from.
        plan: what to export.
        folder: new or empty.
        progress: where to say how far it is.

    Raises:
        SettingError: if the folder is not empty.
        ModelError: if the run's model or data are gone or have changed.
        MeasurementError: if the reloaded model is not the one that was exported.
        StorageError: if the disk refuses.
    """
    refuse_full(folder)
    progress = progress or Silent()
    settings = Settings.of_run(record.settings, record.folder)
    bench, described = open_workbench(settings, progress)
    _refuse_changed(record.settings["identity"], described["identity"])
    return export_plan(settings, bench, described, plan, folder, progress)


def export_plan(
    settings: Settings,
    bench: LocalWorkbench,
    described: Mapping[str, Any],
    plan: Plan,
    folder: Path,
    progress: Progress,
) -> Exported:
    """Writes a plan as a model that loads, and measures what was written; the same as `export`, from its parts.

    Args:
        settings: what was asked.
        bench: opened with these settings.
        described: what `Settings.describe` says of them.
        plan: what to export.
        folder: new or empty; see `refuse_full`, which is best asked before anything is opened.
        progress: where to say how far it is.

    Raises:
        MeasurementError: if the reloaded model is not the one that was exported.
        StorageError: if the disk refuses.
    """
    try:
        return _write_and_measure(settings, bench, described, plan, folder, progress)
    except KeyboardInterrupt:
        # What is half written would only stand in the way of the same command.
        shutil.rmtree(folder, ignore_errors=True)
        raise


def refuse_full(folder: Path) -> None:
    """Nothing is ever written over.

    Raises:
        SettingError: if the folder exists and is not empty.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SettingError(f"{folder} exists and is not an empty folder; export into a new one.")


def _write_and_measure(
    settings: Settings,
    bench: LocalWorkbench,
    described: Mapping[str, Any],
    plan: Plan,
    folder: Path,
    progress: Progress,
) -> Exported:
    with writing(folder):
        compressed = bench.build(plan)
        artefact.save(compressed, plan, folder, original=bench.model.config)
        load_tokenizer(settings.model).save_pretrained(folder)
        bench.runtime.save(compressed, folder)
    with settings.meter() as meter:
        baseline = bench.anatomy.identity()
        measured = measure_whole(
            bench,
            [baseline, plan] if plan != baseline else [baseline],
            settings.workload,
            machine=described["identity"]["machine"],
            meter=meter,
            progress=progress,
            seed=settings.seed,
            exported={plan: folder},
        )
    exported = Exported(folder, measured[-1], measured[0], verdict_on(measured[-1]))
    if not exported.final.reloads_equal:
        raise MeasurementError(
            f"the model reloaded from {folder} does not give the logits of the one exported; it is kept."
        )
    with writing(folder):
        replace_file(folder / NUMBERS, json.dumps(_numbers(exported, described), indent=1))
        replace_file(folder / CARD, card_of(exported.final, exported.baseline, exported.verdict, described))
    return exported


def verdict_on(final: Final) -> str:
    """Whether a member is faster than the baseline beyond the noise, in words, and if not, why."""
    if final.plan.is_identity:
        return "the original, unchanged"
    late, kernels = final.profile.latency, final.profile.kernels
    assert late is not None
    interval = f"95 % interval {1 / late.ratio_high:.2f} to {1 / late.ratio_low:.2f}"
    speed = f"{1 / late.ratio:.2f} times as fast ({interval})"
    if late.is_faster:
        return f"faster than the original: {speed}"
    if late.ratio_low <= 1:
        reason = "the difference is within the noise of this machine"
    elif kernels.startswith("int8 0/"):
        reason = "this machine has no integer kernel for its Linears, so they run in float"
    elif kernels == "float":
        reason = "all that runs of it is as costly as the original's"
    else:
        reason = "at this batch and length, quantising the inputs costs more than the integer products save"
    return f"NOT faster than the original: {speed}; {reason}"


def _refuse_changed(known: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """What is exported must be what was searched; another machine only gives other latencies."""
    changed = [name for name in ("model", "data") if known[name] != now[name]]
    if changed:
        raise ModelError(f"the {' and the '.join(changed)} of this run have changed since the search; restore them.")


def _numbers(exported: Exported, described: Mapping[str, Any]) -> dict[str, object]:
    return {
        "verdict": exported.verdict,
        "exported": exported.final.to_json(),
        "baseline": exported.baseline.to_json(),
        "settings": described,
    }
