"""The main job on an embedded default: a small BERT trained here, on text that every Python installation has.

Paragraphs from the docstrings of the standard library, labelled with the package they come from. Nothing is
downloaded and nothing is simulated: the model is trained, searched, measured and exported like any other.
"""

import ast
import hashlib
import json
import sysconfig
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from .errors import DataError
from .search.data import read_tables
from .search.progress import Progress
from .search.tasks import Task, load
from .search.training import Training, fine_tune
from .spaces.artefact import quiet_transformers

CLASSES = 8
TOKENS, BATCH = 64, 8
# What answers worse nobody would deploy, so it need not be measured whole.
MAX_DROP = 0.1
_VOCABULARY = 4000
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_NOT_LIBRARY = ("site-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__", "ensurepip", "turtledemo")
_SHORTEST, _LONGEST = 40, 600
_TRAINING = Training(epochs=6, learning_rate=1e-3, batch=32, seed=0)
# Without it what is learned in the end depends on how the first steps go: 0.67 to 0.89 on test were seen.
_WARMUP = 0.1


def make_data(folder: Path) -> Task:
    """Writes train, validation and test files of docstring paragraphs.

    Args:
        folder: made if missing.

    Raises:
        DataError: if this Python has no docstrings to read.
    """
    paragraphs = dict.fromkeys(_paragraphs(Path(sysconfig.get_paths()["stdlib"])))
    common = [name for name, _ in Counter(package for _, package in paragraphs).most_common(CLASSES)]
    if len(common) < CLASSES:
        raise DataError("this Python has no standard library in source form, which the demo trains on.")
    folder.mkdir(parents=True, exist_ok=True)
    files = {split: (folder / f"{split}.jsonl").open("w", encoding="utf8") for split in ("train", "validation", "test")}
    for text, package in paragraphs:
        if package in common:
            part = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16) % 10
            split = {0: "test", 1: "validation"}.get(part, "train")
            files[split].write(json.dumps({"text": text, "label": package}) + "\n")
    for file in files.values():
        file.close()
    return Task("classification", str(folder), max_tokens=TOKENS)


def make_model(task: Task, folder: Path, progress: Progress) -> None:
    """Trains a six-layer BERT on the task's data and saves it with its tokenizer.

    Args:
        task: from `make_data`.
        folder: made if missing.
        progress: where to say how far it is.
    """
    tables = read_tables(task.data, (task.text,), task.label)
    assert tables.train is not None
    names = sorted(tables.train[task.label].unique())
    tokenizer = _tokenizer(tables.train)
    torch.manual_seed(_TRAINING.seed)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            num_hidden_layers=6,
            num_attention_heads=4,
            intermediate_size=512,
            max_position_embeddings=TOKENS,
            attention_probs_dropout_prob=0.0,  # with it, attention takes torch's slow way
            id2label=dict(enumerate(names)),
            label2id={name: number for number, name in enumerate(names)},
        )
    )
    examples = load(task.name).encode(tables.train, "train", task, model, tokenizer)
    fine_tune(model, examples, _TRAINING, progress, what="training a small BERT", by_length=True, warmup=_WARMUP)
    with quiet_transformers():
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _paragraphs(library: Path) -> Iterator[tuple[str, str]]:
    """Text and package of every docstring paragraph of the standard library, in a fixed order."""
    for file in sorted(library.rglob("*.py")):
        inside = file.relative_to(library).parts
        if len(inside) < 2 or set(inside) & set(_NOT_LIBRARY):
            continue
        try:
            tree = ast.parse(file.read_text(encoding="utf8"))
        except (SyntaxError, ValueError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                    text = " ".join(paragraph.split())
                    if _SHORTEST <= len(text) <= _LONGEST:
                        yield text, inside[0]


def _tokenizer(train: pd.DataFrame) -> PreTrainedTokenizerFast:
    """The most common words of the training texts. Trainers of word pieces find others each time they run."""
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    texts = map(normalizer.normalize_str, train["text"])
    words = Counter(word for text in texts for word, _ in splitter.pre_tokenize_str(text))
    vocabulary = [*_SPECIAL, *(word for word, _ in words.most_common(_VOCABULARY - len(_SPECIAL)))]
    raw = Tokenizer(models.WordLevel({word: number for number, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    raw.normalizer, raw.pre_tokenizer = normalizer, splitter
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
