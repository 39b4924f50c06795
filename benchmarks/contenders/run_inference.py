"""(b) Beam's own: RunInference with GeminiModelHandler, on threads of DirectRunner."""

import argparse
import json
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
from apache_beam.ml.inference.gemini_inference import GeminiModelHandler
from apache_beam.options.pipeline_options import PipelineOptions
from google import genai

from benchmarks.contenders import question

RUNNER = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"  # by name: DirectRunner would look for Prism


def ask(model: str, batch: Sequence[str], client: genai.Client, arguments: dict[str, Any]) -> Any:
    """The request function: one call for the batch, as Beam's own `generate_from_string` makes it."""
    return client.models.generate_content(model=model, contents=question.contents(list(batch)), **arguments)


def parse(result: Any) -> int:
    """What the pipeline does with an answer too."""
    question.TASK.parse(result.inference.text or "")
    return 1


def main(arguments: argparse.Namespace) -> None:
    options = PipelineOptions(
        [f"--runner={RUNNER}", f"--direct_num_workers={arguments.window}", "--direct_running_mode=multi_threading"]
    )
    handler: Any = GeminiModelHandler(
        question.MODEL,
        ask,
        project=question.PROJECT,
        location=question.LOCATION,
        max_batch_size=None if arguments.default_batching else 1,
    )
    pipeline = beam.Pipeline(options=options)
    results, dead = (
        pipeline
        | beam.Create(question.uris(arguments.rows, arguments.first))
        | beam.Reshuffle()
        | RunInference(handler, inference_args={"config": question.config()}).with_exception_handling()
    )
    counted = (("out", results | beam.Map(parse)), ("failed", dead.failed_inferences | beam.Map(lambda _: 1)))
    for name, rows in counted:
        (
            rows
            | f"Count {name}" >> beam.CombineGlobally(sum)
            | f"Print {name}" >> beam.Map(lambda count, name=name: print(json.dumps({name: count}), flush=True))
        )
    pipeline.run().wait_until_finish()
