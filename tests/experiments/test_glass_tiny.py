"""GLASS finds an interest that shows only long ago, and TIGER, which cannot see it, stays at chance: with the sizes of
`glass_tiny`, learnt faster."""

import json
from pathlib import Path

import pytest

from experiments.named import glass_tiny
from experiments.overrides import override
from experiments.pipeline import Pipeline

pytestmark = pytest.mark.usefixtures("blank_reports")
FAST = ["train.max_epochs=8", "train.validate_every=8", "optimizer.learning_rate=6e-3", "model.dropout=0"]
ORACLE = 1.0
"""Recall@10 of who knows category and series: 8 items are left."""
CHANCE = 10 / 576
"""Its standard error over 240 users is about .008."""


def recall_at_10(folder: Path, *changes: str) -> float:
    config = override(glass_tiny.config(), [*FAST, f"output_dir={folder}", *changes])
    pipeline = Pipeline(config, say=lambda _: None)
    pipeline.run("evaluate", lambda *_: None)
    return float(json.loads((pipeline.train.folder / "test.json").read_text())["metrics"]["recall@10"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all, so that the stages are built once."""
    return tmp_path_factory.mktemp("glass_tiny")


def test_glass_recovers_four_fifths_of_what_tiger_cannot_see(folder: Path) -> None:
    assert recall_at_10(folder) >= 0.8 * ORACLE


def test_tiger_stays_near_chance(folder: Path) -> None:
    assert recall_at_10(folder, "model.tier=false", "model.search=false") <= 3 * CHANCE


@pytest.mark.parametrize(("switch", "share"), [("model.tier=false", 0.7), ("model.search=false", 0.9)])
def test_both_parts_are_needed(folder: Path, switch: str, share: float) -> None:
    assert recall_at_10(folder, switch) <= share * recall_at_10(folder)
