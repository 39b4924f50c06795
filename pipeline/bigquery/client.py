"""Where BigQuery is, the clients that talk to it, and its errors in one line that says what to do."""

from __future__ import annotations

import contextlib
import dataclasses
import ipaddress
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pipeline import credentials
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from google.api_core.retry import Retry
    from google.cloud import bigquery
    from google.cloud.bigquery_storage_v1 import BigQueryReadClient, BigQueryWriteClient

SHORT_RETRY_SECS = 30.0
_LOCAL_CHANNEL = (
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A service on this machine is back within seconds; gRPC would wait for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)

# Which role holds a permission: https://cloud.google.com/bigquery/docs/access-control#bigquery
_ROLES = (
    ("bigquery.jobs.create", "roles/bigquery.jobUser on the project"),
    ("bigquery.readsessions", "roles/bigquery.readSessionUser on the project"),
    ("bigquery.tables.updateData", "roles/bigquery.dataEditor on the output data set"),
    ("bigquery.tables.create", "roles/bigquery.dataEditor on the output data set"),
    ("bigquery.tables.update", "roles/bigquery.dataEditor on the output data set"),
    ("bigquery.tables.get", "roles/bigquery.dataViewer on its data set"),
    ("bigquery.datasets.get", "roles/bigquery.dataViewer on the data set"),
    ("serviceusage.services.use", "roles/serviceusage.serviceUsageConsumer on the project"),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Endpoint:
    """Where BigQuery is and who pays; small, picklable, equal by value.

    Args:
        project: The project that jobs run in and that is billed.
        location: Location of the data, such as `US`, `EU` or `europe-west4`; None lets BigQuery infer it.
        rest: URL of the REST API; None is Google's. `http://` is allowed for a loopback address only.
        storage: `HOST:PORT` of the Storage Read and Write APIs; None is Google's. A loopback address is spoken to in
            plaintext and anonymously, any other host with TLS and Application Default Credentials.

    Raises:
        ConfigError: An address has another form, or one of the two is on loopback and the other is not.
    """

    project: str
    location: str | None = None
    rest: str | None = None
    storage: str | None = None

    def __post_init__(self) -> None:
        local = (_rest_is_loopback(self.rest), _storage_is_loopback(self.storage))
        if local[0] != local[1]:
            raise ConfigError(
                "--bigquery_endpoint and --bigquery_storage_endpoint must both be on this machine or both be remote: "
                f"got {self.rest or 'Google'} and {self.storage or 'Google'}"
            )

    @property
    def is_local(self) -> bool:
        """True where the data stay on this machine and nobody is billed."""
        return _rest_is_loopback(self.rest)

    def client(self) -> bigquery.Client:
        """A new client of the REST API; close it after use."""
        from google.auth.credentials import AnonymousCredentials
        from google.cloud import bigquery

        return bigquery.Client(
            project=self.project,
            location=self.location,
            credentials=AnonymousCredentials() if self.is_local else None,  # type: ignore[no-untyped-call]  # theirs
            client_options={"api_endpoint": self.rest} if self.rest else None,
        )

    def reader(self) -> BigQueryReadClient:
        """A new client of the Storage Read API."""
        from google.cloud.bigquery_storage_v1 import BigQueryReadClient
        from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

        client: BigQueryReadClient = self._storage_client(BigQueryReadClient, BigQueryReadGrpcTransport)
        return client

    def writer(self) -> BigQueryWriteClient:
        """A new client of the Storage Write API."""
        from google.cloud.bigquery_storage_v1 import BigQueryWriteClient
        from google.cloud.bigquery_storage_v1.services.big_query_write.transports import BigQueryWriteGrpcTransport

        client: BigQueryWriteClient = self._storage_client(BigQueryWriteClient, BigQueryWriteGrpcTransport)
        return client

    def _storage_client(self, client: Any, transport: Any) -> Any:
        if self.storage is None:
            return client()
        if not _storage_is_loopback(self.storage):
            return client(client_options={"api_endpoint": self.storage})
        import grpc

        return client(transport=transport(channel=grpc.insecure_channel(self.storage, options=_LOCAL_CHANNEL)))


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _rest_is_loopback(url: str | None) -> bool:
    if url is None:
        return False
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError(f"--bigquery_endpoint: {url!r} is not a URL such as http://127.0.0.1:9050 or https://HOST")
    loopback = _is_loopback(parts.hostname)
    if parts.scheme == "http" and not loopback:
        raise ConfigError(f"--bigquery_endpoint: {url!r} is plaintext to another machine; use https://")
    return loopback


def _storage_is_loopback(address: str | None) -> bool:
    if address is None:
        return False
    if not re.fullmatch(r"(?:[A-Za-z0-9.-]+|\[[0-9a-fA-F:]+\])(?::\d{1,5})?", address):
        raise ConfigError(f"--bigquery_storage_endpoint: {address!r} is not HOST:PORT, e.g. 127.0.0.1:9060")
    return _is_loopback(urlsplit(f"//{address}").hostname)


def short_retry() -> Retry:
    """For calls that take a second: Google's own default keeps trying for ten minutes."""
    from google.cloud.bigquery import DEFAULT_RETRY

    return DEFAULT_RETRY.with_timeout(SHORT_RETRY_SECS)


@contextlib.contextmanager
def explained(flag: str, value: object) -> Iterator[None]:
    """Turns what Google's clients raise into one line that names the flag and says how to mend it.

    Args:
        flag: The option that decides what is done inside, such as `--input_table`.
        value: What it was given.

    Raises:
        ConfigError: BigQuery refused or cannot be reached. Anything else that is raised passes through.
    """
    import google.auth.exceptions
    import requests.exceptions
    from google.api_core import exceptions

    try:
        yield
    except google.auth.exceptions.GoogleAuthError as error:
        raise credentials.refused(error) from error
    except exceptions.GoogleAPICallError as error:
        raise ConfigError(f"{flag} {value}: {_advice(error)}") from error
    except (exceptions.RetryError, requests.exceptions.RequestException) as error:
        raise ConfigError(
            f"{flag} {value}: BigQuery cannot be reached ({_one_line(error)}); check the network and the endpoint flags"
        ) from error
    except OSError as error:
        if credentials.is_of_file(error):
            raise credentials.refused(error) from error
        raise


def _advice(error: Exception) -> str:
    """What BigQuery said and how to mend it, in one line."""
    from google.api_core import exceptions

    said = _one_line(getattr(error, "message", None) or error)
    if isinstance(error, exceptions.NotFound):
        return _not_found(said)
    if isinstance(error, exceptions.Unauthenticated | exceptions.Unauthorized):
        return f"{said}; run `gcloud auth application-default login`"
    if isinstance(error, exceptions.Forbidden):  # PermissionDenied (gRPC) is one
        if "has not been used" in said or "is disabled" in said or "SERVICE_DISABLED" in said:
            return f"{said}; run `gcloud services enable bigquery.googleapis.com bigquerystorage.googleapis.com`"
        if "exceeded" in said.lower() and "bytes billed" not in said:
            return f"{said}; a quota of the project is used up, wait or ask for more"
        roles = sorted({role for permission, role in _ROLES if permission in said})
        return f"{said}; grant {' and '.join(roles)}" if roles else f"{said}; check the roles that README names"
    if "bytes billed" in said:
        return f"{said}; raise --maximum_bytes_billed, or read less with --where or a smaller table"
    if "Unrecognized name" in said or "not found inside" in said:
        return f"{said}; no such column, see `bq show --schema`"
    if "without a filter over column" in said:
        return f"{said}; the table wants a filter on its partitions, give one with --where"
    return said


def _not_found(said: str) -> str:
    location = re.search(r"was not found in location (\S+)", said)
    if location:
        place = location.group(1).rstrip(".")
        return f"{said}; there is none of that name, or it does not lie in {place} where the rest of the data lie"
    return f"{said}; check the name, e.g. with `bq ls`"


def _one_line(error: object) -> str:
    """The first sentence or two of an error, without the URL of the request and the job's id."""
    text = " ".join(str(error).split())
    text = re.sub(r"^(?:\d{3} )?(?:GET|POST|PUT|PATCH|DELETE) \S+: ", "", text)
    text = re.sub(r"; reason: \w+, (?:location: [^,]*, )?message: .*", "", text)
    text = re.sub(r"\s*Location: \S+ Job ID: \S+.*$", "", text)
    return text[:400]
