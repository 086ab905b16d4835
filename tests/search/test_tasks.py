import inspect
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from paring.errors import DataError, MeasurementError, ModelError, SettingError
from paring.profilers import devices, runtimes
from paring.search import tasks
from paring.search.examples import Examples
from paring.search.quality import judge
from paring.search.tasks import Task, TaskKind
from paring.spaces.workbench import Inputs

MakeModel = Callable[..., PreTrainedModel]
MakeTokenizer = Callable[[], PreTrainedTokenizerFast]
CLASSIFICATION = Task("classification", "data")
KIND = tasks.load("classification")
CONTRACT = [
    *(("classification", family) for family in ("bert", "roberta", "electra", "distilbert")),
    *(("seq2seq", family) for family in ("mbart", "t5", "bart", "marian")),
]
TEXTS = ("good film", "very bad plot very bad", "fine", "not great film", "awful", "poor poor plot")


class Answers:
    """An executable whose logits are those of a table, looked up by the second token of an example."""

    kernels = "float"

    def __init__(self, logits: Sequence[Sequence[float]]) -> None:
        self.logits = torch.tensor(logits)

    def __call__(self, inputs: Inputs) -> Tensor:
        return self.logits[inputs["input_ids"][:, 1]]


def numbered(count: int, labels: Sequence[float]) -> Examples:
    encoded = tuple({"input_ids": [0, row] + [0] * (row % 5)} for row in range(count))
    return Examples("search", encoded, np.array(labels), {"input_ids": 0})


def only(examples: Examples, row: int) -> Examples:
    """One example by itself."""
    writing = examples.writing and replace(examples.writing, references=examples.writing.references[row : row + 1])
    return replace(
        examples, encoded=examples.encoded[row : row + 1], labels=examples.labels[row : row + 1], writing=writing
    )


@pytest.fixture
def encode(make_model: MakeModel, make_tokenizer: MakeTokenizer) -> Callable[..., Examples]:
    """Encodes columns with a tokenizer that gives token types, as BERT's own does, for a model with these labels."""

    def run(
        columns: dict[str, list[object]], task: Task = CLASSIFICATION, *, labels: int = 2, **names: int
    ) -> Examples:
        model, tokenizer = make_model("bert", labels=labels), make_tokenizer()
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
        if names:
            model.config.label2id = names
        return KIND.encode(pd.DataFrame(columns), "search", task, model, tokenizer)

    return run


@pytest.mark.parametrize("name", tasks.names())
@pytest.mark.parametrize("method", [name for name in vars(TaskKind) if not name.startswith("_")])
def test_contract_methods(name: str, method: str) -> None:
    own, asked = (inspect.signature(getattr(kind, method)) for kind in (type(tasks.load(name)), TaskKind))
    assert own == asked
    assert (inspect.getdoc(getattr(type(tasks.load(name)), method)) or "").endswith(".")


@pytest.mark.parametrize("name", tasks.names())
def test_contract_unknown_metric_and_wrong_model(name: str, make_model: MakeModel) -> None:
    model = make_model(dict(reversed(CONTRACT))[name])
    with pytest.raises(SettingError, match=r"unknown metric 'no such metric'; the legal values are: \w+"):
        tasks.load(name).metric(Task(name, "data", metric="no such metric"), model)
    with pytest.raises(ModelError, match=type(model.base_model).__name__):
        tasks.load(name).metric(Task(name, "data"), model.base_model)


@pytest.mark.parametrize("name", tasks.names())
def test_contract_attributes(name: str) -> None:
    kind = tasks.load(name)
    text, label = kind.columns
    assert text and label and text != label
    assert isinstance(kind.generates, bool)
    assert kind.greedy_metric is None or isinstance(kind.greedy_metric, str)


def test_the_contract_is_tried_on_every_kind() -> None:
    assert {name for name, _ in CONTRACT} == set(tasks.names())


@pytest.mark.parametrize(("name", "family"), CONTRACT)
def test_contract_from_rows_to_a_score(
    name: str,
    family: str,
    make_model: MakeModel,
    make_tokenizer: MakeTokenizer,
    make_word_tokenizer: MakeTokenizer,
    make_translations: Callable[[int, int], list[dict[str, object]]],
) -> None:
    model, task, kind = make_model(family), Task(name, "data", max_tokens=6), tasks.load(name)
    rows = pd.DataFrame({"text": TEXTS, "label": [1, 0, 1, 0, 0, 0]})
    if kind.generates:
        rows = pd.DataFrame(make_translations(6, 0))
    examples = kind.encode(rows, "test", task, model, make_word_tokenizer() if kind.generates else make_tokenizer())
    assert (examples.split, len(examples), len(examples.labels)) == ("test", 6, 6)
    assert max(len(values) for row in examples.encoded for values in row.values()) == 6
    with torch.inference_mode():
        assert torch.isfinite(model(**examples.with_labels(range(6))).loss)
    executable = runtimes.find("torch").load(model, devices.find("cpu"), threads=1)
    own = kind.metric(task, model)
    for metric in {own, kind.greedy_metric or own}:
        answers = kind.answer(executable, examples, metric)
        assert answers.shape[0] == 6
        assert np.isfinite(answers).all()
        alone = [kind.answer(executable, only(examples, row), metric) for row in range(6)]
        assert answers == pytest.approx(np.concatenate(alone), rel=1e-4)
        value = kind.score(metric, examples.labels, answers)
        assert isinstance(value, float) and np.isfinite(value)
        turned = kind.score(metric, examples.labels[::-1], answers[::-1])
        assert turned == pytest.approx(value, abs=1e-12)


def test_right_answers_score_one() -> None:
    right = np.array([1, 0, 1, 0, 0, 0])
    assert KIND.score("accuracy", right, right.astype(float)) == 1.0 > KIND.score("accuracy", right, 1.0 - right)


@pytest.mark.parametrize(
    ("name", "columns"), [("classification", ("text", "label")), ("seq2seq", ("source", "target"))]
)
def test_columns_are_those_of_the_kind_unless_named(name: str, columns: tuple[str, str]) -> None:
    task = Task(name, "data")
    assert (task.text, task.label) == columns
    assert task.required_columns == columns[:1]
    assert (named := Task(name, "data", text="de", label="en")).required_columns == ("de",)
    assert named.label == "en"
    assert Task(data="data", **{key: value for key, value in named.to_json().items() if key != "data"}) == named


def test_what_a_kind_ignores_is_not_written_down() -> None:
    """So a run folder of a classification from before tasks had beams goes on."""
    assert {"beams", "max_new_tokens"} & set(CLASSIFICATION.to_json()) == set()
    assert Task("seq2seq", "data", beams=3).to_json()["beams"] == 3


def test_unknown_task() -> None:
    with pytest.raises(SettingError, match=r"unknown task 'clasification'.*Did you mean 'classification'"):
        Task("clasification", "data")


@pytest.mark.parametrize("setting", ["max_tokens", "limit", "beams", "max_new_tokens"])
def test_task_refuses_numbers_below_one(setting: str) -> None:
    with pytest.raises(SettingError, match=f"{setting} of a task must be at least 1, got 0"):
        replace(CLASSIFICATION, **{setting: 0})


@pytest.mark.parametrize(
    ("labels", "metric", "legal"),
    [
        (2, "spearman", "accuracy, f1, f1_macro, matthews"),
        (1, "accuracy", "pearson, spearman"),
        (2, "acuracy", "accuracy"),
    ],
)
def test_metrics_that_do_not_fit_the_model(make_model: MakeModel, labels: int, metric: str, legal: str) -> None:
    with pytest.raises(SettingError, match=f"unknown metric '{metric}'; the legal values are: {legal}"):
        KIND.metric(replace(CLASSIFICATION, metric=metric), make_model("bert", labels=labels))


def test_default_metrics(make_model: MakeModel) -> None:
    assert KIND.metric(CLASSIFICATION, make_model("bert", labels=3)) == "accuracy"
    assert KIND.metric(CLASSIFICATION, make_model("bert", labels=1)) == "spearman"
    assert KIND.metric(replace(CLASSIFICATION, metric="f1"), make_model("bert")) == "f1"


def test_several_labels_per_text_are_refused(make_model: MakeModel) -> None:
    model = make_model("bert", labels=3)
    model.config.problem_type = "multi_label_classification"
    with pytest.raises(ModelError, match="several labels per text"):
        KIND.metric(CLASSIFICATION, model)


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([0, 2, 1], [0, 2, 1]),
        ([0.0, 2.0, 1.0], [0, 2, 1]),
        (["0", "2", "1"], [0, 2, 1]),
        (["sad", "glad", "so so"], [0, 2, 1]),
        (["sad", 2, "1"], [0, 2, 1]),
    ],
)
def test_labels_of_every_kind(encode: Callable[..., Examples], column: list[object], expected: list[float]) -> None:
    names = {"sad": 0, "so so": 1, "glad": 2}
    assert encode({"text": ["a", "b", "c"], "label": column}, labels=3, **names).labels.tolist() == expected


@pytest.mark.parametrize("kind", [str, int])
def test_names_that_are_numbers_never_put_two_classes_into_one(
    encode: Callable[..., Examples], kind: Callable[[str], object]
) -> None:
    names = {"-1": 0, "0": 1, "1": 2}
    column = [kind(name) for name in names]
    assert encode({"text": ["a", "b", "c"], "label": column}, labels=3, **names).labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("column", "unknown"), [([0, 2], "2"), ([0.5, 1.0], "0.5"), (["sad", "mad"], "mad"), ([-1, 1], "-1")]
)
def test_labels_the_model_does_not_know(encode: Callable[..., Examples], column: list[object], unknown: str) -> None:
    with pytest.raises(DataError, match=f"search split has labels .* not know: {unknown}; it knows: 0, 1, glad, sad"):
        encode({"text": ["a", "b"], "label": column}, sad=0, glad=1)


def test_scores_are_labels_of_a_regression(encode: Callable[..., Examples]) -> None:
    assert encode({"text": ["a", "b"], "label": [2.5, "3"]}, labels=1).labels.tolist() == [2.5, 3.0]
    with pytest.raises(DataError, match=r"labels must be numbers; the search split has: .*high"):
        encode({"text": ["a", "b"], "label": [2.5, "high"]}, labels=1)


def test_pairs_are_encoded_together(encode: Callable[..., Examples]) -> None:
    columns: dict[str, list[object]] = {"text": ["good film"], "text2": ["bad plot very"], "label": [1]}
    pair = encode(columns).encoded[0]
    assert pair["input_ids"] == [2, 4, 10, 3, 7, 11, 12, 3]
    assert pair["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert pair["attention_mask"] == [1] * 8
    assert encode({**columns, "other": columns["text2"]}, replace(CLASSIFICATION, text2="other")).encoded == (pair,)
    assert encode(columns, replace(CLASSIFICATION, text2="absent")).encoded[0]["input_ids"] == [2, 4, 10, 3]


def test_long_texts_are_cut(encode: Callable[..., Examples]) -> None:
    found = encode({"text": ["good " * 50], "label": [1]}, replace(CLASSIFICATION, max_tokens=7))
    assert found.encoded[0]["input_ids"] == [2, 4, 4, 4, 4, 4, 3]


def test_answers_come_in_the_order_of_the_examples() -> None:
    classes = np.random.default_rng(0).integers(0, 3, 150)
    found = KIND.answer(Answers(np.eye(3)[classes].tolist()), numbered(150, classes), "accuracy")
    assert found.tolist() == classes.tolist()
    scores = np.random.default_rng(1).normal(size=150).astype(np.float32)
    found = KIND.answer(Answers(scores[:, None].tolist()), numbered(150, scores), "spearman")
    assert found.tolist() == scores.tolist()


@pytest.mark.parametrize("logits", [[float("nan"), 0.0], [0.0, float("inf")], [float("nan")]])
def test_answers_that_are_not_numbers_are_no_quality(logits: list[float]) -> None:
    good = [0.0] * len(logits)
    examples = numbered(5, [0, 1, 0, 1, 0])
    outcomes = KIND.answer(Answers([good, good, good, logits, good]), examples, "f1")
    with pytest.raises(MeasurementError, match="answers that are not finite"):
        judge("f1", lambda labels, found: KIND.score("f1", labels, found), examples.labels, outcomes, "search")


def ranks(values: np.ndarray) -> np.ndarray:
    return np.array([(values < value).sum() + ((values == value).sum() + 1) / 2 for value in values])


def correlation(one: np.ndarray, other: np.ndarray) -> float:
    a, b = one - one.mean(), other - other.mean()
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def f1(labels: np.ndarray, outcomes: np.ndarray, positive: float) -> float:
    hits = ((labels == positive) & (outcomes == positive)).sum()
    total = (labels == positive).sum() + (outcomes == positive).sum()
    return float(2 * hits / total) if total else 0.0


def matthews(labels: np.ndarray, outcomes: np.ndarray) -> float:
    """Gorodkin's R_K, the correlation of the one-hot tables; for two classes it is the ordinary coefficient."""
    classes = np.union1d(labels, outcomes)
    a, b = (np.equal.outer(values, classes).astype(float) for values in (labels, outcomes))
    a, b = a - a.mean(0), b - b.mean(0)
    return float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum()))


def macro_f1(labels: np.ndarray, outcomes: np.ndarray) -> float:
    return float(np.mean([f1(labels, outcomes, positive) for positive in np.union1d(labels, outcomes)]))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("classes", [2, 4])
def test_class_metrics_against_their_formulas(seed: int, classes: int) -> None:
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, classes, 60).astype(float)
    outcomes = np.where(draw.random(60) < 0.6, labels, draw.integers(0, classes, 60))
    assert KIND.score("accuracy", labels, outcomes) == pytest.approx((labels == outcomes).sum() / 60)
    assert KIND.score("matthews", labels, outcomes) == pytest.approx(matthews(labels, outcomes))
    assert KIND.score("f1_macro", labels, outcomes) == pytest.approx(macro_f1(labels, outcomes))
    if classes == 2:
        assert KIND.score("f1", labels, outcomes) == pytest.approx(f1(labels, outcomes, 1.0))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [0, 9])
def test_score_metrics_against_their_formulas(seed: int, decimals: int) -> None:
    draw = np.random.default_rng(seed)
    labels = draw.normal(size=50).round(decimals)
    outcomes = (labels + draw.normal(size=50)).round(decimals)
    assert KIND.score("pearson", labels, outcomes) == pytest.approx(correlation(labels, outcomes))
    assert KIND.score("spearman", labels, outcomes) == pytest.approx(correlation(ranks(labels), ranks(outcomes)))


@pytest.mark.parametrize("metric", ["spearman", "pearson", "matthews"])
def test_answers_that_are_all_the_same_do_not_correlate(metric: str) -> None:
    assert KIND.score(metric, np.array([0.0, 1.0, 1.0]), np.ones(3)) == 0.0


def test_f1_of_a_class_never_answered_is_zero() -> None:
    assert KIND.score("f1", np.array([0.0, 1.0, 1.0]), np.zeros(3)) == 0.0


def test_the_kind_is_found_by_its_file() -> None:
    files = {path.stem for path in Path(tasks.__file__).parent.glob("*.py")} - {"__init__"}
    assert set(tasks.names()) == files
