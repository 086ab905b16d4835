"""The modules that carry quantised numbers, against numpy."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers.models.bart.modeling_bart import BartScaledWordEmbedding

from paring.errors import PlanError
from paring.spaces.blocks import quantise
from paring.spaces.precision import Precision
from paring.spaces.quantised import (
    BFloat16Linear,
    QuantEmbedding,
    QuantLinear,
    recalled,
    remembered,
    restore,
    store,
)
from paring.spaces.ranges import affine_range

STORED = ["w8", "w4", "w4-64x64-pow2", "w3-1x32", "w2-5x3", "w7-3xall-pow2", "w5-1x7"]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("text", STORED)
def test_embedding_is_a_look_up_in_the_dequantised_table(text: str) -> None:
    table = nn.Embedding.from_pretrained(normal(50, 40), padding_idx=0)
    before = table.weight.clone()
    quantised = QuantEmbedding(table, Precision.parse(text))
    ids = torch.tensor([[0, 3, 49], [3, 3, 7]])
    assert torch.equal(quantised(ids), quantise(before, Precision.parse(text)).dense()[ids])
    assert torch.equal(quantised(ids[0, 0]), quantised(ids)[0, 0])
    assert torch.equal(table.weight, before)
    assert quantised.padding_idx == 0


def test_scaled_embedding_scales_what_it_looked_up() -> None:
    table = BartScaledWordEmbedding(50, 8, 0, embed_scale=3.3)
    ids = torch.tensor([[0, 3, 49]])
    expected = quantise(table.weight, Precision(8)).dense()[ids] * 3.3
    assert torch.equal(QuantEmbedding(table, Precision(8))(ids), expected)


@pytest.mark.parametrize("text", STORED)
def test_a_table_and_an_output_share_their_rows(text: str) -> None:
    precision = Precision.parse(text)
    table, output = nn.Embedding(50, 40), nn.Linear(40, 50)
    stored = store(quantise(table.weight, precision))
    one = QuantEmbedding(table, precision, stored=stored)
    other = QuantLinear(output, precision, input_range=None, stored=stored)
    assert one.codes is other.codes is stored[0]
    assert one.scale is other.scale is stored[1]
    torch.testing.assert_close(other(torch.eye(40)), one(torch.arange(50)).T + output.bias)


def test_embedding_has_no_inputs_to_quantise() -> None:
    with pytest.raises(PlanError, match="use w8"):
        QuantEmbedding(nn.Embedding(3, 2), Precision(8, 8))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("text", [*STORED, "w8a8", "w4a6", "w2a2", "w4a8-64x64-pow2"])
def test_linear_equals_numpy(text: str, bias: bool) -> None:
    torch.manual_seed(0)
    precision = Precision.parse(text)
    linear = nn.Linear(40, 70, bias=bias)
    before = linear.weight.clone()
    inputs = normal(2, 3, 40) * 3
    seen, found, bits = inputs.double().numpy(), None, precision.activation_bits
    if bits is not None:
        found = affine_range(inputs * 0.7, bits)
        seen = (np.clip(np.rint(seen / found[0]) + found[1], 0, 2**bits - 1) - found[1]) * found[0]
    expected = seen @ quantise(before, precision).dense().double().numpy().T
    if linear.bias is not None:
        expected = expected + linear.bias.detach().double().numpy()
    got = QuantLinear(linear, precision, input_range=found)(inputs)
    assert got.shape == (2, 3, 70)
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(linear.weight, before)


@pytest.mark.parametrize("text", STORED)
def test_what_has_no_data_has_the_shapes_of_what_has(text: str) -> None:
    linear, table = nn.Linear(40, 70), nn.Embedding(70, 40)
    precision = Precision.parse(text)
    pairs = (
        (QuantLinear(linear, precision, input_range=None), QuantLinear(linear.to("meta"), precision, input_range=None)),
        (QuantEmbedding(table, precision), QuantEmbedding(table.to("meta"), precision)),
    )
    for real, empty in pairs:
        of_real = {name: (tensor.shape, tensor.dtype) for name, tensor in real.state_dict().items()}
        assert of_real == {name: (tensor.shape, tensor.dtype) for name, tensor in empty.state_dict().items()}
        assert all(tensor.is_meta for tensor in empty.state_dict().values())


def test_linear_without_a_range_is_refused() -> None:
    with pytest.raises(PlanError, match="8 bits need a calibrated range"):
        QuantLinear(nn.Linear(2, 2), Precision(8, 8), input_range=None)


def test_range_of_next_to_nothing_survives_float32() -> None:
    """The scale is stored as float32, where it must still be positive."""
    linear = QuantLinear(nn.Linear(4, 2), Precision(8, 8), input_range=affine_range(torch.full((4,), 1e-42), 8))
    assert linear.input_scale is not None
    assert float(linear.input_scale) > 0


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("text", ["w16", "w16a16"])
def test_bfloat16_rounds_weights_and_where_asked_inputs(text: str, bias: bool) -> None:
    linear, inputs = nn.Linear(40, 70, bias=bias), normal(3, 40)
    seen = inputs.to(torch.bfloat16).double() if text == "w16a16" else inputs.double()
    expected = seen @ linear.weight.to(torch.bfloat16).double().T + (linear.bias.double() if bias else 0)
    got = BFloat16Linear(linear, Precision.parse(text))
    torch.testing.assert_close(got(inputs).double(), expected, rtol=1e-5, atol=1e-5)
    assert got.rounded.nbytes == linear.weight.nbytes // 2


@pytest.mark.parametrize("text", ["w8", "w4-1x16", "w3-16x16-pow2", "w2"])
def test_what_is_stored_or_remembered_comes_back(text: str) -> None:
    quantised = quantise(torch.randn(5, 37), Precision.parse(text))
    stored = recalled(remembered(quantised))
    assert stored is not None
    assert all(torch.equal(kept, one) for kept, one in zip(stored, store(quantised), strict=True))
    found = restore(stored, quantised.precision, 37)
    assert torch.equal(found.integers, quantised.integers) and torch.equal(found.scale, quantised.scale)
    assert recalled({"scale": torch.tensor(1.0)}) is None
