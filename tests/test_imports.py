"""The import table of the packages, and a command line that starts without the heavy libraries."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ["sid", "models", "datamodules", "lightning_modules", "callbacks", "serving", "experiments"]
OURS = {*PACKAGES, "tests", "benchmarks"}
MAY_IMPORT = {
    "sid": [],
    "models": ["sid"],
    "datamodules": ["sid"],
    "lightning_modules": ["sid", "models", "datamodules.batch"],
    "callbacks": ["sid", "datamodules.batch"],
    "serving": ["sid", "models", "datamodules.batch"],
    "experiments": ["sid", "models", "datamodules", "lightning_modules", "callbacks", "serving"],
}
HEAVY = ["torch", "lightning", "sentence_transformers", "faiss", "wandb", "datasets", "daft", "transformers"]


def imported(source: str, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import anywhere in `source`; `from a import b` counts as a.b."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def trespasses(source: str, package: str) -> list[str]:
    """Imports of ours in `source`, a file of `package` (dotted), that the table does not allow."""
    root = package.split(".")[0]
    allowed = [root, *MAY_IMPORT[root]]
    return [
        f"line {line}: {name}"
        for line, name in imported(source, package)
        if name.split(".")[0] in OURS and not any(f"{name}.".startswith(f"{prefix}.") for prefix in allowed)
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_import_only_what_the_table_allows(package):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, f"no file in {package}/"
    found = {}
    for path in files:
        dotted = ".".join(path.relative_to(ROOT).parent.parts)
        if bad := trespasses(path.read_text(), dotted):
            found[str(path.relative_to(ROOT))] = bad
    assert not found, f"{package} may import {MAY_IMPORT[package] or 'nothing'} of ours"


@pytest.mark.parametrize(
    ("package", "line", "allowed"),
    [
        ("sid", "import torch", True),
        ("sid", "from sid.table import SIDTable", True),
        ("sid", "from models import tiger", False),
        ("sid", "def f():\n    import models.tiger", False),
        ("models", "from . import transformer", True),
        ("models", "from ..datamodules import batch", False),
        ("models.blocks", "from ..tiger import TIGER", True),
        ("callbacks", "from datamodules.batch import SequenceBatch", True),
        ("callbacks", "from datamodules import batch", True),
        ("callbacks", "from datamodules.catalog import Catalog", False),
        ("callbacks", "import datamodules", False),
        ("callbacks", "import datamodules.batches", False),
        ("experiments", "import callbacks.retrieval", True),
        ("experiments", "from tests import conftest", False),
        ("datamodules", "from experiments.config import RunConfig", False),
        ("datamodules", "import datasets", True),
    ],
)
def test_the_rule_itself(package, line, allowed):
    assert (not trespasses(line, package)) == allowed


@pytest.mark.skipif(not (ROOT / "experiments" / "run.py").exists(), reason="experiments/run.py does not exist yet")
def test_the_command_line_starts_without_heavy_libraries():
    program = f"import experiments.run, sys; print(*sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []
