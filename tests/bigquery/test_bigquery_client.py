from __future__ import annotations

import pickle
import re

import google.auth.exceptions
import pytest
import requests.exceptions
from google.api_core import exceptions
from table_rows import NOW

from pipeline.bigquery import query
from pipeline.bigquery.client import Endpoint, explained
from pipeline.bigquery.names import TableName
from pipeline.bigquery.query import Query, dry_run, run
from pipeline.errors import ConfigError


@pytest.mark.parametrize(
    ("rest", "storage", "local"),
    [
        (None, None, False),
        ("http://127.0.0.1:9050", "127.0.0.1:9060", True),
        ("http://localhost:9050", "localhost:9060", True),
        ("http://[::1]:9050", "[::1]:9060", True),
        ("https://bigquery.example.com", "storage.example.com:443", False),
    ],
)
def test_an_endpoint_is_local_only_on_loopback_and_survives_pickling(rest, storage, local):
    endpoint = Endpoint("demo-project", "US", rest, storage)
    assert endpoint.is_local is local
    assert pickle.loads(pickle.dumps(endpoint)) == endpoint


@pytest.mark.parametrize(
    ("rest", "storage", "said"),
    [
        ("http://bigquery.example.com", "storage.example.com:443", "plaintext to another machine"),
        ("http://127.0.0.1.example.com", "127.0.0.1:1", "plaintext to another machine"),
        ("127.0.0.1:9050", "127.0.0.1:9060", "is not a URL"),
        ("http://127.0.0.1:9050", "http://127.0.0.1:9060", "is not HOST:PORT"),
        ("http://127.0.0.1:9050", None, "must both"),
        (None, "127.0.0.1:9060", "must both"),
        ("http://127.0.0.1:9050", "storage.example.com:443", "must both"),
    ],
)
def test_an_endpoint_that_could_leak_or_mix_is_refused(rest, storage, said):
    with pytest.raises(ConfigError, match=said):
        Endpoint("demo-project", "US", rest, storage)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (google.auth.exceptions.DefaultCredentialsError("none found"), "gcloud auth application-default login"),
        (google.auth.exceptions.RefreshError("expired"), "gcloud auth application-default login"),
        (exceptions.Unauthorized("401"), "gcloud auth application-default login"),
        (exceptions.NotFound("Not found: Table p:d.t was not found in location EU"), "does not lie in EU"),
        (exceptions.NotFound("Not found: Dataset p:d"), "check the name"),
        (
            exceptions.Forbidden("Access Denied: Project p: User does not have bigquery.jobs.create permission"),
            "roles/bigquery.jobUser",
        ),
        (exceptions.Forbidden("Permission bigquery.tables.getData denied on table"), "roles/bigquery.dataViewer"),
        (exceptions.PermissionDenied("Permission 'bigquery.tables.updateData' denied"), "roles/bigquery.dataEditor"),
        (
            exceptions.Forbidden("BigQuery API has not been used in project 1 before or it is disabled"),
            "gcloud services enable bigquery.googleapis.com",
        ),
        (exceptions.Forbidden("Quota exceeded: your project exceeded quota"), "wait or ask for more"),
        (
            exceptions.BadRequest("Query exceeded limit for bytes billed: 1. 10485760 or higher"),
            "--maximum_bytes_billed",
        ),
        (exceptions.BadRequest("Unrecognized name: colour at [3:5]"), "no such column"),
        (exceptions.BadRequest("Cannot query over table 't' without a filter over column(s) 'd'"), "--where"),
        (requests.exceptions.ConnectionError("refused"), "cannot be reached"),
    ],
)
def test_google_s_errors_become_one_line_with_the_flag_and_the_mending(error, said):
    with pytest.raises(ConfigError) as raised, explained("--input_table", "p.d.t"):
        raise error
    line = str(raised.value)
    assert said in line
    assert "\n" not in line
    assert raised.value.exit_code == 2
    if not isinstance(error, google.auth.exceptions.GoogleAuthError):
        assert line.startswith("--input_table p.d.t: ")


def test_a_bug_passes_through():
    with pytest.raises(ZeroDivisionError), explained("--where", "x"):
        _ = 1 / 0


def test_an_error_of_a_query_is_told_without_url_and_job_id(endpoint: Endpoint, dataset):
    with pytest.raises(ConfigError) as raised, explained("--input_table", "x"):
        run(endpoint, Query(f"SELECT * FROM `{dataset}`.`missing`"))
    assert re.fullmatch(r"--input_table x: Not found: Table \S+ was not found in location US; .*", str(raised.value))


def test_a_query_takes_parameters_of_every_type(endpoint):
    given = {"s": "a'b", "i": -1, "f": 1.5, "b": True, "t": NOW}
    sql = "SELECT @s AS s, @i AS i, @f AS f, @b AS b, @t AS t"
    assert run(endpoint, Query(sql, given)) == [given]


def test_a_dry_run_gives_bytes_and_refuses_an_unknown_table(endpoint, dataset, name):
    assert dry_run(endpoint, Query("SELECT 1")) == 0
    with pytest.raises(exceptions.NotFound):
        dry_run(endpoint, Query(f"SELECT * FROM {name('nope').sql}"))
    assert isinstance(name("nope"), TableName)


def test_a_job_carries_its_labels_and_its_limit_made_valid():
    config = query._config(Query("SELECT 1"), query.Job({"run_id": "2026.Run"}, maximum_bytes_billed=10))
    assert config.labels == {"run_id": "2026_run"}
    assert config.maximum_bytes_billed == 10
    assert not config.use_legacy_sql
