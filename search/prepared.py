"""Modular layers on disk: trained once, checked against what they were trained for, found again."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import ModelError, SettingError
from ..spaces import artefact
from ..spaces.anatomy import Anatomy
from ..spaces.build import settle_layers
from ..spaces.tilings import Tiling, read, written
from ..spaces.workbench import Inputs, Material
from .batching import endless
from .cache import flatten, replace_file, replace_tensors, unflatten, writing
from .data import Tables
from .distillation import Pair
from .distilling import distil, half_precision
from .examples import Examples
from .modular import Modular, learning_of, make_pair, modular_layers, one_block_merged, start_from_nearest
from .progress import Progress
from .tasks import Task

WEIGHTS_FILE, FACTS_FILE, CHECKPOINT_FILE = "modular.safetensors", "modular.json", "checkpoint.safetensors"
# Examples that tell where a modular layer starts, and how much harm it does.
_START_EXAMPLES = 64
_HARM_TOKENS = 8_192
_AVERAGED_STEPS = 200


@dataclass(frozen=True, slots=True)
class Prepared:
    """The modular layers of one model.

    Attributes:
        layers: "encoder.m2.1" -> name of a parameter inside the layer -> value.
        facts: what they were trained for and how: "identity", "settings", "starts" (index of the original each
            was copied from), "harm" (see `harm`), "last_losses", "seconds", "device".
    """

    layers: Material
    facts: Mapping[str, Any]

    @property
    def key(self) -> str:
        """12 hexadecimal digits of all that decided them."""
        return key_of(self.facts["identity"], Modular.from_json(self.facts["settings"]))

    @property
    def settings(self) -> Modular:
        """How they were trained."""
        return Modular.from_json(self.facts["settings"])

    def harm(self, stack: str) -> dict[int, dict[Tiling, float]]:
        """Block of a stack -> tiling of it -> divergence of the answers from the original's, all else original."""
        return {
            int(block): {read(tiling): value for tiling, value in by_tiling.items()}
            for name, by_tiling in self.facts["harm"].items()
            for where, block in [name.split(".")]
            if where == stack
        }

    @classmethod
    def load(cls, folder: Path) -> Self:
        """What `train_modular_layers` wrote into a folder.

        Raises:
            ModelError: if nothing whole is there.
        """
        try:
            facts = json.loads((folder / FACTS_FILE).read_text(encoding="utf8"))
            layers = unflatten(load_file(folder / WEIGHTS_FILE))
            found = cls(layers, facts)
            stacks = [{name.partition(".")[0] for name in names} for names in (layers, facts["harm"])]
            if not found.key or not stacks[0] <= stacks[1]:
                raise ValueError("the facts are of other layers")
        except (OSError, ValueError, KeyError, TypeError, SafetensorError, SettingError) as error:
            unfinished = (folder / CHECKPOINT_FILE).exists()
            raise ModelError(
                f"{folder} holds no whole set of modular layers "
                + (
                    "yet: its training was cut off; run `paring prepare` with the same options to go on."
                    if unfinished
                    else f"({type(error).__name__}); make one with `paring prepare MODEL --data DATA --out {folder}`."
                )
            ) from error
        return found

    def refuse_other(self, model_hash: str, where: str) -> None:
        """Modular layers fit the one model they were trained with.

        Raises:
            ModelError: if that was another one.
        """
        if self.facts["identity"]["model"] != model_hash:
            raise ModelError(f"the modular layers in {where} were trained for another model; prepare this one anew.")


def identity_of(source: str, tables: Tables, task: Task) -> dict[str, str]:
    """What modular layers were trained for: hashes of the model and the training rows, and how the rows are read.

    Args:
        source: of the model.
        tables: the data.
        task: what the model is for.
    """
    return {
        "model": artefact.weights_hash(source),
        "train": tables.train_hash,
        "task": f"{task.name} {task.text} {task.text2} {task.label} {task.max_tokens}",
    }


def key_of(identity: Mapping[str, str], settings: Modular) -> str:
    """12 hexadecimal digits of all that decides the outcome of a training.

    Args:
        identity: hashes of the model and of the training rows, and what else decides the inputs.
        settings: how to train.
    """
    text = json.dumps({"identity": dict(identity), "settings": asdict(settings)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def train_modular_layers(
    model: PreTrainedModel,
    anatomy: Anatomy,
    examples: Examples,
    settings: Modular,
    *,
    folder: Path,
    identity: Mapping[str, str],
    device: torch.device,
    progress: Progress,
) -> Prepared:
    """Trains the modular layers of a model, goes on where it was cut off, or returns those the folder holds.

    Args:
        model: the original; not touched.
        anatomy: of the original.
        examples: of the train split.
        settings: how.
        folder: where the layers, and a checkpoint on the way, are kept.
        identity: hashes of the model and of the training rows, and what else decides the inputs.
        device: where to train.
        progress: where to say how far it is.

    Raises:
        SettingError: if the folder holds layers of another training.
        SearchError: if training diverges.
        StorageError: if the disk refuses.
    """
    anatomy = anatomy.with_modular_layers(settings.granularities)
    key = key_of(identity, settings)
    if (folder / FACTS_FILE).exists():
        return _known(folder, key)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    pair = make_pair(model, anatomy, settings, device)
    batches = settings.schedule.steps * settings.schedule.accumulate
    starts = _starts(pair, anatomy, examples, settings, progress, device)
    log = distil(
        pair,
        learning_of(pair),
        lambda batch: settings.standing(anatomy, batch, batches),
        examples,
        settings.schedule,
        progress,
        what="training modular layers",
        checkpoint=folder / CHECKPOINT_FILE,
        key=key,
    )
    facts = {
        "paring": version("paring"),
        "identity": dict(identity),
        "settings": asdict(settings),
        "starts": starts,
        "harm": _harm(pair, anatomy, examples, settings, progress, device),
        "last_losses": _mean(log.losses[-_AVERAGED_STEPS:]),
        "seconds": round(log.seconds, 1),
        "device": str(device),
    }
    return _write(Prepared(_layers_of(pair), facts), folder)


def _known(folder: Path, key: str) -> Prepared:
    """What a folder holds, if that is what was asked for."""
    known = Prepared.load(folder)
    if known.key != key:
        raise SettingError(
            f"{folder} holds modular layers of another model, other data or other settings; "
            "give another folder, or the settings they were made with."
        )
    return known


def _layers_of(pair: Pair) -> Material:
    """The parameters of every modular layer, without what belongs to the place it stands in."""
    found: dict[str, dict[str, Tensor]] = {}
    for stack, layers in pair.layers.items():
        settle_layers(layers.values(), first=None)
        for layer, module in layers.items():
            if layer.granularity > 1:
                state = module.state_dict().items()
                found[f"{stack}.{layer}"] = {name: tensor.detach().cpu() for name, tensor in state}
    return found


def _write(prepared: Prepared, folder: Path) -> Prepared:
    with writing(folder):
        replace_tensors(folder / WEIGHTS_FILE, flatten(prepared.layers), {"key": prepared.key})
        replace_file(folder / FACTS_FILE, json.dumps(prepared.facts, indent=1))
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    return prepared


def _starts(
    pair: Pair, anatomy: Anatomy, examples: Examples, settings: Modular, progress: Progress, device: torch.device
) -> dict[str, int]:
    """Modular layer -> index of the original whose parameters it has before training."""
    if settings.start != "nearest":
        layers = ((stack.name, layer) for stack in anatomy.stacks for layer in modular_layers(stack))
        return {f"{stack}.{layer}": settings.guess(layer) for stack, layer in layers}
    batch = _on(device, examples.with_labels(range(min(_START_EXAMPLES, len(examples)))))
    with half_precision(device, settings.schedule.precision):
        return start_from_nearest(pair, anatomy, batch, progress)


def _harm(
    pair: Pair, anatomy: Anatomy, examples: Examples, settings: Modular, progress: Progress, device: torch.device
) -> dict[str, dict[str, float]]:
    """Stack and block -> tiling, as it is written -> divergence of the answers from the original's."""
    tokens = settings.schedule.tokens
    batches = endless(examples.lengths(), tokens, settings.schedule.seed)
    count = max(1, _HARM_TOKENS // tokens)
    merged = one_block_merged(anatomy)
    harm = {block: {written(tiling): 0.0 for tiling in assemblies} for block, assemblies in merged.items()}
    with (
        progress.stage("measuring what merging costs", count * len(merged)) as report,
        half_precision(device, settings.schedule.precision),
    ):
        for done in range(count):
            batch = _on(device, examples.with_labels(next(batches)))
            for block, (name, assemblies) in enumerate(merged.items()):
                for tiling, value in pair.divergences(batch, assemblies).items():
                    harm[name][written(tiling)] += value / count
                report(done * len(merged) + block + 1, name)
    return harm


def _on(device: torch.device, inputs: Inputs) -> dict[str, Tensor]:
    return {name: tensor.to(device) for name, tensor in inputs.items()}


def _mean(history: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: sum(step[name] for step in history) / len(history) for name in (history[0] if history else ())}
