"""The factors of a plan's parts: learned where a part stands among its own like, once for all plans."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from ..errors import PlanError
from .anatomy import Anatomy
from .autoencoders import Report
from .calibration import standing_linears
from .factored import without_data
from .factorisation import Factorisation
from .fitting import SEEING_METHODS, SHARED, Fitting
from .heldout import HeldOut
from .homes import home_of
from .plan import Layer, Plan
from .seen import Seen, look_at, look_at_words
from .workbench import Material, Workbench

_VERSION = 1


def learned_factors(plan: Plan, bench: Workbench) -> Material:
    """The tensors of every factorised part of a plan.

    Args:
        plan: what is to be built.
        bench: where its parts are learned from.

    Returns:
        Site name and kind, such as "encoder.3.query" or "outside.embeddings" -> "left", "right" and perhaps "bias", as
        `FactoredLinear` takes them, or "rows", "norms" and the decoder's tensors, as `DecodedLinear` does. Layers that
        were stacked are given the same tensors where they share them.

    Raises:
        PlanError: if a part has no factorised form.
    """
    if not bench.is_taught:
        return _untaught(plan, bench)
    homes: dict[Plan, _Home] = {}
    placed = {}
    for name, layer, factors in plan.factorisations():
        _shape(name, layer, bench.anatomy)
        home, home_name = home_of(plan, name, layer, bench.anatomy)
        own = homes.setdefault(home, _Home(home, bench))
        placed[name] = own, home_name, factors
        if layer is not None and factors.method in SEEING_METHODS:
            own.looked_at.update(stacked_with(home, home_name, factors))
    # Read once for all parts that share it: what is remembered may lie on a disk.
    known: dict[tuple[Plan, tuple[str, ...], Factorisation], Material] = {}
    found = {}
    for name, (own, home_name, factors) in placed.items():
        names = stacked_with(own.plan, home_name, factors)
        key = own.plan, names, factors
        if key not in known:
            known[key] = own.learned(names, factors)
        found[name] = {**known[key].get(f"{factors} {SHARED}", {}), **known[key][f"{factors} {home_name}"]}
    return found


def stacked_with(home: Plan, name: str, factors: Factorisation) -> tuple[str, ...]:
    """The parts of a model that are factorised together with one, itself among them."""
    site, _, kind = name.rpartition(".")
    if factors.group is None:
        return (name,)
    stack = home.stack(site.partition(".")[0])
    members = (place for place, slot in enumerate(stack.slots) if slot.layer in factors.members)
    return tuple(f"{stack.name}.{place}.{kind}" for place in members)


def _untaught(plan: Plan, bench: Workbench) -> Material:
    """Random factors of the right shapes, shared where those that are learned would be."""
    generator, found = torch.Generator().manual_seed(0), {}
    of_groups: dict[str, dict[str, Tensor]] = {}
    for name, layer, factors in plan.factorisations():
        site, _, kind = name.rpartition(".")
        empty = without_data(_shape(name, layer, bench.anatomy), factors)
        own = {part: torch.rand(one.shape, generator=generator) for part, one in empty.items()}
        if factors.group is not None:
            shared = {part: one for part, one in own.items() if part not in ("left", "rows", "norms")}
            own |= of_groups.setdefault(f"{site.partition('.')[0]}.{kind} {factors}", shared)
        found[name] = own
    return found


def _shape(name: str, layer: Layer | None, anatomy: Anatomy) -> tuple[int, int]:
    """Rows and columns of a part; an error where there is none of this name."""
    site, _, kind = name.rpartition(".")
    shapes = anatomy.shapes if layer is None else anatomy.stack(site.partition(".")[0]).shapes
    if kind not in shapes:
        raise PlanError(f"the plan factorises {name}; what has factors there is {', '.join(shapes)}.")
    return shapes[kind]


class _Home:
    """A model that parts are learned from.

    Attributes:
        plan: of it.
        looked_at: names of the Linears that calibration has to show, all at once when it first must.
    """

    def __init__(self, plan: Plan, bench: Workbench) -> None:
        self.plan, self.looked_at, self._bench = plan, set[str](), bench

    def learned(self, names: tuple[str, ...], factors: Factorisation) -> Material:
        """Factorisation, a space, and the name of a part -> its tensors; or `SHARED` -> those of all. Remembered."""
        together = _together(factors, names[0], self._bench)
        words = " ".join(map(str, (*names, *together)))
        if factors.form != "two_factors":
            factoring = self._bench.anatomy.factoring
            words += f" {factoring.latents if factors.method == 'latents' else factoring.training}"
        key = f"factors-{_VERSION}-{self.plan.fingerprint}-{hashlib.sha256(words.encode()).hexdigest()[:16]}"
        learn = self._of_table if names[0].startswith("outside.") else self._of_linears
        return self._bench.remember(key, partial(learn, names, together))

    @cached_property
    def _model(self) -> nn.Module:
        return self._bench.build(self.plan)

    @cached_property
    def _linears(self) -> dict[str, nn.Linear]:
        return dict(standing_linears(self._model, self.plan, self._bench.anatomy))

    @cached_property
    def _seen(self) -> dict[str, Seen]:
        return look_at(self._model, {name: self._linears[name] for name in sorted(self.looked_at)}, self._bench)

    def _of_linears(self, names: tuple[str, ...], together: Sequence[Factorisation]) -> Material:
        own = {name: self._linears[name] for name in names}
        seen = [self._seen[name] for name in names] if together[0].method in SEEING_METHODS else []
        held_out = None if together[0].form == "two_factors" else HeldOut(self._model, own, self._bench)
        fitting = Fitting(own, seen, self._bench.anatomy.factoring, held_out)
        return _fitted(fitting, together, self._bench, names[0])

    def _of_table(self, names: tuple[str, ...], together: Sequence[Factorisation]) -> Material:
        """Of one table of words, or of a Linear outside the stacks."""
        (name,) = names
        bench, sees = self._bench, together[0].method in SEEING_METHODS
        part = self._model.get_submodule(bench.anatomy.outside[name.partition(".")[2]])
        if isinstance(part, nn.Embedding):
            words = look_at_words(self._model, part.weight, bench) if sees else None
            fitting = Fitting({name: part}, [], bench.anatomy.factoring, None, words)
        else:
            assert isinstance(part, nn.Linear)
            seen = list(look_at(self._model, {name: part}, bench).values()) if sees else []
            fitting = Fitting({name: part}, seen, bench.anatomy.factoring, None)
        return _fitted(fitting, together, bench, name)


def _fitted(fitting: Fitting, together: Sequence[Factorisation], bench: Workbench, what: str) -> Material:
    found: dict[str, Mapping[str, Tensor]] = {}
    for number, factors in enumerate(together):
        found.update(fitting.fit(factors, _teller(bench, number, len(together), f"{what} {factors}")))
    return found


def _together(factors: Factorisation, name: str, bench: Workbench) -> tuple[Factorisation, ...]:
    """All of its method that a search may ask for, where the calibration batches are gone through for it."""
    if factors.method not in SEEING_METHODS or factors.form != "two_factors":
        return (factors,)
    anatomy, (site, _, kind) = bench.anatomy, name.rpartition(".")
    if site == "outside":
        offered, shape = anatomy.factoring.tables, anatomy.shapes[kind]
    else:
        offered, shape = anatomy.factoring.linears, anatomy.stack(site.partition(".")[0]).shapes[kind]
    stacking = "separated" if factors.group is None else "concatenated"
    alike = (way for way in offered if (way.method, way.stacking) == (factors.method, stacking))
    found = tuple(dict.fromkeys(one for way in alike if (one := way.of(shape, factors.members)) is not None))
    return found if factors in found else (factors,)


def _teller(bench: Workbench, number: int, of: int, what: str) -> Report:
    """What tells the bench how far a fit is, which is one of several."""
    return lambda done, total, now: bench.report((number + done / total) / of, f"{what} {now}")
