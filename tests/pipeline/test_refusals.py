"""What is wrong before the run is one line on stderr, exit code 2, and costs nothing."""

import pytest

ON_DATAFLOW = (
    "--runner=DataflowRunner",
    "--region=us-central1",
    "--temp_location=gs://bucket/tmp",
    "--sdk_container_image=image",
)
REFUSED = {
    "a misspelt flag": (["--modell=x"], "did you mean --model?"),
    "a flag of Beam's with a wrong value": (["--num_workers=many"], "--num_workers"),
    "both inputs": (
        ["--input_query=SELECT 1", "--input_table=demo-project.d.t"],
        "exactly one of --input_table and --input_query; both were given",
    ),
    "a table that is not there": (
        ["--input_table=demo-project.imagery.nothing"],
        "--input_table demo-project.imagery.nothing",
    ),
    "an output data set that is not there": (["--output_table=demo-project.nowhere.answers"], "bq mk --location=US"),
    "a key column that is not there": (["--key_column=id"], "--key_column id: the input has no such column"),
    "a kept column that is not there": (["--keep_columns=colour"], "colour"),
    "a where that is no SQL": (["--where=asset_type ="], "--where asset_type =: "),
    "a where with a column that is not there": (["--where=colour = 'red'"], "--where colour = 'red': "),
    "a query that is no SQL, with a where": (["--input_query=SELECT x FROM", "--where=1 = 1"], "--input_query"),
    "an unknown task": (["--task=roadsigns"], "road_signs"),
    "a prompt with an unknown column": (["--prompt=Is it {colour}?"], "{colour}"),
    "a thinking level that the model refuses": (
        ["--model=gemini-3.8-flash", "--thinking_level=minimal"],
        "--thinking_level",
    ),
    "a budget without a price": (["--model=gemini-2.5-flash", "--max_cost_usd=1"], "--price_usd_per_mtok"),
    "an endpoint without TLS": (["--vertex_endpoint=example.com:443"], "--vertex_endpoint=example.com:443"),
    "a Storage endpoint elsewhere": (["--bigquery_storage_endpoint=example.com:443"], "--bigquery_storage_endpoint"),
    "flex away from global": (["--service_tier=flex"], "--vertex_location=global"),
    "a cap that cannot be divided": (
        [*ON_DATAFLOW, "--requests_per_minute=600", "--max_num_workers=3", "--quiet"],
        "either a --machine_type that ends in its number of vCPUs or --experiments=no_use_multiple_sdk_containers",
    ),
}


@pytest.mark.parametrize("flags", REFUSED.values(), ids=REFUSED)
def test_a_mistake_is_one_line_and_costs_nothing(sampled, flags):
    words, says = flags
    done = sampled.classify(*words)
    lines = [line for line in done.err.splitlines() if not line.startswith("warning: ")]
    assert done.code == 2, done.err
    assert says in lines[-1]
    assert lines[-1].startswith("error: ")
    assert len(lines) == 1, done.err
    assert sampled.vertex.stats()["calls"] == 0
    tables = sampled.query(
        "SELECT table_name FROM `{dataset}`.INFORMATION_SCHEMA.TABLES WHERE table_name LIKE 'answers%'"
    )
    assert tables == []


def test_a_task_file_with_a_wrong_field_names_its_line(sampled, tmp_path):
    path = tmp_path / "task.yaml"
    path.write_text("name: mine\nprompt: What is it?\nquestions:\n  kind:\n    type: lable\n")
    done = sampled.classify(f"--task={path}")
    assert done.code == 2
    assert f"{path}" in done.err and "line 4" in done.err and "kind" in done.err


def test_many_rows_want_a_limit_or_a_budget(cloud):
    from pipeline.local import samples

    with cloud.endpoint.client() as client:
        samples.make_bulk_table(client, cloud.input.partition(".")[2], 1001)
    done = cloud.classify()
    assert done.code == 2
    assert "1,001 rows would be asked" in done.err and "--limit=N or --max_cost_usd=X" in done.err
    assert cloud.vertex.stats()["calls"] == 0


def test_a_model_that_is_not_there_is_found_by_the_first_call(sampled):
    done = sampled.classify("--model=gemini-9-ultra")
    assert done.code == 2
    assert "error: " in done.err and "gemini-9-ultra" in done.err
    assert sampled.query("SELECT COUNT(*) AS n FROM `{answers}_failures`") == [{"n": 0}]


@pytest.mark.parametrize(
    "flags",
    [["--modle=x"], ["--min_accuracy=0.9"], ["--runner=DataflowRunner"], [*ON_DATAFLOW, "--tokens_per_minute=9"]],
)
@pytest.mark.parametrize("command", ["plan", "doctor"])
def test_what_classify_refuses_by_its_flags_alone_plan_and_doctor_refuse_too(sampled, command, flags):
    said = {name: sampled.run(name, *flags) for name in ("classify", command)}
    assert [done.code for done in said.values()] == [2, 2]
    assert said[command].err == said["classify"].err
    assert len(said[command].err.splitlines()) == 1


def test_plan_says_what_classify_would_do_and_asks_nothing(sampled):
    done = sampled.run("plan", "--task=road_signs", "--limit=10")
    assert done.code == 0, done.err
    assert "to ask" in done.out and "$" in done.out
    assert sampled.vertex.stats()["calls"] == 0


def test_audit_gives_the_books_of_the_newest_run(sampled):
    run_id = sampled.classify("--limit=5").summary.rpartition(" ")[2]
    done = sampled.run("audit")
    assert done.code == 0, done.err
    assert done.summary == f"rows 5 = answered 5 + failed 0 (already answered 0) | run {run_id}"


def test_an_output_table_of_somebody_else_is_named_with_its_columns(sampled):
    sampled.query("CREATE TABLE `{dataset}.theirs` AS SELECT 1 AS id, 'x' AS label")
    done = sampled.classify(f"--output_table={sampled.dataset}.theirs")
    assert done.code == 2
    assert f"--output_table {sampled.dataset}.theirs" in done.err and "it lacks key" in done.err
    assert sampled.vertex.stats()["calls"] == 0
