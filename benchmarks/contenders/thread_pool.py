"""(c) The usual hand-made DoFn: a pool of threads on google-genai, no barrier, connections kept, retries on."""

import argparse
import json
import queue
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue
from google import genai

from benchmarks.contenders import question
from benchmarks.contenders.run_inference import RUNNER


class AskInThreads(beam.DoFn):
    """Keeps every thread busy across the elements of a bundle, with as many rows again waiting for one."""

    def __init__(self, threads: int):
        self._threads = threads

    def setup(self) -> None:
        self._client = genai.Client(
            vertexai=True,
            project=question.PROJECT,
            location=question.LOCATION,
            http_options=question.http_options(self._threads, retry=True),
        )
        self._config = question.config()
        self._pool = ThreadPoolExecutor(self._threads)

    def start_bundle(self) -> None:
        self._done: queue.SimpleQueue[Future[int]] = queue.SimpleQueue()
        self._open = 0

    def process(self, image: str) -> Iterator[int]:
        self._pool.submit(self._ask, image).add_done_callback(self._done.put)
        self._open += 1
        while self._open >= 2 * self._threads:
            yield self._take()

    def finish_bundle(self) -> Iterator[WindowedValue]:
        while self._open:
            yield WindowedValue(self._take(), MIN_TIMESTAMP, (GlobalWindow(),))

    def _take(self) -> int:
        self._open -= 1
        return self._done.get().result()

    def _ask(self, image: str) -> int:
        response = self._client.models.generate_content(
            model=question.MODEL, contents=question.contents([image]), config=self._config
        )
        question.TASK.parse(response.text or "")
        return 1


def main(arguments: argparse.Namespace) -> None:
    flags = [f"--runner={RUNNER}"]
    if arguments.processes > 1:
        flags += [f"--direct_num_workers={arguments.processes}", "--direct_running_mode=multi_processing"]
    pipeline = beam.Pipeline(options=PipelineOptions(flags))
    (
        pipeline
        | beam.Create(question.uris(arguments.rows, arguments.first))
        | beam.Reshuffle()
        | beam.ParDo(AskInThreads(arguments.window))
        | beam.CombineGlobally(sum)
        | beam.Map(lambda count: print(json.dumps({"out": count}), flush=True))
    )
    pipeline.run().wait_until_finish()
