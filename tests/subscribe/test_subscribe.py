"""The subscribe command over real gRPC (Analytics Hub stand-in) and REST (BigQuery emulator)."""

import itertools
import subprocess
import sys

import pytest

from pipeline.commands import subscribe
from pipeline.errors import ConfigError
from pipeline.local.hub import HubStandIn

LISTING = (
    "projects/maps-platform-analytics-hub/locations/us/dataExchanges/imagery_insights_exchange_us/"
    "listings/imagery_insights_acme_power_1__us"
)
_numbers = itertools.count(1)


@pytest.fixture
def client(bigquery):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery as google_bigquery

    with google_bigquery.Client(
        project=bigquery.project, credentials=AnonymousCredentials(), client_options={"api_endpoint": bigquery.rest}
    ) as made:
        yield made


@pytest.fixture
def hub(client):
    with HubStandIn(client, LISTING) as stand_in:
        yield stand_in


@pytest.fixture
def linked():
    return f"linked_{next(_numbers)}"


@pytest.fixture
def command(bigquery, hub, linked):
    """The flags that work; a test replaces some."""

    def flags(**other):
        values = {
            "project": bigquery.project,
            "exchange_location": "us",
            "customer_id": "acme-power-1",
            "linked_dataset": linked,
            "analyticshub_endpoint": hub.endpoint,
            "bigquery_endpoint": bigquery.rest,
            **other,
        }
        return [f"--{name}={value}" for name, value in values.items() if value is not None]

    return flags


def test_subscribing_links_the_tables_and_says_what_to_run_next(command, client, hub, linked, capsys):
    assert subscribe.main(command()) == 0
    assert "SubscribeListing" in hub.calls
    assert client.get_dataset(linked).to_api_repr()["type"] == "LINKED"
    out = capsys.readouterr().out
    assert f"subscribed to {LISTING}" in out
    assert "has 3 tables: all_observations, latest_observations, snapshots" in out
    assert f"--input_table=demo-project.{linked}.latest_observations" in out


def test_the_default_names_are_those_of_the_product(hub):
    arguments = subscribe._parser().parse_args(
        ["--project=my-project", "--exchange_location=us", "--customer_id=acme-power-1"]
    )
    wanted = subscribe._wanted(arguments)
    assert wanted.listing == LISTING
    assert wanted.dataset == "my-project.imagery_insights___us"


def test_hub_project_exchange_and_listing_can_be_named(command, client, capsys):
    other = "projects/other-hub/locations/us/dataExchanges/an_exchange/listings/a_listing"
    with HubStandIn(client, other) as hub:
        flags = command(
            hub_project="other-hub", exchange="an_exchange", listing="a_listing", customer_id=None,
            analyticshub_endpoint=hub.endpoint,
        )  # fmt: skip
        assert subscribe.main(flags) == 0
    assert other in capsys.readouterr().out


def test_already_subscribed_is_a_success_that_says_so(command, hub, capsys):
    subscribe.main(command())
    hub.calls.clear()
    assert subscribe.main(command()) == 0
    assert "already subscribed" in capsys.readouterr().out
    assert "SubscribeListing" not in hub.calls


def test_already_subscribed_needs_no_access_to_the_hub(command, hub):
    subscribe.main(command())
    hub.fault = "permission"
    assert subscribe.main(command()) == 0


def test_a_plain_data_set_of_that_name_is_an_error(command, client, linked):
    client.create_dataset(linked)
    with pytest.raises(ConfigError, match="exists and is no linked data set"):
        subscribe.main(command())


def test_a_data_set_that_appears_meanwhile_is_told_from_a_subscription(command, client, linked, bigquery):
    class Slow(HubStandIn):
        def _subscribe(self, request):
            client.create_dataset(linked)
            return super()._subscribe(request)

    with Slow(client, LISTING) as hub, pytest.raises(ConfigError, match="exists and is no linked data set"):
        subscribe.main(command(analyticshub_endpoint=hub.endpoint))


def test_a_link_to_something_else_is_an_error(command, client):
    with HubStandIn(client, LISTING, source="a-publisher.other_data") as other:
        subscribe.main(command(analyticshub_endpoint=other.endpoint))
    with pytest.raises(ConfigError, match=r"is linked to a-publisher\.other_data, not to"):
        subscribe.main(command())


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("permission", "roles/analyticshub.subscriptionOwner"),
        ("api_disabled", "gcloud services enable analyticshub.googleapis.com --project=demo-project"),
        ("unauthenticated", "gcloud auth application-default login"),
        ("unavailable", "cannot be reached"),
    ],
)
def test_what_the_hub_refuses_is_one_line_with_the_remedy(command, hub, fault, message):
    hub.fault = fault
    with pytest.raises(ConfigError) as raised:
        subscribe.main(command())
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
    assert not [each for each in hub.calls if each != "SubscribeListing"]


def test_an_unknown_listing_names_the_flags_to_check(command):
    with pytest.raises(
        ConfigError, match=r"there is no listing .*nobody.* check --customer_id and --exchange_location"
    ):
        subscribe.main(command(customer_id="nobody"))


def test_the_other_location_has_no_such_listing(command):
    with pytest.raises(ConfigError, match="--exchange_location"):
        subscribe.main(command(exchange_location="eu"))


def test_a_location_that_the_hub_refuses_is_reported(command, client):
    class Moved(HubStandIn):
        def _subscribe(self, request):
            self._location = "eu"
            return super()._subscribe(request)

    with Moved(client, LISTING) as hub, pytest.raises(ConfigError, match=r"--exchange_location us: .*must be that of"):
        subscribe.main(command(analyticshub_endpoint=hub.endpoint))


def test_a_linked_data_set_elsewhere_is_an_error(command, hub, client, linked):
    subscribe.main(command())
    with pytest.raises(ConfigError, match="lies in US"):
        subscribe.main(command(exchange_location="eu"))


def test_a_linked_data_set_without_tables_is_an_error(command, client):
    with HubStandIn(client, LISTING, tables={}) as hub, pytest.raises(ConfigError, match="has no tables yet"):
        subscribe.main(command(analyticshub_endpoint=hub.endpoint))


@pytest.mark.parametrize(
    ("tables", "suggested"),
    [
        (
            ("all_observations", "pano_observations_latest", "cropped_observations_latest"),
            "cropped_observations_latest",
        ),
        (("something_new",), "something_new"),
    ],
)
def test_the_suggested_table_fits_the_generation_of_the_data(command, client, capsys, tables, suggested):
    with HubStandIn(client, LISTING, tables={name: {"observation_id": "STRING"} for name in tables}) as hub:
        subscribe.main(command(analyticshub_endpoint=hub.endpoint))
    assert f".{suggested} " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"customer_id": None}, "--customer_id is missing"),
        ({"exchange_location": "asia"}, "exchange_location"),
        ({"project": None}, "--project"),
        ({"linked_dataset": "not-a-name"}, "--linked_dataset"),
        ({"customer_id": "a/b"}, "--customer_id"),
        ({"analyticshub_endpoint": "analyticshub.googleapis.com:443"}, "--analyticshub_endpoint"),
        ({"bigquery_endpoint": "http://192.0.2.1:9050"}, "--bigquery_endpoint"),
        ({"customer": "x"}, "unrecognized arguments"),
    ],
)
def test_wrong_flags_are_one_line_and_call_nothing(command, hub, change, message):
    with pytest.raises(ConfigError) as raised:
        subscribe.main(command(**change))
    assert message in str(raised.value)
    assert not hub.calls


def test_it_does_not_import_beam(command):
    code = "import sys, pipeline.commands.subscribe; assert not any(m.startswith('apache_beam') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_error_is_one_line_on_the_terminal_and_exit_code_2(command, hub):
    hub.fault = "api_disabled"
    ran = subprocess.run(
        [sys.executable, "-m", "pipeline", "subscribe", *command()], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: --project: the Analytics Hub API is not enabled")
    assert ran.stderr.count("\n") == 1
    assert not ran.stdout
