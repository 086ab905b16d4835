"""Where a search over factors starts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from transformers import PreTrainedModel

from paring.search.factor_starts import factor_options
from paring.search.first_choices import LAYER_RATIOS, allocated_layers, starting_choices
from paring.search.hints import hints_of
from paring.spaces.factor_bytes import part_bytes
from paring.spaces.factoring import WHOLE, Factoring, Way
from paring.spaces.plan import Treatment
from paring.spaces.space import Space

METHODS = ("svd", "sensitivity")


@pytest.fixture(scope="module")
def bench(make_model: Callable[..., PreTrainedModel], make_bench: Callable[[PreTrainedModel], Any]) -> Any:
    found = make_bench(make_model("bert"))
    ways = tuple(Way(method, ratio) for method in METHODS for ratio in (1.5, 2.0, 4.0))
    found.anatomy = replace(found.anatomy, factoring=Factoring(linears=(*ways, Way("autoencoder", 2.0)), tables=()))
    return found


@pytest.fixture(scope="module")
def space(bench: Any) -> Space:
    return Space(bench.anatomy, ("factors",))


def test_harms_grow_with_the_ratio_and_what_minds_errors_least_harms_least(bench: Any, space: Space) -> None:
    for name, options in factor_options(space, bench).items():
        by_name = {option.name: option for option in options}
        assert options[0].name == WHOLE
        assert options[0].harm == 0
        # Autoencoders are not trained for this.
        assert set(by_name) == {WHOLE, *(f"{method}-{ratio}" for method in METHODS for ratio in ("1.5", "2", "4"))}
        for method in METHODS:
            harms = [by_name[f"{method}-{ratio}"].harm for ratio in ("1.5", "2", "4")]
            assert 0 < harms[0] < harms[1] < harms[2], name
        for ratio in ("1.5", "2", "4"):
            assert by_name[f"sensitivity-{ratio}"].harm <= by_name[f"svd-{ratio}"].harm


def test_costs_are_bytes(bench: Any, space: Space) -> None:
    shapes = bench.anatomy.stack("encoder").shapes
    for name, options in factor_options(space, bench).items():
        shape = shapes[name.rpartition(".")[2]]
        for option in options[1:]:
            factors = Way.parse(option.name).of(shape)
            assert option.cost == 3 * part_bytes(shape, Treatment(factors=factors))
        assert options[0].cost == 3 * 4 * shape[0] * shape[1]


def test_allocated_choices_are_legal_and_as_small_as_asked(bench: Any, space: Space) -> None:
    options = factor_options(space, bench)
    choices = allocated_layers(space, options)
    assert len(choices) == len(LAYER_RATIOS)
    whole, harms = sum(found[0].cost for found in options.values()), []
    for choice, ratio in zip(choices, LAYER_RATIOS, strict=True):
        space.resolve(choice, bench)
        taken = [option for name, found in options.items() for option in found if option.name == choice[name]]
        assert sum(option.cost for option in taken) <= whole / ratio
        harms.append(sum(option.harm for option in taken))
    assert harms == sorted(harms)


def test_searches_start_with_them(bench: Any, space: Space) -> None:
    starts = starting_choices(space, hints_of(space, bench))
    assert starts[0] == space.identity()
    assert all(choice in starts for choice in allocated_layers(space, factor_options(space, bench)))
    both = Space(bench.anatomy, ("factors", "bits"))
    int8 = [
        choice for choice in starting_choices(both, hints_of(both, bench)) if choice["bits.encoder.0.query"] == "w8a8"
    ]
    assert any(choice["factors.encoder.query"] != WHOLE for choice in int8)
