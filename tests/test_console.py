"""What a person reads."""

import pytest

from pipeline.console import count, dollars, duration, summary


def test_the_summary_has_exactly_the_documented_form():
    assert (
        summary(990, 10, "r1", ["already answered 0"])
        == "rows 1,000 = answered 990 + failed 10 (already answered 0) | run r1"
    )
    assert summary(1, 0, "r", ["already answered 2", "over budget 3"]).endswith(
        "(already answered 2, over budget 3) | run r"
    )


@pytest.mark.parametrize(
    ("secs", "text"),
    [(8.4, "8 s"), (200, "3 min 20 s"), (3600, "1 h"), (18600, "5 h 10 min"), (187200, "2 d 4 h")],
)
def test_durations_are_said_as_people_say_them(secs, text):
    assert duration(secs) == text


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0"), (950, "950"), (1000, "1.00 k"), (12_345, "12.3 k"), (4_100_000, "4.10 M"), (1_234_567_890, "1,235 M")],
)
def test_large_numbers_are_said_in_three_digits(number, text):
    assert count(number) == text


def test_dollars_have_the_decimals_that_tell_something():
    assert (dollars(0.00041), dollars(12.345), dollars(1234)) == ("$0.0004", "$12.35", "$1,234.00")
