"""`python -m pipeline subscribe`: subscribes to the Street View Insights listing, so that its tables can be read."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import ipaddress
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final, NoReturn

from pipeline.bigquery.client import explained, short_retry
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from google.cloud import bigquery

HUB_PROJECT: Final = "maps-platform-analytics-hub"
EXCHANGE: Final = "imagery_insights_exchange_{location}"
LISTING: Final = "imagery_insights_{customer}__{location}"
LINKED_DATASET: Final = "imagery_insights___{location}"
"""Names of the data by location and customer; docs/facts.md, the data. Until 2026 linked data sets were called
`imagery_insights___preview___{location}`: --linked_dataset names any other."""

_TABLES: Final = (
    "latest_observations",
    "cropped_observations_latest",
    "full_frame_observations_latest",
    "pano_observations_latest",
)
"""Tables of images by generation of the product, the one to suggest first; docs/facts.md, the data."""

_CALL_TIMEOUT_SECS: Final = 60.0
_HOST_PORT: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:]+\]|[A-Za-z0-9.-]+):\d{1,5}")
_DATASET: Final = re.compile(r"[A-Za-z0-9_]{1,1024}")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_.:-]+")


@dataclasses.dataclass(frozen=True, slots=True)
class Subscription:
    """What is subscribed to, and as what.

    Attributes:
        project: Where the linked data set is made.
        location: `us` or `eu`.
        listing: Full name of the listing.
        linked_dataset: Name of the linked data set.
    """

    project: str
    location: str
    listing: str
    linked_dataset: str

    @property
    def dataset(self) -> str:
        """The linked data set, PROJECT.DATASET."""
        return f"{self.project}.{self.linked_dataset}"


def main(argv: list[str]) -> int:
    """Subscribes, unless that has been done; says what to run next.

    Returns:
        0.

    Raises:
        ConfigError: A flag is wrong, a permission, an API or the listing is missing, or the data set's name is taken.
    """
    arguments = _parser().parse_args(argv)
    wanted = _wanted(arguments)
    client = _bigquery_client(wanted, arguments.bigquery_endpoint)
    with contextlib.closing(client):
        linked = _linked_source(client, wanted)
        hub = _hub_client(arguments.analyticshub_endpoint)
        if linked is None and not _subscribe(hub, wanted):
            linked = _linked_source(client, wanted) or ""  # somebody was faster
        if linked is None:
            print(f"subscribed to {wanted.listing}")
        else:
            _check_source(hub, wanted, linked)
            print(f"already subscribed: {wanted.dataset} is a linked data set" + (f" of {linked}" if linked else ""))
        tables = _tables(client, wanted)
    print(f"{wanted.dataset} has {len(tables)} tables: {', '.join(tables)}")
    print(_next_command(wanted, tables))
    return 0


class _Parser(argparse.ArgumentParser):
    """argparse with our errors: one line, no usage text."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(message)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="python -m pipeline subscribe", description=__doc__, allow_abbrev=False)
    parser.add_argument("--project", required=True, help="your project: the linked data set is made there")
    parser.add_argument("--exchange_location", required=True, choices=("us", "eu"), help="where your imagery lies")
    parser.add_argument("--customer_id", help="your Street View Insights customer id: the listing is named after it")
    parser.add_argument("--linked_dataset", help=f"name of the linked data set; default {LINKED_DATASET}")
    parser.add_argument("--hub_project", default=HUB_PROJECT, help="project of the exchange; default %(default)s")
    parser.add_argument("--exchange", help=f"id of the exchange; default {EXCHANGE}")
    parser.add_argument("--listing", help=f"id of the listing; default {LISTING}")
    parser.add_argument("--analyticshub_endpoint", help="HOST:PORT on loopback, plaintext; default Google's")
    parser.add_argument("--bigquery_endpoint", help="http://HOST:PORT on loopback; default Google's")
    return parser


def _wanted(arguments: argparse.Namespace) -> Subscription:
    location = arguments.exchange_location
    if not arguments.listing and not arguments.customer_id:
        raise ConfigError("--customer_id is missing: the listing is named after it (or give --listing)")
    customer = (arguments.customer_id or "").replace("-", "_")
    exchange = arguments.exchange or EXCHANGE.format(location=location)
    listing = arguments.listing or LISTING.format(customer=customer, location=location)
    dataset = arguments.linked_dataset or LINKED_DATASET.format(location=location)
    flags = {"project": arguments.project, "hub_project": arguments.hub_project, "exchange": exchange}
    flags["listing" if arguments.listing else "customer_id"] = listing
    for flag, value in flags.items():
        if not _SEGMENT.fullmatch(value):
            raise ConfigError(f"--{flag}: {value!r} may have letters, digits and _ - . : only")
    if not _DATASET.fullmatch(dataset):
        raise ConfigError(f"--linked_dataset: {dataset!r} is not a data set name: letters, digits and underscores only")
    name = f"projects/{arguments.hub_project}/locations/{location}/dataExchanges/{exchange}/listings/{listing}"
    return Subscription(arguments.project, location, name, dataset)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_loopback(flag: str, address: str) -> None:
    match = _HOST_PORT.fullmatch(address)
    if match is None or not _is_loopback(match["host"]):
        raise ConfigError(f"--{flag}: {address!r} is not HOST:PORT of this machine, such as 127.0.0.1:9050")


def _bigquery_client(wanted: Subscription, endpoint: str | None) -> bigquery.Client:
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    if endpoint is None:
        with explained("--project", wanted.project):
            return bigquery.Client(project=wanted.project)
    _check_loopback("bigquery_endpoint", endpoint.removeprefix("http://").rstrip("/"))
    return bigquery.Client(
        project=wanted.project,
        credentials=AnonymousCredentials(),  # type: ignore[no-untyped-call]  # theirs
        client_options={"api_endpoint": f"http://{endpoint.removeprefix('http://').rstrip('/')}"},
    )


def _hub_client(endpoint: str | None) -> Any:
    from google.cloud.bigquery_data_exchange_v1beta1.services.analytics_hub_service import (
        AnalyticsHubServiceClient,
        transports,
    )

    if endpoint is None:
        with explained("--project", "credentials"):
            return AnalyticsHubServiceClient()
    import grpc

    _check_loopback("analyticshub_endpoint", endpoint)
    transport = transports.AnalyticsHubServiceGrpcTransport(channel=grpc.insecure_channel(endpoint))
    return AnalyticsHubServiceClient(transport=transport)


def _linked_source(client: bigquery.Client, wanted: Subscription) -> str | None:
    """The data set that the linked one links to, PROJECT.DATASET ("" if BigQuery does not say); None: there is no such.

    Raises:
        ConfigError: There is a data set of that name, and it is not a linked one, or it lies elsewhere.
    """
    from google.api_core.exceptions import NotFound

    with explained("--project", wanted.project):
        try:
            found = client.get_dataset(wanted.dataset, retry=short_retry())
        except NotFound as error:
            if "Not found: Project" in str(error):
                raise
            return None
    properties = found.to_api_repr()
    if properties.get("type") != "LINKED":
        raise ConfigError(f"--linked_dataset: {wanted.dataset} exists and is no linked data set; give another name")
    if (found.location or "").lower() != wanted.location:
        raise ConfigError(
            f"--exchange_location {wanted.location}: the linked data set {wanted.dataset} lies in {found.location}"
        )
    source = properties.get("linkedDatasetSource", {}).get("sourceDataset", {})
    return f"{source['projectId']}.{source['datasetId']}" if source else ""


def _subscribe(hub: Any, wanted: Subscription) -> bool:
    """Subscribes; False: a data set of that name has been made meanwhile."""
    from google.api_core.exceptions import AlreadyExists
    from google.cloud.bigquery_data_exchange_v1beta1 import types

    request = types.SubscribeListingRequest(
        name=wanted.listing,
        destination_dataset=types.DestinationDataset(
            dataset_reference=types.DestinationDatasetReference(
                project_id=wanted.project, dataset_id=wanted.linked_dataset
            ),
            location=wanted.location,
        ),
    )
    with _hub_errors(wanted):
        try:
            hub.subscribe_listing(request=request, timeout=_CALL_TIMEOUT_SECS)
        except AlreadyExists:
            return False
    return True


def _check_source(hub: Any, wanted: Subscription, linked: str) -> None:
    """Compares what the data set links to with the listing, where the caller may see both.

    Raises:
        ConfigError: It is linked to something else.
    """
    from google.api_core.exceptions import GoogleAPICallError, RetryError

    try:
        listing = hub.get_listing(name=wanted.listing, timeout=_CALL_TIMEOUT_SECS)
    except (GoogleAPICallError, RetryError):
        return  # reading the tables needs no access to the hub
    shared = listing.bigquery_dataset.dataset.rpartition("/")[2]  # by name alone: the project may be a number
    if linked and shared and linked.rpartition(".")[2] != shared:
        raise ConfigError(
            f"--linked_dataset: {wanted.dataset} is linked to {linked}, not to the listing's {shared}; give another "
            "name"
        )


@contextlib.contextmanager
def _hub_errors(wanted: Subscription) -> Iterator[None]:
    """Turns what Analytics Hub answers into one line that says how to mend it."""
    from google.api_core import exceptions

    listing = wanted.listing
    try:
        yield
    except exceptions.Unauthenticated as error:
        raise ConfigError(
            f"no usable Google credentials: run `gcloud auth application-default login` ({error.message})"
        ) from error
    except exceptions.PermissionDenied as error:
        if error.reason == "SERVICE_DISABLED":
            raise ConfigError(
                "--project: the Analytics Hub API is not enabled; run `gcloud services enable "
                f"analyticshub.googleapis.com --project={wanted.project}` and try again in a minute"
            ) from error
        raise ConfigError(
            f"you may not subscribe to {listing}: on {wanted.project} you need roles/analyticshub.subscriptionOwner "
            "and roles/bigquery.user, and Google must have shared the listing with you (check --customer_id, or ask "
            f"your Google Maps Platform contact): {error.message}"
        ) from error
    except exceptions.NotFound as error:
        raise ConfigError(
            f"--customer_id: there is no listing {listing}; check --customer_id and --exchange_location, or name it "
            "with --listing and --exchange"
        ) from error
    except exceptions.InvalidArgument as error:
        raise ConfigError(f"--exchange_location {wanted.location}: Analytics Hub says: {error.message}") from error
    except (exceptions.ServiceUnavailable, exceptions.DeadlineExceeded, exceptions.RetryError) as error:
        raise ConfigError(f"Analytics Hub cannot be reached: {error}; try again later") from error
    except exceptions.GoogleAPICallError as error:
        raise ConfigError(f"Analytics Hub refused to subscribe to {listing}: {error.message}") from error


def _tables(client: bigquery.Client, wanted: Subscription) -> list[str]:
    with explained("--linked_dataset", wanted.dataset):
        tables = sorted(table.table_id for table in client.list_tables(wanted.dataset, retry=short_retry()))
    if not tables:
        raise ConfigError(
            f"{wanted.dataset} is linked, but has no tables yet: the first snapshot may still be on its way, ask your "
            "Google Maps Platform contact"
        )
    return tables


def _next_command(wanted: Subscription, tables: list[str]) -> str:
    table = next((name for name in _TABLES if name in tables), tables[0])
    location = wanted.location.upper()
    return (
        f"\nNext: make a data set for the answers, in {location} like the linked one, which is read-only:\n"
        f"  bq --location={location} mk --dataset {wanted.project}:classified\n"
        "then ask about ten images:\n"
        f"  python -m pipeline classify --project={wanted.project} \\\n"
        f"    --input_table={wanted.dataset}.{table} \\\n"
        f"    --output_table={wanted.project}.classified.road_signs --task=road_signs --limit=10"
    )
