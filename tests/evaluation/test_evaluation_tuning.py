"""`export_tuning`: lines in the documented format, the request's own words in them, and no image in both files."""

import collections
import json
import re

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import tuning
from pipeline.errors import ConfigError
from pipeline.gemini.request import RequestBuilder, request_class
from pipeline.local.storage import Storage
from pipeline.local.truth import TRUTH, write_truth
from pipeline.rows import Observation
from pipeline.task import Settings, Task, parse

TASK = parse(
    """
name: poles
prompt: "Look at this {asset_type}."
system_instruction: You inspect poles.
questions:
  kind: {type: label, labels: [wood, steel]}
  lamps: {type: integer}
examples:
  - {image: gs://b/example.jpg, columns: {asset_type: X}, answer: {kind: wood, lamps: 1}}
""",
    "poles.yaml",
)
SETTINGS = Settings.of(TASK, "gemini-3.5-flash-lite", media_resolution="medium")
MAKER = tuning.Maker(TASK, SETTINGS)


def example(key, uri=None, group=None, kind="wood"):
    row = Observation(key, uri or f"gs://b/{key}.jpg", {"asset_type": "POLE"})
    return MAKER.example(row, json.dumps({"kind": kind, "lamps": 2}), group or key)


def test_a_line_is_what_the_pipeline_asks_and_the_answer_to_learn():
    assert example("a").line == {
        "systemInstruction": {"role": "system", "parts": [{"text": "You inspect poles."}]},
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"fileData": {"mimeType": "image/jpeg", "fileUri": "gs://b/a.jpg"}},
                    {"text": "Look at this POLE."},
                ],
            },
            {"role": "model", "parts": [{"text": '{"kind":"wood","lamps":2}'}]},
        ],
        "generationConfig": {"mediaResolution": "MEDIA_RESOLUTION_MEDIUM"},
    }
    assert tuning.line_faults(example("a").text) == []


def test_the_user_s_turn_is_the_request_s_own():
    row = Observation("a", "gs://b/a.png", {"asset_type": "POLE"})
    builder = RequestBuilder(TASK, SETTINGS, "projects/p/locations/us/publishers/google/models/m", {})
    asked = json_format.MessageToDict(builder.message(builder.build([row])))
    line = MAKER.example(row, '{"kind":"wood","lamps":0}', "a").line
    assert line["contents"][0] == asked["contents"][-1]
    assert line["systemInstruction"]["parts"] == asked["systemInstruction"]["parts"]
    assert line["generationConfig"]["mediaResolution"] == asked["generationConfig"]["mediaResolution"]


def test_labels_have_no_reasoning_to_learn_but_answers_do():
    task = parse("{name: x, prompt: p, reasoning: true, questions: {kind: {type: label, labels: [a, b]}}}", "x")
    maker = tuning.Maker(task, Settings.of(task, "m"))
    row = Observation("k", "gs://b/k.jpg")

    def learnt(text):
        return maker.example(row, text, "k").line["contents"][1]["parts"][0]["text"]

    assert learnt(maker.answer_of({"kind": "a"})) == '{"kind":"a"}'
    assert learnt('{"reasoning": "It is.", "kind": "b"}') == '{"reasoning":"It is.","kind":"b"}'


def test_a_row_without_a_label_for_every_question_is_not_learnt_from():
    assert MAKER.answer_of({"kind": "wood"}) is None
    assert json.loads(MAKER.answer_of({"lamps": 3, "kind": "wood"})) == {"kind": "wood", "lamps": 3}


def test_what_is_no_answer_cannot_be_learnt_nor_can_ultra_high_images():
    with pytest.raises(ConfigError, match="the answer of k cannot be learnt: kind: 'stone' is not one of"):
        MAKER.example(Observation("k", "gs://b/k.jpg", {"asset_type": "X"}), '{"kind": "stone", "lamps": 1}', "k")
    with pytest.raises(ConfigError, match="tuning takes low, medium or high"):
        tuning.Maker(TASK, Settings.of(TASK, "m", media_resolution="ultra_high"))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda line: line.update(extra=1), "unknown field extra"),
        (lambda line: line.pop("contents"), "contents is missing"),
        (lambda line: line["contents"].reverse(), "turns are of"),
        (lambda line: line["contents"].pop(), "turns are of"),
        (lambda line: line["contents"][1].update(parts=[]), "a turn without parts"),
        (lambda line: line["contents"][1]["parts"][0].update(text=" "), "an empty text"),
        (lambda line: line["contents"][0]["parts"][0].update(text="x"), "not one of text and fileData"),
        (lambda line: line["contents"][0]["parts"][0]["fileData"].update(mimeType="image/gif"), "mimeType image/gif"),
        (lambda line: line["contents"][0]["parts"][0]["fileData"].update(fileUri="x.jpg"), "is not a gs:// URI"),
        (lambda line: line["contents"][0]["parts"][0]["fileData"].pop("mimeType"), "needs mimeType and fileUri"),
        (lambda line: line["contents"][0]["parts"].extend(30 * line["contents"][0]["parts"][:1]), "31 images"),
        (lambda line: line["contents"][1]["parts"].append(line["contents"][0]["parts"][0]), "outside of the user's"),
        (lambda line: line["generationConfig"].update(temperature=1), "more than mediaResolution"),
        (lambda line: line["generationConfig"].update(mediaResolution="HIGH"), "mediaResolution HIGH is not one of"),
        (lambda line: line["contents"][1]["parts"][0].update(text="x" * 600_000), "tokens of text"),
    ],
)
def test_a_line_that_the_service_would_refuse_is_found(change, says):
    line = json.loads(example("a").text)
    change(line)
    assert any(says in fault for fault in tuning.line_faults(json.dumps(line)))


def drawn_examples(count=400):
    """Assets of one to three views; of three labels, one of them rare."""
    made, asset = [], 0
    while len(made) < count:
        asset += 1
        kind = "steel" if asset % 9 == 0 else "wood"
        made += [example(f"k{asset}-{view}", group=f"asset {asset}", kind=kind) for view in range(asset % 3 + 1)]
    return made[:count]


def test_the_split_keeps_groups_whole_and_gives_every_label_its_share():
    examples = drawn_examples()
    found = tuning.split(examples, 0.2)
    assert sorted(each.key for each in (*found.train, *found.validation)) == sorted(each.key for each in examples)
    assert not {each.group for each in found.train} & {each.group for each in found.validation}
    for label, train, validation in found.strata():
        assert abs(validation - 0.2 * (train + validation)) <= 1.5, label
    assert tuning.faults(found) == []


def test_the_split_is_the_same_whatever_the_order_and_does_not_sort_labels():
    examples = drawn_examples(100)
    found = tuning.split(examples, 0.1)
    assert tuning.split(examples[::-1], 0.1) == found
    assert [each.key for each in found.train] != sorted(each.key for each in found.train)


EXAMPLES = st.lists(
    st.tuples(st.integers(0, 12), st.sets(st.integers(0, 30), min_size=1, max_size=3), st.sampled_from("abc")),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(EXAMPLES, st.floats(0, 0.99), st.randoms())
def test_whatever_shares_images_or_an_asset_no_image_and_no_asset_is_in_both_files(rows, share, rng):
    examples = [
        tuning.Example(f"k{number}", tuple(f"gs://b/{image}.jpg" for image in images), f"g{group}", label, {})
        for number, (group, images, label) in enumerate(rows)
    ]
    found = tuning.split(tuning.distinct(examples), share)
    for of in (lambda each: set(each.images), lambda each: {each.group}):
        train, validation = (set().union(*map(of, side)) for side in (found.train, found.validation))
        assert not train & validation
    images = [image for each in (*found.train, *found.validation) for image in each.images]
    assert len(images) == len(set(images))
    assert bool(found.train) == bool(examples)
    rng.shuffle(examples)
    assert tuning.split(tuning.distinct(examples), share) == found


def test_a_rare_label_is_in_both_files_and_a_single_one_in_training():
    examples = [*(example(f"w{n}") for n in range(50)), *(example(f"s{n}", kind="steel") for n in range(2))]
    assert tuning.split(examples, 0.1).strata() == [("steel", 1, 1), ("wood", 45, 5)]
    assert tuning.split([example("w")], 0.1).strata() == [("wood", 1, 0)]
    assert tuning.split(examples, 0.0).validation == ()


@pytest.mark.parametrize(
    ("count", "share", "most"),
    [(1500, 0.9, 1000), (5000, 0.9, 5000 * 0.3 / 1.3), (5000, 0.1, 500), (30_000, 0.9, 5000)],
)
def test_no_more_validate_than_the_service_takes_beside_those_that_train(count, share, most):
    line = example("k").line
    examples = [tuning.Example(f"k{n}", (f"gs://b/{n}.jpg",), f"g{n // 2}", "ab"[n % 2], line) for n in range(count)]
    found = tuning.split(examples, share)
    train, validation = len(found.train), len(found.validation)
    assert most - 6 <= validation <= most + 1
    assert validation <= 1000 or validation <= 0.3 * train
    assert train + validation >= count - 6  # hardly any is left out
    many = tuning.Split(found.train[:100], found.validation + found.train[: 5001 - validation])
    assert any("examples, the service takes 1,000 beside these" in fault for fault in tuning.faults(many))


def test_an_image_of_two_rows_is_learnt_once():
    twice = [example("b", uri="gs://b/one.jpg"), example("a", uri="gs://b/one.jpg"), example("c")]
    assert [each.key for each in tuning.distinct(twice)] == ["a", "c"]


def test_an_image_in_both_files_is_a_fault():
    one, other = example("a", uri="gs://b/one.jpg"), example("b", uri="gs://b/one.jpg")
    assert tuning.faults(tuning.Split((one,), (other,))) == ["gs://b/one.jpg is in both files"]
    assert tuning.faults(tuning.Split((), ())) == ["train.jsonl has no examples"]


# --- the command


def read(text):
    """A file's lines, each taken by the service's own message type."""
    lines = [json.loads(line) for line in text.splitlines()]
    for line in lines:
        json_format.ParseDict(line, request_class()())
    return lines


def learnt(lines):
    """URI to the answer to learn."""
    return {
        line["contents"][0]["parts"][0]["fileData"]["fileUri"]: json.loads(line["contents"][1]["parts"][0]["text"])
        for line in lines
    }


def test_labels_are_exported_with_the_truth_as_the_answer_and_assets_kept_apart(town, tmp_path):
    flags = ("--task=road_signs", f"--output={tmp_path}", "--validation_share=0.2", town.labels("road_signs"))
    result = town.run("export_tuning", *flags)
    assert result.code == 0, result.err
    texts = {name: (tmp_path / f"{name}.jsonl").read_text("utf-8") for name in ("train", "validation")}
    train, validation = (learnt(read(text)) for text in texts.values())
    truth = {sample.uri: TRUTH["road_signs"](sample.scene) for sample in town.pictures}
    assert train | validation == truth
    assert not set(train) & set(validation)
    assets = {sample.uri: sample.row["asset_id"] for sample in town.pictures}
    assert not {assets[uri] for uri in train} & {assets[uri] for uri in validation}
    whole = collections.Counter(values["sign_type"] for values in truth.values())
    held = collections.Counter(values["sign_type"] for values in validation.values())
    assert abs(held["none"] - 0.2 * whole["none"]) <= 2
    assert "validation.jsonl: " in result.last

    town.run("export_tuning", *flags)
    assert texts == {name: (tmp_path / f"{name}.jsonl").read_text("utf-8") for name in texts}


def test_answers_are_exported_to_cloud_storage(town, tmp_path, monkeypatch):
    assert town.run("classify", "--task=road_signs", "--limit=30", "--quiet").code == 0
    calls = town.vertex.stats()["calls"]
    with Storage("tuning") as storage:
        for name, value in storage.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "demo-project")
        result = town.run("export_tuning", "--task=road_signs", "--output=gs://tuning/sets/one/", "--limit=20")
        assert result.code == 0, result.err
        lines = [*read(storage.read("tuning", "sets/one/train.jsonl").decode())]
        lines += read(storage.read("tuning", "sets/one/validation.jsonl").decode())
    said = {
        row["gcs_uri"]: json.loads(row["answer"])
        for row in town.query("SELECT gcs_uri, TO_JSON_STRING(answer) AS answer FROM `{}.answers_latest`")
    }
    assert len(lines) == 20
    assert learnt(lines).items() <= said.items()
    assert lines[0]["systemInstruction"]["parts"][0]["text"] == Task.load("road_signs").system_instruction
    assert town.vertex.stats()["calls"] == calls


def test_what_is_learnt_is_to_the_letter_what_is_asked_whatever_columns_the_prompt_names(town, tmp_path):
    task = tmp_path / "columns.yaml"
    names = ("asset_type", "capture_time", "bbox", "location", "camera_pose", "pano_id", "observation_id")
    prompt = "Is it sharp? " + " ".join(f"{name}={{{name}}}" for name in names)
    task.write_text(f'{{name: columns, prompt: "{prompt}", questions: {{usable: {{type: boolean}}}}}}', "utf-8")
    assert town.run("classify", f"--task={task}", "--limit=1", "--quiet").code == 0
    asked = town.vertex.last_request()["contents"][-1]["parts"][-1]["text"]
    result = town.run("export_tuning", f"--task={task}", f"--output={tmp_path}")
    assert result.code == 0, result.err
    (line,) = read((tmp_path / "train.jsonl").read_text("utf-8"))
    assert line["contents"][0]["parts"][-1]["text"] == asked
    assert re.search(r'location=\{"latitude":37[.0-9]*,"longitude":-122', asked)
    assert "=unknown" not in asked.replace("pano_id=unknown", "")


def test_a_tuned_endpoint_is_a_model_like_any_other(town, tmp_path):
    figures = tmp_path / "figures.json"
    flags = ("--task=road_signs", town.labels("road_signs"), "--limit=3", "--quiet", f"--json={figures}")
    result = town.run("evaluate", *flags, "--model=1234567890", "--vertex_location=us-central1")
    assert result.code == 0, result.err
    (found,) = json.loads(figures.read_text("utf-8"))["evaluations"]
    assert (found["model"], found["answered"], found["cost_usd"]) == ("1234567890", 3, None)
    assert town.vertex.last_request()["model"].endswith("/locations/us-central1/endpoints/1234567890")


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), "--output is missing"),
        (("--output=x", "--validation_share=1"), "expected less than 1"),
        (("--output=x",), "does not exist; give --labels_table or --labels_csv"),
        (("--output=x", "--group_column=nope", "{labels}"), "--group_column=nope: the input has no such column"),
        (("--output=x", "--media_resolution=ultra_high", "{labels}"), "tuning takes low, medium or high"),
        (("--output=x", "--task=describe", "{labels}"), "leave the labels out"),
        (("--output=/proc/no", "{labels}"), "--output=/proc/no/train.jsonl"),
        (("--output=x", "--outptu=y"), "--outptu is not a flag"),
        (("--output=x", "--labels_csv={partial}"), "with a label for every question"),
    ],
)
def test_what_cannot_be_exported_is_one_line_and_writes_nothing(town, tmp_path, monkeypatch, flags, says):
    monkeypatch.chdir(tmp_path)
    path = write_truth(tmp_path, {town.pictures[0].key: town.pictures[0].scene})["road_signs"]
    path.write_text(re.sub("(?m),[^,\n]*$", "", path.read_text("utf-8")), "utf-8")  # without the last question
    given = [flag.replace("{labels}", town.labels("road_signs")).replace("{partial}", str(path)) for flag in flags]
    result = town.run("export_tuning", "--task=road_signs", *given)
    assert result.code == 2
    assert says in result.err.strip().splitlines()[-1]
    assert not (tmp_path / "x").exists()
