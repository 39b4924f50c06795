"""What a person sees while rows are asked: one live line on a terminal, else a plain line every 10 s, on stderr.

It reads counters that exist anyway, a few times a second and from a thread of its own, so that it costs no throughput.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import rich.console
import rich.live
import rich.text

from pipeline.console import count, dollars, duration, err

PLAIN_EVERY_SECS = 10.0
LIVE_EVERY_SECS = 0.5
SPEED_OVER_SECS = (
    20.0  # the speed of this moment, by which the time that is left is told: a run is slow while it begins
)


@dataclasses.dataclass(frozen=True, slots=True)
class Snapshot:
    """Where a run stands. `cost_usd` is None when the price is not known, `pace` None when nothing holds calls back."""

    answered: int = 0
    failed: int = 0
    in_flight: int = 0
    pace: float | None = None
    rejected: int = 0
    tokens: int = 0
    cost_usd: float | None = 0.0

    @property
    def done(self) -> int:
        return self.answered + self.failed

    def __add__(self, other: Snapshot) -> Snapshot:
        """Two processes of one run."""
        paces = [each.pace for each in (self, other) if each.pace is not None]
        costs = (self.cost_usd, other.cost_usd)
        return Snapshot(
            answered=self.answered + other.answered,
            failed=self.failed + other.failed,
            in_flight=self.in_flight + other.in_flight,
            pace=sum(paces) if paces else None,
            rejected=self.rejected + other.rejected,
            tokens=self.tokens + other.tokens,
            cost_usd=None if None in costs else sum(cost or 0.0 for cost in costs),
        )


class Progress:
    """Shows `read()` while the block lasts, and once more at its end.

    Args:
        read: where the run stands now.
        total: rows that will be asked.
        console: where; stderr unless given.
    """

    def __init__(self, read: Callable[[], Snapshot], total: int, console: rich.console.Console = err) -> None:
        self._read, self._total, self._console = read, total, console
        self._began = time.monotonic()
        self._seen: collections.deque[tuple[float, int]] = collections.deque([(0.0, read().done)])
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        console = self._console
        if console.is_terminal and not console.is_dumb_terminal:
            # stdout is left alone: it may be a file, and the summary goes there.
            with rich.live.Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False) as live:
                while not self._stop.wait(LIVE_EVERY_SECS):
                    text = "\n".join(laid_out(*self._parts(), console.width))
                    live.update(rich.text.Text(text, overflow="ellipsis", no_wrap=True), refresh=True)
        else:
            while not self._stop.wait(PLAIN_EVERY_SECS):
                rows, calls = self._parts()
                console.print(" | ".join([*rows, *calls]), soft_wrap=True, markup=False)
        console.print(" | ".join(final_parts(self._read(), self._total, self._secs())), soft_wrap=True, markup=False)

    def _parts(self) -> tuple[list[str], list[str]]:
        now, secs = self._read(), self._secs()
        self._seen.append((secs, now.done))
        while len(self._seen) > 2 and self._seen[1][0] <= secs - SPEED_OVER_SECS:
            self._seen.popleft()
        since, done = self._seen[0]
        return parts(now, self._total, (now.done - done) / max(secs - since, 1e-3))

    def _secs(self) -> float:
        return time.monotonic() - self._began


def parts(now: Snapshot, total: int, per_sec: float) -> tuple[list[str], list[str]]:
    """What there is to say, of the rows (how many, how fast, time left, dollars, failures) and of the calls.

    Args:
        now: where the run stands.
        total: rows in all.
        per_sec: rows a second at this moment.
    """
    share = f" ({100 * now.done // total} %)" if total else ""
    rows = [f"{now.done:,}/{total:,} rows{share}", f"{_speed(per_sec)}/s"]
    if per_sec and now.done < total:
        rows.append(f"ETA {duration((total - now.done) / per_sec)}")
    if now.cost_usd is not None:
        projected = f" of ~{dollars(now.cost_usd / now.done * total)}" if now.done else ""
        rows.append(dollars(now.cost_usd) + projected)
    rows.append(f"{now.failed:,} failed")
    calls = [f"{now.in_flight:,} in flight"]
    if now.pace is not None:
        calls.append(f"pace {_speed(now.pace)}/s")
    return rows, [*calls, f"{now.rejected:,} x 429", f"{count(now.tokens)} tokens"]


def final_parts(now: Snapshot, total: int, secs: float) -> list[str]:
    """What stays on the screen when all is over: rows, time, mean speed, dollars, failures, 429s, tokens."""
    found = [f"{now.done:,}/{total:,} rows in {duration(secs)}", f"{_speed(now.done / max(secs, 1e-3))}/s"]
    if now.cost_usd is not None:
        found.append(dollars(now.cost_usd))
    return [*found, f"{now.failed:,} failed", f"{now.rejected:,} x 429", f"{count(now.tokens)} tokens"]


def laid_out(rows: Sequence[str], calls: Sequence[str], width: int) -> list[str]:
    """All in one line where it fits in, else the rows above the calls; no part is torn apart."""
    whole = " | ".join([*rows, *calls])
    return [whole] if len(whole) <= width else [*_packed(rows, width), *_packed(calls, width)]


def _packed(words: Sequence[str], width: int) -> Iterator[str]:
    line = words[0]
    for word in words[1:]:
        if len(line) + 3 + len(word) <= width:
            line += f" | {word}"
        else:
            yield line
            line = word
    yield line


def _speed(per_sec: float) -> str:
    return f"{per_sec:,.0f}" if per_sec >= 10 or not per_sec else f"{per_sec:.1f}"


# Worker processes on this machine that are not the launcher's own tell it by a file each.


@contextlib.contextmanager
def told_to(folder: str, read: Callable[[], Snapshot]) -> Iterator[None]:
    """While the block lasts, this process's numbers stand in a file of the folder; the last ones stay there."""
    stop = threading.Event()
    path = Path(folder) / f"{os.getpid()}.json"

    def write() -> None:
        with contextlib.suppress(OSError):  # the launcher is gone, and its folder with it: nobody looks any more
            path.with_suffix(".new").write_text(json.dumps(dataclasses.asdict(read())), "utf-8")
            path.with_suffix(".new").replace(path)

    def run() -> None:
        while not stop.wait(LIVE_EVERY_SECS):
            write()

    thread = threading.Thread(target=run, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        write()


def of_all(folder: str, own: Snapshot) -> Snapshot:
    """The launcher's own numbers and those of all processes that stand in the folder."""
    others = (Snapshot(**json.loads(path.read_text("utf-8"))) for path in Path(folder).glob("*.json"))
    return functools.reduce(lambda one, other: one + other, others, own)
