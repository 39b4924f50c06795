"""A round's rows, divided into what is asked online and the files of requests, by ranges of the worklist. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

from pipeline.bigquery.worklist import Shard


@dataclasses.dataclass(frozen=True, slots=True)
class Range:
    """Neighbouring rows of the worklist, and how many of them have no outcome yet."""

    shard: Shard
    left: int


@dataclasses.dataclass(frozen=True, slots=True)
class Round:
    """What a round asks: shards online, and one file of requests or more for each group of shards."""

    online: tuple[Shard, ...]
    files: tuple[tuple[Shard, ...], ...]

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Self:
        files = (tuple(Shard(**each) for each in file) for file in found["files"])
        return cls(tuple(Shard(**each) for each in found["online"]), tuple(files))


def ranges(shards: Sequence[Shard], left: Sequence[tuple[int, int]]) -> list[Range]:
    """The shards of a worklist with the rows that each has left.

    Args:
        shards: all of them, in order.
        left: (value of `shard`, rows left) pairs, sorted.
    """
    found, pairs = [], iter(left)
    bucket, rows = next(pairs, (None, 0))
    for shard in shards:
        total = 0
        while bucket is not None and bucket <= shard.hi:
            total += rows
            bucket, rows = next(pairs, (None, 0))
        found.append(Range(shard, total))
    return found


def divide(ranges: Sequence[Range], online: int, most: int, jobs: int | None = None) -> Round:
    """Divides what is left; every range that has rows left is in it once.

    Args:
        ranges: of the whole worklist, in order.
        online: rows to ask online, at least; whole ranges are taken.
        most: rows of one file, unless a single range has more.
        jobs: files that are done by the deadline; what would need more is asked online. None: any.
    """
    taken, asked = 0, 0
    while asked < online and taken < len(ranges):
        asked += ranges[taken].left
        taken += 1
    groups = list(_groups(ranges[taken:], most))
    late = groups[len(groups) if jobs is None else jobs :]
    now = [each.shard for each in ranges[:taken] if each.left] + [shard for group in late for shard in group]
    return Round(tuple(now), tuple(groups[: len(groups) - len(late)]))


def _groups(ranges: Sequence[Range], most: int) -> Iterator[tuple[Shard, ...]]:
    """Ranges in groups of at most `most` rows left; neighbours of a group become one, up to as many rows of the worklist."""
    group: list[Shard] = []
    left, last = 0, -1
    for number, each in enumerate(ranges):
        if not each.left:
            continue
        if group and left + each.left > most:
            yield tuple(group)
            group, left = [], 0
        if group and number == last + 1 and group[-1].rows + each.shard.rows <= most:
            group[-1] = Shard(group[-1].lo, each.shard.hi, group[-1].rows + each.shard.rows)
        else:
            group.append(each.shard)
        left, last = left + each.left, number
    if group:
        yield tuple(group)
