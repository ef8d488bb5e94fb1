"""What README.md and docs/ name is there: files, targets, experiments, keys, modules; and their Python is Python."""

import importlib.util
import re
import subprocess
from pathlib import Path

import pytest

from experiments.config import RunConfig, check
from experiments.leaderboard import DATASETS
from experiments.named import experiments, named
from experiments.overrides import override
from experiments.papers import PAPERS
from experiments.studies import STUDIES

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
SHOP = "tiger_shop"
"""The experiment that a reader is shown how to write."""
NAMES = {"exp": {*experiments(), SHOP}, "sids": {*experiments()}, "sweep": {*experiments()}, "study": {*STUDIES}}
NAMES |= {"paper": {*PAPERS}, "leaderboard": {*DATASETS}}
COMMAND = r"""(?:^    |`)(?:[A-Z_]+=\S+ )*make ([a-z]+)((?: [A-Z_]+=(?:"[^"]*"|[^\s`]+))*)"""
PACKAGES = "sid|models|datamodules|lightning_modules|callbacks|serving|experiments|benchmarks"


def found(pattern: str, page: Path) -> set[str]:
    return set(re.findall(pattern, page.read_text(), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_and_modules_are_there(page: Path) -> None:
    links = found(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page)
    assert all((page.parent / link).exists() for link in links), links
    inside = found(rf"`((?:{PACKAGES})/[^`<>]*)`", page)
    assert all((ROOT / path).exists() for path in inside), inside
    for module in found(r"-m ((?:experiments|benchmarks)\.\w+)", page):
        assert importlib.util.find_spec(module), module
    assert found(r"`((?:tiger|glass|causal|sidlight)_[a-z_]+)`", page) <= NAMES["exp"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_would_start(page: Path) -> None:
    for target, words in re.findall(COMMAND, page.read_text(), re.MULTILINE):
        assert target in TARGETS, target
        told = dict(re.findall(r' ([A-Z_]+)=("[^"]*"|\S+)', words))
        name = told.get("NAME") or told.get("DATASET")
        assert name is None or name in NAMES[target], (target, name)
        if target == "exp" and name not in (None, SHOP):
            keys = [word for word in told.get("ARGS", "").strip('"').split() if not word.startswith("force=")]
            check(override(named(name), keys))


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
    phony = re.findall(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)[0].split()
    assert {line.split()[1] for line in shown.splitlines() if line.startswith("  make ")} == {*phony} == TARGETS
