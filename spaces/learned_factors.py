"""The factors of a plan's parts: learned where a part stands among its own like, once for all plans."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache, partial

import torch
from torch import Tensor, nn

from ..errors import PlanError
from .autoencoders import Decoded, Report, folded, train_autoencoder
from .calibration import standing_linears, watch
from .factor_sizes import FORMS
from .factorisation import Factorisation
from .factorising import SEEING_METHODS, TwoFactors, factorise, metric_of
from .heldout import HeldOut
from .homes import home_of
from .latents import fit_latents
from .plan import Layer, Plan
from .seen import Seen, look_at
from .workbench import Material, Workbench

# What layers that were stacked have in common is remembered under this name.
_SHARED = "shared"
_VERSION = 1

# Of weights and changes of biases, what they do to the answers; see `HeldOut`.
Error = Callable[[Sequence[Tensor], Sequence[Tensor | None]], float]


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
    seen = look_at(model, linears, bench) if together[0].method in (*SEEING_METHODS, "latents") else {}
    sets = [list(linears)] if together[0].group is not None else [[name] for name in linears]
    found: dict[str, Mapping[str, Tensor]] = {}
    work = [(names, factors) for names in sets for factors in together]
    for number, (names, factors) in enumerate(work):
        say = _teller(bench, number, len(work), f"{names[0]} {factors}")
        say(0, 1, "")
        own = {name: linears[name] for name in names}
        if FORMS[factors.method] == "two_factors":
            biased = all(linear.bias is not None for linear in own.values())
            weights = [linear.weight for linear in own.values()]
            looked = [seen[name] for name in names] if seen else ()
            fitted = factorise(factors.method, weights, factors.rank, looked, move_bias=biased)
            found.update(_of_two_factors(factors, names, fitted))
        elif factors.method == "latents":
            metrics = [metric_of("sensitivity", seen[name], centred=own[name].bias is not None) for name in names]
            means = [None if own[name].bias is None else seen[name].mean for name in names]
            weights, choose = [linear.weight for linear in own.values()], _chooser(HeldOut(model, own, bench).error)
            how = bench.anatomy.factoring.latents
            fitted = fit_latents(weights, factors.rank, metrics, how, means=means, report=say, choose=choose)
            found.update(_of_decoder(factors, names, fitted))
        else:
            found.update(_of_autoencoder(factors, own, bench, HeldOut(model, own, bench).error, say))
    return found


def _learn_table(home: Plan, place: str, together: Sequence[Factorisation], bench: Workbench) -> Material:
    """Those of one table of words, or of a Linear outside the stacks."""
    model = bench.build(home)
    part = model.get_submodule(bench.anatomy.outside[place.partition(".")[2]])
    assert isinstance(part, nn.Embedding | nn.Linear)
    found: dict[str, Mapping[str, Tensor]] = {}
    for number, factors in enumerate(together):
        say = _teller(bench, number, len(together), f"{place} {factors}")
        if FORMS[factors.method] != "two_factors":
            found.update(_of_autoencoder(factors, {place: part}, bench, None, say))
        elif isinstance(part, nn.Linear):
            seen = look_at(model, {place: part}, bench) if factors.method in SEEING_METHODS else {}
            biased = part.bias is not None
            fitted = factorise(factors.method, [part.weight], factors.rank, list(seen.values()), move_bias=biased)
            found.update(_of_two_factors(factors, [place], fitted))
        else:
            # A word has no input but itself: what calibration shows of it is how often it comes up.
            counted = factors.method in SEEING_METHODS
            method, seen = ("fisher", [_words_seen(model, part, bench)]) if counted else (factors.method, [])
            fitted = factorise(method, [part.weight], factors.rank, seen, move_bias=False)
            found.update(_of_two_factors(factors, [place], fitted))
    return found


def _of_two_factors(factors: Factorisation, names: Sequence[str], fitted: TwoFactors) -> Material:
    found: dict[str, Mapping[str, Tensor]] = {}
    shared = {"right": fitted.right.contiguous()}
    for name, left, change in zip(names, fitted.lefts, fitted.bias_changes, strict=True):
        own = {"left": left.contiguous(), **({} if change is None else {"bias": change})}
        found[f"{factors} {name}"] = own if factors.group is not None else {**own, **shared}
    return {**found, f"{factors} {_SHARED}": shared} if factors.group is not None else found


def _of_autoencoder(
    factors: Factorisation,
    parts: Mapping[str, nn.Linear | nn.Embedding],
    bench: Workbench,
    error: Error | None,
    say: Report,
) -> Material:
    """Trains one on the rows of these parts.

    Args:
        factors: its method and size.
        parts: by name.
        bench: whose anatomy says how it is trained.
        error: of the model with these weights in place of the parts' own: what the best epoch has least of; None for
            the loss over all rows.
        say: told how far it is.
    """
    choose = None if error is None else _chooser(error)
    training = bench.anatomy.factoring.training
    weights = [part.weight for part in parts.values()]
    fitted = train_autoencoder(factors.method, weights, factors.rank, training, report=say, choose=choose)
    if not factors.is_decoded:
        return _of_two_factors(factors, list(parts), folded(fitted))
    return _of_decoder(factors, list(parts), fitted)


def _of_decoder(factors: Factorisation, names: Sequence[str], fitted: Decoded) -> Material:
    decoder = {
        f"decoder.{number}.{name}": tensor
        for number, layer in enumerate(fitted.decoder)
        for name, tensor in zip(("weight", "bias"), layer, strict=True)
    }
    found: dict[str, Mapping[str, Tensor]] = {}
    for name, rows, norms, change in zip(names, fitted.latents, fitted.norms, fitted.bias_changes, strict=True):
        own = {"rows": rows, "norms": norms, **({} if change is None else {"bias": change})}
        found[f"{factors} {name}"] = own if factors.group is not None else {**own, **decoder}
    return {**found, f"{factors} {_SHARED}": decoder} if factors.group is not None else found


def _chooser(error: Error) -> Callable[[Decoded], float]:
    return lambda decoded: error(decoded.dense(), decoded.bias_changes)


def _is_learned(layer: Layer, factors: Factorisation) -> bool:
    return factors.group is None or layer in factors.members


def _words_seen(model: nn.Module, table: nn.Embedding, bench: Workbench) -> Seen:
    """How often each word comes up, as the weight of its row; once more than it does, since others will come up too."""
    holders = {name: part for name, part in model.named_modules() if getattr(part, "weight", None) is table.weight}
    lookups = {name: part for name, part in holders.items() if isinstance(part, nn.Embedding)}
    counts = torch.ones(table.num_embeddings, dtype=torch.float64)

    def look(_: str, ids: Tensor) -> None:
        counts.add_(torch.bincount(ids.flatten(), minlength=len(counts)))

    # Of several that hold one table, some are there for the name's sake.
    watch(model, lookups, bench, look, all_run=False)
    nothing = torch.zeros((), dtype=torch.float64)
    return Seen(**{**{field.name: nothing for field in fields(Seen)}, "fisher": counts})


def _teller(bench: Workbench, number: int, of: int, what: str) -> Report:
    """What tells the bench how far a fit is, which is one of several."""
    return lambda done, total, now: bench.report((number + done / total) / of, f"{what} {now}")
