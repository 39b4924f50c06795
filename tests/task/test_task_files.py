"""Task files: what is built in, and every mistake with its line and field."""

from __future__ import annotations

import http.server
import pickle
import urllib.parse

import loopback_http
import pytest

from pipeline.errors import ConfigError
from pipeline.task import Parsed, Task, TaskError, builtin_names, parse, source

GOOD = """\
name: signs
prompt: Which sign is this {asset_type}?
questions:
  kind:
    type: label
    labels: [stop, other]
  speed:
    type: integer
    minimum: 0
    maximum: 130
examples:
  - image: gs://bucket/a.jpg
    answer: {kind: stop, speed: 0}
    columns: {asset_type: sign}
generation:
  media_resolution: LOW
  temperature: 0
"""


def test_a_good_file_becomes_a_task():
    task = parse(GOOD, "signs.yaml")
    assert task.columns == ("asset_type",)
    assert list(task.questions) == ["kind", "speed"]
    assert task.generation.media_resolution == "low"
    assert task.example_answer(task.examples[0]) == '{"kind":"stop","speed":0}'


@pytest.mark.parametrize(
    ("old", "new", "line", "said"),
    [
        ("name: signs", "nome: signs", 1, "nome is not a field here; did you mean name?"),
        ("name: signs\n", "", 1, "name is missing"),
        ("name: signs", "name: Road Signs", 1, "name must be lower-case letters"),
        ("name: signs", "name: 3", 1, "name must be text: put it in quotes"),
        ("prompt: Which sign is this {asset_type}?", "prompt: ''", 2, "prompt is empty"),
        ("prompt: Which sign is this {asset_type}?\n", "", 1, "prompt is missing"),
        ("{asset_type}", "{asset type}", 2, "prompt {asset type} is not a column in braces"),
        ("{asset_type}", "{", 2, "prompt { is not a column in braces"),
        ("{asset_type}", "{}", 2, "prompt {} is not a column"),
        ("  kind:\n", "  Kind:\n", 4, "questions.Kind must be lower-case letters"),
        ("  kind:\n", "  label:\n", 4, "questions.label is a column of every answers table: call it signs_label"),
        ("  kind:\n", "  image:\n", 4, "questions.image is a name that answers use themselves: call it signs_image"),
        ("type: label", "type: lable", 4, "questions.kind has an unknown type: it must be one of label, labels"),
        ("    type: label\n", "", 4, "questions.kind needs a type"),
        ("labels: [stop, other]", "labels: []", 6, "questions.kind.labels is empty: name the labels"),
        ("labels: [stop, other]", "labels: stop", 6, "questions.kind.labels must be a list of labels"),
        ("labels: [stop, other]", "labels: [yes, other]", 6, "questions.kind.labels has true, which is how YAML reads"),
        ("labels: [stop, other]", "labels: [30, 50]", 6, "questions.kind.labels has 30, which is not text"),
        ("labels: [stop, other]", "labels: [stop, {a: b}]", 6, "has {'a': 'b'} in a list: labels with meanings are a"),
        ("labels: [stop, other]", "labels: [stop, STOP]", 6, "questions.kind.labels has 'stop' and 'STOP', which"),
        ("labels: [stop, other]", "label: [stop]", 4, "questions.kind.labels is missing"),
        ("    minimum: 0", "    minimum: 200", 7, "questions.speed has a minimum, 200, above its maximum, 130"),
        ("    minimum: 0", "    minimun: 0", 9, "questions.speed.minimun is not a field here; did you mean minimum?"),
        ("    minimum: 0", "    minimum: low", 9, "questions.speed.minimum must be a whole number"),
        ("    minimum: 0", "    minimum: 0\n    minimum: 1", 10, "questions.speed.minimum stands there twice"),
        ("gs://bucket/a.jpg", "a.jpg", 12, "examples[0].image must be a gs:// URI that ends in one of .jpg"),
        ("gs://bucket/a.jpg", "gs://bucket/a.gif", 12, "examples[0].image must be a gs:// URI"),
        ("{kind: stop, speed: 0}", "{kind: halt, speed: 0}", 13, "examples[0].answer does not answer this task: kind"),
        ("{kind: stop, speed: 0}", "{kind: stop}", 13, "examples[0].answer does not answer this task: speed is"),
        ("{kind: stop, speed: 0}", "{kind: stop, sped: 0}", 13, "examples[0].answer.sped is not a question of this"),
        ("{kind: stop, speed: 0}", "stop", 13, "examples[0].answer must be a mapping with an answer to each question"),
        ("columns: {asset_type: sign}", "columns: {}", 12, "examples[0] needs columns with asset_type"),
        ("media_resolution: LOW", "media_resolution: best", 16, "generation.media_resolution must be one of low, "),
        ("temperature: 0", "temperature: 3", 17, "generation.temperature must be at most 2"),
        ("temperature: 0", "temprature: 0", 17, "generation.temprature is not a field here; did you mean temperature?"),
        ("temperature: 0", "max_output_tokens: 1.5", 17, "generation.max_output_tokens must be a whole number"),
        (
            "temperature: 0",
            "thinking_level: low\n  thinking_budget: 5",
            18,
            "generation.thinking_budget excludes thinking_level",
        ),
        ("questions:", "questions: [", 3, "not YAML: while parsing a flow sequence"),
        ("name: signs", "name: 'signs", 1, "not YAML: while scanning a quoted scalar"),
        ("  kind:", "\tkind:", 4, "not YAML: found character '\\t' that cannot start any token; indent with spaces"),
        ("Which sign is this {asset_type}?", "{asset_type} it is", 2, "expected <block end>, but found '<scalar>'; a text"),
        ("    labels: [stop, other]", "     labels: [stop, other]", 6, "mapping values are not allowed here"),
        ("    labels: [stop, other]", "   labels: [stop, other]", 6, "'<block mapping start>'; indent it like the lines"),
        ("prompt: Which", "prompt: Look: which", 2, "not YAML: mapping values are not allowed here; a text with a colon"),
        ("prompt: Which", "prompt: @Which", 2, "cannot start any token; a text with a colon, or that starts with a sign"),
        ("temperature: 0", "temperature: cold", 17, "generation.temperature must be a number"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_by_line_and_field(old, new, line, said):
    assert old in GOOD
    with pytest.raises(TaskError) as caught:
        parse(GOOD.replace(old, new, 1), "signs.yaml")
    assert any(said in problem for problem in caught.value.problems), caught.value.problems
    problem = next(problem for problem in caught.value.problems if said in problem)
    assert problem.startswith(f"signs.yaml, line {line}: "), problem
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("said", "kept"), [("true", None), ("false", False)])
def test_to_send_the_schema_is_what_happens_anyway(said, kept):
    task = parse(GOOD.replace("temperature: 0", f"response_schema: {said}"), "signs.yaml")
    assert task.generation.response_schema is kept


def test_every_mistake_is_listed_and_the_message_has_the_first():
    text = GOOD.replace("name: signs", "name: Signs").replace("temperature: 0", "temperature: 9")
    with pytest.raises(TaskError) as caught:
        parse(text, "signs.yaml")
    assert len(caught.value.problems) == 2
    assert str(caught.value).endswith("(and 1 more: python -m pipeline tasks validate signs.yaml)")
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just text", "3"])
def test_what_is_no_mapping_is_no_task(text):
    with pytest.raises(TaskError, match="must be a mapping with name, prompt and questions"):
        parse(text, "signs.yaml")


def test_a_file_cannot_run_code():
    with pytest.raises(TaskError):
        parse("name: !!python/object/apply:os.getcwd []\nprompt: a", "signs.yaml")


@pytest.mark.parametrize("name", builtin_names())
def test_what_is_built_in_is_valid_and_survives_pickling(name):
    task = Task.load(name)
    assert task.name == name
    assert task.description
    assert task.columns == ()  # works on any table of image URIs
    task.response_schema, task.parse("x")  # fill what is derived
    again = pickle.loads(pickle.dumps(task))
    assert again == task
    assert again.response_schema == task.response_schema


def test_the_tasks_that_are_built_in():
    assert builtin_names() == ("describe", "image_quality", "maintenance_covers", "road_signs", "utility_poles")
    assert Task.load("describe").is_free_text
    assert next(iter(Task.load("road_signs").questions)) == "sign_type"


def test_a_path_is_loaded_from_disk(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD)
    assert Task.load(str(path)).name == "signs"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("road_sign", "task 'road_sign' is not built in; did you mean road_signs?"),
        ("xyz", "built in are describe, image_quality"),
        ("missing.yaml", "task file missing.yaml: No such file or directory"),
        ("./missing", "task file ./missing: No such file or directory"),
    ],
)
def test_a_task_that_is_not_there_says_what_is(name, said):
    with pytest.raises(ConfigError) as caught:
        Task.load(name)
    assert said in str(caught.value)


def test_a_file_that_is_not_text_is_one_line(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        Task.load(str(path))


@pytest.fixture
def bucket(monkeypatch):
    """Cloud Storage's media downloads, on loopback: {"bucket/object": bytes}."""
    objects: dict[str, bytes] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            name = path.removeprefix("/download/storage/v1/b/").replace("/o/", "/", 1)
            found = objects.get(name)
            self.send_response(404 if found is None else 200)
            body = found or b"No such object"
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with loopback_http.serving(loopback_http.server(Handler)) as url:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", url)
        yield objects


def test_a_task_is_loaded_from_cloud_storage(bucket):
    bucket["my-bucket/tasks/signs.yaml"] = GOOD.encode()
    assert Task.load("gs://my-bucket/tasks/signs.yaml").name == "signs"


def test_a_task_that_is_not_in_cloud_storage_is_one_line(bucket):
    with pytest.raises(ConfigError) as caught:
        Task.load("gs://my-bucket/none.yaml")
    assert str(caught.value).startswith("task file gs://my-bucket/none.yaml: 404")
    assert "\n" not in str(caught.value)


def test_cloud_storage_without_credentials_says_how_to_get_some(monkeypatch, tmp_path):
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(ConfigError, match="gcloud auth application-default login"):
        Task.load("gs://my-bucket/signs.yaml")


def test_another_prompt_keeps_the_rest():
    task = parse(GOOD.replace("examples", "description: x\nexamples"), "signs.yaml")
    plain = Task(name="a", prompt="Look.", questions=task.questions)
    changed = plain.with_prompt("  Which kind is this {asset_type}?  ")
    assert changed.prompt == "Which kind is this {asset_type}?"
    assert changed.columns == ("asset_type",)
    assert plain.columns == ()
    assert isinstance(changed.parse('{"kind": "stop", "speed": 1}'), Parsed)


@pytest.mark.parametrize("text", ["", "  ", "Is this {a b}?", "Is { this?"])
def test_another_prompt_is_checked(text):
    with pytest.raises(ConfigError, match=r"^--prompt: "):
        Task.load("describe").with_prompt(text)


def test_a_column_that_the_input_does_not_have_is_found_before_the_run():
    task = Task(name="a", prompt="Is this {asset_typ} good?")
    with pytest.raises(
        ConfigError, match=r"names \{asset_typ\}, which is not a column of the input; did you mean \{asset_type\}"
    ):
        task.check_columns(["asset_type", "gcs_uri"])
    task.with_prompt("Is this {asset_type} good?").check_columns({"asset_type"})


def test_the_source_of_a_built_in_task_is_its_file():
    assert source("describe").splitlines()[1] == "name: describe"
