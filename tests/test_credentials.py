"""What google-auth complains about, as a line that says what mends it."""

import errno

import pytest
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

from pipeline import credentials
from pipeline.bigquery.client import Endpoint
from pipeline.bigquery.query import Query, run
from pipeline.errors import ConfigError
from pipeline.gemini.tokens import application_default

LOGIN = "run `gcloud auth application-default login`"


@pytest.mark.parametrize(
    ("error", "variable", "says"),
    [
        (TransportError("no route to oauth2.googleapis.com"), None, "cannot be reached (no route"),
        (TransportError("no route to oauth2.googleapis.com"), "key.json", "check the network"),
        (DefaultCredentialsError("none were found."), None, f"(none were found): {LOGIN}"),
        (RefreshError("token was revoked", {"error": "invalid_grant"}), None, f"(token was revoked): {LOGIN}"),
        (RefreshError("token was revoked"), "key.json", "=key.json is of no use (token was revoked): mend that file"),
        (
            IsADirectoryError(errno.EISDIR, "no file", "key.json"),
            "key.json",
            "(Is a directory): mend that file, or unset",
        ),
    ],
)
def test_the_line_says_what_mends_it(monkeypatch, error, variable, says):
    monkeypatch.delenv(credentials.VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(credentials.VARIABLE, variable)
    assert says in str(credentials.refused(error))


@pytest.mark.parametrize("content", [None, "{", '{"type": "service_account"}', "a directory"])
def test_a_file_of_credentials_that_is_missing_or_broken_is_named_by_every_service(monkeypatch, tmp_path, content):
    path = tmp_path / "key.json"
    if content == "a directory":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    monkeypatch.setenv(credentials.VARIABLE, str(path))
    says = f"{credentials.VARIABLE}={path} is of no use"
    from pipeline.bigquery.client import explained

    with pytest.raises(ConfigError, match=says), explained("--project", "p"):
        run(Endpoint("some-project"), Query("SELECT 1"))
    with pytest.raises(ConfigError, match=says):
        application_default()
