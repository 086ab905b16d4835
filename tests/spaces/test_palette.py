import pytest

from paring.errors import SettingError
from paring.spaces.palette import DEFAULT_PALETTE, Palette
from paring.spaces.precision import Precision

A8, W8, W8A8 = Precision(None, 8), Precision(8), Precision(8, 8)


@pytest.mark.parametrize(
    "palette",
    [
        DEFAULT_PALETTE,
        Palette((), (), (A8,), "min_max"),
        Palette(intermediates=(A8,), kinds=("scores", "norms")),
        Palette((W8A8, Precision(16, 16)), (Precision(3, None, (1, 32)),)),
    ],
)
def test_json_round_trip(palette: Palette) -> None:
    assert Palette.from_json(palette.to_json()) == palette


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"linears": (A8,)}, "bits of weights, got a8"),
        ({"tables": (W8A8,)}, "like 'w8'"),
        ({"tables": (Precision(16),)}, "like 'w8'"),
        ({"intermediates": (W8A8,)}, "like 'a8'"),
        ({"linears": (W8, W8)}, "once"),
        ({"calibration": "max"}, "least_error, min_max, percentile"),
        ({"intermediates": (A8,), "kinds": ("attention",)}, "attention.*scores"),
        ({"kinds": ("scores",)}, "give 'a8'"),
    ],
)
def test_refuses(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Palette(**settings)


def test_kinds_narrow_what_may_be_chosen() -> None:
    every = ("scores", "softmax", "norms")
    assert DEFAULT_PALETTE.between(every) == ()
    assert Palette(intermediates=(A8,)).between(every) == every
    assert Palette(intermediates=(A8,), kinds=("norms", "scores")).between(every) == ("scores", "norms")
