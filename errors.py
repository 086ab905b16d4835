"""The one error family of paring.

    ParingError
    |-- UserError               the caller gave something that cannot work: exit code 2
    |   |-- SettingError        an unknown name, or a value outside its legal range
    |   |-- ModelError          a model folder that is missing, damaged or of an unknown family
    |   |-- DataError           evaluation data that are missing, empty or do not fit the model
    |   |-- RunError            a run folder that is missing, damaged, in use or made by another search
    |   |-- BundleError         a file to carry that is damaged, foreign or of a newer paring
    |   |-- HistoryError        a history that is damaged, foreign or of a newer paring
    |   |-- ScheduleError       cron text that says no time, or a schedule that is not there
    |   |-- BusyError           a machine on which another benchmark, or another scheduler, runs
    |   `-- BudgetError         a budget that no judged candidate meets
    `-- FailedError             asked rightly, but it could not be done: exit code 1
        |-- PlanError           a plan that does not fit the model it is applied to
        |-- MeasurementError    a measurement that did not happen or is not finite
        |   `-- TimedOutError   one that took longer than it may
        |-- SearchError         a search that cannot go on
        `-- StorageError        the disk is full or refuses to be written

A message says the rule, the value got, the legal values and the fix.
"""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Self


class ParingError(Exception):
    """Anything paring refuses or fails to do."""

    exit_code = 1


class UserError(ParingError):
    """The caller gave something that cannot work."""

    exit_code = 2


class SettingError(UserError):
    """A name paring does not know, or a value outside its legal range."""

    @classmethod
    def unknown(cls, what: str, got: str, legal: Iterable[str]) -> Self:
        """The error for a name that is not in a list of legal ones.

        Args:
            what: what the name is of, for instance "axis".
            got: the name the caller gave.
            legal: all names that would have been accepted.
        """
        names = sorted(legal)
        near = get_close_matches(got, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return cls(f"unknown {what} {got!r}; the legal values are: {', '.join(names)}.{hint}")


class ModelError(UserError):
    """A model folder that is missing, damaged or of an unknown family."""


class DataError(UserError):
    """Evaluation data that are missing, empty or do not fit the model."""


class RunError(UserError):
    """A run folder that is missing, damaged, in use or made by another search."""


class BundleError(UserError):
    """A file to carry to another machine that is damaged, foreign or of a newer paring."""


class HistoryError(UserError):
    """A history of measurements that is damaged, foreign or of a newer paring."""


class ScheduleError(UserError):
    """Cron text that says no time, or a schedule that is not there."""


class BusyError(UserError):
    """A machine on which another benchmark, or another scheduler, runs."""


class BudgetError(UserError):
    """A budget that no judged candidate meets."""


class FailedError(ParingError):
    """Asked rightly, but it could not be done."""


class PlanError(FailedError):
    """A plan that does not fit the model it is applied to."""


class MeasurementError(FailedError):
    """A measurement that did not happen or is not finite."""


class TimedOutError(MeasurementError):
    """A measurement that took longer than it may."""


class SearchError(FailedError):
    """A search that cannot go on."""


class StorageError(FailedError):
    """The disk is full or refuses to be written."""
