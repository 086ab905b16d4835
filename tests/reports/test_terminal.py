from collections.abc import Callable

import pytest
from rich.console import Console

from paring.reports.front import Front, Point
from paring.reports.tables import in_short, render
from paring.reports.terminal import plot
from paring.spaces.factorisation import Factorisation
from paring.spaces.plan import Layer, Plan, Slot, Stack, Treatment, Treatments
from paring.spaces.precision import Precision

MakePoint = Callable[..., Point]
MakeFront = Callable[..., Front]
# Where signs begin, and how many rows there are.
LEFT, ROWS = 12, 12


@pytest.fixture
def front(make_point: MakePoint, make_front: MakeFront) -> Front:
    """20 ms at 0.9, 10 ms at 0.86 and 0 ms, nearly, at 0.82."""
    members = (make_point(1, quality=0.86, ratio=0.5), make_point(2, quality=0.82, ratio=0.0001, noise=0))
    return make_front(make_point(), make_point(), *members)


def signs_of(text: str) -> dict[str, list[tuple[int, int]]]:
    """Sign -> row and column of each, counted from the upper left."""
    found: dict[str, list[tuple[int, int]]] = {}
    for row, line in enumerate(text.splitlines()[1 : 1 + ROWS]):
        for column, sign in enumerate(line[LEFT:]):
            if sign != " ":
                found.setdefault(sign, []).append((row, column))
    return found


def test_every_candidate_stands_where_its_numbers_are(front: Front) -> None:
    text = plot(front, None, 54).plain
    columns = 54 - LEFT - 1
    assert signs_of(text) == {"x": [(0, columns - 1)], "o": [(5, columns // 2), (ROWS - 1, 0)]}
    lines = text.splitlines()
    assert lines[0] == "accuracy"
    assert lines[1].startswith("    0.9000 |") and lines[ROWS].startswith("    0.8200 |")
    assert lines[ROWS + 2].split() == ["0.00", "20.00"]
    assert lines[ROWS + 3].strip() == "latency of one request, ms"


def test_the_pick_is_drawn_over_what_it_is(front: Front) -> None:
    assert signs_of(plot(front, front.members[1], 54).plain)["@"] == [(5, 20)]
    assert "@" in signs_of(plot(front, front.baseline, 54).plain)
    assert "x" not in signs_of(plot(front, front.baseline, 54).plain)


@pytest.mark.parametrize("width", [45, 60, 80, 200])
def test_it_keeps_to_the_width(front: Front, width: int) -> None:
    console = Console(width=width)
    with console.capture() as captured:
        console.print(plot(front, None, width))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= min(width, 90)
    assert len(lines) <= ROWS + 6


def test_one_candidate_alone_stands_in_the_middle(make_point: MakePoint, make_front: MakeFront) -> None:
    text = plot(make_front(make_point(), make_point()), None, 54).plain
    assert signs_of(text) == {"x": [(ROWS - 1 - ROWS // 2, 41 // 2)]}


def test_what_nobody_would_deploy_presses_nothing_together(
    front: Front, make_point: MakePoint, make_front: MakeFront
) -> None:
    bad, worse = make_point(3, quality=0.8, ratio=0.4), make_point(4, quality=0.1, ratio=0.1)
    crowded = make_front(front.baseline, *front.members, bad, worse)
    text = plot(crowded, None, 54).plain
    assert signs_of(text) == signs_of(plot(front, None, 54).plain)
    assert text.endswith("  2 of lower accuracy are not drawn\n")
    assert "    0.8000 |" in plot(crowded, bad, 54).plain and "  1 of lower" in plot(crowded, bad, 54).plain
    alone = plot(make_front(front.baseline, front.baseline, bad, worse), None, 54).plain
    assert "    0.1000 |" in alone and "not drawn" not in alone


def test_a_log_likelihood_is_drawn_whole(make_point: MakePoint, make_front: MakeFront) -> None:
    base = make_point(quality=-1.5)
    text = plot(make_front(base, base, make_point(1, quality=-4.0, ratio=0.5)), None, 54).plain
    assert "   -1.5000 |" in text and "   -4.0000 |" in text


def test_a_plan_in_short() -> None:
    def parts(**bits: str) -> Treatments:
        return Treatments.of({kind: Treatment(precision=Precision.parse(text)) for kind, text in bits.items()})

    slot = Slot(Layer(0), parts(query="w8a8", key="w8a8", value="w4-1x64"))
    encoder = Stack(
        "encoder",
        (slot, Slot(None), Slot(Layer(2), Treatments.of({"query": Treatment(factors=Factorisation("svd", 8))}))),
    )
    tables = parts(embeddings="w8", pooler="w8", positions="w4-1x64")
    assert in_short(Plan((encoder,), tables)) == (
        "2/3 layers (without 1), svd-8 on 1, w4-1x64 on 1, w8a8 on 2; tables w4-1x64 w8"
    )
    decoder = Stack("decoder", (Slot(Layer(0)), Slot(Layer(1, 2))))
    assert in_short(Plan((Stack("encoder", (Slot(Layer(0)),)), decoder), weights="tuned-1")) == (
        "encoder 1/1 layers; decoder 0 m2.1; weights tuned-1"
    )


def test_without_latencies_size_is_drawn(make_point: MakePoint, make_front: MakeFront) -> None:
    base, light = make_point(ratio=None), make_point(1, quality=0.85, ratio=None, size=50_000_000)
    text = plot(make_front(base, base, light, objectives=("quality", "size")), None, 54).plain
    assert "stored, MB" in text and "50.00" in text and "100.00" in text


@pytest.mark.parametrize("width", [80, 100, 160])
def test_no_number_of_the_table_is_broken(front: Front, width: int) -> None:
    lines = render(front, "table", console=Console(width=width)).splitlines()
    assert max(map(len, lines)) <= width
    for point in front.points:
        assert sum(f" {point.measures.quality:.4f} " in line for line in lines) == 1
    assert ("MB peak" in lines[1] + lines[2]) is (width > 120)


def test_names_are_no_markup(make_point: MakePoint, make_front: MakeFront) -> None:
    base = make_point()
    plan = base.plan.__class__(base.plan.stacks, base.plan.outside, "[/b] \"'😀 שלום [red]x")
    odd = Point(plan, base.quality, base.profile, base.measures, None, None, is_baseline=False)
    assert "[/b]" in render(make_front(base, base, odd), "table", console=Console(width=160))
