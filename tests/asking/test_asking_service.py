"""Asks, engine and client together, over gRPC, against the stand-in of Vertex AI: packs and faults on drawings."""

from __future__ import annotations

import pytest

from pipeline.asking import Ask, Question
from pipeline.engine import Engine, Limits, Pace
from pipeline.gemini import models
from pipeline.gemini.client import Client, VertexEndpoint
from pipeline.local.samples import draw_samples
from pipeline.local.vertex import Fault, VertexStandIn
from pipeline.rows import Answer, Observation
from pipeline.task import Task, builtin_names

LIMITS = Limits(max_in_flight=64, max_attempts=2, call_timeout_secs=1.0, backoff_secs=0.02)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bucket")
    return folder, [Observation(sample.key, sample.uri, {}) for sample in draw_samples(folder, 24)]


@pytest.fixture(scope="module")
def vertex(rows):
    with VertexStandIn(rows[0]) as vertex:
        yield vertex


def ask_all(vertex, task, observations, images_per_request=1):
    """Outcomes by key; every row comes out exactly once."""
    settings = models.settings_for(task, images_per_request=images_per_request)
    client = Client(VertexEndpoint.parse(vertex.endpoint, "us"), settings, project="demo-project")
    prices = models.find(settings.model).prices
    question = Question(task=task, settings=settings, resource=client.resource, run_id="r1", prices=prices)
    pace = Pace()
    pace.rate = 1000.0  # as if learnt: the gentle start is not what is tested here
    engine = Engine(client.send, pace=pace, limits=LIMITS, refresh_token=client.refresh)
    lane, outcomes = engine.lane(), []
    for start in range(0, len(observations), images_per_request):
        outcomes += lane.offer(Ask(question, tuple(observations[start : start + images_per_request])))
    outcomes += lane.drain()
    engine.close()
    client.close()
    assert sorted(outcome.key for outcome in outcomes) == sorted(row.key for row in observations)
    return {outcome.key: outcome for outcome in outcomes}


@pytest.mark.parametrize("name", builtin_names())
def test_every_built_in_task_is_answered_the_same_alone_and_in_packs(vertex, rows, name):
    vertex.configure(faults=[])
    task = Task.load(name)
    alone = ask_all(vertex, task, rows[1])
    packed = ask_all(vertex, task, rows[1], images_per_request=5)
    assert all(isinstance(outcome, Answer) for outcome in [*alone.values(), *packed.values()])
    assert {key: (answer.answer, answer.label) for key, answer in alone.items()} == {
        key: (answer.answer, answer.label) for key, answer in packed.items()
    }
    if task.is_free_text:
        assert {key: each.classification for key, each in alone.items()} == {
            key: each.classification for key, each in packed.items()
        }
    assert sum(each.usage.cost_usd for each in packed.values()) < sum(each.usage.cost_usd for each in alone.values())


FAULTS = {
    "blocked": "blocked",
    "blocked:99": "blocked",
    "finish:SAFETY": "blocked",
    "finish:37": "blocked",
    "finish:MAX_TOKENS": "max_tokens",
    "long:5000": "max_tokens",
    "empty": "empty_answer",
    "no_text": "empty_answer",
    "malformed_json": "invalid_answer",
    "truncated_json": "invalid_answer",
    "wrong_label": "invalid_answer",
    "long:1500": None,  # more than the limit, less than the doubled one
    "fenced_json": None,
    "prose": None,
    "split_parts": None,
    "thought_parts": None,
    "no_usage": None,
    "missing_key": None,
    "doubled_key": None,
    "unknown_key": None,
    "IMAGE_NOT_FOUND": "image_not_found",
    "IMAGE_DENIED": "image_denied",
    "INTERNAL": "unavailable",
}


@pytest.mark.parametrize("images_per_request", [1, 4])
def test_one_bad_image_never_costs_its_neighbours_their_answers(vertex, rows, images_per_request):
    """Each of 23 images has another fault; each ends as its fault says, packed with others or not."""
    observations = rows[1]
    struck = dict(zip(FAULTS, observations, strict=False))
    vertex.configure(faults=[Fault(kind, f"*{row.key}*") for kind, row in struck.items()])
    outcomes = ask_all(vertex, Task.load("road_signs"), observations, images_per_request)
    vertex.configure(faults=[])
    ended = {
        kind: None if isinstance(outcome := outcomes[row.key], Answer) else str(outcome.reason)
        for kind, row in struck.items()
    }
    assert ended == FAULTS
    assert isinstance(outcomes[observations[-1].key], Answer)
