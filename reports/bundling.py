"""`paring bundle`: what of a finished study another machine needs, in one file."""

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ..errors import ModelError, RunError
from ..search.answers import kept_of
from ..search.cache import writing
from ..search.objectives import Limits
from ..search.opening import open_workbench
from ..search.portable import nearly_best
from ..search.progress import Progress, Silent
from ..search.quality import difference
from ..search.settings import Settings
from ..search.study import Record
from ..search.trial import Final, Trial
from ..search.workbench import LocalWorkbench, load_tokenizer
from ..spaces import artefact
from ..spaces.plan import Plan
from .bundle import write_bundle
from .front import front_of

# Beside the front as measured whole, which may hold twenty.
NEAR = 4
# What a plan was on the machine of the search: on its front, measured whole and beaten, or searched and nearly on it.
FRONT, BEATEN, NEAR_FRONT = "front", "beaten", "near"
_EXAMPLES = 32


@dataclass(frozen=True, slots=True)
class Bundled:
    """What went into a bundle.

    Attributes:
        path: of the file.
        plans: how many models it holds, the baseline among them.
        near: how many of them only nearly belong to the front.
        stored_bytes: of the file.
        apart_bytes: of the models' files, were each of them carried whole.
    """

    path: Path
    plans: int
    near: int
    stored_bytes: int
    apart_bytes: int


def make_bundle(record: Record, path: Path, *, near: int = NEAR, progress: Progress | None = None) -> Bundled:
    """Exports the front of a study, and what nearly belongs to it, into one file.

    Plans that were not measured whole are judged on the test split now, so that no other machine need do it.

    Args:
        record: of a run whose front was measured whole.
        path: of the file; replaced whole, or not at all.
        near: at most so many plans beside those measured whole.
        progress: where to say how far it is.

    Raises:
        RunError: if the front was not measured whole yet.
        ModelError: if the run's model or data are gone or have changed.
        StorageError: if the disk refuses.
    """
    finals = record.finals()
    if not finals:
        raise RunError(f"the front of {record.folder} was not measured whole yet; go on with the same `paring search`.")
    progress = progress or Silent()
    bench, described = open_workbench(Settings.of_run(record.settings, record.folder), progress)
    for name in ("model", "data"):
        if record.settings["identity"][name] != described["identity"][name]:
            raise ModelError(f"the {name} of this run has changed since the search; restore it.")
    beside = _near(record, finals, near)
    with tempfile.TemporaryDirectory(prefix="paring-") as place:
        folder = Path(place)
        with writing(folder):
            load_tokenizer(record.settings["sources"]["model"]).save_pretrained(folder / "tokenizer")
            inputs = bench.search.with_labels(range(min(_EXAMPLES, len(bench.search))))
            (folder / "examples").mkdir()
            save_file(dict(inputs), folder / "examples" / "inputs.safetensors")
            plans = [final.plan for final in finals] + [trial.plan for trial in beside if trial.plan is not None]
            with progress.stage("bundling", len(plans)) as report:
                for done, plan in enumerate(plans):
                    report(done, str(plan))
                    _export(bench, plan, inputs, folder)
        members = _members(bench, record, finals, beside)
        write_bundle(folder, {**study_of(record), "members": members}, path)
        apart = sum(file.stat().st_size for file in (folder / "models").rglob("*.safetensors"))
    return Bundled(path, len(plans), len(beside), path.stat().st_size, apart)


def study_of(record: Record) -> dict[str, Any]:
    """What a bundle says of the study it was made of; no path of the machine it was made on.

    Args:
        record: of the run.
    """
    identity = record.settings["identity"]
    content = json.dumps({name: identity[name] for name in ("model", "data", "task")}, sort_keys=True)
    return {
        "study": hashlib.sha256(content.encode()).hexdigest()[:12],
        "name": Path(record.settings["sources"]["model"]).name,
        "identity": identity,
        "facts": record.settings["facts"],
        "taken": _ended(record),
        "state": state_of(record),
    }


def state_of(record: Record) -> str:
    """A hash of the front as it was last measured; a bundle of another state is out of date."""
    content = json.dumps(sorted(json.dumps(final.to_json(), sort_keys=True) for final in record.finals()))
    return hashlib.sha256(content.encode()).hexdigest()[:12]


def _ended(record: Record) -> float:
    """When the last trial was finished, in seconds since 1970; shortly after it the front was measured."""
    ends = [trial.datetime_complete for trial in record.study.get_trials(deepcopy=False)]
    return max((end.timestamp() for end in ends if end is not None), default=0.0)


def _near(record: Record, finals: list[Final], most: int) -> list[Trial]:
    identity = record.settings["identity"]
    known = {final.plan.fingerprint for final in finals}
    budget = Limits(**identity["budget"])
    return nearly_best(record.trials(), identity["objectives"], budget, known=known, most=most)


def _export(bench: LocalWorkbench, plan: Plan, inputs: Mapping[str, Any], folder: Path) -> None:
    """Writes a model, and what it answers to the examples once it is loaded again."""
    place = folder / "models" / plan.fingerprint
    artefact.save(bench.build(plan), plan, place, original=bench.model.config)
    model, _ = artefact.load(place)
    answers = bench.executable(model)(inputs)
    (folder / "answers" / plan.fingerprint).mkdir(parents=True)
    save_file(kept_of(answers), folder / "answers" / plan.fingerprint / "answers.safetensors")


def _members(bench: LocalWorkbench, record: Record, finals: list[Final], beside: list[Trial]) -> list[dict[str, Any]]:
    """Plans with their qualities on the test split, the baseline first."""
    on_front = {point.plan.fingerprint for point in front_of(record).members}
    baseline = next(final for final in finals if final.plan.is_identity)
    every = [baseline, *(final for final in finals if final is not baseline)]
    return [
        *({"final": one.to_json(), "place": FRONT if one.plan.fingerprint in on_front else BEATEN} for one in every),
        *({"final": _tested(bench, trial, baseline).to_json(), "place": NEAR_FRONT} for trial in beside),
    ]


def _tested(bench: LocalWorkbench, trial: Trial, baseline: Final) -> Final:
    """A trial judged on the test split; what it costs is as the search found it."""
    assert trial.plan and trial.profile and trial.told
    quality = bench.quality(trial.plan, bench.test)
    gain = difference(bench.score, bench.test.labels, quality.outcomes, baseline.quality.outcomes)
    measures = replace(trial.told, quality=quality.value, drop=baseline.quality.value - quality.value)
    return Final(trial.plan, quality, gain, trial.profile, measures, True)
