"""Whom a run works for, and what drawn lists are like, beside the same counted by hand."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments.breakdown import breakdown, groups
from experiments.inside_figures import invalid_curve
from experiments.paired import target_ranks
from experiments.pipeline import Pipeline
from experiments.run import run
from experiments.sampled import TEMPERATURES, drawn, panels
from experiments.training import category_numbers, trie_of

SMALL = ["data.num_users=90", "sequences.steps_per_epoch=4", "train.max_epochs=1", "train.validate_every=1"]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    pipeline: Pipeline = run(["causal_tiny", *SMALL, f"output_dir={tmp_path_factory.mktemp('breakdown')}"])
    return pipeline


def test_groups_by_hand() -> None:
    value_E = np.array([1, 2, 3, 4, 5, 6, 7, 1000])
    recall_E, ndcg_E = np.array([1, 1, 0, 1, 0, 0, 0, 0.0]), np.array([1, 0.5, 0, 1, 0, 0, 0, 0.0])
    found = groups(value_E, recall_E, ndcg_E)
    assert [group.label for group in found] == ["1–2", "3–4", "5–6", "7–1,000"]
    assert [group.recall for group in found] == [1, 0.5, 0, 0] and [group.ndcg for group in found] == [0.75, 0.5, 0, 0]
    assert [group.examples for group in found] == [2, 2, 2, 2] and found[1].error == pytest.approx(0.125**0.5)


def test_one_value_is_one_group() -> None:
    (group,) = groups(np.full(5, 3), np.ones(5), np.ones(5))
    assert group.label == "3" and group.examples == 5 and group.error == 0


def test_groups_of_a_run_add_up_to_its_test(done: Pipeline) -> None:
    lists = done.train.folder / "recommendations.parquet"
    rank_E = target_ranks(lists, done.catalog, done.split.test)
    lengths = done.split.test.end_E - done.catalog.offsets_U1[done.split.test.user_E]
    found = groups(lengths, (rank_E > 0).astype(float), (rank_E > 0).astype(float))
    assert sum(group.recall * group.examples for group in found) == (rank_E > 0).sum()
    titles = [panel.title for panel in breakdown(lists, done.catalog, done.split)]
    assert titles == ["By length of the history", "By popularity of the target"]


def test_drawn_lists_are_repeatable_and_vary_with_the_temperature(done: Pipeline) -> None:
    module, data = done.trained()
    asked = (module, data, trie_of(done.table, done.catalog), done.config.evaluation, category_numbers(done.catalog))
    found = drawn(*asked)
    assert found == drawn(*asked) == done.figures["evaluate"]["drawn"]
    assert set(found) == {*(f"{t:g}" for t in TEMPERATURES), "first 1.5", "first 2"}
    for row in found.values():
        assert 0 <= row["recall@10"] <= 1 and row["entropy@10"] >= 0
    assert [panel.title for panel in panels(found, {"entropy@10": 1.0})] == [
        "Entropy@10 over the temperature",
        "Recall@10 over the temperature",
    ]


def test_a_hotter_first_code_brings_more_kinds(done: Pipeline) -> None:
    """With a model that is sure of one code, entropy rises with the temperature of that code alone."""
    module, data = done.trained()

    class Sure:
        def next_logp(self, state: Any, level: int, codes_BK: Any, parents_BK: Any) -> Any:
            logp, state = module.model.next_logp(state, level, codes_BK, parents_BK)
            return logp * 20, state

    model = SimpleNamespace(begin=module.model.begin, next_logp=Sure().next_logp)
    sure: Any = SimpleNamespace(device=module.device, model=model)
    found = drawn(sure, data, trie_of(done.table, done.catalog), done.config.evaluation, category_numbers(done.catalog))
    assert found["1"]["entropy@10"] < found["first 1.5"]["entropy@10"] < found["first 2"]["entropy@10"]


def test_nothing_to_draw() -> None:
    assert panels({}, {}) == [] and invalid_curve({"invalid@10": 0.1}) == []
    assert len(invalid_curve({"invalid@10": 0.1, "invalid@20": 0.2})) == 1


def test_the_report_shows_them(done: Pipeline) -> None:
    page = (Path(done.train.folder) / "report.html").read_text()
    for title in ("For whom it works", "By popularity of the target", "Invalid IDs over K", "over the temperature"):
        assert title in page
