"""The stand-in as a service: latency, quotas, restarts, TLS and tokens, REST, what it counts."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import grpc
import pytest
from stand_in_calls import Caller, Refusal, model_path, request, uri

from pipeline.local.vertex import Fault, Settings, VertexStandIn


def test_latency_is_what_was_set_and_calls_wait_side_by_side(vertex, call):
    vertex.configure(latency_secs=0.3, answers="fixed")
    started = time.monotonic()
    futures = [call.future(request("o1:stop")) for _ in range(50)]
    vertex.wait_for(in_flight=50)
    for future in futures:
        future.result()
    assert 0.3 <= time.monotonic() - started < 3
    assert all(0.29 <= logged.secs < 1 for logged in vertex.log())
    assert vertex.stats()["max_in_flight"] == 50


def test_log_normal_latency_has_its_median_and_mean():
    import random

    settings = Settings(latency_secs=1.0, latency_p99_secs=30.0)
    rng = random.Random(1)
    drawn = sorted(settings.latency(rng) for _ in range(20_000))
    assert drawn[10_000] == pytest.approx(1.0, rel=0.05)
    assert drawn[19_800] == pytest.approx(30, rel=0.15)
    assert sum(drawn) / len(drawn) == pytest.approx(settings.mean_latency_secs, rel=0.05)


def test_the_request_quota_lets_its_rate_through_and_refuses_the_rest(vertex, call):
    vertex.configure(answers="fixed", requests_per_sec=20, burst_secs=0.5, retry_info_secs=1.5)
    answers = [call(request("o1:stop")) for _ in range(40)]
    refused = [answer for answer in answers if isinstance(answer, Refusal)]
    assert 20 <= len(refused) <= 30
    assert {(each.status, each.retry_delay_secs) for each in refused} == {("RESOURCE_EXHAUSTED", 1.5)}


def test_the_token_quota_counts_tokens(vertex, call):
    vertex.configure(answers="fixed", tokens_per_min=60_000, burst_secs=4)
    kinds = [isinstance(call(request("o1:stop")), Refusal) for _ in range(6)]  # 4,000 tokens at about 1,190 each
    assert kinds[:3] == [False] * 3
    assert kinds[-1] is True


def test_a_pause_refuses_all_and_ends_by_itself(vertex, call):
    vertex.pause("UNAVAILABLE", 0.3)
    started = time.monotonic()
    while isinstance(call(request("o1:stop")), Refusal):
        assert time.monotonic() - started < 5
    assert vertex.stats()["statuses"]["UNAVAILABLE"] >= 1
    assert time.monotonic() - started >= 0.25


def test_it_counts_calls_by_image_status_tokens_and_project(vertex, call):
    headers = {"x-goog-request-params": f"model={model_path()}", "x-goog-user-project": "payer-project"}
    for name in ("o1:stop", "o1:stop", "o1:gone"):
        call(request(name), headers)
    stats = vertex.stats()
    assert stats["calls"] == 3
    assert stats["statuses"] == {"OK": 2, "NOT_FOUND": 1}
    assert stats["paid_calls"] == 2
    assert stats["user_projects"] == {"payer-project": 3}
    assert stats["models"] == {"gemini-3.5-flash-lite": 3}
    assert stats["prompt_tokens"] > 2 * 1120
    assert vertex.calls_by_uri() == {uri("o1:stop"): 2, uri("o1:gone"): 1}
    log = vertex.log()
    assert [logged.status for logged in log] == ["OK", "OK", "NOT_FOUND"]
    assert [logged.finish for logged in log] == ["STOP", "STOP", ""]
    assert vertex.last_request()["contents"][0]["parts"][0]["file_data"]["file_uri"] == uri("o1:gone")


def test_a_call_from_before_a_reset_counts_for_nothing_after_it(vertex, call):
    vertex.configure(answers="fixed", latency_secs=0.3)
    early = call.future(request("o1:stop"))
    vertex.wait_for(in_flight=1)
    vertex.reset(answers="fixed")
    assert vertex.stats()["in_flight"] == 1  # nor is it broken off
    early.result()
    call(request("o1:yield"))
    stats = vertex.stats()
    assert (stats["calls"], stats["paid_calls"], stats["in_flight"], stats["statuses"]) == (1, 1, 0, {"OK": 1})
    assert stats["prompt_tokens"] < 2 * 1120
    assert [logged.uris for logged in vertex.log()] == [(uri("o1:yield"),)]


def test_it_counts_the_most_streams_of_a_connection(vertex):
    vertex.configure(faults=[Fault("hang")])
    callers = [Caller(vertex.endpoint) for _ in range(2)]
    futures = [callers[0].future(request("o1:stop")) for _ in range(7)]
    futures += [callers[1].future(request("o1:stop")) for _ in range(3)]
    vertex.wait_for(in_flight=10)
    assert (vertex.stats()["connections"], vertex.stats()["max_streams"]) == (2, 7)
    for future in futures:
        future.cancel()
    vertex.wait_for(ended=10)
    for caller in callers:
        caller.channel.close()


def test_a_connection_carries_a_hundred_streams_at_once(vertex):
    vertex.configure(faults=[Fault("hang", first=100)])
    caller = Caller(vertex.endpoint)
    futures = [caller.future(request("o1:stop")) for _ in range(130)]
    vertex.wait_for(in_flight=100)
    assert vertex.stats()["max_streams"] == 100
    for future in futures:
        future.cancel()
    caller.channel.close()


def test_a_burst_of_calls_over_many_connections_is_answered(vertex):
    vertex.configure(answers="fixed", latency_secs=0.2)
    callers = [Caller(vertex.endpoint) for _ in range(20)]
    futures = [caller.future(request("o1:stop")) for caller in callers for _ in range(90)]
    assert {future.code() for future in futures} == {grpc.StatusCode.OK}
    assert vertex.stats()["max_streams"] <= 100
    for caller in callers:
        caller.channel.close()


def test_fixed_answers_need_no_images(vertex, call):
    vertex.configure(answers="fixed")
    schema = {"type": "object", "properties": {"label": {"type": "string", "enum": ["b", "a"]}}}
    texts = {call.text(request(f"gs://nowhere/{number}.jpg", schema=schema)) for number in range(3)}
    assert len(texts) == 1
    assert json.loads(texts.pop())["label"] in ("a", "b")
    assert vertex.stats()["output_tokens"] == 3 * 4


def test_fixed_answers_to_a_pack_have_its_keys(vertex, call):
    vertex.configure(answers="fixed")
    schema = {
        "type": "array",
        "items": {"type": "object", "properties": {"image": {"type": "string", "enum": ["image_1", "image_2"]}}},
    }
    text = call.text(request("gs://bucket/1.jpg", "gs://bucket/2.jpg", schema=schema))
    assert [entry["image"] for entry in json.loads(text)] == ["image_1", "image_2"]


def test_dropped_connections_are_unavailable_and_come_back(vertex, call):
    vertex.configure(faults=[Fault("hang", "*pole*")])
    future = call.future(request("o1:pole"))
    vertex.wait_for(in_flight=1)
    assert vertex.drop_connections() >= 1
    assert future.exception().code() is grpc.StatusCode.UNAVAILABLE
    assert call.comes_back(request("o1:stop"))


def test_waiting_in_vain_is_an_error(vertex):
    with pytest.raises(TimeoutError, match="calls"):
        vertex.wait_for(timeout_secs=0.05, calls=1)


def test_it_comes_back_on_the_same_port_with_the_same_settings(bucket_root):
    with VertexStandIn(bucket_root, locations=["eu"]) as stand_in:
        stand_in.configure(project="some-project")
        caller, endpoint = Caller(stand_in.endpoint), stand_in.endpoint
        good = request("o1:stop", model=model_path(project="some-project", location="eu"))
        assert not isinstance(caller(good), Refusal)
        stand_in.kill()
        assert caller(good).status == "UNAVAILABLE"
        stand_in.start()
        assert stand_in.endpoint == endpoint
        # A client that was refused waits before it dials again; a new one stands for it.
        again = Caller(stand_in.endpoint)
        assert not isinstance(again(good), Refusal)
        assert isinstance(again(request("o1:stop", model=model_path(location="us"))), Refusal)
        assert stand_in.stats()["calls"] == 2
        again.channel.close()
        caller.channel.close()


def test_a_stop_ends_calls_in_flight(bucket_root):
    stand_in = VertexStandIn(bucket_root, faults=[Fault("hang")]).start()
    caller = Caller(stand_in.endpoint)
    future = caller.future(request("o1:stop"))
    stand_in.wait_for(in_flight=1)
    stand_in.close()
    assert future.exception().code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    caller.channel.close()


def test_it_dies_with_its_parent(tmp_path):
    code = (
        "import os, signal; from pipeline.local.vertex import VertexStandIn; "
        f"v = VertexStandIn({str(tmp_path)!r}).start(); print(v._process.pid, v.port, flush=True); "
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    parent = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert parent.returncode == -signal.SIGKILL
    pid, _ = map(int, parent.stdout.split())
    deadline = time.monotonic() + 10
    while _alive(pid):
        assert time.monotonic() < deadline, "the child outlived its parent"


def _alive(pid):
    try:
        os.kill(pid, 0)
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_wrong_setting_is_found_before_anything_starts():
    with pytest.raises(ValueError, match="unknown settings: latency"):
        VertexStandIn(latency=1)


def test_a_taken_port_is_an_error(vertex, bucket_root):
    taken = subprocess.run(
        [sys.executable, "-m", "pipeline.local.vertex", "--bucket_root", str(bucket_root), "--port", str(vertex.port)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert taken.returncode != 0
    assert "cannot listen" in taken.stderr


@pytest.fixture(scope="module")
def secured(bucket_root):
    with VertexStandIn(bucket_root, tls=True, rest=True, check_tokens=True) as stand_in:
        yield stand_in


def bearer(token):
    return {"x-goog-request-params": f"model={model_path()}", "authorization": f"Bearer {token}"}


def test_tls_and_tokens_are_checked(secured):
    assert secured.endpoint.startswith("https://localhost:")
    credentials = grpc.ssl_channel_credentials(secured.ca_file.read_bytes())
    caller = Caller(secured.endpoint.removeprefix("https://"), credentials)
    without = caller(request("o1:stop"))
    assert (without.status, without.reason) == ("UNAUTHENTICATED", "CREDENTIALS_MISSING")
    assert caller(request("o1:stop"), bearer("made-up")).reason == "ACCESS_TOKEN_EXPIRED"
    token = secured.token()
    assert not isinstance(caller(request("o1:stop"), bearer(token)), Refusal)
    secured.revoke_tokens()
    assert caller(request("o1:stop"), bearer(token)).reason == "ACCESS_TOKEN_EXPIRED"
    assert not isinstance(caller(request("o1:stop"), bearer(secured.token())), Refusal)
    secured.configure(token_lifetime_secs=-1)
    assert caller(request("o1:stop"), bearer(secured.token())).status == "UNAUTHENTICATED"
    secured.configure(token_lifetime_secs=3600)
    caller.channel.close()


def test_an_authority_that_is_not_trusted_is_no_connection(secured):
    caller = Caller(secured.endpoint.removeprefix("https://"), grpc.ssl_channel_credentials())
    assert caller(request("o1:stop"), timeout=5).status == "UNAVAILABLE"
    caller.channel.close()


def test_application_default_credentials_fetch_its_tokens(secured, monkeypatch):
    import google.auth
    from google.auth.transport.requests import Request

    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(secured.credentials_file))
    credentials, project = google.auth.default(scopes=["https://www.googleapis.com/auth/cloud-platform"])
    credentials.refresh(Request())
    assert project == "demo-project"
    caller = Caller(
        secured.endpoint.removeprefix("https://"), grpc.ssl_channel_credentials(secured.ca_file.read_bytes())
    )
    assert not isinstance(caller(request("o1:stop"), bearer(credentials.token)), Refusal)
    caller.channel.close()


def post(stand_in, path, body, **headers):
    import ssl

    context = ssl.create_default_context(cafile=str(stand_in.ca_file)) if stand_in.ca_file.exists() else None
    made = urllib.request.Request(
        f"{stand_in.rest_url}/v1/{path}:generateContent",
        data=json.dumps(body).encode(),
        headers={"content-type": "application/json", **headers},
    )
    try:
        with urllib.request.urlopen(made, context=context) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def rest_body(name):
    image = {"fileData": {"fileUri": uri(name), "mimeType": "image/jpeg"}}
    return {"contents": [{"role": "user", "parts": [image, {"text": "What is this?"}]}]}


def test_rest_gives_the_same_answer(vertex, call):
    status, body = post(vertex, model_path(), rest_body("o1:stop"))
    assert status == 200
    text = body["candidates"][0]["content"]["parts"][0]["text"]
    assert text == call.text(request("o1:stop", text="What is this?"))
    assert body["modelVersion"] == "stand-in-of-gemini-3.5-flash-lite"
    assert vertex.stats()["calls"] == 2


@pytest.mark.parametrize(
    ("path", "change", "code", "status"),
    [
        (model_path("gemini-0"), {}, 404, "NOT_FOUND"),
        (model_path(), {"contents": []}, 400, "INVALID_ARGUMENT"),
        (model_path(), {"content": []}, 400, "INVALID_ARGUMENT"),
    ],
)
def test_rest_gives_the_same_errors(vertex, path, change, code, status):
    got, body = post(vertex, path, {**rest_body("o1:stop"), **change})
    assert (got, body["error"]["code"], body["error"]["status"]) == (code, code, status)


def test_rest_says_when_to_come_back(vertex):
    vertex.configure(faults=[Fault("RESOURCE_EXHAUSTED")], retry_info_secs=3)
    code, body = post(vertex, model_path(), rest_body("o1:stop"))
    assert code == 429
    assert body["error"]["details"][0]["retryDelay"] == "3s"


def test_rest_checks_tls_and_tokens_too(secured):
    assert post(secured, model_path(), rest_body("o1:stop"))[0] == 401
    token = secured.token()
    assert post(secured, model_path(), rest_body("o1:stop"), authorization=f"Bearer {token}")[0] == 200
