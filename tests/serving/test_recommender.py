"""A trained run in use gives what its test gave, from its folder or from a bundle of it.

Legend: B histories, K items, L levels.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from experiments.deploy import recommender
from serving.recommender import Question, Recommender
from sid.errors import UserError
from tests.serving.trained import MODELS, asked

TIE = 1e-5
"""Scores that another batch, whose products round otherwise, may put in another order."""


@pytest.mark.parametrize("name", MODELS)
def test_answers_are_the_lists_of_the_test(name: str, runs: dict[str, Path]) -> None:
    ready = recommender(runs[name])
    histories, users, raw_users = asked(ready)
    found = ready.answer(histories, Question(k=ready.bundle.card.num_beams), users).lists
    written = pq.read_table(runs[name] / "recommendations.parquet").to_pandas()
    stages = json.loads((runs[name] / "environment.json").read_text())["stages"]
    ids = pq.read_table(runs[name].parents[2] / "artifacts/prepare" / stages["prepare"] / "users.parquet")
    number = {raw: row for row, raw in enumerate(ids["user"].to_pylist())}
    for raw, items_K, scores_K in zip(raw_users, found.items_BK.tolist(), found.scores_BK.tolist(), strict=True):
        rows = written[written.user == number[raw]].sort_values("rank")
        scores = np.array([score for score in scores_K if np.isfinite(score)])
        assert np.allclose(scores, rows["score"], atol=1e-4)
        items = np.array([item for item in items_K if item >= 0])
        moved = items != rows["item"]
        gaps = np.abs(np.diff(scores, prepend=np.inf, append=-np.inf))
        tied = np.minimum(gaps[:-1], gaps[1:]) < TIE
        assert not (moved & ~tied).any() and set(items) == set(rows["item"])


@pytest.mark.parametrize("name", MODELS)
def test_a_bundle_answers_as_the_run(name: str, runs: dict[str, Path], bundles: dict[str, Path]) -> None:
    ready, moved = recommender(runs[name]), Recommender.load(bundles[name])
    histories, users, _ = asked(ready)
    assert (moved.bundle.users is not None) == (name in ("tiger_tiny", "caser_tiny", "hgn_tiny"))
    question = Question(k=5, temperature=0.7, seed=4)
    for how in (Question(), question):
        ours, theirs = ready.answer(histories, how, users), moved.answer(histories, how, users)
        assert torch.equal(ours.lists.items_BK, theirs.lists.items_BK)
        assert torch.allclose(ours.lists.scores_BK, theirs.lists.scores_BK)
    assert moved.bundle.card.provenance["run"] == runs[name].name
    assert moved.bundle.card.provenance["test"]["recall@10"] >= 0


def test_histories_of_different_lengths_are_answered_as_each_alone(runs: dict[str, Path]) -> None:
    for name, folder in runs.items():
        ready = recommender(folder)
        histories = [asked(ready)[0][0][:1], asked(ready)[0][1], asked(ready)[0][2] * 3]
        together = ready.answer(histories, Question(k=5)).lists
        for row, history in enumerate(histories):
            alone = ready.answer([history], Question(k=5)).lists
            assert torch.equal(together.items_BK[row], alone.items_BK[0]), name
            assert torch.allclose(together.scores_BK[row], alone.scores_BK[0], atol=1e-4)


@pytest.mark.parametrize("how", [Question(k=5, fresh=True), Question(k=5, temperature=1.5, seed=3)])
@pytest.mark.parametrize("name", ["causal_tiny", "sasrec_tiny"])
def test_nobody_s_answer_depends_on_who_asks_beside(name: str, how: Question, runs: dict[str, Path]) -> None:
    ready = recommender(runs[name])
    histories = [[1], *asked(ready)[0][:5], list(range(60))]
    together = ready.answer(histories, how).lists
    for row, history in enumerate(histories):
        assert torch.equal(together.items_BK[row], ready.answer([history], how).lists.items_BK[0])
    if how.temperature:
        assert not torch.equal(together.items_BK, ready.answer(histories, how._replace(seed=4)).lists.items_BK)


def test_rpg_draws_by_the_likelihood_of_all_codes_and_ranks_by_their_mean(runs: dict[str, Path]) -> None:
    ready = recommender(runs["rpg_tiny"])
    model: Any = ready.bundle.model
    history = asked(ready)[0][0]
    ranked = ready.answer([history], Question(k=5)).lists
    scores_BN = model.scores(ready.batch([history]).history_BT, torch.tensor([-1])).detach()
    assert torch.allclose(ranked.scores_BK, scores_BN.topk(5).values)
    drawn = ready.answer([history], Question(k=5, temperature=2.0)).lists
    levels = ready.bundle.inputs["codes_NL"].shape[1]
    assert torch.allclose(drawn.scores_BK, scores_BN.gather(1, drawn.items_BK) * (levels / 2))


def test_fresh_lists_are_the_longer_ones_without_the_history(runs: dict[str, Path]) -> None:
    for name in ("itemknn_tiny", "tiger_tiny"):
        ready = recommender(runs[name])
        histories = asked(ready)[0][:6]
        everything = ready.answer(histories, Question(k=ready.num_items, beams=0)).lists
        fresh = ready.answer(histories, Question(k=8, fresh=True)).lists
        for row, history in enumerate(histories):
            slow = [item for item in everything.items_BK[row].tolist() if item >= 0 and item not in history][:8]
            if name == "itemknn_tiny":  # the beams of the other are fewer than the items
                assert fresh.items_BK[row].tolist() == slow
            assert not set(fresh.items_BK[row].tolist()) & set(history)


def test_a_trace_ends_with_the_codes_of_the_lists(runs: dict[str, Path]) -> None:
    ready = recommender(runs["causal_tiny"])
    found = ready.answer(asked(ready)[0][:3], Question(k=4))
    assert [part.shape[2] for part in found.beams] == list(range(1, len(found.beams) + 1))
    assert torch.equal(found.beams[-1][:, :4], found.lists.codes_BKL)
    assert ready.bundle.table is not None
    assert torch.equal(found.lists.codes_BKL, ready.bundle.table.codes_NL[found.lists.items_BK])


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (Question(k=0), "k=0"),
        (Question(k=10**6), "k=1000000"),
        (Question(beams=3), "at least k=10"),
        (Question(temperature=-1.0), "temperature=-1"),
        (Question(first_temperature=1e9), "first_temperature"),
        (Question(temperature=1e-40), "temperature=1e-40"),
        (Question(temperature=1.0, seed=2**70), "seed="),
    ],
)
def test_questions_that_cannot_be_answered(question: Question, said: str, runs: dict[str, Path]) -> None:
    with pytest.raises(UserError, match=said):
        recommender(runs["tiger_tiny"]).answer([[0]], question)


def test_an_empty_history_and_beams_of_a_classic_model_are_refused(runs: dict[str, Path]) -> None:
    ready = recommender(runs["sasrec_tiny"])
    with pytest.raises(UserError, match="empty"):
        ready.answer([[1], []], Question())
    with pytest.raises(UserError, match="no beams"):
        ready.answer([[1]], Question(beams=50))
    with pytest.raises(UserError, match="no history to answer"):
        ready.answer([], Question())
    for stranger in (-1, ready.num_items):
        with pytest.raises(UserError, match="number that is no item's: expected 0 to"):
            ready.answer([[1, stranger]], Question())
