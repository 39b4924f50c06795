"""Which rows go which way: the flags, the split, the budget's share, and the ranges of the worklist in files."""

from __future__ import annotations

import random

import pytest

from pipeline import ways
from pipeline.batch import flags
from pipeline.batch.division import Range, Round, divide, ranges
from pipeline.bigquery.worklist import Shard
from pipeline.errors import ConfigError
from pipeline.options import Options


@pytest.mark.parametrize(
    ("given", "rows", "hours", "batch"),
    [
        ({}, 10**6, None, 0),
        ({"mode": "batch"}, 5, None, 5),
        ({"mode": "auto"}, 9_999, None, 0),
        ({"mode": "auto"}, 10_000, None, 10_000),
        ({"mode": "auto"}, 10_000, 23.9, 0),
        ({"mode": "auto"}, 10_000, 24.0, 10_000),
        ({"mode": "auto"}, 1_000_000, 24.0, 800_000),  # 8 jobs of 100,000 in a day: the others are asked online
        ({"mode": "auto"}, 1_000_000, 47.9, 800_000),
        ({"mode": "auto"}, 1_000_000, 48.0, 1_000_000),
        ({"mode": "auto", "batch_jobs": 10}, 1_000_000, 24.0, 1_000_000),
        ({"mode": "auto", "batch_requests": 1000}, 1_000_000, 24.0, 0),  # so few in time that jobs are not worth it
        ({"mode": "auto", "images_per_request": 4}, 10_000, None, 0),
        ({"mode": "auto", "unit": "asset"}, 10_000, None, 0),
        ({"mode": "auto", "image_source": "inline"}, 10_000, None, 0),
        ({"mode": "auto", "service_tier": "priority"}, 10_000, None, 0),
    ],
)
def test_auto_asks_in_batch_jobs_what_they_do_in_time_unless_that_is_little(given, rows, hours, batch):
    assert ways.split(Options(**given), rows, hours) == ways.Split(rows - batch, batch)


@pytest.mark.parametrize(
    ("given", "rows", "left_usd", "affordable"),
    [
        ({}, 100_000, 10.0, 5_000),
        ({"mode": "batch"}, 100_000, 10.0, 10_000),
        ({"mode": "auto"}, 100_000, 20.0, 20_000),
        ({"mode": "auto"}, 100_000, 9.0, 4_500),  # 9,000 would be too few for a job, and are asked online
        ({"mode": "auto", "deadline_hours": 24.0}, 1_000_000, 700.0, 700_000),
        ({"mode": "auto", "deadline_hours": 24.0}, 1_000_000, 900.0, 850_000),  # 800,000 in jobs, 50,000 online
        ({"mode": "auto", "deadline_hours": 1.0}, 1_000_000, 900.0, 450_000),
        ({"mode": "batch"}, 10, 900.0, 900_000),  # more than there is: unusable rows, which cost nothing, have room
    ],
)
def test_a_budget_pays_for_rows_in_batch_jobs_first(given, rows, left_usd, affordable):
    assert ways.affordable(Options(**given), rows, left_usd, online_usd=0.002, batch_usd=0.001) == affordable


@pytest.mark.parametrize(
    ("given", "rows", "rate"),
    [
        ({}, 100, 1.0),
        ({"mode": "batch"}, 100, 0.5),
        ({"mode": "auto"}, 100, 1.0),
        ({"mode": "auto", "deadline_hours": 24.0}, 1_000_000, 0.6),  # 800,000 in jobs
        ({"mode": "batch"}, 0, 1.0),
    ],
)
def test_a_price_measured_online_is_weighted_by_the_rows_of_each_way(given, rows, rate):
    assert ways.rate(Options(**given), rows, 0.002, 0.001) == pytest.approx(rate)
    assert ways.rate(Options(**given), rows, None, None) == 1.0


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"batch_folder": "/tmp/x"}, "expected gs://BUCKET/FOLDER"),
        ({"images_per_request": 4}, "a batch asks one image a request"),
        ({"unit": "asset"}, "a batch asks one image a request"),
        ({"image_source": "inline"}, "a batch asks by URI"),
        ({"service_tier": "priority"}, "a batch has a price of its own"),
        ({"batch_requests": 200_001}, "a job takes at most 200,000"),
        ({"runner": "DataflowRunner"}, "--mode=batch with --runner=DataflowRunner"),
        ({"runner": "DataflowRunner", "mode": "auto"}, "--mode=auto with --runner=DataflowRunner"),
    ],
)
def test_flags_that_a_batch_cannot_follow_are_refused_by_name(given, says):
    with pytest.raises(ConfigError, match=says):
        flags.check(Options(**{"mode": "batch", "batch_folder": "gs://bucket/x", **given}))


@pytest.mark.parametrize("mode", ["batch", "auto"])
def test_a_batch_is_seen_to_by_one_process(mode):
    with pytest.raises(ConfigError, match=f"--direct_running_mode=multi_processing with --mode={mode}"):
        flags.check(Options(mode=mode, batch_folder="gs://bucket/x"), forks=True)
    flags.check(Options(), forks=True)


def worklist(left):
    """Shards of ten rows each, two values of `shard` wide, with so many rows left."""
    shards = [Shard(2 * number, 2 * number + 1, 10) for number in range(len(left))]
    pairs = [
        (shard.lo + number % 2, rows) for number, (shard, rows) in enumerate(zip(shards, left, strict=True)) if rows
    ]
    found = ranges(shards, pairs)
    assert [each.left for each in found] == left
    return found


def covered(shards, found):
    """Rows left in these ranges."""
    return sum(each.left for each in found if any(shard.lo <= each.shard.lo <= shard.hi for shard in shards))


def test_a_round_of_a_whole_worklist_is_a_few_long_ranges():
    asked = divide(worklist([10] * 10), online=15, most=40)
    assert asked.online == (Shard(0, 1, 10), Shard(2, 3, 10))
    assert asked.files == ((Shard(4, 11, 40),), (Shard(12, 19, 40),))
    assert Round.from_json(asked.as_json()) == asked


def test_the_few_rows_that_many_jobs_have_left_are_one_job():
    found = worklist([0, 1, 0, 0, 2, 3, 0, 1, 0, 0])
    (file,) = divide(found, online=0, most=40).files
    assert file == (Shard(2, 3, 10), Shard(8, 11, 20), Shard(14, 15, 10))


def test_files_that_would_need_more_jobs_than_are_done_in_time_are_asked_online():
    found = worklist([10] * 9)
    asked = divide(found, online=1, most=25, jobs=3)
    assert len(asked.files) == 3
    assert covered(asked.online, found) == 30  # one range as asked for, and the fourth file


@pytest.mark.parametrize("seed", range(20))
def test_every_row_that_is_left_goes_one_way_once(seed):
    dice = random.Random(seed)
    found = worklist([dice.choice([0, 0, 1, 5, 10]) for _ in range(30)])
    most, jobs = dice.choice([1, 12, 40]), dice.choice([None, 0, 2])
    asked = divide(found, dice.choice([0, 7, 1000]), most, jobs)
    groups = [asked.online, *asked.files]
    taken = [each.shard.lo for group in groups for each in found if each.left and covers(group, each)]
    assert sorted(taken) == [each.shard.lo for each in found if each.left]
    assert all(covered(file, found) <= max(most, 10) for file in asked.files)


def covers(group, each: Range):
    return any(shard.lo <= each.shard.lo and each.shard.hi <= shard.hi for shard in group)
