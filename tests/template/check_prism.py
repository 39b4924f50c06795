"""`make test-runners`: the same question through Prism gives the tables of Beam's in-memory runner.

Prism is what a bare DirectRunner would pick by itself on a machine with a network. It is built here from the source of
Beam at the pinned version, which needs Go and the Go module proxy.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from loopback_cloud import ROOT, Cloud

GO_PACKAGE = "github.com/apache/beam/sdks/v2/go/cmd/prism"
TOOLS = ROOT / ".local" / "bin"


def built(package: str, version: str) -> Path:
    """The program that Go makes of a package of Beam; built once."""
    program = TOOLS / version / Path(package).name
    if not program.exists():
        if not shutil.which("go"):
            pytest.fail(f"missing: Go, to build {package}@v{version}", pytrace=False)
        environment = os.environ | {"GOBIN": str(program.parent)}
        subprocess.run(["go", "install", f"{package}@v{version}"], env=environment, check=True)
    return program


def beam_version() -> str:
    return re.search(r'^BEAM = "(.+)"', (ROOT / "setup.py").read_text("utf-8"), re.MULTILINE)[1]


@pytest.fixture(scope="module")
def prism() -> Path:
    return built(GO_PACKAGE, beam_version())


def test_prism_gives_the_tables_of_the_in_memory_runner(direct, cloud: Cloud, prism):
    flags = ["--runner=PrismRunner", f"--prism_location={prism}"]
    done = cloud.run(["-m", "pipeline", "classify", *cloud.question("prism"), *flags])
    assert done.returncode == 0, done.stderr[-5000:]
    assert cloud.answers("prism") == direct


def test_a_bare_direct_runner_does_not_use_prism_even_where_it_could(direct, cloud: Cloud, prism):
    """Online and offline are the same for the user."""
    done = cloud.run(["-m", "pipeline", "classify", *cloud.question("bare"), f"--prism_location={prism}"])
    assert done.returncode == 0, done.stderr[-5000:]
    assert "prism" not in done.stderr.lower()
    assert cloud.answers("bare") == direct
