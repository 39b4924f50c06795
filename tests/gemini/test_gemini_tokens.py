"""The token holder: first fetch, refresh before expiry, refresh on demand, errors."""

from __future__ import annotations

import datetime
import json
import threading
import time
from http.server import BaseHTTPRequestHandler

import loopback_http
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from pipeline.errors import ConfigError
from pipeline.gemini.tokens import Token, TokenHolder, application_default


class Source:
    """Tokens that live `lifetime_secs`; an error in `fails` is raised instead of the fetch of that number."""

    def __init__(self, clock, lifetime_secs=3600.0, fails=()):
        self.fetched = 0
        self._clock, self._lifetime_secs, self._fails = clock, lifetime_secs, fails

    def __call__(self):
        self.fetched += 1
        if self.fetched in self._fails:
            raise OSError("no network")
        return Token({"authorization": f"Bearer {self.fetched}"}, self._clock() + self._lifetime_secs)


class Seen:
    """What `changed` was told."""

    def __init__(self):
        self.headers = []
        self._changed = threading.Condition()

    def __call__(self, headers):
        with self._changed:
            self.headers.append(headers["authorization"])
            self._changed.notify_all()

    def wait(self, count):
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.headers) >= count, timeout=20)
            return self.headers


class Clock:
    now = 1_000_000.0

    def __call__(self):
        return self.now


@pytest.fixture
def hold():
    holders = []

    def make(*args, **more):
        holders.append(TokenHolder(*args, **more))
        return holders[-1]

    yield make
    for holder in holders:
        holder.close()


def test_the_first_token_is_there_when_start_returns(hold):
    clock, seen = Clock(), Seen()
    hold(Source(clock), seen, clock=clock).start()
    assert seen.headers == ["Bearer 1"]


def test_a_first_token_that_cannot_be_fetched_is_raised(hold):
    with pytest.raises(OSError, match="no network"):
        hold(Source(Clock(), fails=(1,)), Seen(), clock=Clock()).start()


def test_a_token_is_renewed_before_it_expires_and_tried_again_after_a_failure(hold):
    """On the real clock: the first token lives 0.02 s; the second fetch fails."""
    seen = Seen()
    hold(Source(time.time, lifetime_secs=0.02, fails=(2,)), seen, retry_secs=0.01).start()
    assert seen.wait(2)[:2] == ["Bearer 1", "Bearer 3"]


def test_refreshes_on_demand_share_one_fetch(hold):
    clock, seen = Clock(), Seen()
    source = Source(clock)
    holder = hold(source, seen, clock=clock)
    holder.start()
    threads = [threading.Thread(target=holder.refresh) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert source.fetched == 2
    clock.now += 6
    holder.refresh()
    assert source.fetched == 3
    assert seen.headers == ["Bearer 1", "Bearer 2", "Bearer 3"]


def test_a_refresh_that_fails_keeps_the_old_token_and_does_not_raise(hold, caplog):
    clock, seen = Clock(), Seen()
    holder = hold(Source(clock, fails=(2,)), seen, clock=clock)
    holder.start()
    holder.refresh()
    assert seen.headers == ["Bearer 1"]
    assert "no new access token: no network" in caplog.text


def test_no_credentials_is_one_line_with_the_way_out(monkeypatch, tmp_path):
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(ConfigError, match="gcloud auth application-default login"):
        application_default()


@pytest.fixture
def token_endpoint():
    """An OAuth token endpoint on loopback; `answers` is what it gives: (status, body)."""
    answers = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            self.rfile.read(int(self.headers["content-length"]))
            status, body = answers[-1]
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *args):
            pass

    with loopback_http.serving(loopback_http.server(Handler)) as url:
        yield f"{url}/token", answers


@pytest.fixture
def service_account(monkeypatch, tmp_path, token_endpoint):
    url, answers = token_endpoint
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    info = {
        "type": "service_account",
        "project_id": "demo-project",
        "private_key": pem,
        "private_key_id": "1",
        "client_email": "worker@demo-project.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": url,
    }
    path = tmp_path / "key.json"
    path.write_text(json.dumps(info))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(path))
    return answers


def test_application_default_credentials_give_a_token_with_its_expiry(service_account):
    service_account.append((200, {"access_token": "abc", "expires_in": 3600, "token_type": "Bearer"}))
    token = application_default()()
    assert token.headers["authorization"] == "Bearer abc"
    left = token.expires_at - datetime.datetime.now(datetime.UTC).timestamp()
    assert 3500 < left <= 3600


def test_refused_credentials_are_one_line(service_account):
    service_account.append((400, {"error": "invalid_grant", "error_description": "account disabled"}))
    with pytest.raises(ConfigError, match="account disabled"):
        application_default()()
