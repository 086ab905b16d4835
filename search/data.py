"""Evaluation data: read from files or the hub, and split so that what chose a model never judges it."""

import hashlib
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..errors import DataError

SUFFIXES = (".jsonl.gz", ".jsonl", ".csv", ".csv.gz", ".parquet")
SPLITS = ("train", "validation", "test")
_CALIBRATION_EXAMPLES = 256
_CALIBRATION_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class Tables:
    """The rows of every split, before encoding.

    Attributes:
        search: what candidates are compared on.
        test: what the front is judged on; never seen by the search.
        calibration: what ranges are fitted to; in neither of the two.
        train: for scorers that train; None where there is none.
        origin: in words, where search, test and calibration rows come from.
    """

    search: pd.DataFrame
    test: pd.DataFrame
    calibration: pd.DataFrame
    train: pd.DataFrame | None
    origin: Mapping[str, str]

    @property
    def content_hash(self) -> str:
        """12 hexadecimal digits of all rows that are searched, tested or calibrated on."""
        return _content_hash(self.search, self.test, self.calibration)

    @property
    def train_hash(self) -> str:
        """The same of the rows that a scorer may train on."""
        return "" if self.train is None else _content_hash(self.train)


def read_tables(
    source: str, columns: Sequence[str], label: str, *, limit: int | None = None, label_is_text: bool = False
) -> Tables:
    """Reads data and splits them.

    The test rows are those of `test`; without a labelled one, a half of `validation`. The calibration rows come from
    `train`; without one, a tenth of `validation`. Parts are cut off by a hash of the text, so that the same data
    always give the same parts and equal texts stay on one side.

    Args:
        source: a folder of train / validation / test files, one file (it is the validation split), or the name of a
            hub data set as `owner/name` or `name:configuration`.
        columns: the text columns that must be there.
        label: the column of the labels.
        limit: at most so many rows to search on and to test on; None for all.
        label_is_text: whether a label that looks like a number is a text all the same.

    Raises:
        DataError: if there are no such data, a column is missing, or a part would be empty.
    """
    tables = {split: _labelled(table, label, is_text=label_is_text) for split, table in _read(source).items()}
    if "validation" not in tables:
        raise DataError(
            f"{source!r} has no validation split, only {', '.join(tables) or 'nothing'}; searching needs one."
        )
    for split, table in tables.items():
        _check(table, f"{split} of {source!r}", (*columns, label))
    if "test" in tables and (label not in tables["test"] or tables["test"].empty):
        del tables["test"]
    search, origin = tables["validation"], {"search": "validation", "test": "test", "calibration": "train"}
    train = tables.get("train")
    if train is not None:
        calibration = _by_hash(train, columns).head(_CALIBRATION_EXAMPLES)
    else:
        calibration, search = _cut(search, columns, _CALIBRATION_SHARE, "calibration")
        origin["calibration"] = f"{_CALIBRATION_SHARE:.0%} of validation, cut off by hash"
    if "test" in tables:
        test = tables["test"]
    else:
        test, search = _cut(search, columns, 0.5, "test")
        origin["test"] = "half of validation, cut off by hash"
    for split, table in (("search", search), ("test", test), ("calibration", calibration)):
        if table.empty:
            raise DataError(f"the {split} part of {source!r} has no rows.")
    if limit is not None:
        search, test = _by_hash(search, columns).head(limit), _by_hash(test, columns).head(limit)
    search, test, calibration = (table.reset_index(drop=True) for table in (search, test, calibration))
    return Tables(search, test, calibration, train, origin)


def _content_hash(*tables: pd.DataFrame) -> str:
    digest = hashlib.sha256()
    for table in tables:
        digest.update(pd.util.hash_pandas_object(table.astype(str), index=False).to_numpy().tobytes())
    return digest.hexdigest()[:12]


def _read(source: str) -> dict[str, pd.DataFrame]:
    path = Path(source).expanduser()
    if path.is_file():
        return {"validation": _read_file(path)}
    if path.is_dir():
        found = {
            split: path / f"{split}{suffix}"
            for split in SPLITS
            for suffix in reversed(SUFFIXES)
            if (path / f"{split}{suffix}").is_file()
        }
        if not found:
            raise DataError(f"{source!r} holds no train, validation or test file ({', '.join(SUFFIXES)}).")
        return {split: _read_file(file) for split, file in found.items()}
    if source.startswith((".", "/", "~")) or source.count("/") > 1 or source.endswith(SUFFIXES):
        raise DataError(f"there are no data at {source!r}; give a folder, a file, or the name of a hub data set.")
    return _read_hub(source)


def _read_file(path: Path) -> pd.DataFrame:
    if not path.name.endswith(SUFFIXES):
        raise DataError(f"{path} is of no known kind; the legal endings are: {', '.join(SUFFIXES)}.")
    try:
        if path.name.endswith((".jsonl", ".jsonl.gz")):
            return pd.read_json(path, lines=True, dtype=False)
        # A text such as "NA" or "007" is a text: nothing is guessed from what a column looks like.
        return (
            pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=str, keep_default_na=False)
        )
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path} is empty.") from error
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error


def _read_hub(source: str) -> dict[str, pd.DataFrame]:
    try:
        import datasets
    except ImportError as error:
        raise DataError(
            f"there are no local data at {source!r}; to look it up on the hub, install: pip install 'paring[hub]'."
        ) from error
    name, _, configuration = source.partition(":")
    try:
        found = datasets.load_dataset(name, configuration or None)
    except Exception as error:  # the library raises a different class for every way to fail
        raise DataError(f"the hub gives no data set {source!r}: {str(error).splitlines()[0]}") from error
    return {split: found[split].to_pandas() for split in SPLITS if split in found}


def _check(table: pd.DataFrame, what: str, columns: Sequence[str]) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing and not (what.startswith("test") and missing == [columns[-1]]):
        raise DataError(
            f"{what} needs the columns {', '.join(columns)}; it has: {', '.join(map(str, table.columns)) or 'none'}. "
            "Name yours with --text-column, --text2-column and --label-column."
        )


def _labelled(table: pd.DataFrame, label: str, *, is_text: bool) -> pd.DataFrame:
    """The rows that have a label; none of them where all are -1, as in the test sets that GLUE publishes."""
    if label not in table.columns:
        return table
    texts = table[label].astype(str).str.strip()
    given = table[label].notna() & (texts != "")
    if is_text:
        return table[given]
    numbers = pd.to_numeric(texts[given], errors="coerce")
    if (numbers == -1).all():
        return table.head(0)
    # Numbers are numbers in every kind of file; CSV has but texts.
    labels = numbers if numbers.notna().all() else table.loc[given, label]
    return table[given].assign(**{label: labels})


def _hashes(table: pd.DataFrame, columns: Sequence[str]) -> "pd.Series[float]":
    """A number in [0, 1) per row that depends on its texts only."""
    # Column by column: to join row by row took pandas 100 times as long as all the hashes.
    texts = map("\x1f".join, zip(*(table[name].astype(str) for name in columns), strict=True))
    numbers = [int(hashlib.sha256(text.encode()).hexdigest()[:13], 16) / 16**13 for text in texts]
    return pd.Series(numbers, index=table.index, dtype=float)


def _by_hash(table: pd.DataFrame, columns: Sequence[str]) -> pd.DataFrame:
    """The rows in an order that depends on nothing but their texts."""
    return table.iloc[np.argsort(_hashes(table, columns).to_numpy(), kind="stable")]


def _cut(table: pd.DataFrame, columns: Sequence[str], share: float, purpose: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows whose hash, salted with the purpose, falls below the share; and the rest."""
    if table.empty:
        return table, table
    salted = table.assign(**{"\x1fpurpose": purpose})
    chosen = _hashes(salted, (*columns, "\x1fpurpose")) < share
    return table[chosen], table[~chosen]
