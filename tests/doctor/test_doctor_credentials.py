"""Who we are: without credentials, and signed in over TLS."""

import os
import subprocess
import sys

from pipeline.local.vertex import VertexStandIn


def test_without_credentials_it_says_how_to_sign_in(clinic, monkeypatch, tmp_path):
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    found = clinic.run("--vertex_endpoint=https://localhost:9")
    assert found.code == 2
    assert found.failed == ["credentials"]
    assert "gcloud auth application-default login" in found.text("credentials")
    assert found.state("BigQuery") == found.state("model") == "-"


def test_credentials_that_give_no_token_are_no_credentials(clinic, monkeypatch, tmp_path):
    key = tmp_path / "key.json"
    key.write_text('{"type": "service_account", "client_email": "a@b.c"}')
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    found = clinic.run("--vertex_endpoint=https://localhost:9")
    assert found.failed == ["credentials"]


def test_over_tls_it_says_who_is_signed_in(clinic, drawn, bigquery):
    """In a process of its own: gRPC reads which authorities to trust once."""
    with VertexStandIn(drawn[0], tls=True, check_tokens=True) as vertex:
        environment = {
            **os.environ,
            "GOOGLE_APPLICATION_CREDENTIALS": str(vertex.credentials_file),
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(vertex.ca_file),
        }
        command = [sys.executable, "-m", "pipeline", "doctor", "--project=demo-project", "--task=road_signs"]
        command += [f"--input_table={clinic.dataset}.latest_observations", f"--output_table={clinic.dataset}.answers"]
        command += [f"--bigquery_endpoint={bigquery.rest}", f"--bigquery_storage_endpoint={bigquery.storage}"]
        command += [f"--vertex_endpoint={vertex.endpoint}"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "signed in as " in done.stdout
