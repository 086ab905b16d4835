"""Bytes of plans are those of the models that are built from them."""

import random
from dataclasses import replace
from itertools import product
from typing import Any

import pytest

from paring.search.untaught import drawn_choice
from paring.spaces.artefact import stored_bytes
from paring.spaces.factoring import Factoring, Way
from paring.spaces.plan_bytes import PlanBytes
from paring.spaces.space import Space

STRUCTURED, FACTORED = ("assembly", "depth", "bits"), ("depth", "factors", "bits")


@pytest.mark.parametrize(("family", "axes"), [*product(("bert", "mbart"), (STRUCTURED, FACTORED)), ("t5", STRUCTURED)])
def test_bytes_are_those_that_are_stored(family: str, axes: tuple[str, ...], make_model: Any, make_bench: Any) -> None:
    model = make_model(family, layers=2)
    bench, draw = make_bench(model), random.Random(0)
    space, sizes = Space(bench.anatomy, axes), PlanBytes(model, bench.anatomy)
    assert sizes.original == sizes.of(bench.anatomy.identity()) == stored_bytes(model)
    seen = set()
    for _ in range(3):
        plan = space.resolve(drawn_choice(space, draw), bench)
        built = stored_bytes(bench.build(plan))
        # Of a table's factors the second is packed the other way round, or twice where an output holds them, too. That
        # is much in models so small only.
        is_factored = any(treatment.factors for _, treatment in plan.outside.items)
        assert sizes.of(plan) == built or (is_factored and 0 < built / sizes.of(plan) - 1 < 0.06)
        seen.add(built)
    assert len(seen) > 1


def test_factors_and_decoders_that_layers_share_count_once(make_model: Any, make_bench: Any) -> None:
    model = make_model("bert", layers=2)
    bench = make_bench(model)
    ways = tuple(map(Way.parse, ("svd-concatenated-2", "unit_svd-2")))
    bench.anatomy = replace(bench.anatomy, factoring=Factoring(linears=ways, tables=()))
    space, sizes = Space(bench.anatomy, ("factors",)), PlanBytes(model, bench.anatomy)
    for choice in space.uniform_choices()[1:]:
        plan = space.resolve(choice, bench)
        assert plan.factorisations()
        assert sizes.of(plan) == stored_bytes(bench.build(plan))
