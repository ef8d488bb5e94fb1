"""What README.md and docs/ name is there: files, targets, experiments, modules; and their Python is Python."""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

from experiments.config import RunConfig, check
from experiments.leaderboard import DATASETS
from experiments.named import experiments
from experiments.papers import PAPERS
from experiments.studies import STUDIES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TARGETS = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
KNOWN = {*experiments(), *STUDIES, *PAPERS, "tiger_shop"}


def found(pattern: str, page: Path) -> set[str]:
    return set(re.findall(pattern, page.read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_a_page_names_is_there(page: Path) -> None:
    links = found(r"\]\(([^)#:]+)\)", page)
    assert all((page.parent / link).exists() for link in links), links
    inside = found(
        r"`((?:sid|models|datamodules|lightning_modules|callbacks|serving|experiments|benchmarks)/[^`<>]*)`", page
    )
    assert all((ROOT / path).exists() for path in inside), inside
    assert found(r"(?:^    |`)make ([a-z]+)", page) <= TARGETS
    assert found(r"NAME=(\w+)", page) <= KNOWN
    assert found(r"DATASET=(\w+)", page) <= set(DATASETS)
    assert found(r"`((?:tiger|glass|causal|sidlight)_[a-z_]+)`", page) <= KNOWN
    for module in found(r"-m ((?:experiments|benchmarks)\.\w+)", page):
        assert importlib.util.find_spec(module), module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_its_python_compiles_and_its_experiment_is_one(page: Path) -> None:
    for code in found(r"```python\n((?:.*\n)*?)```", page):
        space: dict[str, object] = {"__name__": "example"}
        program = compile(code, page.name, "exec")
        if "def config()" in code:
            exec(program, space)
            config = space["config"]()  # type: ignore[operator]
            assert isinstance(config, RunConfig)
            check(config)


def test_every_target_is_in_make_help() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert {line.split()[1] for line in shown.splitlines() if line.startswith("  make ")} == TARGETS
