"""Sizes for a ratio: the table of the paper's formulas, what is really stored, and what is refused."""

import pytest

from paring.errors import SettingError
from paring.spaces.factor_sizes import METHODS, check_size, size_for, stored_numbers

# Rank, linear and non-linear latent size at the ratios 3, 5, 10 and 25, from the paper's formulas.
TABLE = {
    (768, 768): "128/127/45 76/75/28 38/37/14 15/14/5",
    (9216, 768): "236/235/168 141/140/105 70/69/54 28/27/21",
    (3072, 768): "204/203/108 122/121/68 61/60/35 24/23/14",
    (36864, 768): "250/249/222 150/149/136 75/74/68 30/29/27",
    (768, 3072): "204/203/57 122/121/34 61/60/17 24/23/6",
    (9216, 3072): "768/767/373 460/459/236 230/229/123 92/91/50",
    (30522, 768): "249/248/217 149/148/133 74/73/67 29/28/26",
}
# What the authors' own code chose for the stacks of a 6-layer model 384 wide: svd, linear, non-linear.
RUNS = {
    (2304, 384, 3): (109, 108, 64),
    (2304, 384, 10): (32, 31, 21),
    (384, 384, 3): (64, 63, 22),
    (9216, 384, 5): (73, 72, 61),
    (2304, 1536, 10): (92, 91, 39),
}


@pytest.mark.parametrize(("shape", "row"), TABLE.items())
def test_the_table_of_the_paper(shape: tuple[int, int], row: str) -> None:
    for ratio, sizes in zip((3, 5, 10, 25), row.split(), strict=True):
        got = [size_for(method, *shape, ratio) for method in ("svd", "linear_autoencoder", "autoencoder")]
        assert "/".join(map(str, got)) == sizes


@pytest.mark.parametrize(("stack", "sizes"), RUNS.items())
def test_the_sizes_of_the_authors_runs(stack: tuple[int, int, float], sizes: tuple[int, ...]) -> None:
    assert tuple(size_for(method, *stack) for method in ("svd", "linear_autoencoder", "autoencoder")) == sizes


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ratio", [1.5, 2, 3.3, 10])
def test_what_is_stored_is_at_most_what_the_ratio_allows_and_nearly_all_of_it(method: str, ratio: float) -> None:
    rows, columns = 2304, 384
    size = size_for(method, rows, columns, ratio)
    assert stored_numbers(method, rows, columns, size) <= rows * columns / ratio
    assert stored_numbers(method, rows, columns, size + 1) + size > rows * columns / ratio


def test_the_numbers_of_a_decoder_and_its_latents() -> None:
    assert stored_numbers("svd", 10, 7, 2) == 10 * 2 + 2 * 7
    assert stored_numbers("linear_autoencoder", 10, 7, 2) == 10 * 2 + 10 + (2 * 7 + 7)
    assert stored_numbers("autoencoder", 10, 7, 2) == 10 * 2 + 10 + (2 * 4 + 4) + (4 * 8 + 8) + (8 * 7 + 7)


def test_a_decimal_ratio_means_what_is_written() -> None:
    """1.1 as a float is a little more than 11/10, and 100 * 121 / (1.1 * 221) would fall short of a whole rank."""
    assert size_for("svd", 110, 110, 1.1) == 50


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("ratio", [0, -2.0, 0.01, 1e6, float("inf"), float("nan")])
def test_ratios_that_leave_no_size_are_refused(method: str, ratio: float) -> None:
    with pytest.raises(SettingError, match=r"Legal ratios are 0\.\d+ to \d+"):
        size_for(method, 768, 768, ratio)


@pytest.mark.parametrize("size", [0, -1, 8])
def test_sizes_beyond_the_smaller_side_are_refused(size: int) -> None:
    with pytest.raises(SettingError, match=rf"from 1 to 7, the smaller side of the 30 x 7 stack, got {size};"):
        check_size("svd", 30, 7, size)


def test_unknown_methods_are_refused_by_name() -> None:
    with pytest.raises(SettingError, match="Did you mean 'fisher'"):
        size_for("fischer", 8, 8, 2)
