"""Models on disk: the original as Hugging Face saves it, and a compressed model with its plan.

A compressed model that kept its parts as they were, and only has fewer or other layers, is an ordinary Hugging Face
folder. Any other is `plan.json`, the original's `config.json` and `paring.safetensors`; the file does not bear Hugging
Face's name for weights, so that plain `from_pretrained` refuses it instead of quietly starting from random numbers. A
tensor that the model holds under several names is stored once; the file's metadata says which names are the same.
"""

import copy
import hashlib
import json
from collections.abc import Container, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import AutoConfig, GenerationConfig, PretrainedConfig, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.utils import GENERATION_CONFIG_NAME

from ..errors import ModelError, PlanError
from .anatomy import anatomy_of
from .build import build
from .plan import Plan
from .ties import distinct_tensors, tie, tied_names, with_tied

PLAN_FILE = "plan.json"
PACKED_WEIGHTS = "paring.safetensors"
PLAIN_WEIGHTS = "model.safetensors"
_TIES = "paring.ties"


def load_original(source: str, *, exact: bool = False) -> PreTrainedModel:
    """A model as its owner saved it: float32, on the CPU, in evaluation mode.

    Args:
        source: a local Hugging Face folder, or the name of a model on the hub.
        exact: refuse stored tensors that the model has no place for, too; many published models have some.

    Raises:
        ModelError: if there is no such model, it is damaged, or its class is not one of the transformers library.
    """
    config = load_config(source)
    try:
        with quiet_transformers():
            loaded: Any = _class_of(config, source).from_pretrained(
                _place(source), dtype=torch.float32, use_safetensors=True, output_loading_info=True
            )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ModelError(f"the weights of {source!r} do not load: {_first_line(error)}") from error
    model, report = loaded
    for problem, names in (("they lack", report["missing_keys"]), ("the model lacks", report["unexpected_keys"])):
        if names and (exact or problem == "they lack"):
            raise ModelError(f"the weights of {source!r} do not load: {problem} {', '.join(sorted(names)[:5])}.")
    assert isinstance(model, PreTrainedModel)
    model.eval()
    return model


def load_config(source: str) -> PretrainedConfig:
    """The config of a local folder, or of a model on the hub.

    Raises:
        ModelError: if there is none.
    """
    folder = Path(source).expanduser()
    if not folder.exists() and _looks_local(source):
        raise ModelError(f"there is no model folder {source!r}; give a Hugging Face folder that holds config.json.")
    if folder.exists() and not (folder / "config.json").is_file():
        raise ModelError(f"{source!r} is not a Hugging Face model folder: it has no config.json.")
    try:
        config = AutoConfig.from_pretrained(_place(source), trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        where = "" if folder.exists() else "there is no such folder; as a name on the hub: "
        raise ModelError(f"no model config at {source!r}: {where}{_first_line(error)}") from error
    assert isinstance(config, PretrainedConfig)
    return config


def weights_hash(source: str) -> str:
    """12 hexadecimal digits of the content of a local model folder's config and weights; of the name if on the hub."""
    digest = hashlib.sha256()
    folder = Path(source).expanduser()
    if not folder.is_dir():
        digest.update(source.encode())
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("config.json")]):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:12]


def save(compressed: PreTrainedModel, plan: Plan, folder: Path, *, original: PretrainedConfig) -> None:
    """Writes a compressed model so that `load` gives it back.

    Args:
        compressed: what `build` made of the plan.
        plan: the plan.
        folder: made if missing.
        original: the config of the model the plan was made for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if plan.is_plain:
        with quiet_transformers():
            compressed.save_pretrained(folder)
    else:
        metadata = {"format": "pt", _TIES: json.dumps(tied_names(compressed))}
        save_file(distinct_tensors(compressed), folder / PACKED_WEIGHTS, metadata=metadata)
        config = copy.deepcopy(original)
        config.architectures = [type(compressed).__name__]
        config.save_pretrained(folder)
        if compressed.can_generate() and compressed.generation_config is not None:
            compressed.generation_config.save_pretrained(folder)
    text = json.dumps({"paring": version("paring"), "plan": plan.to_json()}, indent=1)
    (folder / PLAN_FILE).write_text(text + "\n", encoding="utf8")


def load(folder: Path) -> tuple[PreTrainedModel, Plan]:
    """A saved compressed model and its plan; quantised modules compute in float, as `spaces/quantised.py` defines them.

    Raises:
        ModelError: if the folder was not written by `save`, is damaged, or was written by a version of paring that this
            one does not read.
    """
    plan = read_plan(folder)
    model = _load_plain(folder, plan) if plan.is_plain else _load_packed(folder, plan)
    model.requires_grad_(False)
    return model.eval(), plan


def read_plan(folder: Path) -> Plan:
    """The plan in a saved folder.

    Raises:
        ModelError: if there is none, or it is of another schema; it says so where another version of paring wrote it.
    """
    path = folder / PLAN_FILE
    try:
        stored = json.loads(path.read_text(encoding="utf8"))["plan"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{folder} is not a folder that paring exported: {_first_line(error)}") from error
    try:
        return Plan.from_json(stored)
    except PlanError as error:
        raise ModelError(f"the {PLAN_FILE} of {folder} does not load: {error}{_other_version(folder)}") from error


def _other_version(folder: Path) -> str:
    """What to do about a folder that does not load, where another version of paring wrote it; else nothing."""
    try:
        wrote = json.loads((folder / PLAN_FILE).read_text(encoding="utf8")).get("paring")
    except (OSError, ValueError, AttributeError):
        return ""
    own = version("paring")
    if not isinstance(wrote, str) or wrote == own:
        return ""
    return (
        f" It was exported by paring {wrote[:40]}, and this is paring {own}: load it with that version "
        f"(pip install paring=={wrote[:40]}), or export it again with this one."
    )


def model_class(source: str) -> type[PreTrainedModel]:
    """The transformers class of a model folder.

    Raises:
        ModelError: if there is no config, or it names no class of the transformers library.
    """
    return _class_of(load_config(source), source)


def stored_bytes(model: nn.Module) -> int:
    """Bytes of all tensors that a saved model holds; one that it holds under several names counts once."""
    ties = tied_names(model)
    return sum(tensor.nbytes for name, tensor in model.state_dict().items() if name not in ties)


def _class_of(config: PretrainedConfig, source: str) -> type[PreTrainedModel]:
    """The class a config names, from the transformers library only: no code of the model's folder is run."""
    names = config.architectures or []
    found = getattr(transformers, names[0], None) if names else None
    if not (isinstance(found, type) and issubclass(found, PreTrainedModel)):
        raise ModelError(f"config.json of {source!r} must name a transformers class in `architectures`, got {names}.")
    return found


def _load_plain(folder: Path, plan: Plan) -> PreTrainedModel:
    """An ordinary Hugging Face folder, if it has as many layers as its plan left."""
    model = load_original(str(folder), exact=True)
    for stack in anatomy_of(model).stacks:
        standing = len(plan.stack(stack.name).slots) - len(plan.stack(stack.name).dropped)
        if standing != stack.n_layers:
            raise ModelError(
                f"{folder} does not hold the model of its {PLAN_FILE}: "
                f"that leaves {standing} layers in {stack.name}, the model has {stack.n_layers}."
            )
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    return model


def _load_packed(folder: Path, plan: Plan) -> PreTrainedModel:
    """The skeleton of a plan, filled with the stored tensors."""
    config = load_config(str(folder))
    weights = folder / PACKED_WEIGHTS
    try:
        with safe_open(weights, framework="pt") as file:
            ties: dict[str, str] = json.loads((file.metadata() or {}).get(_TIES, "{}"))
            # Copies: a tensor inside the file's memory map would keep the whole map alive once others are repacked.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"{weights} does not load: {_first_line(error)}") from error
    skeleton = _skeleton(config, str(folder), apart=tensors)
    try:
        model = build(skeleton, plan, materials=None)
        model.load_state_dict(with_tied(tensors, ties), strict=True, assign=True)
        tie(model, ties)
    except (RuntimeError, PlanError, AttributeError) as error:
        raise ModelError(
            f"{weights} does not hold the model of its {PLAN_FILE}: {_first_line(error)}{_other_version(folder)}"
        ) from error
    if (folder / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model


def _skeleton(config: PretrainedConfig, source: str, *, apart: Container[str]) -> PreTrainedModel:
    """The model with its buffers, but with parameters of shape only, so that no memory is touched twice.

    Args:
        config: of the original.
        source: where it came from.
        apart: names that are stored; two of them are never the same parameter, whatever the config says.
    """
    with no_init_weights():
        model = _class_of(config, source)(config)
    model.tie_weights()
    ties = {name: first for name, first in tied_names(model).items() if name not in apart}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module.register_parameter(name, nn.Parameter(parameter.to("meta"), requires_grad=False))
    tie(model, ties)
    return model


def _place(source: str) -> str:
    """The folder a source means, where it is one; else the name on the hub."""
    folder = Path(source).expanduser()
    return str(folder) if folder.exists() else source


def _looks_local(source: str) -> bool:
    """A hub name is `name` or `owner/name`; anything else, or a path whose parent exists, means a local folder."""
    path = Path(source).expanduser()
    return (
        source.startswith((".", "/", "~")) or source.count("/") > 1 or (source.count("/") == 1 and path.parent.is_dir())
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keeps transformers from writing its own bars and reports over ours."""
    log = transformers.utils.logging
    was_on, verbosity = log.is_progress_bar_enabled(), log.get_verbosity()
    log.disable_progress_bar()
    log.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(verbosity)
        if was_on:
            log.enable_progress_bar()
