"""Where Vertex AI is, and whether the way there is encrypted and signed in. Pure."""

from __future__ import annotations

import dataclasses
import ipaddress
import re

from pipeline.errors import ConfigError

_HOST_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):(\d{1,5})")
_LOCATION = re.compile(r"[a-z]+(-[a-z]+\d+)?")
# docs.cloud.google.com/gemini-enterprise-agent-platform/resources/locations, "Multi-region endpoints" (a copy of 2026)
_MULTI_REGIONS = frozenset({"us", "eu"})
_FORM = "expected HOST:PORT on a loopback address (plaintext, anonymous), or https://HOST:PORT (TLS, credentials)"


@dataclasses.dataclass(frozen=True, slots=True)
class VertexEndpoint:
    """A Vertex AI gRPC endpoint; small and picklable.

    Attributes:
        target: HOST:PORT.
        location: the Vertex AI location that is asked there.
        secure: TLS with Application Default Credentials; else plaintext and anonymous, which is for loopback only.
    """

    target: str
    location: str
    secure: bool = True

    @classmethod
    def parse(cls, text: str | None, location: str) -> VertexEndpoint:
        """The endpoint of `--vertex_endpoint` and `--vertex_location`.

        Args:
            text: None or empty for Google's own host; HOST:PORT of a loopback address for plaintext without
                credentials; https://HOST:PORT of any host for TLS with Application Default Credentials.
            location: a region, `us`, `eu` or `global`.

        Raises:
            ConfigError: another form, or plaintext to another machine.
        """
        if not _LOCATION.fullmatch(location):
            raise ConfigError(f"--vertex_location={location}: expected a region such as us-central1, or us, eu, global")
        if not text:
            return cls(f"{_google_host(location)}:443", location)
        secure = text.startswith("https://")
        match = _HOST_PORT.fullmatch(text.removeprefix("https://").removesuffix("/"))
        if match is None or not 0 < int(match[2]) < 65_536:
            raise ConfigError(f"--vertex_endpoint={text}: {_FORM}")
        if not secure and not _is_loopback(match[1]):
            raise ConfigError(f"--vertex_endpoint={text}: {match[1]} is not this machine, so it needs TLS; {_FORM}")
        return cls(f"{match[1]}:{match[2]}", location, secure)


def _google_host(location: str) -> str:
    if location == "global":
        return "aiplatform.googleapis.com"
    if location in _MULTI_REGIONS:
        return f"aiplatform.{location}.rep.googleapis.com"
    return f"{location}-aiplatform.googleapis.com"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
