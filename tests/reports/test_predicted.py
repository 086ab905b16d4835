"""Reports tell what was predicted from what was measured."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from paring.profilers.estimates import PredictedLatency
from paring.reports.front import front_of
from paring.reports.front_table import row_of, table_of
from paring.reports.page import write_report
from paring.reports.tables import render
from paring.search.objectives import Limits
from paring.search.study import Record
from paring.search.trial import Final

MakeFinal = Callable[..., Final]
MakeRecord = Callable[..., Record]
BASELINE_MS = 20.0


def predicted(final: Final, ratio: float) -> Final:
    """The same candidate as a search that predicts saw it."""
    guess = PredictedLatency(ratio, ratio - 0.02, ratio + 0.02)
    measures = replace(final.measures, latency_seconds=ratio * BASELINE_MS / 1e3)
    return replace(final, profile=replace(final.profile, latency=guess), measures=measures)


def test_what_was_only_predicted_is_marked(make_final: MakeFinal, make_record: MakeRecord) -> None:
    record = make_record(make_final(), predicted(make_final(1), 0.8))
    record.set_prediction({"plans": 48, "seconds": 61.0, "latency_error": 0.021, "memory_error": None})
    text = render(front_of(record), "table")
    assert "~16.00" in text
    assert "~20.00" not in text
    page = write_report(record).read_text(encoding="utf8")
    assert "~16.00" in page
    assert "predicted from 48 models measured in 61 s" in page
    assert "mean error of 2.1 %." in page


def test_a_front_measured_whole_shows_predicted_beside_measured(make_final: MakeFinal, make_record: MakeRecord) -> None:
    searched = [make_final(), predicted(make_final(1), 0.8), predicted(make_final(1, 2), 0.6)]
    finals = (make_final(), make_final(1, ratio=0.84), make_final(1, 2, ratio=0.6, quality=0.88))
    record = make_record(*searched, finals=finals)
    record.set_prediction({"plans": 48, "seconds": 61.0, "latency_error": 0.021, "memory_error": 0.004})
    front = front_of(record)
    table = table_of(front)
    assert table["latency_ms"].tolist() == pytest.approx([16.8, 12.0])
    assert table["predicted_ms"].tolist() == pytest.approx([16.0, 12.0])
    assert "predicted_ms" not in row_of(front.baseline, front.baseline)
    page = write_report(record).read_text(encoding="utf8")
    assert "(predicted 16.00)" in page
    assert "predicted latencies were off by 2.4 % on average" in page


def test_a_front_nobody_predicted_has_no_such_column(make_final: MakeFinal, make_record: MakeRecord) -> None:
    record = make_record(make_final(), make_final(1, ratio=0.8), finals=(make_final(), make_final(1, ratio=0.8)))
    assert "predicted_ms" not in table_of(front_of(record)).columns
    assert (
        "predicted"
        not in write_report(record).read_text(encoding="utf8").partition("</style>")[2].partition("<script")[0]
    )


def test_the_budget_is_kept_by_what_was_measured(make_final: MakeFinal, make_record: MakeRecord) -> None:
    limits = Limits(latency_seconds=0.012)
    over, under = make_final(1, ratio=0.63, quality=0.89), make_final(2, ratio=0.58, quality=0.89)
    record = make_record(
        make_final(), predicted(over, 0.59), predicted(under, 0.61), finals=(make_final(), over, under), limits=limits
    )
    assert [str(point.plan) for point in front_of(record).members] == [str(under.plan)]


def test_why_nothing_was_predicted_is_said(make_final: MakeFinal, make_record: MakeRecord) -> None:
    record = make_record(make_final(), make_final(1, ratio=0.8))
    record.set_prediction({"refused": "the table could not be learned: no memory."})
    page = write_report(record).read_text(encoding="utf8")
    assert "Every candidate was measured: the table could not be learned: no memory." in page
