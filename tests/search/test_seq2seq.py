import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sacrebleu.metrics import BLEU
from tokenizers import processors
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast, T5Config, T5ForSequenceClassification

from paring.errors import DataError, ModelError, SettingError
from paring.profilers import devices, runtimes
from paring.profilers.runtimes import Executable
from paring.search import tasks
from paring.search.data import SUFFIXES, read_tables
from paring.search.examples import Examples
from paring.search.progress import Silent
from paring.search.tasks import Task
from paring.search.training import Training, fine_tune
from paring.spaces.workbench import Inputs

MakeModel = Callable[..., PreTrainedModel]
Tokenizer = PreTrainedTokenizerFast
Encode = Callable[..., Examples]

TASK, KIND = Task("seq2seq", "data"), tasks.load("seq2seq")
FAMILIES = ("mbart", "t5", "bart", "marian")
EOS = 1


class Writes:
    """An executable that writes the source again and notes what it was asked."""

    kernels = "float"

    def __init__(self) -> None:
        self.asked: list[dict[str, object]] = []

    def __call__(self, inputs: Inputs) -> Tensor:
        raise AssertionError("nothing need be read")

    def generate(self, inputs: Inputs, *, new_tokens: int, beams: int = 1, exactly: bool = False) -> Tensor:
        self.asked.append({"new_tokens": new_tokens, "beams": beams, "exactly": exactly})
        start = torch.full((len(inputs["input_ids"]), 1), 2)
        return torch.cat([start, inputs["input_ids"]], dim=1)


@pytest.fixture
def encode(make_model: MakeModel, make_word_tokenizer: Callable[[], Tokenizer]) -> Encode:
    def run(columns: dict[str, list[object]], task: Task = TASK, tokenizer: Tokenizer | None = None) -> Examples:
        table = pd.DataFrame(columns)
        return KIND.encode(table, "search", task, make_model("mbart"), tokenizer or make_word_tokenizer())

    return run


@pytest.fixture
def rows(make_translations: Callable[[int, int], list[dict[str, object]]]) -> pd.DataFrame:
    """40 translations: more than one batch."""
    return pd.DataFrame(make_translations(40, 5))


def load(model: PreTrainedModel) -> Executable:
    return runtimes.find("torch").load(model, devices.find("cpu"), threads=1)


def test_sources_and_targets_are_encoded_apart(encode: Encode) -> None:
    found = encode({"source": ["w5 w6 w7", "w8"], "target": ["w9", "w10 w11"]})
    assert [list(row["input_ids"]) for row in found.encoded] == [[5, 6, 7], [8]]
    assert found.labels.tolist() == [(9, EOS), (10, 11, EOS)]
    batch = found.with_labels([1, 0])
    assert batch["input_ids"].tolist() == [[8, 0, 0], [5, 6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 0, 0], [1, 1, 1]]
    assert batch["labels"].tolist() == [[10, 11, EOS], [9, EOS, -100]]
    assert batch["labels"].dtype == torch.int64


def test_columns_have_the_names_the_user_gives(encode: Encode) -> None:
    found = encode({"de": ["w5"], "en": ["w6"]}, replace(TASK, text="de", label="en"))
    assert (found.encoded[0]["input_ids"], found.labels.tolist()) == ([5], [(6, EOS)])


def test_long_texts_are_cut_and_the_target_still_ends(encode: Encode) -> None:
    found = encode({"source": ["w5 " * 50], "target": ["w6 " * 50]}, replace(TASK, max_tokens=4))
    assert (found.encoded[0]["input_ids"], found.labels.tolist()) == ([5] * 4, [(6, 6, 6, EOS)])
    whole = encode({"source": ["w5 " * 99], "target": ["w6 " * 99]})
    assert (len(whole.encoded[0]["input_ids"]), len(whole.labels[0])) == (64, 64)


class TargetTokenizer(PreTrainedTokenizerFast):
    """Ends with the end token, and targets with a language after it, as MBart's own does."""

    def _switch_to_target_mode(self) -> None:
        self._end("$A </s> w63", [("</s>", EOS), ("w63", 63)])

    def _switch_to_input_mode(self) -> None:
        self._end("$A </s>", [("</s>", EOS)])

    def _end(self, template: str, special: list[tuple[str, int]]) -> None:
        self.backend_tokenizer.post_processor = processors.TemplateProcessing(single=template, special_tokens=special)


def test_a_tokenizer_that_ends_targets_itself_is_left_alone(
    encode: Encode, make_word_tokenizer: Callable[[], Tokenizer]
) -> None:
    own = TargetTokenizer(
        tokenizer_object=make_word_tokenizer().backend_tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    )
    own._switch_to_input_mode()
    found = encode({"source": ["w5 w6"], "target": ["w7"]}, tokenizer=own)
    assert (found.encoded[0]["input_ids"], found.labels.tolist()) == ([5, 6, EOS], [(7, EOS, 63)])


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (["one", "two"], ("one", "two")),
        (("one",), ("one",)),
        (np.array(["one", "two"], dtype=object), ("one", "two")),
        ('["one", "two"]', ("one", "two")),
        (None, ("w6",)),
        (float("nan"), ("w6",)),
        ("", ("w6",)),
        ([], ("w6",)),
    ],
)
def test_references(encode: Encode, cell: object, expected: tuple[str, ...]) -> None:
    found = encode({"source": ["w5"], "target": ["w6"], "references": [cell]})
    assert found.writing is not None
    assert found.writing.references == (expected,)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_references_come_from_every_kind_of_file(encode: Encode, tmp_path: Path, suffix: str) -> None:
    rows = [{"source": f"w5 w{n}", "target": f"w{n}", "references": [f"w{n}", "a, b"]} for n in range(6, 9)]
    if ".csv" in suffix:
        rows = [{**row, "references": json.dumps(row["references"])} for row in rows]
    table, path = pd.DataFrame(rows), tmp_path / f"validation{suffix}"
    if ".jsonl" in suffix:
        table.to_json(path, orient="records", lines=True)
    elif ".csv" in suffix:
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)
    shutil.copy(path, tmp_path / f"test{suffix}")
    shutil.copy(path, tmp_path / f"train{suffix}")
    tables = read_tables(str(tmp_path), TASK.required_columns, TASK.label, label_is_text=True)
    found = encode({name: tables.test[name].tolist() for name in tables.test})
    assert found.writing is not None
    assert found.writing.references == tuple((f"w{n}", "a, b") for n in range(6, 9))
    assert found.labels.tolist() == [(n, EOS) for n in range(6, 9)]
    assert len(tables.content_hash) == 12


def test_without_references_the_target_is_the_one(encode: Encode) -> None:
    found = encode({"source": ["w5", "w6"], "target": ["w7", "007"]})
    assert found.writing is not None
    assert found.writing.references == (("w7",), ("007",))


@pytest.mark.parametrize("cell", ["one", '"one"', '{"one": 1}', [1, 2], 7, ["one", None]])
def test_references_of_another_kind_are_refused(encode: Encode, cell: object) -> None:
    with pytest.raises(DataError, match=r"references must be a list of texts per row .*the search split has "):
        encode({"source": ["w5"], "target": ["w6"], "references": [cell]})


@pytest.mark.parametrize("family", FAMILIES)
def test_the_log_likelihood_is_the_models_own_loss(
    family: str, rows: pd.DataFrame, make_model: MakeModel, make_word_tokenizer: Callable[[], Tokenizer]
) -> None:
    model = make_model(family)
    examples = KIND.encode(rows, "test", TASK, model, make_word_tokenizer())
    answers = KIND.answer(load(model), examples, "log_likelihood")
    total, tokens = 0.0, 0
    for row, target in enumerate(examples.labels):
        with torch.inference_mode():
            loss = model(**examples.with_labels([row])).loss
        total, tokens = total - float(loss) * len(target), tokens + len(target)
        assert answers[row].tolist() == pytest.approx([-float(loss) * len(target), len(target)], rel=1e-4)
    value = KIND.score("log_likelihood", examples.labels, answers)
    assert value == pytest.approx(total / tokens, rel=1e-5)
    assert value == answers[:, 0].sum() / answers[:, 1].sum()


@pytest.mark.parametrize("family", FAMILIES)
def test_bleu_is_that_of_what_the_model_writes(
    family: str, rows: pd.DataFrame, make_model: MakeModel, make_word_tokenizer: Callable[[], Tokenizer]
) -> None:
    model, tokenizer = make_model(family), make_word_tokenizer()
    written = []
    for source in rows["source"]:
        ids = model.generate(**tokenizer(source, return_tensors="pt"), do_sample=False, num_beams=1, max_new_tokens=7)
        written.append(tokenizer.decode(ids[0], skip_special_tokens=True))
    # The odd ones have a second reference, which is what the model writes: so there is something to score.
    references = [
        [target, text] if row % 2 else [target]
        for row, (target, text) in enumerate(zip(rows["target"], written, strict=True))
    ]
    examples = KIND.encode(
        rows.assign(references=references), "test", replace(TASK, max_new_tokens=7), model, tokenizer
    )
    value = KIND.score("bleu", examples.labels, KIND.answer(load(model), examples, "bleu"))
    columns = [[own[0] for own in references], [own[1] if len(own) > 1 else None for own in references]]
    assert value == pytest.approx(BLEU().corpus_score(written, columns).score / 100, abs=1e-12)
    assert 0.05 < value < 1


def test_beams_and_tokens_are_those_of_the_task(rows: pd.DataFrame, encode: Encode) -> None:
    executable = Writes()
    columns = {name: rows[name].tolist() for name in ("source", "target")}
    examples = encode({**columns, "references": [[text] for text in columns["source"]]}, replace(TASK, beams=3))
    answers = KIND.answer(executable, examples, "chrf")
    assert KIND.score("chrf", examples.labels, answers) == pytest.approx(1.0)
    assert executable.asked == [{"new_tokens": 63, "beams": 3, "exactly": False}]
    KIND.answer(executable, encode(columns, replace(TASK, max_new_tokens=5)), "rougeL")
    assert executable.asked[-1] == {"new_tokens": 5, "beams": 1, "exactly": False}


def test_metrics_of_the_task(make_model: MakeModel) -> None:
    model = make_model("t5")
    assert KIND.metric(TASK, model) == "bleu"
    for metric in ("bleu", "chrf", "rouge1", "rouge2", "rougeL", "log_likelihood"):
        assert KIND.metric(replace(TASK, metric=metric), model) == metric
    with pytest.raises(SettingError, match=r"unknown metric 'blue'; the legal values are: bleu, chrf, .*mean 'bleu'\?"):
        KIND.metric(replace(TASK, metric="blue"), model)


def test_models_that_do_not_write_are_refused(make_model: MakeModel) -> None:
    classifier = T5ForSequenceClassification(
        T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4)
    )
    for model in (make_model("bert"), make_model("mbart").model, classifier):
        with pytest.raises(ModelError, match=rf"needs an encoder-decoder .*, got {type(model).__name__}\."):
            KIND.metric(TASK, model)


def test_a_second_text_is_refused(make_model: MakeModel) -> None:
    with pytest.raises(SettingError, match=r"reads one source text, got a second column 'context'"):
        KIND.metric(replace(TASK, text2="context"), make_model("mbart"))


@pytest.mark.parametrize("family", FAMILIES)
def test_fine_tuning_learns_to_write(
    family: str, rows: pd.DataFrame, make_model: MakeModel, make_word_tokenizer: Callable[[], Tokenizer]
) -> None:
    model = make_model(family, layers=1)
    examples = KIND.encode(rows, "train", TASK, model, make_word_tokenizer())
    before = KIND.answer(load(model), examples, "log_likelihood")
    loss = fine_tune(model, examples, Training(epochs=5, learning_rate=5e-3, batch=8), Silent())
    after = KIND.score("log_likelihood", examples.labels, KIND.answer(load(model), examples, "log_likelihood"))
    assert after > KIND.score("log_likelihood", examples.labels, before) + 0.5
    assert -after < loss
