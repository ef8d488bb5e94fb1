"""Which examples share a batch, in which order batches come, and which process gets them.

Legend: E examples, B rows of a batch, S tokens of a row."""

import math
from itertools import chain, combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.amazon import AmazonConfig
from datamodules.batch import SequenceBatch, token_sequence
from datamodules.batching import cut_by_length, evaluation_batches, like_batches, random_batches
from datamodules.sequences import BatchLoader
from datamodules.synthetic import SyntheticConfig
from sid.errors import UserError
from sid.tokens import PAD
from tests.datamodules.toy_sequences import as_rank, data_of, parts_of, questions, synthetic


def padding_share(loader: BatchLoader) -> float:
    parts = parts_of(loader)
    return sum(int((part.tokens_BS == PAD).sum()) for part in parts) / sum(part.tokens_BS.numel() for part in parts)


def test_parts_of_windows_pad_a_third_of_what_whole_batches_do_and_prefixes_next_to_nothing() -> None:
    data = synthetic(num_users=5000)
    assert padding_share(data.train_dataloader()) < 0.06
    assert padding_share(data.val_dataloader()) < 0.06
    assert padding_share(synthetic(5000, batches="random").train_dataloader()) < 0.10
    windows = synthetic(5000, "windows", batch_size=4000)
    assert padding_share(windows.train_dataloader()) < 0.15
    assert padding_share(BatchLoader(windows.epoch_batches(0), windows.train_collate())) > 0.45


def test_padding_stays_small_on_beauty(data_dir: Path) -> None:
    catalog = AmazonConfig("Beauty", str(data_dir)).build()
    data = data_of(catalog, num_items=12_101)
    assert len(data._train_lengths) == 198_502 - 3 * 22_363  # three events of every user are no training target
    assert padding_share(data.train_dataloader()) < 0.06
    assert padding_share(data.val_dataloader()) < 0.06
    assert padding_share(data.test_dataloader()) < 0.06
    assert padding_share(data_of(catalog, 12_101, 0, "windows", batch_size=1000).train_dataloader()) < 0.22


def as_lists(batches: list[np.ndarray]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 20), max_size=60), st.integers(1, 9), st.integers(0, 10**6))
def test_like_batches_hold_every_example_once_and_neighbours_in_length(
    lengths: list[int], batch_size: int, seed: int
) -> None:
    batches = as_lists(like_batches(np.array(lengths, dtype=int), batch_size, np.random.default_rng(seed)))
    assert sorted(chain.from_iterable(batches)) == list(range(len(lengths)))
    assert sorted(map(len, batches))[1:] == [batch_size] * (len(batches) - 1)
    ranges = sorted((min(lengths[i] for i in b), max(lengths[i] for i in b)) for b in batches)
    assert all(longest <= shortest for (_, longest), (shortest, _) in pairwise(ranges))


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 60), st.integers(1, 20), st.integers(1, 50), st.integers(0, 10**6))
def test_random_batches_hold_every_example_once_and_are_as_large_and_as_many_every_pass(
    num_examples: int, cost: int, batch_size: int, seed: int
) -> None:
    total = num_examples * cost
    batches = random_batches(num_examples, total, batch_size, np.random.default_rng(seed))
    assert sorted(chain.from_iterable(as_lists(batches))) == list(range(num_examples))
    assert len(batches) == min(math.ceil(total / batch_size), num_examples)
    sizes = {len(batch) for batch in batches}
    assert not sizes or max(sizes) - min(sizes) <= 1
    if num_examples > 20:
        other = random_batches(num_examples, total, batch_size, np.random.default_rng(seed + 1))
        assert as_lists(other) != as_lists(batches)


def fewest(lengths: list[int], part_cost: float) -> float:
    """The slow twin of `cut_by_length`: the least cost of all cuts of the sorted lengths."""
    ordered = sorted(lengths)
    return min(
        sum(len(part) * part[-1] + part_cost for part in parts)
        for size in range(len(ordered))
        for cuts in combinations(range(1, len(ordered)), size)
        for parts in [[ordered[a:b] for a, b in pairwise((0, *cuts, len(ordered)))]]
    )


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.integers(0, 12))
def test_parts_of_a_batch_are_the_cheapest_of_all(lengths: list[int], part_cost: int) -> None:
    length_B, rows_B = np.array(lengths), 100 + np.arange(len(lengths))
    parts = as_lists(cut_by_length(rows_B, length_B, part_cost))
    assert sorted(chain.from_iterable(parts)) == rows_B.tolist()
    of_parts = [[lengths[row - 100] for row in part] for part in parts]
    assert all(max(shorter) < min(longer) for shorter, longer in pairwise(of_parts))
    assert sum(len(part) * max(part) + part_cost for part in of_parts) == fewest(lengths, part_cost)
    assert as_lists(cut_by_length(rows_B, length_B, math.inf)) == [rows_B[np.argsort(length_B, kind="stable")].tolist()]


every_kind = pytest.mark.parametrize(
    ("learns_from", "batches"), [("prefixes", "like"), ("prefixes", "random"), ("windows", "like")]
)


def test_a_random_batch_of_prefixes_holds_examples_of_any_length_in_parts_of_like_length() -> None:
    data = synthetic(5000, batches="random", batch_size=128)
    like, rows, lengths = synthetic(5000, batch_size=128), data.epoch_batches(0), data._train_lengths
    assert {len(rows_B) for rows_B in rows} <= {127, 128}
    spread = np.array([lengths[rows_B].std() for rows_B in rows])
    assert spread.min() > lengths.std() / 2
    for rows_B in rows[:5]:
        parts = data.train_parts()(rows_B)
        assert len(parts) > 2 and len(like.train_parts()(rows_B)) == 1
        users = sorted(user for part in parts for user in part.user_B.tolist())
        assert users == sorted(data.split.train.user_E[rows_B].tolist())


@pytest.mark.parametrize("batches", ["like", "random"])
def test_item_dropout_hides_a_share_of_the_histories_but_nothing_else(batches: str) -> None:
    """Nobody sees an item twice here, so that user and target name an example."""
    whole, data = (synthetic(3000, batches=batches, batch_size=128, item_dropout=share) for share in (0.0, 0.3))
    kept = hidden = 0
    for rows_B in data.epoch_batches(0)[:20]:
        full = whole.train_collate()(rows_B)
        histories = {example: items for example, items, _ in read(full)}
        for part in data.train_parts()(rows_B):
            for (user, target), shown, tokens in read(part):
                before = histories.pop((user, target))
                left = iter(before)
                assert all(item in left for item in shown) and shown[-1] == before[-1], "in their order"
                row = torch.tensor([shown]), torch.tensor([user]), data._table.codes_NL, data._tokens
                assert tokens == token_sequence(*row)[0].tolist()
                kept, hidden = kept + len(shown) - 1, hidden + len(before) - len(shown)
        assert not histories
        assert padding_share(BatchLoader([rows_B], data.train_parts())) < 0.12, "cut anew by what is left"
    assert 0.27 < hidden / (kept + hidden) < 0.33


def read(batch: SequenceBatch) -> list[tuple[tuple[int, int], list[int], list[int]]]:
    """User and target, items and tokens of every row, without what is behind."""
    columns = (batch.user_B, batch.target_B, batch.history_BT, batch.tokens_BS)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [
        ((user, target), [i for i in items if i >= 0], [t for t in tokens if t != PAD])
        for user, target, items, tokens in rows
    ]


def test_other_items_are_hidden_in_every_epoch_and_none_at_evaluation() -> None:
    def tokens(epoch: int, seed: int = 0, share: float = 0.5) -> list[list[list[int]]]:
        catalog = SyntheticConfig(num_users=60).build()
        data = as_rank(data_of(catalog, 200, seed, batch_size=16, item_dropout=share), 0, 1, epoch)
        parts = data.train_parts()(np.arange(40))
        assert torch.equal(next(iter(data.val_dataloader())).tokens_BS, next(iter(whole.val_dataloader())).tokens_BS)
        return [part.tokens_BS.tolist() for part in parts]

    whole = as_rank(data_of(SyntheticConfig(num_users=60).build(), 200, 0, batch_size=16), 0, 1)
    assert tokens(3) == tokens(3)
    assert len({str(one) for one in (tokens(3), tokens(4), tokens(3, seed=1), tokens(3, share=0.0))}) == 4


@every_kind
def test_the_order_of_an_epoch_depends_on_the_seed_and_the_epoch_alone(learns_from: str, batches: str) -> None:
    catalog = SyntheticConfig(num_users=60).build()
    one, same, other = (data_of(catalog, 200, seed, learns_from, batch_size=16, batches=batches) for seed in (0, 0, 1))
    one.epoch_batches(0), one.epoch_batches(1)  # what was asked before does not matter
    assert as_lists(one.epoch_batches(3)) == as_lists(same.epoch_batches(3))
    assert as_lists(one.epoch_batches(3)) != as_lists(one.epoch_batches(2))
    assert as_lists(one.epoch_batches(3)) != as_lists(other.epoch_batches(3))
    tokens = [part.tokens_BS.tolist() for batch in as_rank(one, 0, 1, epoch=3).train_dataloader() for part in batch]
    again = [part.tokens_BS.tolist() for batch in as_rank(same, 0, 1, epoch=3).train_dataloader() for part in batch]
    assert tokens == again


@every_kind
@pytest.mark.parametrize("steps", [1, 3, 7, 100])
def test_with_steps_per_epoch_the_epochs_are_one_stream_of_whole_passes(
    steps: int, learns_from: str, batches: str
) -> None:
    data = synthetic(20, learns_from, batch_size=16, steps_per_epoch=steps, batches=batches)
    passes, per_pass = 3, data.batches_per_pass()
    stream: list[np.ndarray] = []
    for epoch in range(-(-passes * per_pass // steps)):
        batches = data.epoch_batches(epoch)
        assert len(batches) == steps
        stream += batches
    for number in range(passes):
        one_pass = as_lists(stream[number * per_pass : (number + 1) * per_pass])
        assert sorted(chain.from_iterable(one_pass)) == list(range(len(data._train_lengths)))


@every_kind
@pytest.mark.parametrize("steps", [0, 5])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_batches_of_one_with_the_whole_batch_size(
    processes: int, steps: int, learns_from: str, batches: str
) -> None:
    alone = synthetic(20, learns_from, batch_size=16 * processes, steps_per_epoch=steps, batches=batches)
    data = synthetic(20, learns_from, batch_size=16, steps_per_epoch=steps, batches=batches)
    loaders = [as_rank(data, rank, processes).train_dataloader().batches for rank in range(processes)]
    whole = [rows for rows in as_lists(alone.epoch_batches(0)) if len(rows) >= processes or steps]
    assert [len(loader) for loader in loaders] == [len(whole)] * processes
    if steps:  # with fewer rows than processes a batch is left out, so that later ones move up
        whole = as_lists(data.epoch_batches(0, processes))
    for together, *parts in zip(whole, *loaders, strict=True):
        assert all(len(part) for part in parts)
        assert sorted(chain.from_iterable(as_lists(parts))) == sorted(together)


def test_fewer_training_samples_than_processes_are_refused() -> None:
    data = synthetic(num_users=20)
    with pytest.raises(UserError, match="training samples cannot feed 1000000 processes; use fewer"):
        data.epoch_batches(0, processes=10**6)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=1, max_size=40),
    st.integers(1, 9),
    st.integers(1, 5),
)
def test_evaluation_gives_every_user_to_one_rank_and_every_rank_equally_many_batches(
    lengths: list[int], batch_size: int, world_size: int
) -> None:
    if len(lengths) < world_size:
        with pytest.raises(UserError, match=f"{len(lengths)} examples cannot be evaluated by {world_size} processes"):
            evaluation_batches(np.array(lengths), batch_size, 0, world_size)
        return
    ranks = [as_lists(evaluation_batches(np.array(lengths), batch_size, r, world_size)) for r in range(world_size)]
    assert sorted(row for batches in ranks for batch in batches for row in batch) == list(range(len(lengths)))
    assert len({len(batches) for batches in ranks}) == 1
    assert all(batch for batches in ranks for batch in batches)  # an empty batch cannot be collated
    if batch_size > 1:
        assert all(len(batch) <= batch_size for batches in ranks for batch in batches)


@pytest.mark.parametrize("num_users", [59, 60])
def test_two_ranks_evaluate_what_one_does(num_users: int) -> None:
    data = synthetic(num_users=num_users, eval_batch_size=8, max_items=1000)
    alone = questions(as_rank(data, 0, 1).test_dataloader())
    halves = [questions(as_rank(data, rank, 2).test_dataloader()) for rank in range(2)]
    assert sorted(halves[0] + halves[1]) == sorted(alone)
    assert sorted(user for user, _ in alone) == list(range(num_users))


def test_validation_may_be_on_a_fixed_random_subset_and_the_test_is_always_on_all() -> None:
    catalog = SyntheticConfig(num_users=60).build()

    def users(batches: BatchLoader) -> list[int]:
        return sorted(user for batch in batches for user in batch.user_B.tolist())

    data = data_of(catalog, 200, eval_users=25)
    chosen = users(data.val_dataloader())
    assert len(set(chosen)) == 25 and chosen != list(range(25))
    assert users(data_of(catalog, 200, eval_users=25).val_dataloader()) == chosen
    assert users(data_of(catalog, 200, eval_users=25, seed=1).val_dataloader()) == chosen
    assert users(data_of(catalog, 200, eval_users=1000).val_dataloader()) == list(range(60))
    assert users(data.test_dataloader()) == list(range(60))


@pytest.mark.parametrize("epoch", [0, 2])
def test_an_interrupted_epoch_of_windows_starts_again_with_the_same_batches(epoch: int) -> None:
    first, again = (synthetic(learns_from="windows", batch_size=50, max_items=4) for _ in range(2))
    list(as_rank(first, 0, 1, epoch=0).train_dataloader())  # the unbroken run has seen an epoch more
    pairs = zip(*(as_rank(data, 0, 1, epoch).train_dataloader() for data in (first, again)), strict=True)
    parts = (part for pair in pairs for part in zip(*pair, strict=True))
    assert all(torch.equal(a, b) for one, other in parts for a, b in zip(one, other, strict=True))
