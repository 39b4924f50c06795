"""Some seconds of what `make soak` does for twenty minutes: every fault at once, and the books still balance."""

import os
import random

from benchmarks.soak import Soak

SEED = int(os.environ.get("SOAK_SEED", "20261128"))


def test_in_any_weather_each_row_ends_once_and_the_books_agree_with_the_bill(rig):
    print(f"seed {SEED}")  # pytest shows it where the test fails
    soak = Soak(rig, random.Random(SEED), longest_secs=1.0, say=print)
    found = soak.round(1500, "--max_in_flight=128", "--request_timeout_secs=2", secs=6.0)
    assert found.problems == [], found
    assert found.answered + sum(found.failed.values()) == 1500
    assert found.fronts > 0
    assert soak.clear() == []
