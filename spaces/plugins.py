"""Plug-ins found by their file name.

A plug-in is one file in a plug-in folder; its file name is its name in settings, and it binds what it offers to the
module-level name `plugin`. Plug-ins never import each other. Nothing is imported until it is asked for.
"""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from ..errors import SettingError


@cache
def names(package: str) -> tuple[str, ...]:
    """The plug-ins of a folder, sorted; the folder is read once, as every build of a model asks.

    Args:
        package: the full import name of the folder, for instance "paring.spaces.axes".
    """
    return tuple(sorted(module.name for module in iter_modules(import_module(package).__path__)))


def load(package: str, name: str, what: str) -> Any:
    """What the plug-in file `name` offers.

    Args:
        package: the full import name of the folder.
        name: the file name without ".py".
        what: the word for such a plug-in in an error message, for instance "axis".

    Raises:
        SettingError: if there is no such file; the message lists those there are.
    """
    if name not in names(package):
        raise SettingError.unknown(what, name, names(package))
    return import_module(f"{package}.{name}").plugin
