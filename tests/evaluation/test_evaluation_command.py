"""`evaluate`, and the demands of `classify`, over real connections: known truth, and errors that the stand-in injects."""

import csv
import json
import math

import pytest
from textbook import wilson

from pipeline import planning
from pipeline.local.truth import TRUTH, write_truth
from pipeline.local.vertex.faults import Fault, Settings, is_noisy

NOISE = Settings(noise=0.15)


def write_labels(town, folder, task, keys=None):
    """The truth of some pictures as a CSV file; returns its flag."""
    scenes = {sample.key: sample.scene for sample in town.pictures if keys is None or sample.key in keys}
    return f"--labels_csv={write_truth(folder, scenes)[task]}"


def evaluated(town, folder, *flags):
    path = folder / "figures.json"
    result = town.run("evaluate", f"--json={path}", "--quiet", *flags)
    assert result.code == 0, result.err
    return json.loads(path.read_text("utf-8")), result


def test_the_accuracy_is_that_of_the_injected_errors(town, tmp_path):
    town.vertex.configure(noise=NOISE.noise)
    content, _ = evaluated(town, tmp_path, "--task=utility_poles", town.labels("utility_poles"))
    (found,) = content["evaluations"]
    assert (found["rows"], found["answered"], found["not_in_input"]) == (120, 120, 0)
    wholly_right = 0
    for sample in town.pictures:
        names = [name for name in TRUTH["utility_poles"](sample.scene) if name != "lean_degrees"]
        wholly_right += not any(is_noisy(sample.uri, name, NOISE) for name in names)
    assert found["right"] == wholly_right
    for question in found["questions"]:
        if question["name"] == "lean_degrees":
            continue
        right = sum(not is_noisy(sample.uri, question["name"], NOISE) for sample in town.pictures)
        assert (question["name"], question["right"], question["rows"]) == (question["name"], right, 120)
        assert 0.05 < 1 - right / 120 < 0.3
        low, high = wilson(right, 120)
        assert question["accuracy"] == pytest.approx({"value": right / 120, "low": low, "high": high})

    # Every injected error of a count is 1, so the mean absolute error of lamps is the share of errors.
    errors = sum(is_noisy(sample.uri, "street_lamps", NOISE) for sample in town.pictures)
    lamps = next(question["numbers"] for question in found["questions"] if question["name"] == "street_lamps")
    assert lamps["mae"]["value"] == lamps["bias"]["value"] == pytest.approx(errors / 120)

    # What is left: figures counted from the answers' table itself.
    said = {row["key"]: json.loads(row["answer"]) for row in answers(town)}
    true = {sample.key: TRUTH["utility_poles"](sample.scene) for sample in town.pictures}
    lean = next(question for question in found["questions"] if question["name"] == "lean")
    for place, each in enumerate(lean["classes"]):
        labels = [other["label"] for other in lean["classes"]]
        counted = [sum(true[k]["lean"] == each["label"] and said[k]["lean"] == other for k in true) for other in labels]
        assert lean["confusion"][place] == [*counted, 0]
    degrees = [
        (said[key]["lean_degrees"], true[key]["lean_degrees"])
        for key in true
        if said[key]["lean_degrees"] is not None and true[key]["lean_degrees"] is not None
    ]
    numbers = next(question["numbers"] for question in found["questions"] if question["name"] == "lean_degrees")
    assert numbers["mae"]["value"] == pytest.approx(sum(abs(a - b) for a, b in degrees) / len(degrees))
    paid = town.query("SELECT SUM(cost_usd) AS usd FROM `{}.answers`")[0]["usd"]
    assert found["cost_usd"] == pytest.approx(paid)
    assert found["usd_per_right"] == pytest.approx(paid / wholly_right)


def answers(town):
    return town.query("SELECT key, TO_JSON_STRING(answer) AS answer FROM `{}.answers_latest`")


def test_only_labelled_rows_are_asked_each_once_and_nothing_in_production_changes(town, tmp_path):
    labelled = {sample.key for sample in town.pictures[:25]}
    labels = write_labels(town, tmp_path, "image_quality", labelled)
    calls = town.vertex.stats()["calls"]
    evaluated(town, tmp_path, "--task=image_quality", labels)
    assert {row["key"] for row in answers(town)} == labelled
    tables = {row["table_name"] for row in town.query("SELECT table_name FROM {}.INFORMATION_SCHEMA.TABLES")}
    assert "answers_latest" in tables
    assert not tables & {"answers_current", "answers_image_quality"}

    content, result = evaluated(town, tmp_path, "--task=image_quality", labels)  # again: all is answered
    assert town.vertex.stats()["calls"] == calls + 25
    assert content["evaluations"][0]["answered"] == 25
    assert "asked" not in result.err

    done = town.run("classify", "--task=image_quality", "--quiet")
    assert done.last.startswith("rows 95 = answered 95 + failed 0 (already answered 25)")
    assert town.vertex.stats()["calls"] == calls + 120
    current = town.query("SELECT COUNT(*) AS n FROM `{}.answers_current`")[0]["n"]
    assert current == 120
    typed = town.query("SELECT key, usable, problems, sharpness FROM `{}.answers_image_quality`")
    true = {sample.key: TRUTH["image_quality"](sample.scene) for sample in town.pictures}
    assert {row.pop("key"): row for row in typed} == true


def test_an_evaluation_does_not_accept_a_fingerprint_that_differs_from_the_one_in_production(town, tmp_path):
    labels = write_labels(town, tmp_path, "image_quality", {sample.key for sample in town.pictures[:3]})
    one, other = "--media_resolution=low", "--media_resolution=high"
    flags = ("--task=image_quality", "--limit=3")
    evaluated(town, tmp_path, *flags, labels, other)
    assert town.run("classify", *flags, "--quiet", one).code == 0  # nothing but an evaluation stands against it
    refused = town.run("classify", *flags, "--quiet", other)
    assert refused.code == 2
    assert 'media_resolution: "low" -> "high"' in refused.err
    assert "--accept_new_fingerprint" in refused.err


def test_rows_without_an_answer_are_wrong_and_said_and_strangers_do_not_count(town, tmp_path):
    keys = [sample.key for sample in town.pictures[:30]]
    blocked = [Fault("blocked", match=f"*{key}.jpg") for key in keys[:4]]
    town.vertex.configure(faults=blocked)
    path = tmp_path / "labels.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "usable"])
        true = {sample.key: TRUTH["image_quality"](sample.scene) for sample in town.pictures}
        writer.writerows([key, true[key]["usable"]] for key in keys)
        writer.writerow(["nowhere", "true"])
    flags = ("--task=image_quality", f"--labels_csv={path}", "--label_key_column=id")
    content, result = evaluated(town, tmp_path, *flags)
    (found,) = content["evaluations"]
    assert (found["rows"], found["answered"], found["right"], found["not_in_input"]) == (30, 26, 26, 1)
    assert found["without_answer"] == {"blocked": 4}
    assert "4 rows without an answer count as wrong: 4 blocked" in result.out
    assert "1 labelled keys are not in the input" in result.out
    said = next(question["confusion"] for question in found["questions"])
    assert sum(line[-1] for line in said) == 4

    content, _ = evaluated(town, tmp_path, *flags, "--limit=10")
    (found,) = content["evaluations"]
    assert found["rows"] + found["not_in_input"] == 10


def test_a_better_model_is_told_from_noise_on_the_same_images_with_its_price(town, tmp_path):
    labels = town.labels("image_quality")
    town.vertex.configure(noise=NOISE.noise)
    evaluated(town, tmp_path, "--task=image_quality", labels)
    town.vertex.configure(noise=0.02)  # what is asked from here on is answered better
    calls = town.vertex.stats()["calls"]
    content, result = evaluated(
        town, tmp_path, "--task=image_quality", labels, "--compare=model=gemini-3.5-flash,images_per_request=4"
    )
    assert town.vertex.stats()["calls"] - calls == 1 + math.ceil(
        119 / 4
    )  # A was answered; B's first row is asked alone
    better = Settings(noise=0.02)
    for test in content["comparison"]["tests"]:
        names = TRUTH["image_quality"](town.pictures[0].scene) if test["question"] == "all" else [test["question"]]
        right = [
            [not any(is_noisy(sample.uri, name, noise) for name in names) for sample in town.pictures]
            for noise in (NOISE, better)
        ]
        assert test["only_a"] == sum(a and not b for a, b in zip(*right, strict=True))
        assert test["only_b"] == sum(b and not a for a, b in zip(*right, strict=True))
    whole = content["comparison"]["tests"][0]
    assert (whole["question"], whole["better"]) == ("all", "b")
    assert "whole rows: B is better by " in result.out
    costs = [each["usd_per_row"] for each in content["evaluations"]]
    assert content["comparison"]["price_ratio"] == pytest.approx(costs[1] / costs[0])
    assert (
        "A is model=gemini-3.5-flash-lite, images_per_request=1, B is model=gemini-3.5-flash, images_per_request=4"
        in result.out
    )


def test_two_tasks_are_compared_on_the_questions_that_both_ask(town, tmp_path):
    task = tmp_path / "short.yaml"
    task.write_text(
        "name: short\nprompt: Judge this street-level image.\nquestions:\n  usable: {type: boolean}\n", "utf-8"
    )
    content, _ = evaluated(
        town, tmp_path, "--task=image_quality", town.labels("image_quality"), "--limit=5", f"--compare=task={task}"
    )
    assert [each["task"] for each in content["evaluations"]] == ["image_quality", "short"]
    assert [test["question"] for test in content["comparison"]["tests"]] == ["usable"]


# --- demands of a full run


def test_a_full_run_is_refused_when_the_labelled_rows_do_not_show_the_accuracy(town, tmp_path, monkeypatch):
    town.vertex.configure(noise=NOISE.noise)
    labelled = {sample.key for sample in town.pictures[:60]}
    labels = write_labels(town, tmp_path, "image_quality", labelled)
    right = sum(not is_noisy(sample.uri, "usable", NOISE) for sample in town.pictures[:60])
    calls = town.vertex.stats()["calls"]
    flags = ("--task=image_quality", labels, "--quiet")
    with monkeypatch.context() as few:  # many labelled rows want a budget, whatever --limit says of the others
        few.setattr(planning, "FREE_ROWS", 50)
        result = town.run("classify", *flags, "--min_accuracy=usable:0.9", "--limit=20")
        assert result.code == 2
        assert result.err.startswith("error: 60 rows would be asked")
    result = town.run("classify", *flags, "--min_accuracy=usable:0.9")
    assert result.code == 2
    low, _ = wilson(right, 60)
    assert result.err.strip() == (
        f"error: not right enough on 60 labelled rows: the accuracy of usable is {right / 60:.3f}, "
        f"at least {low:.3f} (95 %), wanted 0.9"
    )
    assert {row["key"] for row in answers(town)} == labelled

    result = town.run("classify", *flags, "--min_accuracy=usable:0.6", "--min_recall=usable=true:0.6", "--limit=20")
    assert result.code == 0
    assert result.last.startswith("rows 20 = answered 20 + failed 0 (already answered 60)")
    assert town.vertex.stats()["calls"] == calls + 60 + 20
    assert len(answers(town)) == 80


@pytest.mark.parametrize(
    ("command", "flags", "says"),
    [
        ("evaluate", (), "give exactly one of --labels_table and --labels_csv"),
        ("evaluate", ("--labels_csv=/nowhere.csv",), "--labels_csv=/nowhere.csv: No such file"),
        ("evaluate", ("--labels_table=demo-project.d.none",), "--labels_table demo-project.d.none"),
        ("evaluate", ("{labels}", "--label_key_column=id"), "--label_key_column=id: "),
        ("evaluate", ("{labels}", "--compare=limit=3"), "expected NAME=VALUE with a name of task, prompt, model"),
        ("evaluate", ("{labels}", "--compare=model"), "expected NAME=VALUE"),
        ("evaluate", ("{labels}", "--compare=images_per_request=1"), "that is how the first one is asked too"),
        ("evaluate", ("{labels}", "--compare=images_per_request=x"), "--images_per_request=x: expected a whole number"),
        ("evaluate", ("{labels}", "--lables=3"), "--lables is not a flag"),
        ("evaluate", ("{labels}", "--min_accuracy=usable:0.999"), "label 3,838 such rows or more"),
        ("classify", ("--min_accuracy=0.9",), "--min_accuracy and --min_recall need --labels_table"),
        ("classify", ("{labels}",), "labels do nothing here without --min_accuracy"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_in_one_line_and_nothing_is_asked(town, command, flags, says):
    calls = town.vertex.stats()["calls"]
    given = [flag.replace("{labels}", town.labels("image_quality")) for flag in flags]
    result = town.run(command, "--task=image_quality", *given)
    assert result.code == 2
    assert says in result.err.strip().splitlines()[-1]
    assert town.vertex.stats()["calls"] == calls


def test_labels_of_other_rows_are_an_error_that_names_one(town, tmp_path):
    path = tmp_path / "l.csv"
    path.write_text("observation_id,usable\nx1,true\n", "utf-8")
    result = town.run("evaluate", "--task=image_quality", f"--labels_csv={path}")
    assert result.code == 2
    assert "none of the 1 labelled keys is in the input, such as x1" in result.err
