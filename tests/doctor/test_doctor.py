"""`doctor` says in one line what works, and in one line what to mend."""

import pytest
from doctor_world import Refusal, refusing_storage

from pipeline.checkup import STEPS

NAMES = [step.name for step in STEPS]


def test_where_all_works_every_check_is_ok_and_nothing_is_left_behind(clinic):
    before = clinic.tables()
    found = clinic.run()
    assert found.code == 0, found.out
    assert list(found.checks) == NAMES
    assert {state for state, _ in found.checks.values()} == {"ok"}
    assert "all works" in found.out
    assert clinic.tables() == before
    assert clinic.vertex.stats()["calls"] == 2  # a few words, and one image
    assert found.text("image").startswith("o1:") and "tokens for $" in found.text("image")


def test_an_asset_is_asked_about_with_its_images_as_in_a_run(clinic):
    found = clinic.run("--unit=asset")
    assert found.code == 0, found.out
    assert found.text("columns").endswith("longitude, image_uris; the output tables are yet to be made")
    assert found.text("image").startswith("t1:") and "@" in found.text("image")


def test_a_failed_check_names_what_it_kept_from_being_tried(clinic):
    found = clinic.run("--input_table=demo-project.nowhere.observations")
    assert found.code == 2
    assert found.failed == ["input"]
    assert [name for name in NAMES if found.state(name) == "-"] == [
        *("columns", "read by query", "Storage Read", "Storage Write", "image")
    ]
    assert found.text("columns") == "not tried: it needs input"
    assert found.out.rstrip().endswith("input: mend the first and run doctor again")


MISTAKES = {
    "a task that is not there": (["--task=roadsigns"], "question", "road_signs"),
    "a table that is not there": (["--input_table=demo-project.{ds}.nothing"], "input", "check the name"),
    "an output data set that is not there": (["--output_table=demo-project.nowhere.answers"], "output", "bq mk --location=US"),
    "a runs data set that is not there": (["--runs_table=demo-project.nowhere.runs"], "output", "--runs_table"),
    "a key column that is not there": (["--key_column=id"], "columns", "--key_column id"),
    "a prompt with an unknown column": (["--prompt=Is it {colour}?"], "columns", "{colour}"),
    "a view in the output's place": (["--output_table=demo-project.{ds}.latest_observations"], "columns", "lacks"),
    "a where that is no SQL": (["--where=asset_type ="], "read by query", "--where asset_type =: "),
    "a where that no row passes": (["--where=asset_type = 'TREE'"], "read by query", "no row passes"),
    "a query that is no SQL": (["--input_query=SELECT", "--input_table="], "input", "--input_query"),
    "a model that is not there": (["--model=gemini-9-ultra"], "model", "--model or --vertex_location"),
    "a region that is none": (["--vertex_location=moon-1"], "model", "--vertex_location"),
    "a thinking level that is refused": (["--model=gemini-3.8-flash", "--thinking_level=minimal"], "model", "--thinking_level"),
    "a port where nobody listens": (["--vertex_endpoint=127.0.0.1:9"], "model", "check the network and --vertex_endpoint"),
}  # fmt: skip


@pytest.mark.parametrize(("flags", "check", "says"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_found_by_the_check_that_it_concerns(clinic, flags, check, says):
    name = clinic.dataset.partition(".")[2]
    found = clinic.run(*(flag.replace("{ds}", name) for flag in flags))
    assert found.code == 2, found.out
    assert found.failed == [check], found.out
    assert says in found.text(check)
    assert not {table for table in clinic.tables() if "doctor" in table}


def test_an_output_data_set_elsewhere_is_refused_by_its_location(clinic):
    from google.cloud import bigquery

    made = bigquery.Dataset(f"{clinic.dataset}_eu")
    made.location = "EU"
    with clinic.endpoint.client() as client:
        client.create_dataset(made)
    found = clinic.run(f"--output_table={clinic.dataset}_eu.answers")
    assert found.failed == ["output"]
    assert "lies in EU, the input in US" in found.text("output")


RUN_FAULTS = {
    "SERVICE_DISABLED": "gcloud services enable aiplatform.googleapis.com --project=demo-project",
    "BILLING_DISABLED": "link a billing account",
    "IAM_PERMISSION_DENIED": "grant roles/aiplatform.user on demo-project",
    "MODEL_NOT_FOUND": "another --model or --vertex_location",
    "TOKEN_EXPIRED": "gcloud auth application-default login",
    "RESOURCE_EXHAUSTED": "the quota is used up",
    "UNAVAILABLE": "check the network",
}


@pytest.mark.parametrize(("fault", "says"), RUN_FAULTS.items(), ids=RUN_FAULTS)
def test_what_no_row_can_mend_fails_the_model_and_no_image_is_asked(clinic, fault, says):
    clinic.vertex.reset(run_fault=fault)
    found = clinic.run()
    assert found.code == 2
    assert found.failed == ["model"]
    assert says in found.text("model")
    assert found.state("image") == "-"
    assert clinic.vertex.stats()["calls"] == 1


IMAGE_FAULTS = {
    "IMAGE_DENIED": "roles/storage.objectViewer on the bucket",
    "IMAGE_NOT_FOUND": "take a newer snapshot",
    "IMAGE_INVALID": "look whether the image opens",
}


@pytest.mark.parametrize(("fault", "says"), IMAGE_FAULTS.items(), ids=IMAGE_FAULTS)
def test_images_that_cannot_be_read_are_told_from_a_model_that_cannot_be_asked(clinic, fault, says):
    clinic.vertex.reset(faults=[{"kind": fault}])
    found = clinic.run()
    assert found.code == 2
    assert found.failed == ["image"]
    assert found.state("model") == "ok"
    assert says in found.text("image") and "gs://" in found.text("image")


def test_one_bad_image_does_not_look_like_a_bad_project(clinic):
    clinic.vertex.reset(faults=[])
    clinic.run()
    first = clinic.vertex.log()[-1].uris[0]
    clinic.vertex.reset(faults=[{"kind": "IMAGE_NOT_FOUND", "match": first}])
    found = clinic.run()
    assert found.code == 0, found.out


def test_a_blocked_answer_shows_that_the_image_was_read(clinic):
    clinic.vertex.reset(faults=[{"kind": "blocked"}])
    found = clinic.run()
    assert found.code == 0, found.out
    assert "the image was read, but there is no answer (blocked" in found.text("image")


REFUSALS = {
    "no jobs": (
        Refusal(
            "POST .*/jobs",
            403,
            "accessDenied",
            "Access Denied: Project demo-project: User does not have bigquery.jobs.create permission in project demo-project.",
        ),
        "BigQuery",
        "roles/bigquery.jobUser on the project",
    ),
    "the API is off": (
        Refusal(
            "POST .*/jobs",
            403,
            "accessNotConfigured",
            "BigQuery API has not been used in project demo-project before or it is disabled.",
        ),
        "BigQuery",
        "gcloud services enable bigquery.googleapis.com",
    ),
    "the input may not be seen": (
        Refusal(
            "GET .*/tables/latest_observations",
            403,
            "accessDenied",
            "Access Denied: Table t: Permission bigquery.tables.get denied on table t (or it may not exist).",
        ),
        "input",
        "roles/bigquery.dataViewer",
    ),
    "no tables may be made": (
        Refusal(
            "POST .*/tables$",
            403,
            "accessDenied",
            "Access Denied: Permission bigquery.tables.create denied on dataset d (or it may not exist).",
        ),
        "Storage Write",
        "roles/bigquery.dataEditor on the output data set",
    ),
}


@pytest.mark.parametrize(("refusal", "check", "says"), REFUSALS.values(), ids=REFUSALS)
def test_a_missing_role_is_named(clinic, refusal, check, says):
    clinic.front.refusals.append(refusal)
    found = clinic.run()
    assert found.code == 2
    assert found.failed[0] == check, found.out
    assert says in found.text(check)


def test_permissions_that_bigquery_lists_as_missing_are_named(clinic):
    clinic.front.answers.append((":testIamPermissions", {"permissions": ["bigquery.tables.get"]}))
    found = clinic.run()
    assert found.failed == ["input"]
    assert "bigquery.tables.getData is missing; grant roles/bigquery.dataViewer" in found.text("input")


def test_permissions_that_are_all_there_pass(clinic):
    granted = {"permissions": ["bigquery.tables.get", "bigquery.tables.getData"]}
    clinic.front.answers.append((":testIamPermissions", granted))
    assert clinic.run().code == 0


def test_a_linked_data_set_that_forbids_copies_is_explained(clinic):
    name = clinic.dataset.partition(".")[2]
    linked = {"type": "LINKED", "restrictions": {"type": "RESTRICTED_DATA_EGRESS"}}
    clinic.front.patches.append((f"GET .*/datasets/{name}$", linked))
    clinic.front.refusals.append(
        Refusal(
            "POST .*/jobs", 403, "accessDenied", "Access Denied: export of query results is restricted.", "CREATE TABLE"
        )
    )
    found = clinic.run()
    assert found.failed == ["read by query"]
    assert "a linked data set whose publisher restricts exports" in found.text("input")
    assert "ask the publisher to allow it" in found.text("read by query")
    assert found.state("Storage Write") == "ok"


def test_a_storage_api_that_denies_is_found_when_reading_and_when_writing(clinic):
    denied = "Permission 'bigquery.readsessions.create' denied on resource (or it may not exist)."
    with refusing_storage(denied) as address:
        found = clinic.run(f"--bigquery_storage_endpoint={address}")
    assert found.failed == ["Storage Read", "Storage Write"]
    assert "roles/bigquery.readSessionUser on the project" in found.text("Storage Read")


def test_a_table_that_cannot_be_deleted_again_is_named(clinic):
    clinic.front.refusals.append(
        Refusal("DELETE .*/tables/", 403, "accessDenied", "Access Denied: bigquery.tables.delete")
    )
    found = clinic.run()
    assert found.code == 0
    left = {table for table in clinic.tables() if "doctor" in table}
    assert len(left) == 2
    assert all(f"bq rm -t {clinic.dataset.replace('.', ':')}.{table}" in found.out for table in left)


def test_unknown_flags_are_refused_as_in_classify(clinic):
    with_typo = clinic.run("--taks=x")
    assert with_typo.code == 2
    assert "did you mean --task?" in with_typo.out
