import gzip
import random
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from paring.errors import DataError
from paring.search.data import SUFFIXES, Tables, read_tables
from paring.search.examples import Examples, Writing

Rows = list[dict[str, object]]
ROWS: Rows = [{"text": f"text number {number}", "label": number % 2} for number in range(400)]
AWKWARD = ("null", "NA", "nan", "None", "007", "1e3", "2001-02-03", "", "  wide  ", 'a "quote", a comma', "ü\u2028é")


def save(path: Path, rows: Rows) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pd.DataFrame(rows, columns=None if rows else ["text", "label"])
    if ".jsonl" in path.name:
        table.to_json(path, orient="records", lines=True, force_ascii=False)
    elif ".csv" in path.name:
        table.to_csv(path, index=False)
    else:
        table.to_parquet(path)


def save_all(folder: Path, suffix: str = ".jsonl", **splits: Rows) -> str:
    for split, rows in splits.items():
        save(folder / f"{split}{suffix}", rows)
    return str(folder)


def read(source: str | Path, limit: int | None = None) -> Tables:
    return read_tables(str(source), ("text",), "label", limit=limit)


def texts(table: pd.DataFrame) -> list[str]:
    return [str(text) for text in table["text"]]


def mixed(rows: Rows) -> Rows:
    return random.Random(0).sample(rows, len(rows))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_format_gives_the_same_rows(tmp_path: Path, suffix: str) -> None:
    parts = {"train": ROWS[:30], "validation": ROWS[30:50], "test": ROWS[50:60]}
    found = read(save_all(tmp_path / "other", suffix, **parts))
    assert found.search[["text", "label"]].to_dict("records") == parts["validation"]
    assert found.test[["text", "label"]].to_dict("records") == parts["test"]
    assert sorted(texts(found.calibration)) == sorted(str(row["text"]) for row in parts["train"])
    assert found.train is not None
    assert found.train[["text", "label"]].to_dict("records") == parts["train"]
    assert found.origin == {"search": "validation", "test": "test", "calibration": "train"}
    assert found.content_hash == read(save_all(tmp_path / "jsonl", **parts)).content_hash


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_texts_that_look_like_something_else_stay_texts(tmp_path: Path, suffix: str) -> None:
    rows: Rows = [{"text": text, "label": 1} for text in AWKWARD]
    found = read(save_all(tmp_path, suffix, train=ROWS, validation=rows, test=rows))
    assert texts(found.search) == list(AWKWARD)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_texts_that_are_all_numbers_stay_texts(tmp_path: Path, suffix: str) -> None:
    rows: Rows = [{"text": text, "label": 1} for text in ("007", "1.50", "12")]
    found = read(save_all(tmp_path, suffix, train=ROWS, validation=rows, test=rows))
    assert texts(found.search) == ["007", "1.50", "12"]


def test_a_single_file_is_the_validation_split(tmp_path: Path) -> None:
    save(tmp_path / "mine.csv", ROWS)
    found = read(tmp_path / "mine.csv")
    assert sorted(texts(found.search) + texts(found.test) + texts(found.calibration)) == sorted(
        str(row["text"]) for row in ROWS
    )
    assert found.train is None
    assert found.origin["calibration"] == "10% of validation, cut off by hash"


def test_without_a_test_split_half_of_validation_is_cut_off(tmp_path: Path) -> None:
    found = read(save_all(tmp_path, train=ROWS[:9], validation=ROWS))
    search, test = texts(found.search), texts(found.test)
    assert not set(search) & set(test)
    assert sorted(search + test) == sorted(str(row["text"]) for row in ROWS)
    # Half of 400 by a fair hash: beyond 160 to 240 with a probability of 5 in 100 000.
    assert 160 <= len(test) <= 240
    assert found.origin["test"] == "half of validation, cut off by hash"


def test_without_a_train_split_a_tenth_of_validation_calibrates(tmp_path: Path) -> None:
    found = read(save_all(tmp_path, validation=ROWS, test=ROWS[:9]))
    assert not set(texts(found.search)) & set(texts(found.calibration))
    assert len(found.search) + len(found.calibration) == 400
    assert 16 <= len(found.calibration) <= 64


def test_the_cut_depends_on_the_texts_only(tmp_path: Path) -> None:
    one = read(save_all(tmp_path / "one", validation=ROWS))
    other = read(save_all(tmp_path / "other", ".parquet", validation=mixed(ROWS)))
    for part in ("search", "test", "calibration"):
        assert sorted(texts(getattr(one, part))) == sorted(texts(getattr(other, part)))
    # Kept from an earlier run: a study that goes on must find the same parts.
    assert [number for number in range(20) if f"text number {number}" in texts(one.test)] == [0, 3, 7, 9, 11, 19]


def test_equal_texts_stay_on_one_side(tmp_path: Path) -> None:
    doubled: Rows = [*ROWS, *({**row, "label": 1 - int(str(row["label"]))} for row in ROWS)]
    found = read(save_all(tmp_path, validation=mixed(doubled)))
    parts = [set(texts(table)) for table in (found.search, found.test, found.calibration)]
    assert sum(len(part) for part in parts) == len(set().union(*parts)) == 400
    assert [len(table) for table in (found.search, found.test, found.calibration)] == [2 * len(part) for part in parts]


@pytest.mark.parametrize(
    ("suffix", "label"), [(".jsonl", -1), (".csv", -1), (".parquet", -1), (".parquet", -1.0), (".csv", -1.0)]
)
def test_glues_unlabelled_test_rows_are_not_judged_on(tmp_path: Path, suffix: str, label: float) -> None:
    hidden: Rows = [{"text": f"hidden {number}", "label": label} for number in range(20)]
    found = read(save_all(tmp_path, suffix, train=ROWS[:9], validation=ROWS, test=hidden))
    assert found.origin["test"] == "half of validation, cut off by hash"
    assert not [text for text in texts(found.test) if text.startswith("hidden")]


@pytest.mark.parametrize("hidden", [[], [{"text": "no label column"}], [{"text": "no label", "label": None}]])
def test_test_rows_without_labels_are_not_judged_on(tmp_path: Path, hidden: Rows) -> None:
    found = read(save_all(tmp_path, ".parquet", train=ROWS[:9], validation=ROWS, test=hidden))
    assert found.origin["test"] == "half of validation, cut off by hash"
    assert len(found.search) + len(found.test) == 400


def test_rows_without_a_label_are_left_out(tmp_path: Path) -> None:
    rows: Rows = [{"text": "unknown", "label": None}, *ROWS[:5]]
    assert len(read(save_all(tmp_path, train=ROWS, validation=rows, test=ROWS)).search) == 5


def garbage(path: Path) -> None:
    path.write_bytes(b"\x00\x01 this is no archive")


def truncated(path: Path) -> None:
    save(path, ROWS)
    path.write_bytes(path.read_bytes()[:-40])


def corrupted(path: Path) -> None:
    save(path, ROWS)
    content = bytearray(path.read_bytes())
    content[100:140] = bytes(40)
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [garbage, truncated, corrupted])
@pytest.mark.parametrize("suffix", [".jsonl.gz", ".csv.gz", ".parquet"])
def test_damaged_files(tmp_path: Path, suffix: str, damage: Callable[[Path], None]) -> None:
    damage(tmp_path / f"validation{suffix}")
    with pytest.raises(DataError, match=rf"validation{suffix} cannot be read"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["validation.jsonl", "validation.csv", "validation.parquet", "validation.jsonl.gz"])
def test_an_empty_file(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"")
    with pytest.raises(DataError, match=r"is empty|has no rows|cannot be read|it has: none"):
        read(tmp_path)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_a_missing_column_names_those_there_are_and_the_options(tmp_path: Path, split: str) -> None:
    parts = {"train": ROWS, "validation": ROWS, "test": ROWS}
    parts[split] = [{"sentence": "one", "label": 1}]
    message = rf"{split} of .* needs the columns text, label; it has: sentence, label\. .*--text-column.*--label-column"
    with pytest.raises(DataError, match=message):
        read(save_all(tmp_path, **parts))


def test_no_validation_split(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no validation split, only train, test"):
        read(save_all(tmp_path, train=ROWS, test=ROWS))


def test_too_few_rows_to_cut(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the (search|test|calibration) part of .* has no rows"):
        read(save_all(tmp_path, validation=ROWS[:1]))


def test_no_data_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no data at '/no/such/folder'; give a folder, a file"):
        read("/no/such/folder")
    with pytest.raises(DataError, match=r"holds no train, validation or test file \(\.jsonl\.gz, .*\.parquet\)"):
        read(tmp_path)
    (tmp_path / "rows.txt").write_text("text,label\n")
    with pytest.raises(DataError, match=r"rows\.txt is of no known kind; the legal endings are: \.jsonl\.gz, "):
        read(tmp_path / "rows.txt")


def test_a_hub_name_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DataError, match=r"no local data at 'glue:sst2'.*pip install 'paring\[hub\]'"):
        read("glue:sst2")


def test_a_hub_name_with_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_dataset(*asked: object) -> dict[str, object]:
        if asked != ("glue", "sst2"):
            raise FileNotFoundError(f"no data set {asked}")
        return {split: SimpleNamespace(to_pandas=lambda: pd.DataFrame(ROWS)) for split in ("validation", "extra")}

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    found = read("glue:sst2")
    assert len(found.search) + len(found.test) + len(found.calibration) == 400
    with pytest.raises(DataError, match=r"the hub gives no data set 'owner/name': no data set \('owner/name', None\)"):
        read("owner/name")


def test_a_limit_chooses_by_text(tmp_path: Path) -> None:
    parts = {"train": ROWS, "validation": ROWS, "test": ROWS[:50]}
    one = read(save_all(tmp_path / "one", **parts), limit=30)
    other = read(save_all(tmp_path / "other", **{split: mixed(rows) for split, rows in parts.items()}), limit=30)
    assert (len(one.search), len(one.test), len(one.calibration)) == (30, 30, 256)
    assert texts(one.search) == texts(other.search)
    assert set(texts(one.search)) <= set(texts(read(tmp_path / "one", limit=31).search))
    assert len(read(tmp_path / "one", limit=10**6).search) == 400


@pytest.mark.parametrize("split", ["train", "validation", "test"])
@pytest.mark.parametrize("change", [{"label": 7}, {"text": "changed"}])
def test_the_content_hash_changes_with_the_data(tmp_path: Path, split: str, change: dict[str, object]) -> None:
    parts = {"train": ROWS[:20], "validation": ROWS[20:40], "test": ROWS[40:60]}
    before = read(save_all(tmp_path / "before", **parts)).content_hash
    assert read(save_all(tmp_path / "same", **parts)).content_hash == before
    parts[split] = [{**parts[split][0], **change}, *parts[split][1:]]
    assert read(save_all(tmp_path / "after", **parts)).content_hash != before


@pytest.fixture
def examples() -> Examples:
    lengths = random.Random(0).choices(range(1, 20), k=23)
    encoded = tuple({"input_ids": [row + 1] * n, "attention_mask": [1] * n} for row, n in enumerate(lengths))
    return Examples("search", encoded, np.arange(23.0), {"input_ids": 99, "attention_mask": 0})


def test_a_batch_is_padded_on_the_right(examples: Examples) -> None:
    encoded = ({"input_ids": [5, 6], "mask": [1, 1]}, {"input_ids": [7, 8, 9], "mask": [1, 1, 1]})
    batch = Examples("search", encoded, np.zeros(2), {"input_ids": 99, "mask": 0}).batch([1, 0])
    assert batch["input_ids"].tolist() == [[7, 8, 9], [5, 6, 99]]
    assert batch["mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}


@pytest.mark.parametrize("size", [1, 4, 23, 64])
def test_batches_hold_every_row_once_and_like_lengths_together(examples: Examples, size: int) -> None:
    batches = list(examples.batches(size))
    assert sorted(int(row) for rows, _ in batches for row in rows) == list(range(23))
    assert [len(rows) for rows, _ in batches] == [size] * (23 // size) + ([23 % size] if 23 % size else [])
    lengths = [len(examples.encoded[row]["input_ids"]) for rows, _ in batches for row in rows]
    assert lengths == sorted(lengths, reverse=True)
    for rows, inputs in batches:
        assert inputs["input_ids"].shape[1] == max(len(examples.encoded[row]["input_ids"]) for row in rows)
        for row, ids, mask in zip(rows, inputs["input_ids"], inputs["attention_mask"], strict=True):
            assert ids[mask == 1].tolist() == examples.encoded[row]["input_ids"]
            assert set(ids[mask == 0].tolist()) <= {99}


@pytest.mark.parametrize(
    ("labels", "dtype", "expected"),
    [
        (np.array([2, 0, 1]), torch.int64, [1, 2]),
        (np.array([0.5, 1.5, -2.0]), torch.float32, [-2.0, 0.5]),
        (np.fromiter([(7, 8), (9,), (5,)], dtype=object), torch.int64, [[5, -100], [7, 8]]),
        (np.fromiter([(7, 8), (9, 9), (5, 6)], dtype=object), torch.int64, [[5, 6], [7, 8]]),
    ],
)
def test_labels_come_as_a_model_takes_them(labels: np.ndarray, dtype: torch.dtype, expected: list[object]) -> None:
    encoded = tuple({"input_ids": [row] * (row + 1), "attention_mask": [1] * (row + 1)} for row in range(3))
    examples = Examples("train", encoded, labels, {"input_ids": 99, "attention_mask": 0})
    found = examples.with_labels([2, 0])
    assert found["labels"].dtype == dtype
    assert found["labels"].tolist() == expected
    assert found["input_ids"].tolist() == examples.batch([2, 0])["input_ids"].tolist() == [[2, 2, 2], [0, 99, 99]]


def test_targets_of_like_length_are_together_where_sources_are() -> None:
    draw = random.Random(1)
    sizes = [(draw.randint(1, 3), draw.randint(1, 9)) for _ in range(40)]
    encoded = tuple({"input_ids": [1] * source} for source, _ in sizes)
    labels = np.fromiter(((1,) * target for _, target in sizes), dtype=object)
    rows = [int(row) for batch, _ in Examples("test", encoded, labels, {"input_ids": 0}).batches(8) for row in batch]
    assert sorted(rows) == list(range(40))
    assert [sizes[row] for row in rows] == sorted(sizes, reverse=True)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_targets_that_look_like_numbers_stay_texts(tmp_path: Path, suffix: str) -> None:
    rows: Rows = [{"text": f"a {target}", "label": target} for target in ("007", "-1", "1.50")]
    found = read_tables(
        save_all(tmp_path, suffix, train=rows, validation=rows, test=rows), ("text",), "label", label_is_text=True
    )
    assert found.test["label"].tolist() == ["007", "-1", "1.50"]
    hidden: Rows = [{"text": "b", "label": "-1"}, {"text": "c", "label": ""}]
    kept = read_tables(
        save_all(tmp_path, suffix, train=rows, validation=rows, test=hidden), ("text",), "label", label_is_text=True
    )
    assert kept.test["label"].tolist() == ["-1"]


def held(examples: Examples, tokens: int) -> list[tuple[list[int], int]]:
    """Rows of every batch, and its tokens with padding."""
    return [(rows.tolist(), inputs["input_ids"].numel()) for rows, inputs in examples.bucketed(tokens)]


@pytest.mark.parametrize("tokens", [1, 19, 40, 10_000])
def test_buckets_hold_every_row_once_and_as_many_tokens_as_asked(examples: Examples, tokens: int) -> None:
    batches = held(examples, tokens)
    lengths = [len(one["input_ids"]) for one in examples.encoded]
    assert sorted(row for rows, _ in batches for row in rows) == list(range(23))
    assert all(size <= tokens or len(rows) == 1 for rows, size in batches)
    ordered = [lengths[row] for rows, _ in batches for row in rows]
    assert ordered == sorted(ordered, reverse=True)
    for (rows, _), (following, _) in pairwise(batches):  # no batch ends before it must
        assert (len(rows) + 1) * max(lengths[row] for row in (*rows, following[0])) > tokens


def test_buckets_waste_less_than_batches_of_as_many_rows() -> None:
    draw = random.Random(0)
    encoded = tuple({"input_ids": [1] * draw.choice((3, 5, 20, 60))} for _ in range(200))
    examples = Examples("search", encoded, np.zeros(200), {"input_ids": 0})
    real = sum(len(one["input_ids"]) for one in encoded)
    assert sum(size for _, size in held(examples, 240)) < 1.15 * real
    sizes = [len(rows) for rows, _ in held(examples, 240)]
    assert sizes[0] == 4
    assert max(sizes) > 40


def test_buckets_of_targets_count_what_is_longer() -> None:
    encoded = tuple({"input_ids": [1] * 2} for _ in range(6))
    labels = np.fromiter([(1,) * 9, *[(1,) * 3] * 5], dtype=object)
    examples = Examples("search", encoded, labels, {"input_ids": 0})
    assert [rows for rows, _ in held(examples, 9)] == [[0], [1, 2, 3], [4, 5]]


def test_some_of_the_examples() -> None:
    encoded = tuple({"input_ids": [row]} for row in range(4))
    writing = Writing((("a",), ("b",), ("c",), ("d",)), list, 5, 1)
    some = Examples("search", encoded, np.arange(4), {"input_ids": 0}, writing).at([3, 1])
    assert [one["input_ids"] for one in some.encoded] == [[3], [1]]
    assert some.labels.tolist() == [3, 1]
    assert some.writing is not None
    assert some.writing.references == (("d",), ("b",))
