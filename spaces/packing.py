"""Codes of 2 to 8 bits, really packed: eight codes of b bits take b bytes."""

import torch
from torch import Tensor

from ..errors import PlanError

_GROUP = 8


def packed_width(columns: int, bits: int) -> int:
    """Bytes of a packed row: rows end on whole groups of eight codes, so that one row can be read by itself."""
    return columns if bits == 8 else -(-columns // _GROUP) * bits


def pack(codes: Tensor, bits: int) -> Tensor:
    """Packs every row.

    Args:
        codes: ... x columns, integers from 0 to 2^bits - 1.
        bits: 2 to 8.

    Returns:
        ... x `packed_width`, uint8: each group of eight codes is one little-endian number of 8 x bits bits, the first
        code lowest.

    Raises:
        PlanError: if a code does not fit.
    """
    if codes.numel() and not (int(codes.min()) >= 0 and int(codes.max()) < 2**bits):
        raise PlanError(f"codes of {bits} bits are 0 to {2**bits - 1}, got {int(codes.min())} to {int(codes.max())}.")
    if bits == 8:
        return codes.to(torch.uint8)
    *lead, columns = codes.shape
    padded = torch.nn.functional.pad(codes, (0, -columns % _GROUP)).long()
    groups = padded.view(*lead, -1, _GROUP) << _shifts(bits, _GROUP, codes.device)
    octets = (groups.sum(-1, keepdim=True) >> _shifts(8, bits, codes.device)) & 0xFF
    return octets.to(torch.uint8).view(*lead, -1)


def unpack(packed: Tensor, bits: int, columns: int) -> Tensor:
    """The inverse of `pack`.

    Args:
        packed: ... x `packed_width`, uint8.
        bits: 2 to 8.
        columns: how many codes a row has.

    Returns:
        ... x columns, uint8.
    """
    if bits == 8:
        return packed
    *lead, _ = packed.shape
    mask = 2**bits - 1
    if 8 % bits == 0:
        fields = [(packed >> shift) & mask for shift in range(0, 8, bits)]
    else:
        fields = []
        octets = packed.reshape(-1, bits).t().contiguous()
        for code in range(_GROUP):
            octet, shift = divmod(bits * code, 8)
            field = octets[octet] >> shift
            if shift + bits > 8:  # the rest of it is in the next octet; what is not of it falls off
                field |= octets[octet + 1] << (8 - shift)
            fields.append(field & mask)
    return torch.stack(fields, dim=-1).view(*lead, -1).narrow(-1, 0, columns)


def _shifts(step: int, count: int, device: torch.device) -> Tensor:
    return torch.arange(0, step * count, step, device=device)
