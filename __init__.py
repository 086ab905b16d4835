"""paring cuts a Transformer down to what a device needs.

It takes a Hugging Face model, an evaluation set and a device, searches jointly over structure and bits, measures
latency and memory on that device, and gives a Pareto front, a report and a model that loads and is really faster.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Study as Study
    from .api import allocate as allocate
    from .api import assemble as assemble
    from .api import load as load
    from .api import pare as pare
    from .api import prepare as prepare
    from .profilers.supervision import Allowance as Allowance
    from .profilers.workload import Workload as Workload
    from .search.distillation import Losses as Losses
    from .search.distilling import Schedule as Schedule
    from .search.modular import Curriculum as Curriculum
    from .search.modular import Modular as Modular
    from .search.tasks import Task as Task
    from .search.workers import Cluster as Cluster
    from .spaces.factoring import Factoring as Factoring
    from .spaces.palette import Palette as Palette
    from .spaces.precision import Precision as Precision

__version__ = "0.1.0"

_HOMES = {
    "Allowance": ".profilers.supervision",
    "Cluster": ".search.workers",
    "Curriculum": ".search.modular",
    "Factoring": ".spaces.factoring",
    "Losses": ".search.distillation",
    "Modular": ".search.modular",
    "Palette": ".spaces.palette",
    "Precision": ".spaces.precision",
    "Schedule": ".search.distilling",
    "Study": ".api",
    "Task": ".search.tasks",
    "Workload": ".profilers.workload",
    "allocate": ".api",
    "assemble": ".api",
    "load": ".api",
    "pare": ".api",
    "prepare": ".api",
}
__all__ = [
    "Allowance",
    "Cluster",
    "Curriculum",
    "Factoring",
    "Losses",
    "Modular",
    "Palette",
    "Precision",
    "Schedule",
    "Study",
    "Task",
    "Workload",
    "__version__",
    "allocate",
    "assemble",
    "load",
    "pare",
    "prepare",
]


def __getattr__(name: str) -> Any:
    """Finds the public names when they are first used, so that importing paring does nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name], __name__), name)
