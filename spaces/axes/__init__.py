"""Compression methods: one file is one axis, and its file name is its name.

An axis edits plans and realises what it edited. It knows nothing of the other axes; together they are applied in the
fixed `ORDER`. The identity choice (the first of every parameter) changes nothing, bit for bit.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, cast

from torch import nn

from ...errors import SettingError
from .. import plugins
from ..anatomy import Anatomy
from ..plan import Layer, Plan, Treatments
from ..workbench import Material, Workbench

Value = int | str
Choice = Mapping[str, Value]

# Layers are merged before they are counted, counted before they are factorised, and factors are quantised last.
ORDER = ("assembly", "depth", "factors", "bits")


@dataclass(frozen=True, slots=True)
class Parameter:
    """One dimension of the search space.

    Attributes:
        name: begins with the axis' name, for instance "bits.encoder.3.query".
        choices: what it may be set to; the first is the identity. Integers are ordered, strings are not.
    """

    name: str
    choices: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Site:
    """One place of the model that an axis may change: a layer, or all that lies outside the stacks.

    Attributes:
        name: "encoder.3" for the layer in slot 3 of the encoder, or "outside".
        layer: which layer stands there; None outside the stacks.
        treatments: what the plan says about its parts.
        parts: kind -> path of the part inside the module of the site.
        intermediates: kind of result between Linears -> paths of the parts that compute it, likewise.
    """

    name: str
    layer: Layer | None
    treatments: Treatments
    parts: Mapping[str, str]
    intermediates: Mapping[str, tuple[str, ...]]


class Axis(Protocol):
    """The contract of a compression method. Implementations are stateless."""

    def parameters(self, anatomy: Anatomy) -> tuple[Parameter, ...]:
        """The dimensions this axis adds to the search space of a model."""

    def edit(self, plan: Plan, choice: Choice, bench: Workbench) -> Plan:
        """The plan after this axis' choice; the same arguments always give the same plan.

        Args:
            plan: as the earlier axes left it.
            choice: a value for each of this axis' parameters.
            bench: where facts that the edit depends on (a greedy order) are looked up, or learned on first need.
        """

    def prepare(self, plan: Plan, bench: Workbench) -> Material:
        """What `realise` must have been taught for this plan; empty if nothing."""

    def realise(self, module: nn.Module, site: Site, material: Material | None) -> nn.Module:
        """Carries this axis' part of the plan out at one site.

        Args:
            module: what stands at the site now, free to be changed in place; never shared with the original model.
            site: where it stands, and what the plan says about it.
            material: what `prepare` returned; None when only the shapes are wanted, because saved tensors follow.

        Returns:
            What stands at the site from now on.
        """


def names() -> tuple[str, ...]:
    """The axes there are, in the order they are applied."""
    found = plugins.names(__name__)
    return tuple(name for name in ORDER if name in found)


def load(name: str) -> Axis:
    """The axis of this name.

    Raises:
        SettingError: if there is none.
    """
    return cast(Axis, plugins.load(__name__, name, "axis"))


def ordered(chosen: Iterable[str]) -> tuple[str, ...]:
    """Names of axes without repeats, in the order they are applied.

    Raises:
        SettingError: if one of them does not exist, or none is given.
    """
    wanted = set(chosen)
    for name in wanted:
        load(name)
    if not wanted:
        raise SettingError(f"at least one axis must be searched; the legal values are: {', '.join(names())}.")
    return tuple(name for name in names() if name in wanted)
