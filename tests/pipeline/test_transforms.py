"""The PTransforms by themselves: types, windows, timestamps, pickling."""

import pickle
import random

import apache_beam as beam
import pytest
from apache_beam.metrics.metric import MetricsFilter
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, TimestampedValue
from apache_beam.typehints.decorators import TypeCheckError

from benchmarks.books_rig import FAST_START
from pipeline import graph
from pipeline.bigquery.worklist import MAX_BUCKETS, Shard
from pipeline.rows import Answer, Failure, Observation
from pipeline.transforms import Classify, ReadShard, WriteRows

RUNNER = ["--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"]


@pytest.mark.parametrize(
    "transform",
    [ReadShard, Classify, lambda config: WriteRows(config, "answers"), lambda config: WriteRows(config, "failures")],
)
def test_a_transform_refuses_elements_of_another_type(transform):
    pipeline = beam.Pipeline(options=PipelineOptions(RUNNER))
    words = pipeline | beam.Create(["not", "a", "row"])
    with pytest.raises(TypeCheckError):
        words | transform(None)


def test_answers_are_no_failures(sampled):
    run = sampled.prepared("--limit=1")
    pipeline = beam.Pipeline(options=PipelineOptions(RUNNER))
    rows = pipeline | beam.Create([Observation("k", "gs://b/o.jpg")])
    outcomes = rows | Classify(run.config)
    assert outcomes.answers.element_type is Answer
    assert outcomes.failures.element_type is Failure
    with pytest.raises(TypeCheckError):
        outcomes.answers | WriteRows(run.config, "failures")


def test_classify_refuses_windows_as_an_element_in_two_would_be_paid_twice():
    pipeline = beam.Pipeline(options=PipelineOptions(RUNNER))
    rows = pipeline | beam.Create([Observation("k", "gs://b/o.jpg")]) | beam.WindowInto(FixedWindows(60))
    with pytest.raises(ValueError, match="global window"):
        rows | Classify(None)


def test_each_outcome_has_the_timestamp_of_its_own_row(sampled, pictures):
    run = sampled.prepared()
    sampled.vertex.reset(latency_secs=0.02, latency_p99_secs=0.4)
    rows = [Observation(sample.key, sample.uri) for sample in pictures[1]]
    rows.append(Observation("bad", None, problem="missing_uri"))
    # One key twice: both come out, and both timestamps are used.
    timed = [TimestampedValue(row, 1000 + place) for place, row in enumerate([*rows, rows[0]])]
    with beam.Pipeline(options=PipelineOptions(RUNNER)) as pipeline:
        outcomes = pipeline | beam.Create(timed) | beam.Map(lambda value: value) | Classify(run.config)
        both = (outcomes.answers, outcomes.failures) | beam.Flatten()
        stamped = both | beam.Map(lambda row, at=beam.DoFn.TimestampParam: (row.key, int(at)))
        assert_that(stamped, equal_to([(value.value.key, value.timestamp) for value in timed]))


def test_the_graph_of_the_longest_list_of_shards_is_far_below_what_dataflow_takes(sampled):
    """10 MB of graph: docs.cloud.google.com/dataflow/docs/request-quotas."""
    config, dice = sampled.prepared("--limit=1").config, random.Random(1)
    pipeline = beam.Pipeline(options=PipelineOptions(RUNNER))
    graph.build(pipeline, config, [Shard(place, place, dice.randrange(24_000, 26_000)) for place in range(MAX_BUCKETS)])
    assert len(pipeline.to_runner_api().SerializeToString()) < 500_000


def test_a_run_config_is_small_and_comes_back_from_pickling_as_it_was(sampled):
    config = sampled.prepared("--task=road_signs").config
    pickled = pickle.dumps(config)
    assert len(pickled) < 50_000
    assert pickle.loads(pickled) == config


def test_beams_metrics_say_what_the_live_line_says(sampled, monkeypatch):
    for name, value in FAST_START.items():
        monkeypatch.setattr(name, value)
    sampled.vertex.reset(requests_per_sec=40, burst_secs=0.05)
    run = sampled.prepared("--max_in_flight=16")
    pipeline = beam.Pipeline(options=PipelineOptions(RUNNER))
    graph.build(pipeline, run.config, run.shards)
    result = pipeline.run()
    result.wait_until_finish()
    found = result.metrics().query(MetricsFilter().with_namespace("gemini"))
    counters = {each.key.metric.name: each.committed for each in found["counters"]}
    spread = {each.key.metric.name: each.committed for each in found["distributions"]}
    told = sampled.query("SELECT SUM(prompt_tokens) AS tokens, SUM(cost_usd) AS usd FROM `{answers}`")[0]
    assert counters["answered"] == spread["latency_ms"].count == 40
    assert counters["prompt_tokens"] == told["tokens"]
    assert abs(counters["cost_microusd"] - 1e6 * told["usd"]) <= 1
    assert counters["rejected"] == sampled.vertex.stats()["statuses"]["RESOURCE_EXHAUSTED"] > 0
    assert 0 <= spread["in_flight"].max <= 16
    assert spread["pace_per_min"].min > 0


def test_the_autoscaler_is_told_how_long_calls_waited_for_the_pace(sampled):
    run = sampled.prepared("--limit=6", "--requests_per_minute=120")
    pipeline = beam.Pipeline(options=PipelineOptions(RUNNER))
    graph.build(pipeline, run.config, run.shards)
    result = pipeline.run()
    result.wait_until_finish()
    counters = {each.key.metric.name: each for each in result.metrics().query()["counters"]}
    assert counters["answered"].committed == 6
    assert counters["cumulativeThrottlingSeconds"].committed == 2  # five pauses of half a second, in whole seconds
    assert counters["cumulativeThrottlingSeconds"].key.metric.namespace == "gemini"
    assert counters["cost_microusd"].committed > 0
