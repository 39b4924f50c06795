"""The same question for every contender: the built-in task `road_signs`, as google-genai and as raw gRPC want it."""

from __future__ import annotations

from typing import Any

from google.genai import types

from pipeline.local.samples import BUCKET
from pipeline.task import Task

MODEL = "gemini-3.5-flash-lite"
PROJECT = "demo-project"
LOCATION = "us-central1"
TIMEOUT_SECS = 120.0  # of one call, as the pipeline's own default

TASK = Task.load("road_signs")


def uri(number: int) -> str:
    """The image of a row of `samples.make_bulk_table`."""
    return f"gs://{BUCKET}/2026-10-15/v0/o1:{number:08d}.jpg"


def uris(rows: int, first: int = 1) -> list[str]:
    """So many of them."""
    return [uri(number) for number in range(first, first + rows)]


def contents(images: list[str]) -> list[Any]:
    """What `generate_content` is to look at: the images, then the prompt."""
    parts: list[Any] = [types.Part.from_uri(file_uri=image, mime_type="image/jpeg") for image in images]
    return [*parts, TASK.prompt]


def config() -> types.GenerateContentConfig:
    """How it is to answer; made once, as it is the same for every image."""
    return types.GenerateContentConfig(
        system_instruction=TASK.system_instruction,
        max_output_tokens=TASK.generation.max_output_tokens,
        media_resolution=types.MediaResolution.MEDIA_RESOLUTION_MEDIUM,
        response_mime_type="application/json",
        response_json_schema=TASK.response_schema,
        labels={"task": TASK.name},
    )


def http_options(threads: int, *, retry: bool) -> types.HttpOptions:
    """google-genai's HTTP client at its best: a connection for every thread (httpx keeps 20), time-out, retries."""
    import httpx

    limits = httpx.Limits(max_connections=threads, max_keepalive_connections=threads)
    return types.HttpOptions(
        timeout=int(TIMEOUT_SECS * 1000),
        client_args={"limits": limits},
        retry_options=types.HttpRetryOptions(attempts=10) if retry else None,
    )
