from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedModel

from paring.errors import SettingError
from paring.spaces.axes import Parameter
from paring.spaces.space import Space
from paring.spaces.workbench import Workbench


@pytest.fixture
def bench(make_model: Callable[..., PreTrainedModel], make_bench: Callable[[PreTrainedModel], Workbench]) -> Workbench:
    return make_bench(make_model("bert"))


def test_size_is_the_number_of_choices(bench: Workbench) -> None:
    bits = 3 ** (3 * 6) * 4 ** len(("embeddings", "positions", "token_types", "pooler"))
    assert Space(bench.anatomy, ["depth"]).size == 3
    assert Space(bench.anatomy, ["bits"]).size == bits
    assert Space(bench.anatomy, ["depth", "bits"]).size == 3 * bits


def test_uniform_choices_by_hand(bench: Workbench) -> None:
    """Two axes of three levels, one of them with a parameter that has only two; gentlest first."""
    space = Space(bench.anatomy, ["depth", "bits"])
    coarse = (Parameter("bits.x", ("float", "int8", "int4")), Parameter("bits.y", ("float", "int8")))
    space.parameters = {"depth": (Parameter("depth.x", (0, 1, 2)),), "bits": coarse}
    seen = [tuple(choice.values()) for choice in space.uniform_choices()]
    none, half, full = ("float", "float"), ("int8", "int8"), ("int4", "int8")
    assert seen[:1] == [(0, *none)]
    assert set(seen[1:3]) == {(0, *half), (1, *none)}
    assert set(seen[3:6]) == {(0, *full), (1, *half), (2, *none)}
    assert set(seen[6:8]) == {(1, *full), (2, *half)}
    assert seen[8:] == [(2, *full)]


@pytest.mark.parametrize("chosen", [["depth"], ["bits"], ["depth", "bits"]])
def test_uniform_choices_are_distinct_and_legal(bench: Workbench, chosen: list[str]) -> None:
    space = Space(bench.anatomy, chosen)
    choices = space.uniform_choices()
    assert choices[0] == space.identity()
    assert all(list(choice) == [parameter.name for parameter in space] for choice in choices)
    assert len({space.resolve(choice, bench) for choice in choices}) == len(choices)


@pytest.mark.parametrize("value", [3, -1, "1", None, "int8", 0.5])
def test_an_illegal_value_is_refused(bench: Workbench, value: Any) -> None:
    space = Space(bench.anatomy, ["depth"])
    with pytest.raises(SettingError, match=r"depth\.encoder must be one of 0, 1, 2"):
        space.resolve({"depth.encoder": value}, bench)


def test_a_missing_value_is_refused(bench: Workbench) -> None:
    space = Space(bench.anatomy, ["depth", "bits"])
    choice = space.identity()
    del choice["bits.encoder.1.key"]
    with pytest.raises(SettingError, match=r"bits\.encoder\.1\.key must be one of float, w8a8, w4a8"):
        space.resolve(choice, bench)


@pytest.mark.parametrize("chosen", [["depth", "bits"], ["bits", "depth"], ["bits", "depth", "bits"]])
def test_axes_keep_their_order(bench: Workbench, chosen: list[str]) -> None:
    space = Space(bench.anatomy, iter(chosen))
    assert space.axes == ("depth", "bits")
    assert [parameter.name for parameter in space][:2] == ["depth.encoder", "bits.encoder.0.query"]
    choice = {parameter.name: parameter.choices[-1] for parameter in space}
    (slot,) = (slot for slot in space.resolve(choice, bench).stack("encoder").slots if slot.layer)
    assert len(slot.treatments.items) == 6


def test_axes_compose_in_one_plan(bench: Workbench) -> None:
    space = Space(bench.anatomy, ["depth", "bits"])
    choice = {**space.identity(), "depth.encoder": 1, "bits.encoder.0.key": "w8a8", "bits.encoder.1.key": "w8a8"}
    plan = space.resolve(choice, bench)
    assert str(plan) == "encoder 2/3 layers (without 1), w8a8 on 1 Linears"
    assert plan == space.resolve({**choice, "bits.encoder.1.key": "float"}, bench)


def test_unknown_axis_comes_with_a_hint(bench: Workbench) -> None:
    with pytest.raises(SettingError, match=r"unknown axis 'dept'.*bits, depth.*Did you mean 'depth'\?"):
        Space(bench.anatomy, ["bits", "dept"])


def test_no_axis_is_refused(bench: Workbench) -> None:
    with pytest.raises(SettingError, match=r"at least one axis.*depth, factors, bits"):
        Space(bench.anatomy, [])
