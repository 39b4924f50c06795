"""What a person sees in the terminal: progress, tables, the summary. Progress goes to stderr, results to stdout."""

from __future__ import annotations

import dataclasses
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import rich.console
import rich.live
import rich.table
import rich.text

PLAIN_EVERY_SECS = 10.0
LIVE_EVERY_SECS = 0.5

out = rich.console.Console(highlight=False, soft_wrap=True)
err = rich.console.Console(stderr=True, highlight=False)


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


class Progress:
    """Shows `read()` while the block lasts: one live line on a terminal, else a plain line every 10 s.

    It reads counters that exist anyway, so that it costs no throughput.
    """

    def __init__(self, read: Callable[[], Snapshot], total: int, *, quiet: bool) -> None:
        self._read = read
        self._total = total
        self._quiet = quiet
        self._live = err.is_terminal and not quiet
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
        self._started = time.monotonic()

    def __enter__(self) -> Self:
        if not self._quiet:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        if self._live:
            with rich.live.Live(console=err, auto_refresh=False, transient=True) as live:
                while not self._stop.wait(LIVE_EVERY_SECS):
                    live.update(rich.text.Text(self._line(), overflow="ellipsis", no_wrap=True), refresh=True)
        else:
            while not self._stop.wait(PLAIN_EVERY_SECS):
                err.print(self._line(), soft_wrap=True)
        err.print(self._line(), soft_wrap=True)

    def _line(self) -> str:
        return progress_line(self._read(), self._total, time.monotonic() - self._started)


def progress_line(now: Snapshot, total: int, secs: float) -> str:
    """One line: done of total, images/s, calls in flight, pace, 429s, tokens, dollars so far and projected, ETA."""
    rate = now.done / secs if secs > 0 else 0.0
    parts = [f"{now.done:,}/{total:,} rows", f"{rate:,.0f}/s", f"{now.in_flight:,} in flight"]
    if now.pace is not None:
        parts.append(f"pace {now.pace:,.0f}/s")
    if now.rejected:
        parts.append(f"{now.rejected:,} x 429")
    parts.append(f"{now.tokens:,} tokens")
    if now.cost_usd is not None:
        projected = now.cost_usd / now.done * total if now.done else 0.0
        parts.append(f"${now.cost_usd:,.4f} of ~${projected:,.2f}")
    parts.append(f"{now.failed:,} failed")
    if rate and now.done < total:
        parts.append(f"ETA {duration((total - now.done) / rate)}")
    return " | ".join(parts)


def duration(secs: float) -> str:
    """Seconds as people say them: 8 s, 3 min 20 s, 5 h 10 min, 2 d 4 h."""
    secs = round(secs)
    for unit, size, small, smaller in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if secs >= size:
            rest = secs % size // smaller
            return f"{secs // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{secs} s"


def summary(answered: int, failed: int, run_id: str, brackets: Sequence[str]) -> str:
    """The last line of stdout; scripts rely on its form, so new words go inside the brackets."""
    rows = answered + failed
    return f"rows {rows:,} = answered {answered:,} + failed {failed:,} ({', '.join(brackets)}) | run {run_id}"


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A small table on stdout; values that come from rows or models are shown as they are, never as markup."""
    grid = rich.table.Table(title=title, title_justify="left", header_style="bold")
    for head in heads:
        grid.add_column(head, overflow="fold")
    for row in rows:
        grid.add_row(*(rich.text.Text(str(value)) for value in row))
    out.print(grid, soft_wrap=False)


def say(text: str = "") -> None:
    """A line on stdout, at once: a person waits for it."""
    out.print(text, markup=False)
    sys.stdout.flush()


def note(text: str) -> None:
    """A line on stderr."""
    err.print(text, markup=False, soft_wrap=True)
