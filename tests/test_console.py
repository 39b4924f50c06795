"""What a person reads."""

import pytest

from pipeline.console import Snapshot, duration, progress_line, summary


def test_the_summary_has_exactly_the_documented_form():
    assert (
        summary(990, 10, "r1", ["already answered 0"])
        == "rows 1,000 = answered 990 + failed 10 (already answered 0) | run r1"
    )
    assert summary(1, 0, "r", ["already answered 2", "over budget 3"]).endswith(
        "(already answered 2, over budget 3) | run r"
    )


def test_the_progress_line_projects_cost_and_time():
    line = progress_line(Snapshot(answered=90, failed=10, in_flight=5, tokens=1000, cost_usd=0.5), 200, 10.0)
    assert "100/200 rows | 10/s | 5 in flight" in line
    assert "$0.5000 of ~$1.00 | 10 failed | ETA 10 s" in line


@pytest.mark.parametrize(
    ("secs", "text"),
    [(8.4, "8 s"), (200, "3 min 20 s"), (3600, "1 h"), (18600, "5 h 10 min"), (187200, "2 d 4 h")],
)
def test_durations_are_said_as_people_say_them(secs, text):
    assert duration(secs) == text
