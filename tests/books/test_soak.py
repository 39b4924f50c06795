"""Some seconds of what `make soak` does for twenty minutes: every fault at once, and the books still balance."""

import os
import random

from benchmarks.soak import Soak

SEED = int(os.environ.get("SOAK_SEED", "20261128"))
ROWS = 1_000


def test_in_any_weather_each_row_ends_once_and_the_books_agree_with_the_bill(rig):
    print(f"SOAK_SEED={SEED}")  # pytest shows it, and the weather, where the test fails
    soak = Soak(rig, random.Random(SEED), longest_secs=1.0, say=print)
    found = soak.round(ROWS, "--max_in_flight=128", "--request_timeout_secs=2", secs=4.0)
    assert found.problems == [], found
    assert found.answered + sum(found.failed.values()) == ROWS
    assert found.fronts > 0
    assert soak.clear() == []
