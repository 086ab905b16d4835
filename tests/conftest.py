"""Tiny models and data that every test may use; nothing is downloaded."""

import importlib
import json
import os
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from sqlite3 import Connection
from types import ModuleType
from uuid import uuid4

import psutil
import pytest
import torch
from sqlalchemy import Engine, event
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    ElectraConfig,
    ElectraForSequenceClassification,
    MarianConfig,
    MarianMTModel,
    MBartConfig,
    MBartForConditionalGeneration,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    T5Config,
    T5ForConditionalGeneration,
)

from paring import cli
from paring.api import pare
from paring.profilers import kept, memory
from paring.profilers.isolation import Isolation
from paring.profilers.supervision import Finding
from paring.profilers.timing import Effort
from paring.profilers.workload import Workload
from paring.search import finals, judge, quality
from paring.search.modular import modular_layers
from paring.search.tasks import Task
from paring.spaces import axes
from paring.spaces.anatomy import anatomy_of
from paring.spaces.build import build
from paring.spaces.plan import ORIGINAL_WEIGHTS, Plan
from paring.spaces.tilings import GRANULARITIES
from paring.spaces.workbench import Inputs, Material, RemovalOrder, Workbench

WORDS = (
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "good",
    "fine",
    "great",
    "bad",
    "poor",
    "awful",
    "film",
    "plot",
    "very",
    "not",
)
WRITES = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "decoder_start_token_id": 2}
GOOD, BAD = ("good", "fine", "great"), ("bad", "poor", "awful")


def tiny_model(family: str, *, layers: int = 3, labels: int = 2) -> PreTrainedModel:
    """A random model of a family: 32 wide, 4 heads; the same weights every time.

    Encoder-decoders have `layers` layers in both stacks and no classes; "t5-gated" is the form of T5 1.1.
    """
    torch.manual_seed(0)
    if family in ("bart", "marian", "mbart"):
        return tiny_bart(family, layers)
    if family in ("t5", "t5-gated"):
        return tiny_t5(family, layers)
    common = {"vocab_size": 64, "num_labels": labels, "pad_token_id": 0}
    wide = {"hidden_size": 32, "num_hidden_layers": layers, "num_attention_heads": 4, "intermediate_size": 64}
    if family == "distilbert":
        config = DistilBertConfig(
            **common, dim=32, n_layers=layers, n_heads=4, hidden_dim=64, max_position_embeddings=64
        )
        return DistilBertForSequenceClassification(config).eval()
    classes = {
        "bert": (BertConfig, BertForSequenceClassification),
        "roberta": (RobertaConfig, RobertaForSequenceClassification),
        "electra": (ElectraConfig, ElectraForSequenceClassification),
    }
    config_class, model_class = classes[family]
    return model_class(config_class(**common, **wide, max_position_embeddings=64)).eval()


def tiny_bart(family: str, layers: int) -> PreTrainedModel:
    """A BART-like model that writes from token 2 on; large weights, so that what it writes varies."""
    classes = {
        "bart": (BartConfig, BartForConditionalGeneration),
        "marian": (MarianConfig, MarianMTModel),
        "mbart": (MBartConfig, MBartForConditionalGeneration),
    }
    config_class, model_class = classes[family]
    config = config_class(
        vocab_size=64,
        d_model=32,
        max_position_embeddings=64,
        init_std=0.4,
        scale_embedding=family != "bart",
        **{
            f"{stack}_{setting}": value
            for stack in ("encoder", "decoder")
            for setting, value in {"layers": layers, "attention_heads": 4, "ffn_dim": 64}.items()
        },
        **WRITES,
        forced_eos_token_id=None,
    )
    return model_class(config).eval()


def tiny_t5(family: str, layers: int) -> PreTrainedModel:
    """A T5 that writes from token 2 on; large weights, so that what it writes varies."""
    config = T5Config(
        vocab_size=64,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=layers,
        num_decoder_layers=layers,
        num_heads=4,
        relative_attention_num_buckets=8,
        relative_attention_max_distance=12,
        feed_forward_proj="gated-gelu" if family == "t5-gated" else "relu",
        initializer_factor=1.5,
        **WRITES,
    )
    return T5ForConditionalGeneration(config).eval()


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words of `WORDS`, with the special tokens of BERT."""
    raw = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def reviews(count: int, seed: int) -> list[dict[str, object]]:
    """Rows of `text` and `label`: 1 where more words praise than blame."""
    draw = random.Random(seed)
    rows: list[dict[str, object]] = []
    for _ in range(count):
        praise = draw.random() < 0.5
        words = draw.choices(GOOD if praise else BAD, k=2) + draw.choices(
            ("film", "plot", "very"), k=draw.randint(1, 8)
        )
        draw.shuffle(words)
        rows.append({"text": " ".join(words), "label": int(praise)})
    return rows


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf8")


class FakeBench:
    """A workbench without data or disk: random batches, a fixed removal order, answers kept in memory."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model, self.anatomy = model, anatomy_of(model).with_modular_layers(GRANULARITIES)
        self._known: dict[str, Material] = {}

    @property
    def is_taught(self) -> bool:
        return True

    def build(self, plan: Plan) -> PreTrainedModel:
        materials = {name: axes.load(name).prepare(plan, self) for name in axes.names()}
        return build(self.model, plan, materials=materials)

    def calibration(self) -> list[Inputs]:
        generator = torch.Generator().manual_seed(2)
        ids = [torch.randint(4, self.model.config.vocab_size, (4, 8 + i), generator=generator) for i in range(2)]
        labels = [{"labels": batch.flip(1)} if self.model.config.is_encoder_decoder else {} for batch in ids]
        return [
            {"input_ids": batch, "attention_mask": torch.ones_like(batch), **more}
            for batch, more in zip(ids, labels, strict=True)
        ]

    def removal_order(self, plan: Plan, stack: str, depth: int) -> RemovalOrder:
        standing = [position for position, slot in enumerate(plan.stack(stack).slots) if slot.layer is not None]
        order = tuple(standing[1::2] + standing[::2])
        return RemovalOrder(order, (ORIGINAL_WEIGHTS,) * len(order))

    def modular_layers(self) -> Material:
        """Random, but of the right shapes: no layer of the original times a number."""
        generator = torch.Generator().manual_seed(3)
        found: dict[str, dict[str, torch.Tensor]] = {}
        for stack in self.anatomy.stacks:
            last = self.model.get_submodule(f"{stack.path}.{stack.n_layers - 1}")
            for layer in modular_layers(stack):
                found[f"{stack.name}.{layer}"] = {
                    name: value + 0.05 * torch.randn(value.shape, generator=generator)
                    for name, value in last.state_dict().items()
                }
        return found

    def remember(self, key: str, learn: Callable[[], Material]) -> Material:
        if key not in self._known:
            self._known[key] = learn()
        return self._known[key]

    def report(self, share: float, now: str) -> None:
        """Nobody watches."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Tiny models lose far more to thread switches than they gain, and a runtime leaves its own number behind."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _databases_without_fsync() -> Iterator[None]:
    """Studies of tests need not outlive a power cut: each commit waits for the disk, dozens of times per trial."""

    def relax(connection: Connection, _: object) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", relax)
    yield
    event.remove(Engine, "connect", relax)


@pytest.fixture(autouse=True, scope="session")
def _own_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is learned of a machine is kept in its user's data: tests, and what they start, keep it elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data-home")))
        yield


@pytest.fixture(autouse=True)
def _nothing_learned(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds what another one learned of this machine."""
    own = tmp_path_factory.getbasetemp() / f"learned-{uuid4().hex}"
    monkeypatch.setattr(kept, "folder", lambda: own)


class SharedHelper(Isolation):
    """Jobs in processes of their own, all forked by one helper: it needs seconds to import the libraries."""

    helper = Isolation()

    def _ask_helper(self, order: bytes) -> Finding:
        try:
            return self.helper._ask_helper(order)
        except BaseException:
            self.helper.close()
            raise


@pytest.fixture(autouse=True, scope="session")
def _one_helper() -> Iterator[None]:
    """For all searches and exports of a session; what tests the helper itself starts its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "Isolation", SharedHelper)
        yield
    SharedHelper.helper.close()


@pytest.fixture(scope="session")
def make_model() -> Callable[..., PreTrainedModel]:
    """`tiny_model`, for test modules, which cannot import this file."""
    return tiny_model


@pytest.fixture(scope="session")
def make_bench() -> Callable[[PreTrainedModel], Workbench]:
    """A workbench around a model, without data or disk."""
    return FakeBench


@pytest.fixture(scope="session")
def make_tokenizer() -> Callable[[], PreTrainedTokenizerFast]:
    """`tiny_tokenizer`, for test modules, which cannot import this file."""
    return tiny_tokenizer


@pytest.fixture(scope="session")
def make_reviews() -> Callable[[int, int], list[dict[str, object]]]:
    """`reviews`, for test modules, which cannot import this file."""
    return reviews


@pytest.fixture(scope="session", name="write_rows")
def write_rows_fixture() -> Callable[[Path, list[dict[str, object]]], None]:
    """`write_rows`, for test modules, which cannot import this file."""
    return write_rows


def run_command(*arguments: object) -> int:
    """The exit code of the `paring` command, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["paring", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert ended.value.code is None or isinstance(ended.value.code, int)
    return ended.value.code or 0


@pytest.fixture(scope="session", name="run_command")
def run_command_fixture() -> Callable[..., int]:
    """`run_command`, for fixtures that last longer than a test."""
    return run_command


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The `paring` command in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        return run_command(*arguments), *capsys.readouterr()

    return run


@pytest.fixture(scope="module")
def make_module(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], ModuleType]]:
    """Name and source become a module that this process and those it starts can import."""
    folder = tmp_path_factory.mktemp("modules")

    def make(name: str, source: str) -> ModuleType:
        (folder / f"{name}.py").write_text(source, encoding="utf8")
        return importlib.import_module(name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
        patch.syspath_prepend(folder)
        yield make


@pytest.fixture(scope="session")
def trained_bert() -> PreTrainedModel:
    """A three-layer BERT that has learned to tell the reviews apart."""
    model, tokenizer = tiny_model("bert"), tiny_tokenizer()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    model.train()
    for step in range(60):
        rows = reviews(32, seed=1000 + step)
        inputs = tokenizer([str(row["text"]) for row in rows], padding=True, return_tensors="pt")
        loss = model(**inputs, labels=torch.tensor([int(str(row["label"])) for row in rows])).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def model_folder(trained_bert: PreTrainedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained BERT and its tokenizer as a Hugging Face folder; not to be changed."""
    folder = tmp_path_factory.mktemp("model")
    trained_bert.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train, validation and test files of reviews; not to be changed."""
    folder = tmp_path_factory.mktemp("data")
    for seed, (split, count) in enumerate({"train": 96, "validation": 80, "test": 60}.items()):
        write_rows(folder / f"{split}.jsonl", reviews(count, seed))
    return folder


@pytest.fixture
def request_inputs() -> Callable[..., dict[str, torch.Tensor]]:
    """Random ordinary tokens for a tiny model: batch x tokens."""

    def make(batch: int = 2, tokens: int = 9, vocabulary: int = 64) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        ids = torch.randint(4, vocabulary, (batch, tokens), generator=generator)
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}

    return make


@pytest.fixture
def inputs_of(
    request_inputs: Callable[..., dict[str, torch.Tensor]],
) -> Callable[..., dict[str, torch.Tensor]]:
    """Random ordinary tokens for a tiny model of any family; what a decoder was given so far, where it has one."""

    def make(model: PreTrainedModel, **size: int) -> dict[str, torch.Tensor]:
        inputs = request_inputs(**size)
        if model.config.is_encoder_decoder:
            inputs["decoder_input_ids"] = inputs["input_ids"].flip(1)[:, :5]
        return inputs

    return make


@contextmanager
def little_effort() -> Iterator[None]:
    """Three rounds where a real search takes seconds: what is measured is real, but means little."""
    effort = Effort(seconds=0.0, min_rounds=3, max_rounds=3, calls=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge, "_CANDIDATE_EFFORT", effort)
        patch.setattr(judge, "_REFERENCE_EFFORT", effort)
        patch.setattr(finals, "_EFFORT", replace(effort, min_loads=3, load_rounds=3))
        patch.setattr(finals, "_SECONDS_PER_MODEL", 0.0)
        patch.setattr(quality, "_RESAMPLES", 20)
        yield


@pytest.fixture(scope="module", name="little_effort")
def little_effort_fixture() -> Iterator[None]:
    """`little_effort`, for a whole test module."""
    with little_effort():
        yield


@pytest.fixture(scope="session")
def odd_model_folder(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained BERT under a name full of markup, with class names; not to be changed."""
    folder = tmp_path_factory.mktemp("odd") / "<b>\"modèl\" & 'שלום' 😀"
    shutil.copytree(model_folder, folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf8"))
    config |= {"id2label": {"0": "blame", "1": "praise"}, "label2id": {"blame": 0, "praise": 1}}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf8")
    return folder


@pytest.fixture(scope="session")
def finished_run(odd_model_folder: Path, data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished search of eight trials; not to be changed."""
    out = tmp_path_factory.mktemp("finished") / "run"
    with little_effort():
        pare(
            odd_model_folder,
            Task("classification", str(data_folder)),
            out=out,
            objectives=("quality", "latency", "memory", "size"),
            workload=Workload(1, 16, 1),
            trials=8,
        )
    return out


@pytest.fixture
def run_folder(finished_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to be changed at will."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Every token of a tiny encoder-decoder is a word, so whatever it writes is a text; sets no token of its own."""
    vocabulary = {"<pad>": 0, "</s>": 1, "<s>": 2, "<unk>": 3, **{f"w{number}": number for number in range(4, 64)}}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )


def translations(count: int, seed: int) -> list[dict[str, object]]:
    """Rows of `source` and `target`: the same words in the other order."""
    draw = random.Random(seed)
    rows: list[dict[str, object]] = []
    for _ in range(count):
        words = [f"w{draw.randint(4, 63)}" for _ in range(draw.randint(2, 9))]
        rows.append({"source": " ".join(words), "target": " ".join(reversed(words))})
    return rows


@pytest.fixture(scope="session")
def make_word_tokenizer() -> Callable[[], PreTrainedTokenizerFast]:
    """`word_tokenizer`, for test modules, which cannot import this file."""
    return word_tokenizer


@pytest.fixture(scope="session")
def make_translations() -> Callable[[int, int], list[dict[str, object]]]:
    """`translations`, for test modules, which cannot import this file."""
    return translations


@pytest.fixture(scope="session")
def assert_gone() -> Callable[..., None]:
    """Asserts that processes are dead, or soon are: they let go of their files before they count as dead."""

    def check(*pids: int, seconds: float = 5.0) -> None:
        deadline = time.monotonic() + seconds
        for pid in pids:
            while _runs(pid):
                assert time.monotonic() < deadline, f"{pid} still runs"
                time.sleep(0.01)

    return check


def _runs(pid: int) -> bool:
    """Killed orphans that wait for the system to reap them do not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="session")
def writer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer MBart and its tokenizer as a Hugging Face folder; not to be changed."""
    folder = tmp_path_factory.mktemp("writer")
    tiny_model("mbart", layers=2).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def translations_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train, validation and test files of translations; not to be changed."""
    folder = tmp_path_factory.mktemp("translations")
    for seed, (split, count) in enumerate({"train": 24, "validation": 20, "test": 12}.items()):
        write_rows(folder / f"{split}.jsonl", translations(count, seed))
    return folder
