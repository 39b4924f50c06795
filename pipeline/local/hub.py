"""A stand-in of the Analytics Hub service on loopback, over real gRPC: SubscribeListing and GetListing.

It links what it subscribes to into the BigQuery emulator: a data set of type LINKED with the listing's tables.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from concurrent import futures
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, NoReturn, Self
from urllib.parse import unquote_plus

from pipeline.local.bigquery import LINKED_LABEL
from pipeline.local.samples import OBSERVATION_FIELDS, schema_of
from pipeline.local.vertex.refusals import Refused, invalid, service_disabled

if TYPE_CHECKING:
    from google.cloud import bigquery

_SERVICE: Final = "/google.cloud.bigquery.dataexchange.v1beta1.AnalyticsHubService/"
_LISTING: Final = re.compile(r"projects/([^/]+)/locations/([^/]+)/dataExchanges/([^/]+)/listings/([^/]+)")
_TABLES: Final[Mapping[str, Mapping[str, Any]]] = {
    "latest_observations": OBSERVATION_FIELDS,
    "all_observations": OBSERVATION_FIELDS,
    "snapshots": {
        "snapshot_id": "STRING",
        "subscription_id": "STRING",
        "creation_time": "TIMESTAMP",
        "product_types": ["STRING"],
    },
}
FAULTS: Final = ("permission", "api_disabled", "unavailable", "unauthenticated")


class HubStandIn:
    """Serves one listing for as long as the `with` block lives.

    Attributes:
        endpoint: HOST:PORT, for `--analyticshub_endpoint`.
        fault: One of `FAULTS` that meets every call, or None.
        denied: Methods that the caller lacks the permission for, such as "GetListing".
        calls: Names of the methods called, in order.

    Args:
        client: Of the BigQuery emulator that linked data sets are made in.
        listing: Full name of the one listing that exists.
        source: The data set that it shares, `PROJECT.DATASET`; None is one named after the listing.
        tables: Columns by name of each of its tables; default those of Street View Insights, tutorial generation.
    """

    def __init__(
        self,
        client: bigquery.Client,
        listing: str,
        *,
        source: str | None = None,
        tables: Mapping[str, Mapping[str, Any]] = _TABLES,
    ) -> None:
        match = _LISTING.fullmatch(listing)
        if match is None:
            raise ValueError(f"{listing!r} is not the full name of a listing")
        self._client = client
        self._listing = listing
        self._location = match[2]
        self._source = source or f"{match[1]}.{match[4]}"
        self._tables = tables
        self._server: Any = None
        self.endpoint = ""
        self.fault: str | None = None
        self.denied: set[str] = set()
        self.calls: list[str] = []

    def __enter__(self) -> Self:
        import grpc
        from google.cloud.bigquery_data_exchange_v1beta1 import types

        methods: dict[str, tuple[Any, Callable[[Any], Any]]] = {
            "SubscribeListing": (types.SubscribeListingRequest, self._subscribe),
            "GetListing": (types.GetListingRequest, self._get),
        }
        stand_in = self

        class Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
            def service(self, details: Any) -> Any:
                name = details.method.removeprefix(_SERVICE)
                if name not in methods:
                    return None
                request_class, answer = methods[name]
                return grpc.unary_unary_rpc_method_handler(
                    lambda request, context: stand_in._serve(name, answer, request, context),
                    request_deserializer=request_class.deserialize,
                    response_serializer=lambda message: type(message).serialize(message),
                )

        self._server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((Handler(),))
        self.endpoint = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.stop(None).wait()

    def _serve(self, name: str, answer: Callable[[Any], Any], request: Any, context: Any) -> Any:
        self.calls.append(name)
        headers = dict(context.invocation_metadata())
        try:
            if f"name={request.name}" not in unquote_plus(headers.get("x-goog-request-params", "")):
                raise invalid("Missing routing header: x-goog-request-params must name the listing.")
            self._check(name, request)
            return answer(request)
        except Refused as refused:
            _abort(context, refused)

    def _check(self, name: str, request: Any) -> None:
        permission = {"SubscribeListing": "subscribe", "GetListing": "get"}[name]
        match self.fault:
            case "api_disabled":
                raise service_disabled("123456789012", "analyticshub.googleapis.com", "Analytics Hub API")
            case "unavailable":
                raise Refused("UNAVAILABLE", "The service is currently unavailable.")
            case "unauthenticated":
                raise Refused("UNAUTHENTICATED", "Request had invalid authentication credentials.")
        if self.fault == "permission" or name in self.denied:
            raise Refused(
                "PERMISSION_DENIED",
                f"Permission 'analyticshub.listings.{permission}' denied on resource '{request.name}' (or it may not "
                "exist).",
                "IAM_PERMISSION_DENIED",
                "analyticshub.googleapis.com",
                {"permission": f"analyticshub.listings.{permission}", "resource": request.name},
            )
        if request.name != self._listing:
            raise Refused("NOT_FOUND", f"Listing not found: {request.name}")

    def _get(self, request: Any) -> Any:
        from google.cloud.bigquery_data_exchange_v1beta1 import types

        project, dataset = self._source.split(".")
        return types.Listing(
            name=request.name,
            display_name="Street View Insights",
            bigquery_dataset=types.Listing.BigQueryDatasetSource(dataset=f"projects/{project}/datasets/{dataset}"),
            state=types.Listing.State.ACTIVE,
        )

    def _subscribe(self, request: Any) -> Any:
        from google.api_core.exceptions import Conflict
        from google.cloud import bigquery
        from google.cloud.bigquery_data_exchange_v1beta1 import types

        destination = request.destination_dataset
        reference = destination.dataset_reference
        if not reference.project_id or not reference.dataset_id or not destination.location:
            raise invalid("destination_dataset needs a dataset_reference and a location.")
        if destination.location.lower() != self._location.lower():
            raise invalid(
                f"The linked dataset's location {destination.location} must be that of the shared dataset, "
                f"{self._location}."
            )
        name = f"{reference.project_id}.{reference.dataset_id}"
        made = bigquery.Dataset(name)
        made.location = self._location.upper()
        made.labels = {**destination.labels, LINKED_LABEL: self._source.replace(".", "--")}
        try:
            self._client.create_dataset(made)
        except Conflict as error:
            raise Refused("ALREADY_EXISTS", f"Already Exists: Dataset {name.replace('.', ':')}") from error
        for table, fields in self._tables.items():
            self._client.create_table(bigquery.Table(f"{name}.{table}", schema=schema_of(fields)))
        return types.SubscribeListingResponse()


def _abort(context: Any, refused: Refused) -> NoReturn:
    import grpc

    details = refused.details()
    if details:
        context.set_trailing_metadata((("grpc-status-details-bin", details),))
    context.abort(grpc.StatusCode[refused.status], refused.message)
    raise AssertionError("abort raises")
