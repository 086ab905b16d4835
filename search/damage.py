"""Reading a record that may be damaged: one clear error, whatever is wrong with it."""

from collections.abc import Iterator
from contextlib import contextmanager

from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from ..errors import ParingError, RunError

# What the database, JSON that lacks something, and our own records with impossible numbers raise.
_SIGNS = (SQLAlchemyError, StorageInternalError, ParingError, LookupError, TypeError, ValueError, RuntimeError)


@contextmanager
def damage_named(what: str) -> Iterator[None]:
    """Turns what damaged records raise into one error.

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
        raise RunError(
            f"{what} is damaged: {sign}. Restore it from a copy, or search again with another --out."
        ) from error
