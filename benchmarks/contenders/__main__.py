"""Runs one contender. By name, so that its DoFns live in an importable module and not in `__main__`."""

from __future__ import annotations

import argparse
import importlib


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contenders", allow_abbrev=False)
    parser.add_argument("name", choices=("sequential", "run_inference", "thread_pool", "bare_grpc"))
    parser.add_argument("--rows", type=int, required=True, help="images to ask")
    parser.add_argument("--first", type=int, default=1, help="number of the first image")
    parser.add_argument("--window", type=int, default=1, help="threads, or calls in flight")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--endpoint", default="", help="HOST:PORT of the stand-in's gRPC port")
    parser.add_argument("--default_batching", action="store_true", help="RunInference as it comes")
    arguments = parser.parse_args()
    importlib.import_module(f"benchmarks.contenders.{arguments.name}").main(arguments)


if __name__ == "__main__":
    main()
