"""How `python -m pipeline` begins and ends, whoever reads what it says and whenever it is interrupted."""

import os
import subprocess
import sys

import pytest

from pipeline import __main__, commands

TASKS = [sys.executable, "-m", "pipeline", "tasks"]


@pytest.mark.parametrize(
    ("words", "code"), [(["tasks"], 0), (["tasks", "show", "nothing"], 2)], ids=["done", "an error"]
)
@pytest.mark.parametrize("ends", [">&-", ">&- 2>&-", ">/dev/full", ">/dev/full 2>&1", "2>&1 | true"])
def test_nobody_who_listens_is_no_reason_to_end_otherwise(words, code, ends):
    line = f'"$0" -m pipeline {" ".join(words)} {ends}; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", line, sys.executable], capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and "Exception" not in done.stderr


def test_a_terminal_that_lacks_a_letter_gets_an_escape(tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text("name: signs\nprompt: \u2713 caf\u00e9\n", "utf-8")
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([*TASKS, "show", path], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert "prompt: \\u2713 caf\\xe9" in done.stdout


def test_an_interrupt_while_a_command_is_loaded_is_an_interrupt(monkeypatch, tmp_path, capsys):
    (tmp_path / "slow.py").write_text("raise KeyboardInterrupt\n")
    monkeypatch.setattr(commands, "__path__", [str(tmp_path)])
    monkeypatch.setitem(__main__.COMMANDS, "slow", "loads for ever")
    assert __main__.main(["slow"]) == 130
    assert capsys.readouterr().err == "interrupted; the same command goes on where it stopped\n"


@pytest.mark.parametrize("command", __main__.COMMANDS)
def test_every_command_shows_its_help(command, capsys):
    try:
        code = __main__.main([command, "--help"])
    except SystemExit as end:  # argparse's way
        code = end.code
    assert code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m pipeline {command}")


@pytest.mark.parametrize(("command", "says"), [("report", "Run to report"), ("audit", "Run to count")])
def test_the_help_of_a_run_id_is_about_the_command(command, says, capsys):
    assert __main__.main([command, "--help"]) == 0
    assert f"--run_id                     {says}" in capsys.readouterr().out
