import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from paring import demo
from paring.errors import DataError
from paring.search.data import read_tables
from paring.search.progress import Silent
from paring.search.tasks import Task
from paring.spaces.artefact import load_original

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return demo.make_data(tmp_path_factory.mktemp("demo") / "made" / "data")


@pytest.fixture(scope="module")
def rows(task: Task) -> dict[str, list[dict[str, str]]]:
    texts = {split: (Path(task.data) / f"{split}.jsonl").read_text(encoding="utf8") for split in SPLITS}
    return {split: [json.loads(line) for line in text.splitlines()] for split, text in texts.items()}


def test_the_data_have_eight_classes_in_every_split(task: Task, rows: dict[str, list[dict[str, str]]]) -> None:
    classes = {split: {row["label"] for row in rows[split]} for split in SPLITS}
    assert classes["train"] == classes["validation"] == classes["test"]
    assert len(classes["train"]) == demo.CLASSES == 8
    assert len(rows["train"]) > 4 * len(rows["validation"]) > 400 and len(rows["test"]) > 100
    assert (task.name, task.max_tokens) == ("classification", demo.TOKENS)


def test_no_text_is_in_two_splits(task: Task, rows: dict[str, list[dict[str, str]]]) -> None:
    texts = {split: {row["text"] for row in rows[split]} for split in SPLITS}
    assert not texts["train"] & texts["validation"]
    assert not texts["train"] & texts["test"]
    assert not texts["validation"] & texts["test"]
    assert read_tables(task.data, (task.text,), task.label).origin == {
        "search": "validation", "test": "test", "calibration": "train",
    }  # fmt: skip


def test_the_texts_are_paragraphs_of_a_bounded_length(rows: dict[str, list[dict[str, str]]]) -> None:
    texts = [row["text"] for split in SPLITS for row in rows[split]]
    assert all(40 <= len(text) <= 600 for text in texts)
    assert all(text == " ".join(text.split()) for text in texts)


def test_the_data_are_the_same_in_every_process(task: Task, tmp_path: Path) -> None:
    script = "import sys; from pathlib import Path; from paring.demo import make_data; make_data(Path(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, timeout=120)
    for split in SPLITS:
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (Path(task.data) / f"{split}.jsonl").read_bytes()


def test_the_vocabulary_is_the_same_each_time_and_knows_most_words(task: Task) -> None:
    train = read_tables(task.data, (task.text,), task.label).train
    assert train is not None
    one, other = demo._tokenizer(train), demo._tokenizer(train)
    assert one.get_vocab() == other.get_vocab()
    assert len(one) == 4000
    tokens = [token for text in train["text"].head(500) for token in one.tokenize(text)]
    assert tokens.count("[UNK]") < 0.1 * len(tokens)


def test_only_the_commonest_packages_count_and_a_shared_text_has_one_split(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "library"
    for number in range(10):
        own = [f"Paragraph {n} that is found in package {number} only." for n in range(20 + number)]
        shared = [f"Paragraph {n} that is found in every package alike." for n in range(20)]
        body = "\n\n".join([*own, *shared, "Too short."])
        (library / f"p{number}" / "tests").mkdir(parents=True)
        (library / f"p{number}" / "code.py").write_text(f'def f():\n    """{body}"""\n')
        (library / f"p{number}" / "tests" / "code.py").write_text(f'"""Not to be read: {"x" * 50}"""')
        (library / f"p{number}" / "broken.py").write_text("def (")
    (library / "top.py").write_text(f'"""Not to be read: {"x" * 50}"""')
    monkeypatch.setattr(demo.sysconfig, "get_paths", lambda: {"stdlib": str(library)})
    demo.make_data(tmp_path / "data")
    found: dict[str, list[dict[str, str]]] = {
        split: [json.loads(line) for line in (tmp_path / "data" / f"{split}.jsonl").read_text().splitlines()]
        for split in SPLITS
    }
    rows = [row for split in SPLITS for row in found[split]]
    assert len(rows) == sum(40 + number for number in range(2, 10))
    assert {row["label"] for row in rows} == {f"p{number}" for number in range(2, 10)}
    texts = [{row["text"] for row in found[split]} for split in SPLITS]
    assert sum(map(len, texts)) == len(set.union(*texts))


def test_a_python_without_sources_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo.sysconfig, "get_paths", lambda: {"stdlib": str(tmp_path)})
    with pytest.raises(DataError, match="no standard library in source form"):
        demo.make_data(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_the_model_loads_with_its_tokenizer_and_class_names(
    rows: dict[str, list[dict[str, str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "_TRAINING", replace(demo._TRAINING, epochs=1, batch=32))
    for split in SPLITS:
        few = [
            row for name in sorted({row["label"] for row in rows[split]}) for row in rows[split] if row["label"] == name
        ]
        few = few[:: max(1, len(few) // 64)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few), encoding="utf8")
    demo.make_model(Task("classification", str(tmp_path), max_tokens=demo.TOKENS), tmp_path / "model", Silent())
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model")
    names = sorted({row["label"] for row in rows["train"]})
    assert model.config.id2label == dict(enumerate(names))
    assert (model.config.num_hidden_layers, model.config.max_position_embeddings) == (6, demo.TOKENS)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    inputs = tokenizer(["Return the length of the queue.", "x"], padding=True, return_tensors="pt")
    assert tokenizer.convert_ids_to_tokens(inputs["input_ids"][1][:2].tolist()) == ["[CLS]", "x"]
    assert inputs["attention_mask"].sum(dim=1).tolist()[1] == 3
    with torch.inference_mode():
        found = load_original(str(tmp_path / "model"))(**inputs).logits
        assert torch.equal(found, model.eval()(**inputs).logits) and found.shape == (2, 8)
