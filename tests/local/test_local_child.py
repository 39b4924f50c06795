"""Waiting for a service in a child process: for its first line, for its end, or until somebody presses Ctrl-C."""

import signal
import subprocess
import sys
import threading

import pytest

from pipeline.local.child import first_line

SILENT = "import sys; sys.stdin.read()"


@pytest.fixture
def start():
    started = []

    def begin(code):
        command = [sys.executable, "-c", code]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield begin
    for process in started:
        process.communicate()


def test_its_first_line_is_what_it_is_waited_for(start):
    assert first_line(start("print('ready')"), 60) == "ready\n"


def test_a_child_that_says_nothing_in_time_is_ended(start):
    process = start(SILENT)
    assert first_line(process, 0.01) == ""
    assert process.wait() == -signal.SIGKILL


def test_an_interrupt_ends_the_child_and_leaves_nothing_that_the_process_would_wait_for(start):
    process = start(f"import os, signal; os.kill(os.getppid(), signal.SIGINT); {SILENT}")
    with pytest.raises(KeyboardInterrupt):
        first_line(process, 60)
    assert process.wait() == -signal.SIGKILL
    assert [each for each in threading.enumerate() if isinstance(each, threading.Timer) and not each.daemon] == []
