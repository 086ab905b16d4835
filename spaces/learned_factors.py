"""The factors of a plan's parts: learned where a part stands among its own like, once for all plans."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache, partial

import torch
from torch import Tensor, nn

from .autoencoders import fit
from .calibration import standing_linears, watch
from .factor_sizes import FORMS
from .factorisation import Factorisation
from .factorising import SEEING_METHODS, TwoFactors, factorise
from .heldout import HeldOut
from .homes import home_of
from .plan import Layer, Plan
from .seen import Seen, look_at
from .workbench import Material, Workbench

# What layers that were stacked have in common is remembered under this name.
_SHARED = "shared"
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
    """

    # Many parts are learned together, and what is remembered may lie on a disk.
    @cache
    def learned(home: Plan, place: str, factors: Factorisation) -> Material:
        return _learned(home, place, factors, bench)

    found = {}
    for name, layer, factors in plan.factorisations():
        home, home_name = home_of(plan, name, layer, bench.anatomy)
        stack, _, kind = home_name.rpartition(".")
        place = home_name if layer is None else f"{stack.partition('.')[0]}.{kind}"
        known = learned(home, place, factors)
        shared = known.get(f"{factors} {_SHARED}", {})
        found[name] = {**shared, **known[f"{factors} {home_name}"]}
    return found


def _learned(home: Plan, place: str, factors: Factorisation, bench: Workbench) -> Material:
    """Factorisation, a space, and the name of a part -> its tensors; or "shared" -> those of all. Remembered.

    Args:
        home: the plan of the model that is learned from.
        place: "outside.<table>", or stack and kind.
        factors: what is wanted.
        bench: where the model is built.
    """
    together = _together(factors, place, bench)
    words = " ".join(map(str, together))
    if FORMS[factors.method] != "two_factors":
        words += f" {bench.anatomy.factoring.training}"
    key = f"factors-{_VERSION}-{place}-{home.fingerprint}-{hashlib.sha256(words.encode()).hexdigest()[:12]}"
    learn = _learn_table if place.startswith("outside.") else _learn_linears
    return bench.remember(key, partial(learn, home, place, together, bench))


def _together(factors: Factorisation, place: str, bench: Workbench) -> tuple[Factorisation, ...]:
    """All of its method that a search may ask for, where the calibration batches are gone through for it."""
    if factors.method not in SEEING_METHODS:
        return (factors,)
    anatomy = bench.anatomy
    stack, _, kind = place.partition(".")
    if stack == "outside":
        offered, shape = anatomy.factoring.tables, anatomy.shapes[kind]
    else:
        offered, shape = anatomy.factoring.linears, anatomy.stack(stack).shapes[kind]
    alike = (way for way in offered if (way.method, way.concatenated) == (factors.method, factors.group is not None))
    found = tuple(dict.fromkeys(one for way in alike if (one := way.of(shape, factors.members)) is not None))
    return found if factors in found else (factors,)


def _learn_linears(home: Plan, place: str, together: Sequence[Factorisation], bench: Workbench) -> Material:
    """Those of one kind of Linear in one stack: of every layer alone, or of the layers of a group together."""
    stack, _, kind = place.partition(".")
    model = bench.build(home)
    chosen = {
        f"{stack}.{position}.{kind}"
        for position, slot in enumerate(home.stack(stack).slots)
        if slot.layer is not None and _is_learned(slot.layer, together[0])
    }
    linears = {name: part for name, part in standing_linears(model, home, bench.anatomy) if name in chosen}
    seen = look_at(model, linears, bench) if _needs_seen(together[0], bench) else {}
    sets = [list(linears)] if together[0].group is not None else [[name] for name in linears]
    found: dict[str, Mapping[str, Tensor]] = {}
    for number, names in enumerate(sets):
        for factors in together:
            held_out = HeldOut(model, {name: linears[name] for name in names}, bench)
            parts = _Parts(names, [linears[name] for name in names], [seen[name] for name in names if name in seen])
            found.update(_fitted(factors, parts, bench, held_out, progress=(number, len(sets))))
    return found


def _is_learned(layer: Layer, factors: Factorisation) -> bool:
    return factors.group is None or layer in factors.members


def _needs_seen(factors: Factorisation, bench: Workbench) -> bool:
    if FORMS[factors.method] == "two_factors":
        return factors.method in SEEING_METHODS
    return bench.anatomy.factoring.training.activation_aware
