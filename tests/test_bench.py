"""The benchmarks: their arithmetic on made-up logs, and one tiny run of the real thing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import measure, report
from pipeline.local.vertex import LoggedCall

ROOT = Path(__file__).parents[1]


def waves(*, window, rounds, secs=1.0, status="OK"):
    """Calls of a window that is always full, one wave after the other."""
    return [
        LoggedCall(("gs://b/o",), 100.0 + wave * secs + slot / window * secs, secs, status, "STOP")
        for wave in range(rounds)
        for slot in range(window)
    ]


def test_a_full_window_lands_its_size_a_second_with_ramp_and_drain_cut_off():
    state = measure.steady(waves(window=100, rounds=10), window=100)
    assert state.images_per_sec == pytest.approx(100, rel=0.02)
    assert state.busy == pytest.approx(100, rel=0.02)
    assert state.begin >= 100.9, "the first wave is the ramp"
    assert state.end <= 110.0, "what lands after the last start is the drain"


def test_a_window_that_is_half_empty_is_half_busy():
    calls = waves(window=10, rounds=1) + waves(window=5, rounds=20)
    late = [call._replace(started_at=call.started_at + 1) for call in calls[10:]]
    state = measure.steady(calls[:10] + late, window=10)
    assert state.busy < 7


def test_calls_that_never_landed_are_busy_but_answer_nothing():
    calls = [*waves(window=10, rounds=10), LoggedCall((), 100.0, 60.0, "GONE", "")]
    state = measure.steady(calls, window=11)
    assert state.busy == pytest.approx(11, rel=0.1)
    assert state.images_per_sec == pytest.approx(10, rel=0.1)


def test_the_share_rejected_counts_what_ended_in_steady_state():
    calls = waves(window=10, rounds=20) + waves(window=1, rounds=20, status="RESOURCE_EXHAUSTED")
    assert measure.steady(calls, window=11, settle_secs=5).rejected == pytest.approx(1 / 11, rel=0.1)


def test_a_log_without_a_steady_state_is_refused():
    with pytest.raises(ValueError, match="give more rows"):
        measure.steady([LoggedCall((), 100.0, 1.0, "OK", "STOP")], window=10)


def test_bars_are_judged_by_the_pipelines_own_lines():
    common = {"window": 1, "images_per_sec": 1.0, "peak_rss_mb": 1.0}
    found = {
        "one_second": [
            {"contender": "(c) threads", "share_of_ceiling": 0.1, "cpu_ms_per_image": 3.0, **common},
            {"contender": "(d) this pipeline", "share_of_ceiling": 0.95, "cpu_ms_per_image": 0.9, **common},
        ],
        "quota": [
            {"contender": "(c) threads", "processes": 1, "share_of_quota_used": 0.1, "share_rejected": 0.9},
            {"contender": "(d) us", "processes": 2, "share_of_quota_used": 0.96, "share_rejected": 0.03, "rows_lost": 1,
             "rows_doubled": 0},
        ],
    }  # fmt: skip
    judged = {bar.what: bar.met for bar in report.bars(found)}
    assert judged == {
        "1 s: share of 500 images/s": True,
        "1 s: CPU": False,
        "CPU against (c)": False,
        "quota, 2 processes: used": True,
        "quota, 2 processes: rejected": False,
        "rows lost or doubled, all runs": False,
    }


def test_a_tiny_run_measures_the_pipeline_beside_a_contender(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "--tiny", "--parts=one_second", "--only=c,d", f"--out={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads((tmp_path / "results.json").read_text("utf-8"))
    threads, ours = result["one_second"]
    assert threads["images_per_sec"] > 1
    assert ours["images_per_sec"] > threads["images_per_sec"]
    assert 0 < ours["cpu_ms_per_image"] < threads["cpu_ms_per_image"]
    assert (ours["rows_answered"], ours["rows_lost"], ours["rows_doubled"]) == (1500, 0, 0)
    assert "| (d) this pipeline |" in (tmp_path / "results.md").read_text("utf-8")
