"""The client over real gRPC connections: plaintext and TLS, errors, many calls in flight, channels, tokens."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from urllib.parse import unquote

import grpc
import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from tiny_vertex import Landed, response_bytes

from pipeline.engine.call import CallError
from pipeline.gemini.client import CALLS_PER_CHANNEL, Client, VertexEndpoint, read_details
from pipeline.gemini.request import request_class
from pipeline.gemini.tokens import Token
from pipeline.task import Settings

SETTINGS = Settings(model="gemini-3.5-flash-lite")
RESOURCE = "projects/demo-project/locations/us/publishers/google/models/gemini-3.5-flash-lite"


@pytest.fixture
def client(server):
    client = Client(VertexEndpoint.parse(f"127.0.0.1:{server.port}", "us"), SETTINGS, project="demo-project")
    yield client
    client.close()


def one(client, request=b"", timeout_secs=20.0):
    landed = Landed()
    client.send(request, timeout_secs, landed)
    return landed.wait()[0]


def test_a_request_arrives_as_it_was_built_and_the_response_comes_back_read(server, client):
    request = request_class()(model=RESOURCE)
    response = one(client, request.SerializeToString())
    assert request_class().FromString(server.requests[0]) == request
    assert response.candidates[0].content.parts[0].text == "fine"
    assert response.model_version == "tiny"


def test_a_loopback_call_carries_the_routing_header_and_no_credentials(server, client):
    one(client)
    metadata = server.metadata[0]
    assert metadata["x-goog-request-params"].startswith("model=projects%2Fdemo-project%2F")
    assert unquote(metadata["x-goog-request-params"]) == f"model={RESOURCE}"
    assert metadata["x-goog-api-client"].startswith("gl-python/3")
    assert metadata["user-agent"].startswith("gemini-image-pipeline/")
    assert "authorization" not in metadata
    assert "x-vertex-ai-llm-shared-request-type" not in metadata


@pytest.mark.parametrize(
    ("tier", "expected"),
    [
        ("flex", {"x-vertex-ai-llm-shared-request-type": "flex", "x-vertex-ai-llm-request-type": "shared"}),
        ("priority", {"x-vertex-ai-llm-shared-request-type": "priority"}),
    ],
)
def test_a_service_tier_travels_as_metadata(server, tier, expected):
    settings = Settings(model="gemini-3.5-flash-lite", service_tier=tier)
    client = Client(VertexEndpoint.parse(f"localhost:{server.port}", "global"), settings, project="demo-project")
    one(client)
    client.close()
    assert expected.items() <= server.metadata[0].items()


class Tokens:
    """A token source: token-1, token-2, ..."""

    def __init__(self, lifetime_secs=None):
        self.fetched = 0
        self._lifetime_secs = lifetime_secs

    def __call__(self):
        self.fetched += 1
        return Token({"authorization": f"Bearer token-{self.fetched}", "x-goog-user-project": "quota-project"}, None)


def test_over_tls_every_call_carries_the_token_and_the_billed_project(tls_server, authority):
    tokens = Tokens()
    client = Client(
        VertexEndpoint.parse(f"https://localhost:{tls_server.port}", "us"),
        SETTINGS,
        project="demo-project",
        fetch_token=tokens,
        root_certificates=authority.root,
    )
    one(client)
    client.refresh()
    client.refresh()  # within 5 s: shares the one before
    one(client)
    client.close()
    assert [call["authorization"] for call in tls_server.metadata] == ["Bearer token-1", "Bearer token-2"]
    assert {call["x-goog-user-project"] for call in tls_server.metadata} == {"demo-project"}
    assert tokens.fetched == 2


def test_a_server_that_our_authorities_do_not_vouch_for_is_not_talked_to(tls_server):
    client = Client(
        VertexEndpoint.parse(f"https://localhost:{tls_server.port}", "us"),
        SETTINGS,
        project="demo-project",
        fetch_token=Tokens(),
    )
    error = one(client)
    client.close()
    assert error.code == "UNAVAILABLE"
    assert tls_server.metadata == []


def details(*messages, code=8):
    packed = []
    for message in messages:
        item = any_pb2.Any()
        item.Pack(message)
        packed.append(item)
    return status_pb2.Status(code=code, message="said", details=packed).SerializeToString()


RETRY = error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=7, nanos=500_000_000))
INFO = error_details_pb2.ErrorInfo(reason="SERVICE_DISABLED", domain="googleapis.com")
OTHER = error_details_pb2.QuotaFailure()


def aborting(server, code, message, *trailing):
    async def answer(request, context):
        context.set_trailing_metadata(trailing)
        await context.abort(code, message)

    server.answer = answer


def test_an_error_brings_the_servers_delay_and_reason(server, client):
    aborting(
        server,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "too fast",
        ("grpc-status-details-bin", details(OTHER, RETRY, INFO)),
    )
    assert one(client) == CallError("RESOURCE_EXHAUSTED", "too fast", 7.5, "SERVICE_DISABLED")


@pytest.mark.parametrize(
    "code",
    [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK],
    ids=lambda code: code.name,
)
def test_every_status_becomes_a_call_error_of_its_name(server, client, code):
    aborting(server, code, "no")
    assert one(client) == CallError(code.name, "no")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (details(), (None, None)),
        (details(RETRY), (7.5, None)),
        (details(INFO, OTHER), (None, "SERVICE_DISABLED")),
        (details(error_details_pb2.ErrorInfo()), (None, None)),
        (details(error_details_pb2.RetryInfo(retry_delay=duration_pb2.Duration(seconds=-3))), (0.0, None)),
        (b"\xff\xff not a message", (None, None)),
        (b"", (None, None)),
    ],
)
def test_error_details_are_read_or_left(raw, expected):
    assert read_details(raw) == expected


def test_a_response_that_is_no_message_is_an_error_not_an_exception(server, client):
    async def answer(request, context):
        return b"\xff\xff\xff"

    server.answer = answer
    assert one(client).code == "INTERNAL"


def test_a_call_without_an_answer_ends_at_its_deadline(server, client):
    server.hold_until(2)
    assert one(client, timeout_secs=0.05).code == "DEADLINE_EXCEEDED"


def test_nobody_there_is_unavailable():
    client = Client(VertexEndpoint.parse("127.0.0.1:1", "us"), SETTINGS, project="demo-project")
    error = one(client)
    client.close()
    assert error.code == "UNAVAILABLE"


def test_a_cancelled_call_is_reported_once(server, client):
    server.hold_until(2)
    landed = Landed()
    handle = client.send(b"", 20.0, landed)
    handle.cancel()
    handle.cancel()
    assert [error.code for error in landed.wait()] == ["CANCELLED"]


def test_closing_ends_what_is_in_flight_and_refuses_what_comes_after(server, client):
    server.hold_until(3)
    landed = Landed()
    for _ in range(2):
        client.send(b"", 20.0, landed)
    client.close()
    assert [error.code for error in landed.wait(2)] == ["CANCELLED", "CANCELLED"]
    for _ in range(CALLS_PER_CHANNEL + 1):  # through the places of the closed channel, and beyond
        assert one(client).code == "CANCELLED"


@pytest.mark.parametrize(("request_", "bug"), [("no bytes", TypeError), (b"", UnicodeEncodeError)])
def test_a_call_that_cannot_be_made_is_raised_and_gives_its_place_back(tls_server, authority, request_, bug):
    client = Client(
        VertexEndpoint.parse(f"https://localhost:{tls_server.port}", "us"),
        SETTINGS,
        project="demo-project",
        fetch_token=lambda: Token({"authorization": "Bearer \udc80"}, None),
        root_certificates=authority.root,
    )
    landed = Landed()
    for _ in range(CALLS_PER_CHANNEL + 1):
        with pytest.raises(bug):
            client.send(request_, 20.0, landed)
    assert client.channels == 1
    client.close()


def test_many_more_calls_than_a_connection_takes_are_in_flight_at_once(server, client):
    """No call is answered before all 500 have arrived: one queued behind 100 streams would never be."""
    server.hold_until(500)
    landed = Landed()
    for _ in range(500):
        client.send(b"", 25.0, landed)
    results = landed.wait(500)
    assert [result for result in results if isinstance(result, CallError)] == []
    assert max(server.most_by_peer.values()) <= CALLS_PER_CHANNEL
    assert client.channels == len(server.most_by_peer) == 500 / CALLS_PER_CHANNEL


def test_calls_one_after_the_other_use_one_connection(server, client):
    for _ in range(50):
        one(client)
    assert client.channels == 1
    assert len(server.most_by_peer) == 1


def test_places_come_back_whatever_becomes_of_a_call(server, client):
    for number in range(3 * CALLS_PER_CHANNEL):
        if number % 2:
            one(client)
        else:
            server.hold_until(2)
            landed = Landed()
            client.send(b"", 20.0, landed).cancel()
            landed.wait()
            server.answer = server._fine
    assert client.channels == 1


def test_threads_do_not_grow_with_calls(server, client):
    def native_threads():
        tasks = Path("/proc/self/task")
        return sum(1 for _ in tasks.iterdir()) if tasks.exists() else threading.active_count()

    def threads_with(calls):
        seen = []

        async def count_then_answer(request, context):
            if server.in_flight == calls:
                seen.append((threading.active_count(), native_threads()))
                gate.set()
            await gate.wait()
            return response_bytes()

        gate = asyncio.Event()
        server.answer = count_then_answer
        landed = Landed()
        for _ in range(calls):
            client.send(b"", 25.0, landed)
        landed.wait(calls)
        return seen[0]

    threads_with(10)
    python_before, native_before = threads_with(40)
    python_after, native_after = threads_with(600)
    assert client.channels == 600 / CALLS_PER_CHANNEL == 12
    assert python_after - python_before <= 12  # one a channel
    assert native_after - native_before <= 12 + 8  # and gRPC's own few


def test_calls_from_many_threads_all_land(server, client):
    landed = Landed()

    def send_some():
        for _ in range(100):
            client.send(b"", 20.0, landed)

    threads = [threading.Thread(target=send_some) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(result.model_version == "tiny" for result in landed.wait(800))
    assert max(server.most_by_peer.values()) <= CALLS_PER_CHANNEL
