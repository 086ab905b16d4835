"""Workbenches for the tests of spaces."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from transformers import PreTrainedModel

from paring.spaces.palette import Palette
from paring.spaces.precision import Precision
from paring.spaces.workbench import Workbench


@pytest.fixture(scope="session")
def make_full_bench(make_bench: Callable[[PreTrainedModel], Workbench]) -> Callable[[PreTrainedModel], Workbench]:
    """New workbenches whose palette has precisions of intermediate results too."""

    def make(model: PreTrainedModel) -> Workbench:
        bench: Any = make_bench(model)
        bench.anatomy = replace(bench.anatomy, palette=Palette(intermediates=(Precision(None, 8),)))
        return bench

    return make


@pytest.fixture(scope="session")
def full_bench_of(
    make_model: Callable[..., PreTrainedModel], make_full_bench: Callable[[PreTrainedModel], Workbench]
) -> Callable[[str], Any]:
    """One such workbench per family, whose model nobody changes, so that it calibrates and rounds it once."""
    return cache(lambda family: make_full_bench(make_model(family)))
