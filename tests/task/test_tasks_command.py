"""`python -m pipeline tasks`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from pipeline.commands.tasks import main
from pipeline.errors import ConfigError
from pipeline.task import Task, builtin_names


@pytest.mark.parametrize("argv", [[], ["list"]])
def test_the_built_in_tasks_are_listed_with_what_they_do(capsys, argv):
    assert main(argv) == 0
    out = capsys.readouterr().out
    for name in builtin_names():
        assert f"{name} " in out
        assert Task.load(name).description in out


@pytest.mark.parametrize("name", builtin_names())
def test_a_task_is_shown_with_what_follows_from_it(capsys, name):
    assert main(["show", name]) == 0
    out = capsys.readouterr().out
    assert out.startswith(("name:", "#"))
    if not Task.load(name).is_free_text:
        assert "# response schema:" in out
        for column, kind, _ in Task.load(name).view_columns():
            assert f"#   {column} {kind} = " in out


def test_a_new_task_is_valid_and_is_not_written_over(capsys, tmp_path):
    path = tmp_path / "Street lamps-2.yaml"
    assert main(["new", str(path)]) == 0
    assert main(["validate", str(path)]) == 0
    assert "task street_lamps_2 version 1 is valid: 4 questions" in capsys.readouterr().out
    text = path.read_text()
    with pytest.raises(ConfigError, match="there already"):
        main(["new", str(path)])
    assert path.read_text() == text


def uncommented(text, first):
    """The text with the comment that starts with `first`, and what is indented below it, as YAML."""
    lines, indent, within = [], "", False
    for line in text.splitlines():
        bare = line.lstrip()
        if bare.startswith(f"# {first}"):
            indent, within = line[: len(line) - len(bare)], True
            lines.append(indent + bare[2:])
        elif within and line.startswith(f"{indent}#   "):
            lines.append(indent + line[len(indent) + 2 :])
        else:
            within = False
            lines.append(line)
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("first", "said"),
    [
        ("model:", lambda task: task.model == "gemini-3.5-flash-lite"),
        ("system_instruction:", lambda task: task.system_instruction.startswith("You inspect")),
        ("reasoning:", lambda task: task.reasoning is True),
        ("problems:", lambda task: "problems" in task.questions),
        ("positions:", lambda task: "positions" in task.questions),
        ("examples:", lambda task: len(task.examples) == 1),
        ("thinking_level:", lambda task: task.generation.thinking_level == "minimal"),
        ("temperature:", lambda task: task.generation.temperature == 0),
        ("response_schema:", lambda task: task.generation.response_schema is False),
        ("planned_output_tokens:", lambda task: task.planned_output_tokens == 60),
    ],
)
def test_what_is_commented_out_in_a_new_task_works_when_it_is_not(tmp_path, first, said):
    path = tmp_path / "mine.yaml"
    main(["new", str(path)])
    path.write_text(uncommented(path.read_text(), first))
    assert said(Task.load(str(path)))


@pytest.mark.parametrize("path", ["mine.txt", "mine"])
def test_a_new_task_needs_a_name_that_will_be_found_again(path):
    with pytest.raises(ConfigError, match=r"ends in \.yaml"):
        main(["new", path])


def test_a_folder_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(ConfigError, match="No such file or directory"):
        main(["new", str(tmp_path / "none" / "mine.yaml")])


def test_every_mistake_is_printed(capsys, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: Mine\nprompt: Look.\ntemperature: 1\n")
    assert main(["validate", str(path)]) == 2
    err = capsys.readouterr().err.splitlines()
    assert [line.split(": ")[0].rpartition(", ")[2] for line in err] == ["line 1", "line 3"]


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="No such file"):
        main(["validate", str(tmp_path / "none.yaml")])


@pytest.mark.parametrize(("argv", "code"), [(["bogus"], 2), (["show"], 2), (["--help"], 0)])
def test_wrong_words_are_explained(capsys, argv, code):
    assert main(argv) == code
    assert "usage: python -m pipeline tasks" in "".join(capsys.readouterr())


def test_neither_beam_nor_a_google_client_is_imported():
    code = (
        "import sys\nfrom pipeline.commands.tasks import main\nmain(['show', 'road_signs'])\n"
        "sys.exit(', '.join(n for n in ('apache_beam', 'grpc', 'google.auth', 'google.protobuf') if n in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
