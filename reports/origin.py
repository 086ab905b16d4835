"""What the original says of itself and must stay with what is made of it: its licence, and what it was made from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, metadata_load
from yaml import YAMLError

CARD = "README.md"
# Of the metadata of a model card, those that hold for a smaller version too.
_KEPT = ("license", "license_name", "license_link", "base_model", "datasets", "language", "pipeline_tag")
_LEGAL = ("LICENSE", "LICENCE", "NOTICE", "COPYING")


def stated_by(source: str) -> Mapping[str, Any]:
    """The metadata that a model's card states and that hold for what is made of it.

    Args:
        source: a local Hugging Face folder, or the name of a model on the hub; that name is then the base model.

    Returns:
        Texts and lists of texts; empty where there is no card, or one that cannot be read.
    """
    folder = Path(source).expanduser()
    try:
        path = folder / CARD if folder.is_dir() else Path(hf_hub_download(source, CARD))
        stated = metadata_load(path) or {}
    except (OSError, ValueError, YAMLError):
        stated = {}
    kept = {name: stated[name] for name in _KEPT if _is_text(stated.get(name))}
    return kept if folder.is_dir() else {**kept, "base_model": source}


def legal_files(source: str) -> list[Path]:
    """The texts of licences and notices beside a local model."""
    folder = Path(source).expanduser()
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_file() and path.stem.upper() in _LEGAL)


def _is_text(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))
