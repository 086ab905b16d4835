"""A space with few parameters, each of which sets many of a real one alike, and a cheap way to judge all of its plans.

Plans that begin with the same layers share the hidden states behind them: plans are walked depth first, so that a plan
costs about one layer. What a layer computes in a plan depends on which layers stand and on its own treatment only, so
that all layers needed are taken from models that treat every layer alike.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from paring.search.workbench import LocalWorkbench
from paring.spaces.allocation import Option
from paring.spaces.axes import Choice, Parameter, Value
from paring.spaces.factoring import WHOLE
from paring.spaces.plan import Plan
from paring.spaces.space import Space

Batches = list[tuple[np.ndarray, Mapping[str, Tensor]]]


class TiedSpace(Space):
    """Depth, bits per layer and of all tables, and whether the Linears of the layers are factorised.

    Its attributes are those of a space, with other parameters.
    """

    def __init__(self, space: Space, ways: Sequence[str], tables: Sequence[str]) -> None:
        """Ties the parameters of a space.

        Args:
            space: with the axes depth, factors and bits, and one stack.
            ways: to factorise the Linears of all layers, beside leaving them whole.
            tables: precisions of all that lies outside the stack, beside float.
        """
        self._space, self.anatomy, self.axes = space, space.anatomy, space.axes
        stack = space.anatomy.stacks[0]
        linears = next(one.choices for one in space.parameters["bits"] if one.name.startswith(f"bits.{stack.name}."))
        self.parameters: Mapping[str, tuple[Parameter, ...]] = {
            "depth": space.parameters["depth"],
            "factors": (Parameter(f"factors.{stack.name}", (WHOLE, *ways)),),
            "bits": (
                *(Parameter(f"bits.{stack.name}.{slot}", linears) for slot in range(stack.n_layers)),
                Parameter("bits.tables", ("float", *tables)),
            ),
        }

    def resolve(self, choice: Choice, bench: LocalWorkbench) -> Plan:
        """The plan of a choice."""
        return self._space.resolve(self.untied(choice), bench)

    def untied(self, choice: Choice) -> dict[str, Value]:
        """The choice in the real space."""
        stack = self.anatomy.stacks[0].name
        whole = self._space.identity()
        for name in whole:
            axis, *rest = name.split(".")
            if axis == "depth":
                whole[name] = choice[name]
            elif axis == "factors" and rest[0] == stack:
                whole[name] = choice[f"factors.{stack}"]
            elif axis == "bits":
                whole[name] = choice[f"bits.{stack}.{rest[1]}" if rest[0] == stack else "bits.tables"]
        return whole

    def structures(self) -> Iterator[dict[str, Value]]:
        """Every choice of what the layers' own treatments do not decide, with all layers float."""
        free = [*self.parameters["depth"], *self.parameters["factors"], self.parameters["bits"][-1]]
        for values in product(*(one.choices for one in free)):
            yield {**self.identity(), **{one.name: value for one, value in zip(free, values, strict=True)}}

    def tied(self, options: Mapping[str, Sequence[Option]]) -> dict[str, list[Option]]:
        """What the choices of tied parameters cost and harm: the sums over what each of them sets.

        Args:
            options: parameter of the real space -> its choices; all of one axis, or none.
        """
        if not options:
            return {}
        identity, axis = self.identity(), next(iter(options)).partition(".")[0]
        found = {}
        for one in self.parameters[axis]:
            ways = []
            for value in one.choices:
                whole = self.untied({**identity, one.name: value})
                own = [name for name in options if self._decides(one.name, name)]
                picked = [next(option for option in options[name] if option.name == whole[name]) for name in own]
                ways.append(Option(str(value), sum(o.cost for o in picked), sum(o.harm for o in picked)))
            found[one.name] = ways
        return found

    def _decides(self, tied: str, name: str) -> bool:
        """Whether a tied parameter sets a real one."""
        inside = name.startswith(f"{name.partition('.')[0]}.{self.anatomy.stacks[0].name}.")
        return name.startswith(f"{tied}.") if inside else tied == "bits.tables"

    @property
    def layers(self) -> tuple[Parameter, ...]:
        """The parameters that treat one layer each."""
        return self.parameters["bits"][:-1]


class Walk:
    """Judges all plans of one structure, those of equal leading layers one after the other."""

    def __init__(self, space: TiedSpace, bench: LocalWorkbench, structure: Choice) -> None:
        """Builds one model for every treatment that all layers may share.

        Args:
            space: tied.
            bench: of a BERT-like classifier on the runtime torch.
            structure: one of `space.structures()`.
        """
        self._space, self._bench, self._structure = space, bench, structure
        plan = space.resolve(structure, bench)
        stack = space.anatomy.stacks[0]
        self.standing = plan.stack(stack.name).standing
        self._models: dict[Value, Any] = {}
        for value in space.layers[0].choices:
            alike = space.resolve({**structure, **{one.name: value for one in space.layers}}, bench)
            executable: Any = bench.executable(bench.build(alike))
            self._models[value] = executable.model
        self._layers = {value: list(model.get_submodule(stack.path)) for value, model in self._models.items()}
        self._first = next(iter(self._models.values()))

    def judge(self) -> Iterator[tuple[dict[str, Value], float]]:
        """Every choice of this structure, once per plan, and its quality on the search split."""
        examples = self._bench.search
        batches: Batches = list(examples.batches(64))
        with torch.inference_mode():
            entries = [self._entry(inputs) for _, inputs in batches]
            states = [hidden for hidden, _ in entries]
            for values, ends in self._below(states, [rest for _, rest in entries], ()):
                answers = np.empty(len(examples))
                for (rows, _), end in zip(batches, ends, strict=True):
                    answers[rows] = self._answer(end)
                names = [self._space.layers[place].name for place in self.standing]
                yield (
                    {**self._structure, **dict(zip(names, values, strict=True))},
                    self._bench.score(examples.labels, answers),
                )

    def _below(
        self, states: list[Tensor], others: list[dict[str, Any]], values: tuple[Value, ...]
    ) -> Iterator[tuple[tuple[Value, ...], list[Tensor]]]:
        """All ways to go on behind some layers, and the states that they end in."""
        if len(values) == len(self.standing):
            yield values, states
            return
        for value, layers in self._layers.items():
            layer = layers[len(values)]
            run = _of_first_token if len(values) == len(self.standing) - 1 else _of_all_tokens
            after = [run(layer, state, **rest) for state, rest in zip(states, others, strict=True)]
            yield from self._below(after, others, (*values, value))

    def _entry(self, inputs: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Any]]:
        """What the first layer is given: the hidden states, and all else by name."""
        seen: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def look(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen.append((args, kwargs))

        handle = self._layers[next(iter(self._layers))][0].register_forward_pre_hook(look, with_kwargs=True)
        try:
            self._first(**inputs)
        finally:
            handle.remove()
        (args, kwargs) = seen[0]
        names = ("hidden_states", "attention_mask")
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        return given.pop("hidden_states"), given

    def _answer(self, hidden: Tensor) -> np.ndarray:
        """The likeliest class of every example of a batch."""
        base = getattr(self._first, self._first.base_model_prefix)
        logits: Tensor = self._first.classifier(base.pooler(hidden))
        return np.asarray(logits.argmax(-1).numpy())


def _of_all_tokens(layer: Any, hidden: Tensor, **rest: Any) -> Tensor:
    output = layer(hidden, **rest)
    return output[0] if isinstance(output, tuple) else output


def _of_first_token(layer: Any, hidden: Tensor, attention_mask: Tensor | None = None, **rest: Any) -> Tensor:
    """What the last layer gives out for the token that the classifier reads; the others need keys and values only."""
    attention, first = layer.attention.self, hidden[:, :1]

    def heads(states: Tensor) -> Tensor:
        return states.unflatten(-1, (attention.num_attention_heads, -1)).transpose(1, 2)

    queries, keys, values = heads(attention.query(first)), heads(attention.key(hidden)), heads(attention.value(hidden))
    mask = None if attention_mask is None else attention_mask[:, :, :1]
    seen = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    after = layer.attention.output(seen.transpose(1, 2).flatten(2), first)
    found: Tensor = layer.output(layer.intermediate(after), after)
    return found
