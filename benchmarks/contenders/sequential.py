"""(a) The tutorial's way: one call after the other."""

from __future__ import annotations

import argparse

from google import genai

from benchmarks.contenders import question


def main(arguments: argparse.Namespace) -> None:
    client = genai.Client(vertexai=True, project=question.PROJECT, location=question.LOCATION)
    config = question.config()
    for image in question.uris(arguments.rows, arguments.first):
        response = client.models.generate_content(
            model=question.MODEL, contents=question.contents([image]), config=config
        )
        question.TASK.parse(response.text or "")
