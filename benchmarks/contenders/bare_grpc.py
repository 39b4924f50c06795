"""The floor: gRPC futures with a callback and nothing else. No rows, no JSON, no Beam, no BigQuery."""

from __future__ import annotations

import argparse
import os
import threading
import time
from pathlib import Path
from typing import Any

import grpc
from google.auth.transport.requests import Request
from google.oauth2 import service_account

from benchmarks.contenders import question
from pipeline.gemini import models, request
from pipeline.rows import Observation

CALLS_PER_CHANNEL = 50  # as many as the pipeline gives a connection
SPREAD_SECS = 1.0
"""The first window goes out over so long: landings in waves would share wake-ups and writes, as no real service lets them."""


def main(arguments: argparse.Namespace) -> None:
    credentials = service_account.Credentials.from_service_account_file(
        os.environ["GOOGLE_APPLICATION_CREDENTIALS"], scopes=["https://www.googleapis.com/auth/cloud-platform"]
    )
    credentials.refresh(Request())
    model = models.resource_name(question.MODEL, question.PROJECT, question.LOCATION)
    settings = models.settings_for(question.TASK, question.MODEL)
    builder = request.RequestBuilder(question.TASK, settings, model, {"task": question.TASK.name})
    raw = builder.build([Observation("o1:1", question.uri(1))])
    decode = request.response_class().FromString
    metadata = (("authorization", f"Bearer {credentials.token}"), ("x-goog-request-params", f"model={model}"))

    tls = grpc.ssl_channel_credentials(Path(os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"]).read_bytes())
    options = [("grpc.use_local_subchannel_pool", 1)]
    calls = [
        grpc.secure_channel(arguments.endpoint, tls, options).unary_unary(request.METHOD, None, decode).future
        for _ in range(-(-arguments.window // CALLS_PER_CHANNEL))
    ]
    slots = threading.Semaphore(arguments.window)

    def landed(future: Any) -> None:
        future.result()
        slots.release()

    for number in range(arguments.rows):
        slots.acquire()
        if number < arguments.window:
            time.sleep(SPREAD_SECS / arguments.window)
        call = calls[number % len(calls)]
        call(raw, timeout=question.TIMEOUT_SECS, metadata=metadata).add_done_callback(landed)
    for _ in range(arguments.window):
        slots.acquire()
