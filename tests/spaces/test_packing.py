import numpy as np
import pytest
import torch

from paring.errors import PlanError
from paring.spaces.packing import pack, packed_width, unpack

BITS = range(2, 9)


@pytest.mark.parametrize("columns", [1, 7, 8, 9, 64, 385])
@pytest.mark.parametrize("bits", BITS)
def test_round_trip(bits: int, columns: int) -> None:
    codes = torch.randint(2**bits, (5, columns), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    packed = pack(codes, bits)
    assert packed.dtype == torch.uint8
    assert packed.shape == (5, packed_width(columns, bits))
    assert torch.equal(unpack(packed, bits, columns), codes)
    assert torch.equal(unpack(packed[2], bits, columns), codes[2])  # a row by itself


@pytest.mark.parametrize("bits", BITS)
def test_bits_lie_as_numpy_packs_them(bits: int) -> None:
    codes = np.random.default_rng(0).integers(2**bits, size=(3, 32)).astype(np.uint8)
    each = np.unpackbits(codes[..., None], axis=-1, bitorder="little")[..., :bits]
    expected = np.packbits(each.reshape(3, -1), axis=-1, bitorder="little")
    np.testing.assert_array_equal(pack(torch.from_numpy(codes), bits).numpy(), expected)


@pytest.mark.parametrize(("columns", "bits", "width"), [(384, 3, 144), (384, 4, 192), (8, 5, 5), (9, 5, 10), (9, 8, 9)])
def test_codes_take_their_bits(columns: int, bits: int, width: int) -> None:
    assert packed_width(columns, bits) == width


@pytest.mark.parametrize("code", [-1, 8])
def test_what_does_not_fit_is_refused(code: int) -> None:
    with pytest.raises(PlanError, match="0 to 7"):
        pack(torch.tensor([[0, code]]), 3)
