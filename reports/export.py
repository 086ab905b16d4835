"""The model to deploy: exported, reloaded, measured again, and described by a card with the numbers."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..errors import MeasurementError, ModelError
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
from .drafting import disk_errors, drafted, refuse_full
from .origin import CARD, legal_files, stated_by
from .verdict import verdict_of


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

    @property
    def is_faster(self) -> bool:
        """Whether it is faster than the original beyond the noise."""
        late = self.final.profile.latency
        return late is not None and late.is_faster and not self.final.plan.is_identity

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
            "is_faster": self.is_faster,
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
    with drafted(folder) as draft:
        compressed = bench.build(plan)
        with writing(folder), disk_errors():
            beside = write_model(settings, bench, compressed, plan, draft)
        baseline = bench.anatomy.identity()
        with settings.meter() as meter:
            measured = measure_whole(
                bench,
                [baseline, plan] if plan != baseline else [baseline],
                settings.workload,
                machine=described["identity"]["machine"],
                meter=meter,
                progress=progress,
                seed=settings.seed,
                exported={plan: draft},
            )
        exported = Exported(folder, measured[-1], measured[0], verdict_of(plan, measured[-1].profile))
        if not exported.final.reloads_equal:
            raise MeasurementError(
                f"the model reloaded from {folder} does not give the logits of the one exported; "
                "nothing of it was kept."
            )
        with writing(folder):
            stated = stated_by(settings.model)
            card = card_of(exported.final, exported.baseline, exported.verdict, described, stated=stated, beside=beside)
            replace_file(draft / NUMBERS, json.dumps(_numbers(exported, described), indent=1))
            replace_file(draft / CARD, card)
    return exported


def write_model(
    settings: Settings, bench: LocalWorkbench, compressed: PreTrainedModel, plan: Plan, folder: Path
) -> set[str]:
    """Writes a model, what goes with it, and the runtime's own form of it, without measuring it.

    Args:
        settings: what was asked.
        bench: opened with these settings.
        compressed: what the bench built of the plan.
        plan: the plan.
        folder: made if missing.

    Returns:
        Names of the files in which the runtime keeps the model in its own form.

    Raises:
        OSError: if the disk refuses.
    """
    artefact.save(compressed, plan, folder, original=bench.model.config)
    for weights in folder.glob("*.safetensors"):
        # safetensors keeps its files from other users; who serves the model may be one.
        shutil.copymode(folder / artefact.PLAN_FILE, weights)
    load_tokenizer(settings.model).save_pretrained(folder)
    for path in legal_files(settings.model):
        shutil.copyfile(path, folder / path.name)
    known = {path.name for path in folder.iterdir()}
    bench.runtime.save(compressed, folder)
    return {path.name for path in folder.iterdir()} - known


def _numbers(exported: Exported, described: Mapping[str, Any]) -> dict[str, object]:
    # A local source by its name only: who passes the model on need not tell where it lay.
    brief = {name: Path(source) for name, source in described["sources"].items()}
    sources = {name: path.name if path.is_absolute() else str(path) for name, path in brief.items()}
    return {
        "verdict": exported.verdict,
        "is_faster": exported.is_faster,
        "exported": exported.final.to_json(),
        "baseline": exported.baseline.to_json(),
        "settings": {**described, "sources": sources},
    }


def _refuse_changed(known: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """What is exported must be what was searched; another machine only gives other latencies."""
    changed = [name for name in ("model", "data") if known[name] != now[name]]
    if changed:
        raise ModelError(f"the {' and the '.join(changed)} of this run have changed since the search; restore them.")
