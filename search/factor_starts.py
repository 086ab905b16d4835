"""Ways to factorise every kind of Linear: what each costs in bytes, and what it does to the answers."""

import hashlib
from functools import partial

import torch

from ..spaces import axes
from ..spaces.allocation import Option
from ..spaces.axes import Parameter, Value
from ..spaces.calibration import standing_linears
from ..spaces.error_metrics import metric_of
from ..spaces.factor_bytes import part_bytes
from ..spaces.factor_sizes import FORMS
from ..spaces.factoring import WHOLE, Way
from ..spaces.learned_factors import learned_factors
from ..spaces.plan import Plan
from ..spaces.seen import look_at
from ..spaces.space import Space
from ..spaces.workbench import Material
from .workbench import LocalWorkbench


def factor_options(space: Space, bench: LocalWorkbench) -> dict[str, list[Option]]:
    """What may be done to each kind of Linear in each group of layers, at what cost in bytes and what harm.

    Autoencoders are left out: what they do would only be known once all of them were trained.

    Returns:
        Name of the parameter -> its options, the whole weight first. The harm is the squared change of the centred
        logits, mean over calibration examples, as it is predicted to first order (see `spaces/factorising.py`).
    """
    inside = tuple(f"factors.{stack.name}." for stack in bench.anatomy.stacks)
    parameters = [one for one in space.parameters["factors"] if one.name.startswith(inside) and _ways(one)]
    words = " ".join(f"{one.name} {' '.join(_ways(one))}" for one in parameters)
    key = f"factors-harm-1-{hashlib.sha256(words.encode()).hexdigest()[:12]}"
    harms = bench.remember(key, partial(_harms, parameters, bench))
    found = {}
    for one in parameters:
        costs = {way: _bytes(option_plan(one, way, bench), one, bench) for way in (WHOLE, *_ways(one))}
        found[one.name] = [Option(way, cost, float(harms[one.name].get(way, 0.0))) for way, cost in costs.items()]
    return found


def _ways(parameter: Parameter) -> list[str]:
    """The ways that end in two factors and are solved, not trained."""
    ways = (str(choice) for choice in parameter.choices if choice != WHOLE)
    return [way for way in ways if FORMS[Way.parse(way).method] == "two_factors"]


def option_plan(parameter: Parameter, way: Value, bench: LocalWorkbench) -> Plan:
    """The original with this and nothing else done.

    Args:
        parameter: of the axis "factors".
        way: one of its choices.
        bench: where ranks are allocated.
    """
    return axes.load("factors").edit(bench.anatomy.identity(), {parameter.name: way}, bench)


def _bytes(plan: Plan, parameter: Parameter, bench: LocalWorkbench) -> float:
    """Of all the weights that a parameter is about, as a plan treats them."""
    _, stack, *number, kind = parameter.name.split(".")
    places = bench.anatomy.stack(stack)
    group = bench.anatomy.factoring.groups(places.n_layers)[int(number[0]) if number else 0]
    treatments = [plan.stack(stack).slots[position].treatments.get(kind) for position in group]
    return sum(
        part_bytes(places.shapes[kind], one, len(group) if one.factors and one.factors.group else 1)
        for one in treatments
    )


def _harms(parameters: list[Parameter], bench: LocalWorkbench) -> Material:
    """Name of a parameter -> way -> its predicted harm."""
    identity = bench.anatomy.identity()
    model = bench.build(identity)
    linears = dict(standing_linears(model, identity, bench.anatomy))
    seen = look_at(model, linears, bench)
    metrics = {
        name: metric_of("sensitivity", seen[name], centred=linear.bias is not None) for name, linear in linears.items()
    }
    found: dict[str, dict[str, torch.Tensor]] = {}
    for one in parameters:
        for way in _ways(one):
            factors = learned_factors(option_plan(one, way, bench), bench)
            changes = {
                name: own["left"] @ own["right"] - linears[name].weight.detach() for name, own in factors.items()
            }
            harm = sum(metrics[name].error(change) for name, change in changes.items())
            found.setdefault(one.name, {})[way] = torch.tensor(harm)
    return found
