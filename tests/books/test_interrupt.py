"""SIGTERM and Ctrl-C: what has arrived is written, the summary is still the last line, and it takes ten seconds at most."""

import os
import re
import select
import signal
import time

import pytest

WINDOW = 64
FLAGS = (f"--max_in_flight={WINDOW}", "--max_cost_usd=100")
ONE_PROCESS = ("--direct_running_mode=multi_processing",)  # beside the launcher
TWO_PROCESSES = (*ONE_PROCESS, "--direct_num_workers=2")
SUMMARY = re.compile(r"rows (\S+) = answered (\S+) \+ failed 0 \(already answered 0, not asked (\S+)\) \| run (\S+)")
GOES_ON = "error: interrupted: what is answered is kept, and the same command goes on where this one stopped"


def number(text):
    return int(text.replace(",", ""))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT], ids=lambda how: how.name)
def test_an_interrupted_run_writes_what_arrived_and_the_same_command_asks_the_rest(rig, how):
    rows = 3000
    child = rig.fill(rows).start(*FLAGS)
    rig.wait_for_calls(300)
    child.send(how)
    ended = child.wait()
    assert ended.code == 130
    assert ended.err.rstrip().endswith(GOES_ON)
    asked, answered, left, run_id = SUMMARY.fullmatch(ended.summary).groups()
    assert number(asked) == number(answered) == rig.vertex.stats()["calls"], "calls on their way were let land"
    assert number(answered) + number(left) == rows
    assert rig.place() == {"input_rows": rows, "answered": number(answered), "doubled": 0, "failed": 0} | {
        "nowhere": number(left)
    }
    assert rig.states(run_id) == ["started", "cancelled"]
    done = rig.run(*FLAGS, "--limit=500", "--quiet")
    assert done.summary.startswith(f"rows 500 = answered 500 + failed 0 (already answered {number(answered):,})")
    assert set(rig.paid().values()) == {1}


def test_calls_that_do_not_land_in_time_are_given_up(rig):
    child = rig.fill(1000).start(*FLAGS)
    rig.wait_for_calls(100)
    rig.vertex.configure(latency_secs=60.0)
    rig.vertex.wait_for(in_flight=WINDOW)
    began = time.monotonic()
    child.send(signal.SIGTERM)
    ended = child.wait()
    assert time.monotonic() - began < 10
    assert ended.code == 130
    answered = number(SUMMARY.fullmatch(ended.summary)[2])
    assert answered == rig.place()["answered"]
    assert rig.vertex.stats()["calls"] - answered <= WINDOW


def test_while_bigquery_is_silent_it_ends_in_time_all_the_same_and_with_a_summary(rig):
    """The tables cannot be asked: the summary counts what the processes have received, and says so."""
    child = rig.fill(3000).start(*FLAGS, *ONE_PROCESS)
    rig.wait_for_calls(300)
    os.kill(rig.bigquery.pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        child.send(signal.SIGTERM)
        ended = child.wait()
        assert time.monotonic() - began < 11
    finally:
        os.kill(rig.bigquery.pid, signal.SIGCONT)
    assert ended.code == 130
    assert number(SUMMARY.fullmatch(ended.summary)[2]) >= 300 - WINDOW, "not the launcher's own alone"
    assert "`python -m pipeline audit --run_id=" in ended.err
    assert GOES_ON in ended.err.splitlines()


def test_ctrl_c_in_a_terminal_leaves_worker_processes_to_their_launcher(rig):
    """The terminal signals all processes of the group; a worker process that it killed would lose what was paid for."""
    rows = 50_000
    child = rig.fill(rows).start(*FLAGS, *TWO_PROCESSES)
    rig.wait_for_calls(300)
    child.press_ctrl_c()
    began = time.monotonic()
    ended = child.wait()
    assert time.monotonic() - began < 10
    assert ended.code == 130
    answered = number(SUMMARY.fullmatch(ended.summary)[2])
    assert answered == rig.place()["answered"] == rig.vertex.stats()["calls"], "no call was made in vain, nor later"


def test_worker_processes_end_when_their_launcher_is_killed(rig):
    child = rig.fill(50_000).start(*FLAGS, *ONE_PROCESS)
    rig.wait_for_calls(300)
    (worker,) = child.workers()
    end = os.pidfd_open(worker)
    child.kill()
    assert select.select([end], [], [], 20)[0]
    assert rig.vertex.stats()["calls"] - rig.place()["answered"] <= 2, "what they had asked is written"


def test_a_worker_process_that_dies_ends_the_run_with_its_books_closed(rig):
    rows = 50_000
    child = rig.fill(rows).start(*FLAGS, *TWO_PROCESSES)
    rig.wait_for_calls(600)
    os.kill(child.workers()[0], signal.SIGKILL)
    ended = child.wait(60)
    assert ended.code == 1
    assert ended.err.splitlines()[-1] == (
        "error: a worker process died (signal 9, out of memory?); what is answered is kept, and the same command goes on "
        "where this one stopped"
    )
    assert "Traceback" not in ended.err
    answered = number(SUMMARY.fullmatch(ended.summary)[2])
    assert answered == rig.place()["answered"]
    assert rig.states(ended.run_id) == ["started", "cancelled"]
