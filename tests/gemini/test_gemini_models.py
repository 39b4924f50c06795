"""Models, prices, locations: what is known, what is refused before money is spent, what a call costs."""

from __future__ import annotations

import dataclasses
import datetime
import pickle

import pytest

from pipeline.errors import ConfigError
from pipeline.gemini import models
from pipeline.gemini.endpoint import VertexEndpoint
from pipeline.gemini.models import check, find, location_for, resource_name, settings_for
from pipeline.gemini.prices import estimate, parse_prices
from pipeline.task import Settings, Task

NOW = datetime.datetime(2026, 11, 23, 12, tzinfo=datetime.UTC)
NEXT_YEAR = datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC)
TASK = Task.load("road_signs")


def test_the_default_model_is_open_and_has_a_price():
    model = find(models.default_model())
    assert (model.name, model.status) == ("gemini-3.5-flash-lite", "GA")
    assert model.prices is not None


@pytest.mark.parametrize(
    ("name", "input_usd", "output_usd"),
    [
        ("gemini-3.5-flash-lite", 0.30, 2.50),
        ("gemini-3.1-flash-lite", 0.25, 1.50),
        ("gemini-3.5-flash", 1.50, 9.00),
        ("gemini-3.8-flash", 0.75, 3.75),
    ],
)
def test_prices_are_those_of_the_facts_with_date_and_source(name, input_usd, output_usd):
    period = find(name).prices.at(NOW)
    assert (period.input_usd, period.output_usd) == (input_usd, output_usd)
    assert period.recorded == "2026-11-23"
    assert period.source


def test_a_price_changes_on_its_day():
    prices = find("gemini-3.8-flash").prices
    assert prices.cost(1_000_000, 0, 0, at=NEXT_YEAR - datetime.timedelta(seconds=1)) == pytest.approx(0.75)
    assert prices.cost(1_000_000, 0, 0, at=NEXT_YEAR) == pytest.approx(1.50)
    assert prices.cost(0, 1_000_000, 0, at=NEXT_YEAR) == pytest.approx(7.50)
    in_tokyo = NEXT_YEAR.astimezone(datetime.timezone(datetime.timedelta(hours=9)))
    assert prices.at(in_tokyo - datetime.timedelta(hours=1)).input_usd == 0.75  # days are days of UTC


def test_thinking_costs_as_output():
    prices = find("gemini-3.5-flash-lite").prices
    assert prices.cost(1000, 20, 80, at=NOW) == pytest.approx(1000 * 0.30e-6 + 100 * 2.50e-6)


@pytest.mark.parametrize(
    ("tier", "traffic_type", "multiplier"),
    [
        ("standard", None, 1.0),
        ("flex", None, 0.5),
        ("batch", None, 0.5),
        ("priority", None, 2.0),
        ("flex", "ON_DEMAND_FLEX", 0.5),
        ("flex", "ON_DEMAND", 1.0),  # what really served it counts
        ("priority", "ON_DEMAND", 1.0),
        ("standard", "PROVISIONED_THROUGHPUT", 1.0),
        ("flex", "TRAFFIC_TYPE_9", 0.5),
    ],
)
def test_a_call_is_priced_by_the_tier_that_served_it(tier, traffic_type, multiplier):
    prices = find("gemini-3.5-flash-lite").prices
    cost = prices.cost(1_000_000, 0, 0, at=NOW, tier=tier, traffic_type=traffic_type)
    assert cost == pytest.approx(0.30 * multiplier)


@pytest.mark.parametrize(
    "name", ["gemini-2.5-flash", "gemini-9-ultra", "1234567890", "projects/p/locations/us-east1/endpoints/7"]
)
def test_a_price_that_is_not_known_is_none(name):
    assert find(name).prices is None


def test_the_users_price_wins_and_is_the_price_of_whatever_tier_serves():
    prices = parse_prices("0.1, 2")
    assert prices.cost(
        1_000_000, 500_000, 500_000, at=NOW, tier="flex", traffic_type="ON_DEMAND_FLEX"
    ) == pytest.approx(2.1)


@pytest.mark.parametrize("text", ["", "1", "1,2,3", "a,b", "-1,2", "nan,1", "inf,1"])
def test_a_price_of_another_form_is_refused(text):
    with pytest.raises(ConfigError, match="expected IN,OUT"):
        parse_prices(text)


def test_a_full_resource_name_is_known_by_its_model():
    assert find("projects/p/locations/us/publishers/google/models/gemini-3.8-flash").known


@pytest.mark.parametrize(
    ("name", "resolution", "tokens"),
    [
        ("gemini-3.5-flash-lite", "low", 280),
        ("gemini-3.5-flash-lite", "medium", 560),
        ("gemini-3.8-flash", "high", 1120),
        ("gemini-3.1-flash-lite", "ultra_high", 2240),
        ("gemini-2.5-flash", "low", 64),
        ("gemini-2.5-flash", "medium", 256),
        ("unheard-of", "low", 1120),
    ],
)
def test_an_image_costs_what_its_resolution_says(name, resolution, tokens):
    assert find(name).tokens_of_image(resolution) == tokens


@pytest.mark.parametrize(
    ("model", "thinking"),
    [
        ("gemini-3.5-flash-lite", ("minimal", None)),
        ("gemini-3.8-flash", ("low", None)),
        ("gemini-2.5-flash", (None, 0)),
        ("unheard-of", (None, None)),
    ],
)
def test_thinking_is_the_least_that_the_model_allows_unless_somebody_says(model, thinking):
    settings = settings_for(TASK, model)
    assert (settings.thinking_level, settings.thinking_budget) == thinking
    check(settings, "us")
    said = Task(name="a", prompt="b", generation={"thinking_level": "medium"})
    assert settings_for(said, "gemini-3.8-flash").thinking_level == "medium"
    assert settings_for(said, "gemini-3.8-flash", thinking_level="high").thinking_level == "high"


def test_the_model_is_the_flags_then_the_tasks_then_the_default():
    task = Task(name="a", prompt="b", model="gemini-3.8-flash")
    assert settings_for(task).model == "gemini-3.8-flash"
    assert settings_for(task, "gemini-3.5-flash").model == "gemini-3.5-flash"
    assert settings_for(TASK).model == "gemini-3.5-flash-lite"


def base(model="gemini-3.5-flash-lite", **fields):
    return Settings(model=model, **fields)


@pytest.mark.parametrize(
    ("settings", "location", "said"),
    [
        (base("gemini-3.8-flash", thinking_level="minimal"), "us", "--thinking_level=minimal: gemini-3.8-flash"),
        (base("gemini-2.5-flash", thinking_level="low"), "us", "it takes --thinking_budget instead"),
        (base(thinking_budget=0), "us", "takes --thinking_level instead: minimal, low, medium, high"),
        (base("gemini-2.5-flash", thinking_budget=30_000), "us", "takes 1 to 24,576, 0 for none"),
        (base("gemini-2.5-flash-lite", thinking_budget=100), "us", "takes 512 to 24,576"),
        (base(presence_penalty=0.1), "us", "presence_penalty: gemini-3.5-flash-lite answers it with an error"),
        (base(frequency_penalty=0.1), "us", "frequency_penalty"),
        (base(temperature=2.5), "us", "--temperature=2.5: expected 0 to 2"),
        (base(max_output_tokens=100_000), "us", "--max_output_tokens=100000: expected 1 to 65,536"),
        (base(images_per_request=0), "us", "--images_per_request=0"),
        (
            base("gemini-2.5-flash", media_resolution="ultra_high"),
            "us",
            "--media_resolution=ultra_high: gemini-2.5-flash",
        ),
        (base(service_tier="flex"), "us", "add --vertex_location=global"),
        (base(service_tier="cheap"), "us", "--service_tier=cheap"),
    ],
)
def test_settings_that_the_model_would_refuse_are_refused_before_money_is_spent(settings, location, said):
    with pytest.raises(ConfigError) as caught:
        check(settings, location)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "warnings"),
    [
        (base(thinking_level="high"), []),
        (base(service_tier="flex"), []),
        (base("gemini-2.5-flash", thinking_budget=-1), ["closed to new or inactive projects", "price is not known"]),
        (base(temperature=0.0, top_k=1), ["temperature: gemini-3.5-flash-lite ignores it", "top_k"]),
        (base("unheard-of", presence_penalty=1.0), ["not in the list of models", "price is not known"]),
    ],
)
def test_what_works_but_may_surprise_is_a_warning(settings, warnings):
    found = check(settings, "global")
    assert len(found) == len(warnings)
    for line, said in zip(found, warnings, strict=True):
        assert said in line


def test_a_price_that_was_given_is_not_missed():
    assert len(check(base("gemini-2.5-flash"), "us-central1", price_given=True)) == 1


@pytest.mark.parametrize(
    ("data", "model", "asked", "location"),
    [
        ("US", "gemini-3.5-flash-lite", None, "us"),
        ("EU", "gemini-3.5-flash-lite", None, "eu"),
        ("EU", "gemini-3.5-flash-lite", "global", "global"),
        ("us-central1", "gemini-3.5-flash-lite", None, "us"),
        ("europe-west4", "gemini-3.5-flash-lite", None, "eu"),
        ("europe-west2", "gemini-3.5-flash-lite", None, "europe-west2"),  # London
        ("asia-northeast1", "gemini-3.5-flash-lite", None, "asia-northeast1"),
        ("US", "gemini-2.5-flash", None, "us-central1"),
        ("EU", "gemini-2.5-flash", None, "europe-west4"),
        ("EU", "gemini-2.5-flash", "us-central1", "us-central1"),
        ("US", "projects/p/locations/us-east1/endpoints/7", None, "us-east1"),
        ("US", "77", "us-east1", "us-east1"),
    ],
)
def test_images_are_asked_about_where_their_table_lies(data, model, asked, location):
    assert location_for(data, base(model), asked) == location


@pytest.mark.parametrize(
    ("model", "asked", "said"),
    [
        ("projects/p/locations/us-east1/endpoints/7", "eu", "the model's own name says us-east1"),
        ("7", None, "a tuned endpoint lies in one place; add --vertex_location"),
    ],
)
def test_a_location_that_contradicts_the_model_is_refused(model, asked, said):
    with pytest.raises(ConfigError, match=said):
        location_for("US", base(model), asked)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("gemini-3.8-flash", "projects/p/locations/us/publishers/google/models/gemini-3.8-flash"),
        ("models/gemini-3.8-flash", "projects/p/locations/us/publishers/google/models/gemini-3.8-flash"),
        ("publishers/google/models/g", "projects/p/locations/us/publishers/google/models/g"),
        ("123", "projects/p/locations/us/endpoints/123"),
        ("endpoints/123", "projects/p/locations/us/endpoints/123"),
        ("projects/q/locations/eu/endpoints/5", "projects/q/locations/eu/endpoints/5"),
        ("projects/q/locations/eu/publishers/google/models/g", "projects/q/locations/eu/publishers/google/models/g"),
    ],
)
def test_a_model_has_one_full_name(model, name):
    assert resource_name(model, "p", "us") == name


@pytest.mark.parametrize("model", ["", "Gemini Flash", "projects/p/models/x", "a/b", "../x"])
def test_what_is_no_model_name_is_refused(model):
    with pytest.raises(ConfigError, match="--model="):
        resource_name(model, "p", "us")


def test_an_estimate_counts_images_text_schema_and_thinking():
    model = find("gemini-3.5-flash-lite")
    settings = settings_for(TASK)
    one = estimate(TASK, settings, model)
    assert 560 + 200 < one.prompt_tokens < 560 + 600
    assert 0 < one.output_tokens <= one.most_output_tokens == 1024
    assert estimate(TASK, settings, model, prompt_chars=len(TASK.prompt) + 400).prompt_tokens == one.prompt_tokens + 100
    eight = estimate(TASK, dataclasses.replace(settings, images_per_request=8), model, images=8)
    assert 8 * 560 < eight.prompt_tokens < 8 * one.prompt_tokens  # the prompt is sent once
    assert eight.output_tokens == 8 * one.output_tokens
    thinking = estimate(TASK, dataclasses.replace(settings, thinking_level="medium"), model)
    assert thinking.total_tokens == one.total_tokens + 600
    assert one.cost(None, at=NOW) is None
    assert one.cost(model.prices, at=NOW, tier="flex") == pytest.approx(one.cost(model.prices, at=NOW) / 2)


def test_examples_are_planned_too():
    task = Task(name="a", prompt="Look.", examples=[{"image": "gs://b/a.jpg", "answer": "A street."}])
    model = find("gemini-3.5-flash-lite")
    with_example = estimate(task, settings_for(task), model).prompt_tokens
    assert with_example - estimate(Task(name="a", prompt="Look."), settings_for(task), model).prompt_tokens >= 280


def test_models_and_prices_survive_pickling():
    model = find("gemini-3.8-flash")
    assert pickle.loads(pickle.dumps(model)) == model


@pytest.mark.parametrize(
    ("text", "location", "expected"),
    [
        (None, "us-central1", VertexEndpoint("us-central1-aiplatform.googleapis.com:443", "us-central1")),
        ("", "global", VertexEndpoint("aiplatform.googleapis.com:443", "global")),
        (None, "us", VertexEndpoint("aiplatform.us.rep.googleapis.com:443", "us")),
        (None, "eu", VertexEndpoint("aiplatform.eu.rep.googleapis.com:443", "eu")),
        ("localhost:99", "us", VertexEndpoint("localhost:99", "us", secure=False)),
        ("127.1.2.3:99", "us", VertexEndpoint("127.1.2.3:99", "us", secure=False)),
        ("[::1]:99", "us", VertexEndpoint("[::1]:99", "us", secure=False)),
        ("https://localhost:99", "us", VertexEndpoint("localhost:99", "us")),
        ("https://vertex.example.com:443/", "us", VertexEndpoint("vertex.example.com:443", "us")),
    ],
)
def test_an_endpoint_is_googles_or_loopback_or_encrypted(text, location, expected):
    assert VertexEndpoint.parse(text, location) == expected
    assert pickle.loads(pickle.dumps(expected)) == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("example.com:443", "example.com is not this machine, so it needs TLS"),
        ("10.0.0.1:80", "is not this machine"),
        ("127.0.0.1.example.com:80", "is not this machine"),
        ("http://localhost:80", "expected HOST:PORT"),
        ("localhost", "expected HOST:PORT"),
        ("localhost:0", "expected HOST:PORT"),
        ("localhost:70000", "expected HOST:PORT"),
        ("https://example.com", "expected HOST:PORT"),
        ("user@localhost:80", "expected HOST:PORT"),
    ],
)
def test_any_other_endpoint_is_refused(text, said):
    with pytest.raises(ConfigError, match=said):
        VertexEndpoint.parse(text, "us")


@pytest.mark.parametrize("location", ["", "US", "us-central", "evil.example.com/", "us-central1-x"])
def test_a_location_that_would_lead_elsewhere_is_refused(location):
    with pytest.raises(ConfigError, match="--vertex_location"):
        VertexEndpoint.parse(None, location)


@pytest.mark.parametrize("model", ["123", "endpoints/123", "projects/p/locations/us/endpoints/5"])
def test_a_tuned_endpoint_may_be_asked_without_the_schema_of_its_answer(model):
    settings = Settings(model=model, response_schema=False)
    models.check(settings, "us")
    task, with_schema = Task.load("road_signs"), dataclasses.replace(settings, response_schema=None)
    sent = [estimate(task, each, find(model)).total_tokens for each in (settings, with_schema)]
    assert sent[0] < sent[1]  # nor is it planned with
    with pytest.raises(ConfigError, match=r"generation\.response_schema is false, which is for a tuned endpoint"):
        models.check(dataclasses.replace(settings, images_per_request=2), "us")


def test_any_other_model_needs_the_schema():
    with pytest.raises(ConfigError, match=r"generation\.response_schema is false, which is for a tuned endpoint"):
        models.check(Settings(model="gemini-3.5-flash", response_schema=False), "us")
