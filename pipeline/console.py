"""What a person sees in the terminal: tables, notes, the summary. Notes go to stderr, results to stdout."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
from collections.abc import Sequence

import rich.box
import rich.console
import rich.table
import rich.text

_NUMBER = re.compile(r"[\d.,]*")

out = rich.console.Console(highlight=False, soft_wrap=True)
err = rich.console.Console(stderr=True, highlight=False)


def dollars(usd: float) -> str:
    """Dollars, with as many decimals as tell something."""
    return f"${usd:,.2f}" if usd >= 1 else f"${usd:.4f}"


def count(number: int) -> str:
    """A large number in three digits, as it is said: 950, 12.3 k, 4.56 M."""
    size, unit = next(((size, unit) for size, unit in ((10**6, " M"), (10**3, " k")) if number >= size), (1, ""))
    shown = number / size
    return f"{shown:,.{0 if size == 1 or shown >= 100 else 1 if shown >= 10 else 2}f}{unit}"


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


def table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]], *, narrow: bool = False) -> None:
    """A small table on stdout; values that come from rows or models are shown as they are, never as markup.

    `narrow` leaves out the lines between columns, for tables of many; its title may be longer than it is wide.
    """
    if narrow:
        say(f"\n{title}")
        grid = rich.table.Table(box=rich.box.SIMPLE_HEAD, show_edge=False, collapse_padding=True, pad_edge=False)
    else:
        grid = rich.table.Table(title=title, title_justify="left")
    grid.header_style = "bold"
    for place, head in enumerate(heads):
        number = narrow and all(_NUMBER.fullmatch(str(row[place])) for row in rows)
        grid.add_column(head, overflow="fold", justify="right" if number else "left")
    for row in rows:
        grid.add_row(*(rich.text.Text(str(value)) for value in row))
    out.print(grid, soft_wrap=False)


def say(text: str = "", style: str = "") -> None:
    """A line on stdout, at once: a person waits for it. The style is for terminals alone."""
    out.print(text, markup=False, style=style)
    sys.stdout.flush()


def busy(doing: str, *, quiet: bool) -> contextlib.AbstractContextManager[object]:
    """On a terminal, says what is going on while the block lasts."""
    return contextlib.nullcontext() if quiet or err.is_dumb_terminal or not err.is_terminal else err.status(doing)


class LogHandler(logging.Handler):
    """Log lines on stderr that do not run into the live line, in the form of `logging.basicConfig`."""

    def emit(self, record: logging.LogRecord) -> None:
        note(self.format(record))


def note(text: str) -> None:
    """A line on stderr."""
    err.print(text, markup=False, soft_wrap=True)
