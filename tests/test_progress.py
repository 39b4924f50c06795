"""The live line: what it says, where it fits, and that a file, a dumb terminal and other processes get what they need."""

import io
import os
import pty
import select
import subprocess
import sys
import threading

import pytest
from rich.console import Console

from pipeline import progress
from pipeline.progress import Progress, Snapshot, final_parts, laid_out, parts

NOW = Snapshot(
    answered=90_000, failed=10_000, in_flight=512, pace=480.2, rejected=31, tokens=108_400_000, cost_usd=44.0
)
LINE = (
    "100,000/1,000,000 rows (10 %) | 450/s | ETA 33 min 20 s | $44.00 of ~$440.00 | 10,000 failed | 512 in flight | "
    "pace 480/s | 31 x 429 | 108 M tokens"
)


def test_the_line_says_rows_speed_time_dollars_failures_calls_pace_rejections_and_tokens():
    assert laid_out(*parts(NOW, 1_000_000, 450.0), 200) == [LINE]


@pytest.mark.parametrize("width", [120, 80, 40, 20])
def test_a_narrow_terminal_gets_more_lines_and_no_part_is_torn_apart(width):
    lines = laid_out(*parts(NOW, 1_000_000, 450.0), width)
    assert " | ".join(lines) == LINE
    assert all(len(line) <= width or " | " not in line for line in lines)
    assert len(lines) == 2 or width < 120


def test_what_is_not_known_is_left_out():
    rows, calls = parts(Snapshot(cost_usd=None), 50, 0.0)
    assert (rows, calls) == (["0/50 rows (0 %)", "0/s", "0 failed"], ["0 in flight", "0 x 429", "0 tokens"])
    assert parts(Snapshot(answered=50, cost_usd=0.02), 50, 3.0)[0] == [
        "50/50 rows (100 %)", "3.0/s", "$0.0200 of ~$0.0200", "0 failed",
    ]  # fmt: skip


def test_the_last_line_has_the_whole_time_and_the_mean_speed():
    assert " | ".join(final_parts(NOW, 1_000_000, 250.0)) == (
        "100,000/1,000,000 rows in 4 min 10 s | 400/s | $44.00 | 10,000 failed | 31 x 429 | 108 M tokens"
    )


class Rows:
    """Counts a row more each time it is looked at."""

    def __init__(self) -> None:
        self.looked = 0
        self.often = threading.Event()

    def __call__(self) -> Snapshot:
        self.looked += 1
        if self.looked > 5:
            self.often.set()
        return Snapshot(answered=self.looked, cost_usd=0.001 * self.looked)


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(progress, "LIVE_EVERY_SECS", 0.01)
    monkeypatch.setattr(progress, "PLAIN_EVERY_SECS", 0.01)


def shown(file, term):
    rows = Rows()
    with Progress(rows, 100, Console(file=file, width=80, highlight=False, _environ={"TERM": term})):
        assert rows.often.wait(10)


def test_a_terminal_has_one_live_line_and_the_last_one_stays(quick):
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as file:
        shown(file, "xterm-256color")
        file.flush()
        text = ""
        while select.select([ours], [], [], 1.0 if text else 10.0)[0]:  # a terminal hands on what it has, not all of it
            text += os.read(ours, 100_000).decode()
    os.close(ours)
    assert text.count("\r\x1b[2K") >= 3, "each line is wiped before the next"
    assert "/100 rows in 0 s" in text.rpartition("\x1b[2K")[2]


@pytest.mark.parametrize("kind", ["file", "dumb terminal"])
def test_elsewhere_there_are_plain_lines(quick, kind):
    file = io.StringIO()
    file.isatty = lambda: kind == "dumb terminal"
    shown(file, "dumb")
    lines = file.getvalue().splitlines()
    assert len(lines) >= 3
    assert "\x1b" not in file.getvalue()
    assert all("/100 rows" in line for line in lines)


def test_the_launcher_adds_up_what_other_processes_of_its_machine_tell(tmp_path):
    code = (
        "import sys\nfrom pipeline.progress import Snapshot, told_to\n"
        "with told_to(sys.argv[1], lambda: Snapshot(answered=7, in_flight=2, pace=3.0, cost_usd=0.5)): pass"
    )
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    found = progress.of_all(str(tmp_path), Snapshot(answered=1, pace=5.0))
    assert (found.answered, found.in_flight, found.pace, found.cost_usd) == (15, 4, 11.0, 1.0)
