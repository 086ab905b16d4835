"""What several tests of the search share."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from paring.search.tasks import Task

Rows = list[dict[str, object]]


@pytest.fixture(scope="module")
def wild(
    make_model: Callable[..., PreTrainedModel],
    make_tokenizer: Callable[[], PreTrainedTokenizerFast],
    make_reviews: Callable[[int, int], Rows],
    write_rows: Callable[[Path, Rows], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Task]:
    """A model with weights so wild that every layer matters, and its own answers to 520 texts: rungs from 65 on."""
    folder = tmp_path_factory.mktemp("wild")
    model, tokenizer = make_model("bert", layers=4).requires_grad_(False), make_tokenizer()
    for parameter in model.bert.parameters():
        if parameter.dim() > 1:
            parameter.mul_(15)
    rows = make_reviews(520, 1)
    inputs = tokenizer([str(row["text"]) for row in rows], padding=True, return_tensors="pt")
    logits = model(**inputs).logits
    middle = (logits[:, 1] - logits[:, 0]).median()
    model.classifier.bias[1] -= middle
    labels = (logits[:, 1] - logits[:, 0] > middle).long().tolist()
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    labelled = [{**row, "label": label} for row, label in zip(rows, labels, strict=True)]
    for split, part in {"train": labelled[:64], "validation": labelled, "test": labelled[:40]}.items():
        write_rows(folder / f"{split}.jsonl", part)
    return folder / "model", Task("classification", str(folder))
