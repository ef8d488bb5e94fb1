"""Legend: B users, K beams, L levels, N items, U users of the catalogue."""

import json
from typing import Any, NamedTuple

import lightning
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from callbacks.metrics import Coverage, InvalidRate, PrefixHits, RankMetrics
from callbacks.retrieval import Retrieval
from sid.decode import Recommendations
from sid.trie import FreeTree, PrefixTree, Trie
from tests.callbacks.evaluate_on_processes import main
from tests.forked import Started

TRIE = Trie.from_codes(torch.tensor([[0, 0], [1, 1], [2, 0]]))
FREE = FreeTree((3, 2), TRIE)


class Batch(NamedTuple):
    target_B: Tensor
    codes_BL: Tensor


class Recorder(lightning.LightningModule):
    """Recommends items 0 and 1 under the trie, and item 0 and an invalid one without; notes every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[PrefixTree, int, int]] = []
        self.constrained: list[bool] = []

    def begin(self, batch: Batch) -> Batch:
        return batch

    def recommend(
        self, batch: Batch, tree: PrefixTree, num_beams: int, constrained: bool = False, *_: Any, state: Any
    ) -> Recommendations:
        assert state is batch
        assert not torch.is_grad_enabled()
        self.calls.append((tree, num_beams, len(batch.target_B)))
        self.constrained.append(constrained)
        items_K, codes_KL = torch.tensor([0, 1]), torch.tensor([[0, 0], [1, 1]])
        if isinstance(tree, FreeTree):
            items_K, codes_KL = torch.tensor([0, -1]), torch.tensor([[0, 0], [1, 0]])
        users = len(batch.target_B)
        return Recommendations(items_K.expand(users, 2), torch.zeros(users, 2), codes_KL.expand(users, 2, 2))

    def validation_step(self, batch: Batch) -> None: ...

    def test_step(self, batch: Batch) -> None: ...


def batch_of(targets: list[int]) -> Batch:
    codes_NL = torch.tensor([[0, 0], [1, 1], [2, 0]])
    return Batch(torch.tensor(targets), codes_NL[torch.tensor(targets)])


def loader(*batches: Batch) -> DataLoader[Batch]:
    return DataLoader(list(batches), batch_size=None)


FIRST, SECOND = batch_of([0, 1, 2]), batch_of([1])  # ranks 1, 2, none; 2


def callback(free: bool = True, **more: Any) -> Retrieval:
    metrics = [RankMetrics([1, 2], [2]), Coverage(3, 2), PrefixHits(2, 2)]
    unconstrained = {"free_tree": FREE, "free_beams": 7, "free_metrics": [InvalidRate([1, 2])]} if free else {}
    return Retrieval(TRIE, 5, metrics, **unconstrained, **more)


def trainer(observer: Retrieval) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        callbacks=[observer],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.mark.parametrize("stage", ["val", "test"])
def test_every_figure_is_logged_under_its_stage(stage: str) -> None:
    module, observer = Recorder(), callback()
    run = trainer(observer)
    step = run.validate if stage == "val" else run.test
    (logged,) = step(module, loader(FIRST, SECOND), verbose=False)
    expected = {
        "recall@1": 1 / 4,
        "recall@2": 3 / 4,
        "ndcg@2": (1 + 2 * 0.63092975) / 4,
        "coverage@2": 2 / 3,
        "prefix@1/level1": 1 / 4,
        "prefix@1/level2": 1 / 4,
        "prefix@2/level1": 3 / 4,
        "prefix@2/level2": 3 / 4,
        "invalid@1": 0.0,
        "invalid@2": 1 / 2,
    }
    assert logged == pytest.approx({f"{stage}/{name}": figure for name, figure in expected.items()})


def test_every_batch_is_decoded_once_under_the_trie_and_once_without() -> None:
    module = Recorder()
    trainer(callback()).validate(module, loader(FIRST, SECOND), verbose=False)
    kinds = [(type(tree), beams, users) for tree, beams, users in module.calls]
    assert kinds == [(Trie, 5, 3), (FreeTree, 7, 3), (Trie, 5, 1), (FreeTree, 7, 1)]


def test_without_a_free_tree_every_batch_is_decoded_once() -> None:
    module = Recorder()
    (logged,) = trainer(callback(free=False)).validate(module, loader(FIRST, SECOND), verbose=False)
    assert [beams for _, beams, _ in module.calls] == [5, 5]
    assert not any("invalid" in name for name in logged)


@pytest.mark.parametrize("constrained", [False, True])
def test_the_normalisation_under_the_trie_is_passed_on_and_the_free_search_has_none(constrained: bool) -> None:
    module = Recorder()
    run = trainer(callback(constrained=constrained))
    run.validate(module, loader(FIRST), verbose=False)
    run.test(module, loader(SECOND), verbose=False)
    assert [isinstance(tree, Trie) for tree, _, _ in module.calls] == [True, False] * 2
    assert module.constrained == [constrained, False] * 2


def test_a_second_validation_starts_from_nothing() -> None:
    module, observer = Recorder(), callback()
    run = trainer(observer)
    first = run.validate(module, loader(FIRST, SECOND), verbose=False)
    assert run.validate(module, loader(FIRST, SECOND), verbose=False) == first
    assert run.validate(module, loader(SECOND), verbose=False)[0]["val/recall@1"] == 0.0


def test_observers_see_the_constrained_lists_of_the_test_and_of_nothing_else() -> None:
    seen: list[tuple[list[list[int]], Batch]] = []
    observer = callback(observers=[lambda lists, batch: seen.append((lists.items_BK.tolist(), batch))])
    module, run = Recorder(), trainer(observer)
    run.validate(module, loader(FIRST, SECOND), verbose=False)
    assert seen == []
    run.test(module, loader(FIRST, SECOND), verbose=False)
    assert [items for items, _ in seen] == [[[0, 1]] * 3, [[0, 1]]]
    assert [batch.target_B.tolist() for _, batch in seen] == [[0, 1, 2], [1]]


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, float], dict[str, float]]:
    """What `evaluate_on_processes` logs with one process (this one) and with two."""
    one, two = (tmp_path_factory.mktemp("evaluation") / f"{name}.json" for name in ("one", "two"))
    main(1, one)
    ranks = Started(main, 2, two, errors=two.with_name("errors"), ranks=2)
    assert ranks.wait() == [0, 0], ranks.said()[-6000:]
    return json.loads(one.read_text()), json.loads(two.read_text())


def test_two_processes_log_exactly_the_item_figures_of_one(
    one_and_two: tuple[dict[str, float], dict[str, float]],
) -> None:
    one, two = one_and_two
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["users"] == two["users"] == 61  # does not divide by 2
    figures = {name for name in one if name.startswith("val/") and name != "val/loss"}
    assert {"val/recall@1", "val/recall@10", "val/ndcg@10", "val/entropy@10", "val/coverage@10"} <= figures
    assert {"val/invalid@10", "val/prefix@1/level1", "val/prefix@10/level3"} <= figures
    assert {name: two[name] for name in figures} == {name: one[name] for name in figures}
    assert 0 < one["val/recall@20"] < 1 and 0 < one["val/invalid@10"] < 1  # not equal for being trivial


def test_two_processes_log_the_mean_loss_of_all_users(
    one_and_two: tuple[dict[str, float], dict[str, float]],
) -> None:
    one, two = one_and_two
    # The batches differ, and with them the order of summation: equal up to rounding.
    assert two["val/loss"] == pytest.approx(one["val/loss"], rel=1e-6)
