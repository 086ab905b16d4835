"""`paring prepare`: modular layers for a model, from its name and its data."""

from pathlib import Path

from ..errors import DataError, SettingError
from ..profilers import devices
from ..spaces import artefact
from ..spaces.anatomy import anatomy_of
from .data import read_tables
from .modular import Modular
from .prepared import Prepared, identity_of, train_modular_layers
from .progress import Progress, Silent
from .tasks import Task, load
from .workbench import load_tokenizer


def prepare_model(
    source: str, task: Task, settings: Modular, folder: Path, device: str = "cpu", progress: Progress | None = None
) -> Prepared:
    """Trains the modular layers of a model once, for every size it may be assembled to.

    Args:
        source: a local Hugging Face folder, or the name of a model on the hub.
        task: where the training rows are, and what the model is for.
        settings: how to train.
        folder: where the layers are kept; give it again to go on with a training that was cut off.
        device: where to train, "cpu" or "cuda:0".
        progress: where to say how far it is.

    Raises:
        UserError: if model, data, device or settings cannot work together, or the folder holds other layers.
        SearchError: if training diverges.
        StorageError: if the disk refuses.
    """
    found = devices.find(device)
    model = artefact.load_original(source)
    anatomy = anatomy_of(model).with_modular_layers(settings.granularities)
    if not any(stack.granularities for stack in anatomy.stacks):
        depths = ", ".join(f"{stack.name} of {stack.n_layers} layers" for stack in anatomy.stacks)
        raise SettingError(f"none of the granularities {settings.granularities} divides the {depths}; give others.")
    kind = load(task.name)
    kind.metric(task, model)
    tables = read_tables(task.data, task.required_columns, task.label, limit=task.limit, label_is_text=kind.generates)
    if tables.train is None:
        raise DataError(f"training modular layers needs a train split, and {task.data!r} has none.")
    examples = kind.encode(tables.train, "train", task, model, load_tokenizer(source))
    return train_modular_layers(
        model,
        anatomy,
        examples,
        settings,
        folder=folder,
        identity=identity_of(source, tables, task),
        device=found.torch_device,
        progress=progress or Silent(),
    )
