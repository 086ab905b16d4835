"""The plan: the explicit, resolved blueprint of one candidate.

A plan says for every stack which layer stands in which slot, and for every Linear of that layer what is done to it.
It is data only: frozen, hashable, a JSON round trip, readable by a person. The identity plan is the baseline.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

from ..errors import PlanError
from .factorisation import Factorisation
from .layer import Layer as Layer
from .precision import Precision

SCHEMA = 2
ORIGINAL_WEIGHTS = "original"


@dataclass(frozen=True, slots=True)
class Treatment:
    """What is done to one Linear or embedding. The empty treatment leaves it as it is, bit for bit.

    Attributes:
        factors: how its weight is factorised; None leaves one dense matrix.
        precision: bits, of the factors where there are some; None leaves float.
    """

    factors: Factorisation | None = None
    precision: Precision | None = None

    @property
    def is_identity(self) -> bool:
        """Whether nothing is done."""
        return self.factors is None and self.precision is None

    def to_json(self) -> dict[str, Any]:
        """Only what is done, in words a person can read."""
        done = {"factors": self.factors, "bits": self.precision}
        return {name: str(value) for name, value in done.items() if value is not None}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        if set(data) - {"factors", "bits"}:
            raise PlanError(f"a treatment has factors and bits, got {', '.join(sorted(data))}.")
        factors, bits = data.get("factors"), data.get("bits")
        return cls(
            factors=None if factors is None else Factorisation.parse(factors),
            precision=None if bits is None else Precision.parse(bits),
        )


@dataclass(frozen=True, slots=True)
class Treatments:
    """The treatments of the parts of one place, by kind of part. Identity treatments are not kept.

    Attributes:
        items: (kind, treatment) pairs, sorted by kind, each kind once, none of them the identity.
    """

    items: tuple[tuple[str, Treatment], ...] = ()

    def __post_init__(self) -> None:
        kinds = [kind for kind, _ in self.items]
        if kinds != sorted(set(kinds)) or any(treatment.is_identity for _, treatment in self.items):
            raise PlanError(f"treatments must be sorted, unique and not the identity, got {self.items}.")

    @classmethod
    def of(cls, by_kind: Mapping[str, Treatment]) -> Self:
        """Sorts, and leaves out what does nothing."""
        return cls(tuple((kind, by_kind[kind]) for kind in sorted(by_kind) if not by_kind[kind].is_identity))

    def get(self, kind: str) -> Treatment:
        """The treatment of one kind, the identity where none is set."""
        return dict(self.items).get(kind, Treatment())

    def with_(self, kind: str, treatment: Treatment) -> Self:
        """These treatments with one changed."""
        return self.of({**dict(self.items), kind: treatment})

    def to_json(self) -> dict[str, Any]:
        """Kind -> what is done."""
        return {kind: treatment.to_json() for kind, treatment in self.items}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`."""
        return cls.of({kind: Treatment.from_json(entry) for kind, entry in data.items()})


@dataclass(frozen=True, slots=True)
class Slot:
    """One place of a stack: a layer and what is done to its parts, or nothing.

    Attributes:
        layer: the layer that stands here; None where the slot is dropped.
        treatments: by kind of Linear; empty where the slot is dropped.
    """

    layer: Layer | None
    treatments: Treatments = Treatments()

    def __post_init__(self) -> None:
        if self.layer is None and self.treatments.items:
            raise PlanError("a dropped slot has no parts to treat.")

    def to_json(self) -> dict[str, Any] | None:
        """None for a dropped slot."""
        return None if self.layer is None else {"layer": str(self.layer), **self.treatments.to_json()}

    @classmethod
    def from_json(cls, data: Mapping[str, Any] | None) -> Self:
        """The inverse of `to_json`."""
        if data is None:
            return cls(None)
        rest = {kind: entry for kind, entry in data.items() if kind != "layer"}
        return cls(Layer.parse(data["layer"]), Treatments.from_json(rest))


@dataclass(frozen=True, slots=True)
class Stack:
    """The slots of one layer stack, from the input side up."""

    name: str
    slots: tuple[Slot, ...]

    def __post_init__(self) -> None:
        if not any(slot.layer for slot in self.slots):
            raise PlanError(f"stack {self.name!r} must keep at least one layer of its {len(self.slots)}.")

    @property
    def dropped(self) -> tuple[int, ...]:
        """Positions of the slots in which nothing stands."""
        return tuple(position for position, slot in enumerate(self.slots) if slot.layer is None)

    @property
    def standing(self) -> tuple[int, ...]:
        """Positions of the slots that hold a layer."""
        return tuple(position for position, slot in enumerate(self.slots) if slot.layer is not None)


@dataclass(frozen=True, slots=True)
class Plan:
    """The blueprint of one candidate.

    Attributes:
        stacks: one per layer stack of the model, in the order of its anatomy.
        outside: treatments of parts outside the stacks, for instance the word embeddings.
        weights: which set of weights the plan starts from: "original", or the name of a set that an axis trained.
    """

    stacks: tuple[Stack, ...]
    outside: Treatments = Treatments()
    weights: str = ORIGINAL_WEIGHTS

    def __post_init__(self) -> None:
        names = [stack.name for stack in self.stacks]
        if len(set(names)) < len(names) or not isinstance(self.weights, str):
            raise PlanError(f"stacks have different names and weights a name, got {names} and {self.weights!r}.")

    def stack(self, name: str) -> Stack:
        """The stack of this name."""
        for stack in self.stacks:
            if stack.name == name:
                return stack
        raise PlanError(f"the plan has no stack {name!r}, only {', '.join(stack.name for stack in self.stacks)}.")

    def with_stack(self, stack: Stack) -> Self:
        """This plan with the stack of the same name replaced."""
        self.stack(stack.name)
        return replace(self, stacks=tuple(stack if old.name == stack.name else old for old in self.stacks))

    def sites(self) -> Iterator[tuple[str, Layer | None, Treatments]]:
        """Name, layer and treatments of every slot, as "encoder.3", and last of what is "outside" the stacks."""
        for stack in self.stacks:
            for position, slot in enumerate(stack.slots):
                yield f"{stack.name}.{position}", slot.layer, slot.treatments
        yield "outside", None, self.outside

    def parts(self) -> Iterator[tuple[str, Layer | None, Treatment]]:
        """Name, as "encoder.3.query", layer and treatment of every part that has one."""
        for site, layer, treatments in self.sites():
            for kind, treatment in treatments.items:
                yield f"{site}.{kind}", layer, treatment

    def precisions(self) -> Iterator[tuple[str, Layer | None, Precision]]:
        """Name, layer and precision of every part that has one."""
        for name, layer, treatment in self.parts():
            if treatment.precision is not None:
                yield name, layer, treatment.precision

    def factorisations(self) -> Iterator[tuple[str, Layer | None, Factorisation]]:
        """Name, layer and factorisation of every part that has one."""
        for name, layer, treatment in self.parts():
            if treatment.factors is not None:
                yield name, layer, treatment.factors

    def treatments(self) -> tuple[Treatment, ...]:
        """Every treatment of the plan that is not the identity."""
        return tuple(treatment for *_, treatment in self.parts())

    def in_float(self) -> Self:
        """The same structure and factors with all precisions taken away."""
        return self._treated(lambda treatment: replace(treatment, precision=None))

    def whole(self) -> Self:
        """The same structure with nothing done to any part."""
        return self._treated(lambda treatment: Treatment())

    def _treated(self, change: Callable[[Treatment], Treatment]) -> Self:
        def changed(place: Treatments) -> Treatments:
            return Treatments.of({kind: change(treatment) for kind, treatment in place.items})

        stacks = tuple(
            replace(stack, slots=tuple(replace(slot, treatments=changed(slot.treatments)) for slot in stack.slots))
            for stack in self.stacks
        )
        return replace(self, stacks=stacks, outside=changed(self.outside))

    @property
    def is_plain(self) -> bool:
        """Whether an ordinary Hugging Face model of the same class can hold the result: no part was treated.

        Layers may be fewer, and modular ones have the shapes of those they stand for.
        """
        return not self.treatments()

    @property
    def is_identity(self) -> bool:
        """Whether nothing was changed: the baseline."""
        layers = [slot.layer for stack in self.stacks for slot in stack.slots]
        unchanged = all(layer is not None and layer.granularity == 1 for layer in layers)
        return self.is_plain and self.weights == ORIGINAL_WEIGHTS and unchanged

    @property
    def fingerprint(self) -> str:
        """12 hexadecimal digits that two plans share only when they are equal."""
        return hashlib.sha256(self.dumps().encode()).hexdigest()[:12]

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and strings."""
        return {
            "schema": SCHEMA,
            "weights": self.weights,
            "outside": self.outside.to_json(),
            "stacks": {stack.name: [slot.to_json() for slot in stack.slots] for stack in self.stacks},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The inverse of `to_json`.

        Raises:
            PlanError: if the data are of another schema or do not describe a plan.
        """
        if not isinstance(data, Mapping):
            raise PlanError(f"a plan is a JSON object, got {str(data)[:200]!r}.")
        if data.get("schema") != SCHEMA:
            raise PlanError(f"this paring reads plans of schema {SCHEMA}, got schema {data.get('schema')!r}.")
        try:
            stacks = tuple(
                Stack(name, tuple(Slot.from_json(slot) for slot in slots)) for name, slots in data["stacks"].items()
            )
            return cls(stacks, Treatments.from_json(data["outside"]), data["weights"])
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise PlanError(f"not a plan: {error!r} in {json.dumps(data, default=str)[:200]}.") from error

    def dumps(self) -> str:
        """Canonical JSON text: equal plans give equal text."""
        return json.dumps(self.to_json(), separators=(",", ":"))

    def __str__(self) -> str:
        parts = [*map(_describe_stack, self.stacks)]
        parts += [f"{kind} {' '.join(map(str, done.to_json().values()))}" for kind, done in self.outside.items]
        return "; ".join(parts if self.weights == ORIGINAL_WEIGHTS else [*parts, f"weights {self.weights}"])


def _describe_stack(stack: Stack) -> str:
    """For instance `encoder 5/6 layers (without 1), w8a8 on 28 Linears`; `encoder 4 layers (0 1 m2.1 m2.2)`."""
    layers = [slot.layer for slot in stack.slots if slot.layer is not None]
    if any(layer.granularity > 1 for layer in layers):
        text = f"{stack.name} {len(layers)} {'layer' if len(layers) == 1 else 'layers'} ({' '.join(map(str, layers))})"
    else:
        text = f"{stack.name} {len(layers)}/{len(stack.slots)} layers"
        if stack.dropped:
            text += f" (without {' '.join(map(str, stack.dropped))})"
    treatments = [treatment for slot in stack.slots for _, treatment in slot.treatments.items]
    counts: Counter[tuple[str, str]] = Counter()
    for precision in (treatment.precision for treatment in treatments if treatment.precision is not None):
        counts[str(precision), "intermediate results" if precision.weight_bits is None else "Linears"] += 1
    done = [f", {label} on {count} Linears" for label, count in described_factors(treatments).items()]
    done += [f", {label} on {count} {noun}" for (label, noun), count in sorted(counts.items())]
    return text + "".join(done)


def described_factors(treatments: Iterable[Treatment]) -> dict[str, int]:
    """How weights are factorised, as "sensitivity-10..104" where ranks differ, and how many of them."""
    ranks: dict[str, list[int]] = {}
    for factors in (treatment.factors for treatment in treatments if treatment.factors is not None):
        ranks.setdefault(factors.method, []).append(factors.rank)
    return {
        f"{method}-{min(found)}" if len(set(found)) == 1 else f"{method}-{min(found)}..{max(found)}": len(found)
        for method, found in sorted(ranks.items())
    }
