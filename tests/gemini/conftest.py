"""Fixtures: the tiny Vertex AI of `tiny_vertex`, plaintext and over TLS."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest
from tiny_vertex import Authority, Server, make_authority


@pytest.fixture(scope="session")
def authority() -> Authority:
    return make_authority()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def tls_server(authority: Authority) -> Iterator[Server]:
    server = Server(grpc.ssl_server_credentials([(authority.key, authority.certificate)]))
    yield server
    server.close()
