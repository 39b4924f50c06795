"""What a launcher's own process runs; importable by its name, which a `conftest` among several is not."""

from __future__ import annotations

import os

from pipeline import __main__


def command(argv: list[str], environment: dict[str, str]) -> None:
    """A command in this process, which it ends."""
    os.environ.update(environment)
    raise SystemExit(__main__.main(argv))
