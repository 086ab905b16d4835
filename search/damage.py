"""What a run folder says when its database is damaged, full or refuses: one clear error."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import DatabaseError, SQLAlchemyError

from ..errors import ParingError, RunError, StorageError

# What a database raises when the disk is full, or refuses, or the file is damaged.
DATABASE_ERRORS = (DatabaseError, StorageInternalError)
# What reading raises: the database, JSON that lacks something, and our own records with impossible numbers.
_SIGNS = (SQLAlchemyError, StorageInternalError, ParingError, LookupError, TypeError, ValueError, RuntimeError)


@contextmanager
def damage_named(what: str) -> Iterator[None]:
    """Turns what damaged records raise when they are read into one error.

    Args:
        what: is read, for instance "the run in runs/a".

    Raises:
        RunError: for anything that a record inside cannot be read for.
    """
    try:
        yield
    except RunError:
        raise
    except (*_SIGNS, AttributeError) as error:
        cause = str(error.__cause__ or error).strip().splitlines() or [type(error).__name__]
        sign = repr(error) if isinstance(error, KeyError) else cause[0].rstrip(".")
        if "is locked" in sign:
            raise RunError(f"{what} cannot be read while another process writes it ({sign}); try again.") from error
        raise RunError(
            f"{what} is damaged: {sign}. Restore it from a copy, or search again with another --out."
        ) from error


@contextmanager
def database_errors(folder: Path) -> Iterator[None]:
    """Turns what the database says of a full or refusing disk into one clear error.

    Raises:
        RunError: if the database is damaged.
        StorageError: for any other database error inside.
    """
    try:
        yield
    except DATABASE_ERRORS as error:
        cause = error.__cause__ or error
        if any(sign in str(error) + str(cause) for sign in ("not a database", "malformed")):
            raise RunError(f"the run in {folder} is damaged: {str(cause).splitlines()[0]}") from error
        raise StorageError(
            f"cannot write the study in {folder}: {str(cause).splitlines()[0]}. Free some space or make it writable, "
            "and run the same command again: every trial already judged is kept."
        ) from error
