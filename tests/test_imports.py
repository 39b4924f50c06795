"""Imports go one way, and the light commands do not pay for Beam."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "pipeline"

# Each may import those to its right of the same line and those of all lines below; never upwards.
LAYERS = [
    ["commands"],
    ["batch"],
    ["running"],
    ["direct"],
    ["first_call"],
    ["launch"],
    ["rivals"],
    ["graph"],
    ["transforms"],
    ["bundle"],
    ["worker"],
    ["sink", "run_config", "meter"],
    ["planning"],
    ["plan"],
    ["settings"],
    ["images"],
    ["asking", "evaluation", "tuning", "progress", "ways"],
    ["gemini"],
    ["engine", "bigquery", "options", "console", "leash", "processes"],
    ["task"],
    ["rows", "files", "credentials"],
    ["errors"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ALONE = {"engine": set(), "rows": set(), "errors": set(), "console": set(), "leash": set()}


def _unit(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0]


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "pipeline":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pipeline."):
            found.add(node.module.split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("pipeline.")}
    return found


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_go_one_way(path):
    unit = _unit(path)
    for name in _imported(path) - {unit, "__version__"}:
        if name == "local":
            assert unit in ("local", "commands"), f"{path} imports local: it is for the demo, tests and benchmarks"
            if unit == "commands":
                assert path.stem == "demo"
        elif unit in LEVEL and name in LEVEL:
            assert LEVEL[unit] < LEVEL[name], f"{path} imports {name}, which stands above it"
        if unit in ALONE:
            assert name in ALONE[unit], f"{path} imports {name}, but {unit} stands alone"


@pytest.mark.parametrize("command", ["plan", "audit", "evaluate", "export_tuning", "tasks", "subscribe"])
def test_the_light_commands_do_not_import_beam(command):
    code = (
        f"import sys, pipeline.commands.{command}\n"
        "names = ('apache_beam', 'bqemulator', 'PIL', 'scipy', 'sklearn', 'statsmodels')\n"
        "heavy = [name for name in names if name in sys.modules]\n"
        "sys.exit(f'imports {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
