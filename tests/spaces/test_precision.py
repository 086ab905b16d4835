import pytest

from paring.errors import PlanError
from paring.spaces.precision import Precision

BLOCKS = ((1, None), (64, 64), (1, 32), (64, None), (3, 5))
LEGAL = [
    *(Precision(w, a, block, p) for w in range(2, 9) for a in (None, *range(2, 9)) for block in BLOCKS for p in (0, 1)),
    *(Precision(None, a) for a in range(2, 9)),
    Precision(16),
    Precision(16, 16),
]


def test_text_round_trip() -> None:
    assert [Precision.parse(str(precision)) for precision in LEGAL] == LEGAL
    assert len({str(precision) for precision in LEGAL}) == len(LEGAL)


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        ("w4a8", Precision(4, 8)),
        ("w8", Precision(8)),
        ("w4a8-64x64-pow2", Precision(4, 8, (64, 64), power_of_two=True)),
        ("w3-1x32", Precision(3, None, (1, 32))),
        ("w8-64xall", Precision(8, None, (64, None))),
        ("w4-pow2", Precision(4, power_of_two=True)),
        ("w16a16", Precision(16, 16)),
        ("a8", Precision(None, 8)),
    ],
)
def test_texts_mean_what_they_say(text: str, precision: Precision) -> None:
    assert Precision.parse(text) == precision
    assert str(precision) == text


@pytest.mark.parametrize(
    "text",
    [
        *("", "8", "w", "w8a", "w1", "w9", "w8a9", "w8 a8", "int8"),  # no bits, or wrong ones
        *("a16", "w8a16", "w16a8"),  # bfloat16 meets integers
        *("w16-1x32", "w16-pow2", "a8-1x32", "a8-pow2", "-1x32", "-pow2"),  # blocks of what has none
        *("w4-0x4", "w4-4x0", "w4-allx4", "w4-4", "w4pow2", "w4-pow2-1x32"),
    ],
)
def test_refuses(text: str) -> None:
    with pytest.raises(PlanError):
        Precision.parse(text)
