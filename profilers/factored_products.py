"""Factorised Linears as a runtime runs them: two products where that is quicker, else one of the dense weight.

Whether it is quicker depends on the shape, the runtime, the device and its threads, so it is measured: once for every
shape on a machine, on a nominal request of 128 tokens. What a decoder gives is made dense in any case: that is smaller
on the disk, and no quicker.
"""

from collections.abc import Callable, Hashable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor, nn

from ..errors import SettingError
from ..spaces.factored import DecodedLinear, FactoredLinear
from . import devices, kept
from .machine import Machine
from .timing import Effort, measure

# Matrices, out x in each, in the order in which inputs go through them -> what multiplies rows x in with all of them.
MakeProducts = Callable[[Sequence[Tensor]], Callable[[Tensor], object]]
Pays = Callable[[int, int, int], bool]

# What these are called among the facts kept of a machine.
PRODUCTS = "products"
_TOKENS = 128
# Two products must be quicker by so much, so that a chance reading does not decide.
_MARGIN = 0.97
_EFFORT = Effort(seconds=0.15, half_width=0.03, min_rounds=9, max_rounds=60)
_CALLS = 4
_known: dict[Hashable, bool] = {}


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of the factorised Linears of a model.

    Attributes:
        asked: "factors" or "decoder" for each of them, as in `kernels_text`.
        ran: "factors" for each that stays two products. A decoder is never run in a request.
    """

    asked: tuple[str, ...] = ()
    ran: tuple[str, ...] = ()


def settle(model: nn.Module, pays: Pays) -> Settled:
    """Puts a dense Linear in place of every factorised one that is to run as such; the model is changed in place.

    Args:
        model: its factorised tables stay: only the rows looked up are multiplied, or decoded.
        pays: whether two products with a weight of this many rows, columns and this rank are quicker than one.
    """
    asked, ran = [], []
    done: dict[int, nn.Module] = {}
    # By name, since one module may stand at several places.
    for name, part in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(part, FactoredLinear | DecodedLinear):
            continue
        if id(part) not in done:
            done[id(part)] = _settled(part, pays)
            asked.append("factors" if isinstance(part, FactoredLinear) else "decoder")
            ran += ["factors"] if done[id(part)] is part else []
        model.set_submodule(name, done[id(part)])
    return Settled(tuple(asked), tuple(ran))


def _settled(part: FactoredLinear | DecodedLinear, pays: Pays) -> nn.Module:
    if isinstance(part, DecodedLinear):
        return part.expanded()
    # A product of quantised factors is not quantised, so those stay two.
    if not part.is_foldable or pays(part.out_features, part.in_features, part.inner_size):
        return part
    return part.folded() or part


def quicker_as_two(where: Sequence[Hashable], make: MakeProducts, rows: int, columns: int, rank: int) -> bool:
    """Whether two products with thin matrices are quicker than one with a dense one; measured once.

    Args:
        where: what the answer depends on beside the shape: runtime, device (the processor where none is named),
            threads.
        make: prepares products on that runtime.
        rows: of the dense weight.
        columns: of the dense weight.
        rank: what both thin ones share.
    """
    if rank * (rows + columns) >= rows * columns:
        return False
    key = (where, rows, columns, rank)
    if key not in _known:
        _known[key] = _looked_up(where, make, rows, columns, rank)
    return _known[key]


def _looked_up(where: Sequence[Hashable], make: MakeProducts, rows: int, columns: int, rank: int) -> bool:
    """What was measured on this machine before, or is now.

    A chance reading must not decide otherwise in the next process: sums of two products differ in their last bits from
    those of one, and judgements with them.
    """
    key = {"where": list(map(str, where)), "shape": [rows, columns, rank], "machine": _machine(where).fingerprint}
    known = kept.get(PRODUCTS, key)
    if known is None:
        known = _measured_ratio(make, rows, columns, rank) < _MARGIN
        kept.put(PRODUCTS, key, known)
    return bool(known)


def _machine(where: Sequence[Hashable]) -> Machine:
    """This machine, with the versions of the runtime and the facts of the device that `where` names."""
    versions, facts = dict[str, str](), dict[str, str]()
    with suppress(PackageNotFoundError):
        versions = {str(where[0]): version(str(where[0]))}
    named = next((part for part in where[1:] if isinstance(part, str)), "cpu")
    with suppress(SettingError):
        facts = dict(devices.find(named).facts())
    return Machine.here(named, facts, versions)


def _measured_ratio(make: MakeProducts, rows: int, columns: int, rank: int) -> float:
    """Seconds of two products over those of one."""
    generator = torch.Generator().manual_seed(0)

    def matrix(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    inputs = matrix(_TOKENS, columns)
    one, two = make([matrix(rows, columns)]), make([matrix(rank, columns), matrix(rows, rank)])

    def several(products: Callable[[Tensor], object]) -> Callable[[], None]:
        def call() -> None:
            for _ in range(_CALLS):
                products(inputs)

        return call

    found = measure({"one": several(one), "two": several(two)}, baseline="one", effort=_EFFORT)
    return found["two"].ratio
