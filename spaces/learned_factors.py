"""The factors of a plan's parts: learned where a part stands among its own like, once for all plans."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache, partial

from torch import Tensor, nn

from ..errors import PlanError
from .autoencoders import Report
from .calibration import standing_linears
from .factorisation import Factorisation
from .fitting import SEEING_METHODS, SHARED, Fitting
from .heldout import HeldOut
from .homes import home_of
from .plan import Layer, Plan
from .seen import look_at, look_at_words
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
    """

    # Many parts are learned together, and what is remembered may lie on a disk.
    @cache
    def learned(home: Plan, place: str, factors: Factorisation) -> Material:
        return _learned(home, place, factors, bench)

    found = {}
    for name, layer, factors in plan.factorisations():
        home, home_name = home_of(plan, name, layer, bench.anatomy)
        site, _, kind = home_name.rpartition(".")
        stack = site.partition(".")[0]
        shapes = bench.anatomy.shapes if layer is None else bench.anatomy.stack(stack).shapes
        if kind not in shapes:
            raise PlanError(f"the plan factorises {name}; what has factors there is {', '.join(shapes)}.")
        place = home_name if layer is None else f"{stack}.{kind}"
        known = learned(home, place, factors)
        shared = known.get(f"{factors} {SHARED}", {})
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
    if factors.form != "two_factors":
        factoring = bench.anatomy.factoring
        words += f" {factoring.latents if factors.method == 'latents' else factoring.training}"
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
    seen = look_at(model, linears, bench) if together[0].method in SEEING_METHODS else {}
    sets = [list(linears)] if together[0].group is not None else [[name] for name in linears]
    found: dict[str, Mapping[str, Tensor]] = {}
    work = [(names, factors) for names in sets for factors in together]
    for number, (names, factors) in enumerate(work):
        own = {name: linears[name] for name in names}
        held_out = None if factors.form == "two_factors" else HeldOut(model, own, bench)
        fitting = Fitting(own, [seen[name] for name in names if name in seen], bench.anatomy.factoring, held_out)
        found.update(fitting.fit(factors, _teller(bench, number, len(work), f"{names[0]} {factors}")))
    return found


def _learn_table(home: Plan, place: str, together: Sequence[Factorisation], bench: Workbench) -> Material:
    """Those of one table of words, or of a Linear outside the stacks."""
    model = bench.build(home)
    part = model.get_submodule(bench.anatomy.outside[place.partition(".")[2]])
    assert isinstance(part, nn.Embedding | nn.Linear)
    sees, factoring = together[0].method in SEEING_METHODS, bench.anatomy.factoring
    if isinstance(part, nn.Embedding):
        words = look_at_words(model, part.weight, bench) if sees else None
        fitting = Fitting({place: part}, [], factoring, None, words)
    else:
        fitting = Fitting(
            {place: part}, list(look_at(model, {place: part}, bench).values()) if sees else [], factoring, None
        )
    found: dict[str, Mapping[str, Tensor]] = {}
    for number, factors in enumerate(together):
        found.update(fitting.fit(factors, _teller(bench, number, len(together), f"{place} {factors}")))
    return found


def _is_learned(layer: Layer, factors: Factorisation) -> bool:
    return factors.group is None or layer in factors.members


def _teller(bench: Workbench, number: int, of: int, what: str) -> Report:
    """What tells the bench how far a fit is, which is one of several."""
    return lambda done, total, now: bench.report((number + done / total) / of, f"{what} {now}")
