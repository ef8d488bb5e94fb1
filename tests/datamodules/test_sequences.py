"""Legend: U users, M events, N items, E examples, W windows, B rows of a batch, T items of a row, L levels."""

from itertools import chain, pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.amazon import AmazonConfig
from datamodules.batch import SequenceBatch, WindowBatch
from datamodules.catalog import ITEM_SCHEMA, USER_SCHEMA, Catalog
from datamodules.configs import SequenceConfig
from datamodules.sequences import (
    BatchLoader,
    SequenceDataModule,
    WindowCollate,
    bucketed_batches,
    evaluation_batches,
)
from datamodules.split import SplitConfig
from datamodules.synthetic import SyntheticConfig
from sid.errors import UserError
from sid.table import SIDTable
from sid.tokens import PAD, TokenSpace

NUM_ITEMS = 12


def catalog_of(histories: list[list[int]]) -> Catalog:
    """One list of items a user, oldest first; event m happens at time m."""
    offsets_U1 = np.cumsum([0] + [len(items) for items in histories])
    item_M = np.array([item for items in histories for item in items], dtype=np.int32)
    return Catalog(
        ITEM_SCHEMA.empty_table(), USER_SCHEMA.empty_table(), offsets_U1, item_M, np.arange(len(item_M), dtype=np.int64)
    )


def table_of(num_items: int, sizes: tuple[int, ...]) -> SIDTable:
    return SIDTable.resolve(torch.stack([torch.arange(num_items) * 7 % size for size in sizes], dim=1), sizes)


def data_of(
    catalog: Catalog, num_items: int = NUM_ITEMS, seed: int = 0, learns_from: str = "prefixes", **config: int
) -> SequenceDataModule:
    table = table_of(num_items, (3, 5))
    tokens = TokenSpace(table.codebook_sizes, num_user_tokens=6)
    split = SplitConfig().build(catalog)
    return SequenceDataModule(SequenceConfig(**config), catalog, split, table, tokens, seed, learns_from)


def synthetic(num_users: int = 60, learns_from: str = "prefixes", **config: int) -> SequenceDataModule:
    return data_of(SyntheticConfig(num_users=num_users).build(), 200, learns_from=learns_from, **config)


def as_rank(data: SequenceDataModule, rank: int, world_size: int, epoch: int = 0) -> SequenceDataModule:
    place = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, current_epoch=epoch, strategy=place)
    return data


def questions(loader: BatchLoader) -> list[tuple[int, int]]:
    """(user, how many items come before the target), of every example; histories must not be cut."""
    batches = list(loader)
    return [
        (u, n) for b in batches for u, n in zip(b.user_B.tolist(), (b.history_BT >= 0).sum(1).tolist(), strict=True)
    ]


histories_of_users = st.lists(
    st.lists(st.integers(0, NUM_ITEMS - 1), min_size=3, max_size=9), min_size=1, max_size=6
).filter(lambda users: any(len(items) > 3 for items in users))


def slow_row(data: SequenceDataModule, items: list[int], user: int, width: int) -> tuple[list[int], list[int]]:
    """One row of a batch, an item at a time: its tokens and its history, padded to `width` items."""
    _, codes_NL, space = data._log()
    tokens = [int(space.user(torch.tensor(user)))]
    for item in items:
        tokens += [int(code) + offset for code, offset in zip(codes_NL[item], space.offsets, strict=False)]
    missing = width - len(items)
    return tokens + [PAD] * missing * space.num_levels, items + [-1] * missing


@settings(max_examples=50, deadline=None)
@given(histories_of_users, st.integers(1, 5))
def test_a_batch_equals_a_loop_over_its_examples(histories: list[list[int]], max_items: int) -> None:
    data = data_of(catalog_of(histories), max_items=max_items)
    for examples in data.split:
        if len(examples.user_E) == 0:
            continue
        batch = data.collate(examples)(np.arange(len(examples.user_E)))
        ends = (examples.target_E - data._catalog.offsets_U1[examples.user_E]).tolist()
        users = examples.user_E.tolist()
        before = [histories[u][:end][-max_items:] for u, end in zip(users, ends, strict=True)]
        width = max(len(items) for items in before)
        rows = [slow_row(data, items, user, width) for items, user in zip(before, users, strict=True)]
        assert batch.tokens_BS.tolist() == [tokens for tokens, _ in rows]
        assert batch.history_BT.tolist() == [items for _, items in rows]
        assert batch.user_B.tolist() == users
        assert batch.target_B.tolist() == [histories[u][end] for u, end in zip(users, ends, strict=True)]
        assert torch.equal(batch.codes_BL, data._log().codes_NL[batch.target_B])
        assert batch.long_BT is None and all(tensor.dtype == torch.long for tensor in batch[:-1])


def test_without_user_tokens_a_row_starts_with_its_first_item() -> None:
    data = data_of(catalog_of([[4, 5, 6, 7]]))
    log = data._log()
    bare = log._replace(tokens=TokenSpace(log.tokens.codebook_sizes))
    batch = data.train_collate()._replace(log=bare)(np.array([0]))
    assert batch.history_BT.tolist() == [[4]] and batch.target_B.tolist() == [5]
    assert torch.equal(log.tokens.decode(batch.tokens_BS), log.codes_NL[[4]])


@settings(max_examples=50, deadline=None)
@given(histories_of_users, st.integers(1, 7), st.integers(0, 3))
def test_every_training_prefix_comes_exactly_once_a_pass(
    histories: list[list[int]], batch_size: int, epoch: int
) -> None:
    data = as_rank(data_of(catalog_of(histories), batch_size=batch_size), 0, 1, epoch)
    loader = data.train_dataloader()
    # Of n events the last is the test, the one before the validation; targets 1 .. n - 3 have a history of that length.
    prefixes = [(u, n) for u, items in enumerate(histories) for n in range(1, len(items) - 2)]
    assert sorted(questions(loader)) == prefixes
    assert len(loader) == -(-len(prefixes) // batch_size) == data.batches_per_pass()


@settings(max_examples=50, deadline=None)
@given(histories_of_users)
def test_validation_and_test_ask_every_user_once_for_the_last_two_items(histories: list[list[int]]) -> None:
    data = data_of(catalog_of(histories), eval_batch_size=2)
    assert sorted(questions(data.val_dataloader())) == [(u, len(items) - 2) for u, items in enumerate(histories)]
    assert sorted(questions(data.test_dataloader())) == [(u, len(items) - 1) for u, items in enumerate(histories)]


@settings(max_examples=50, deadline=None)
@given(histories_of_users, st.data())
def test_no_target_and_nothing_later_reaches_a_batchs_inputs(histories: list[list[int]], draw: st.DataObject) -> None:
    """Changes the target of an example and everything after it: the inputs of the example stay as they are."""
    data = data_of(catalog_of(histories))
    examples = draw.draw(st.sampled_from([e for e in data.split if len(e.user_E)]))
    row = draw.draw(st.integers(0, len(examples.user_E) - 1))
    user, target = int(examples.user_E[row]), int(examples.target_E[row])
    before = data.collate(examples)(np.array([row]))

    changed = [list(items) for items in histories]
    start = target - int(data._catalog.offsets_U1[user])
    changed[user][start:] = [(item + 1) % NUM_ITEMS for item in changed[user][start:]]
    after = data_of(catalog_of(changed)).collate(examples)(np.array([row]))
    assert torch.equal(before.tokens_BS, after.tokens_BS)
    assert torch.equal(before.history_BT, after.history_BT)
    assert before.target_B != after.target_B


def test_every_history_ends_right_before_its_target() -> None:
    """Items are numbered by their event, so that a leaked item shows."""
    catalog = catalog_of([list(range(0, 6)), list(range(6, 11)), list(range(11, 18))])
    data = data_of(catalog, num_items=18, batch_size=4, eval_batch_size=2)
    loaders = {"train": data.train_dataloader(), "val": data.val_dataloader(), "test": data.test_dataloader()}
    for batch in (batch for loader in loaders.values() for batch in loader):
        for history, target, user in zip(batch.history_BT, batch.target_B, batch.user_B, strict=True):
            assert history[history >= 0].tolist() == list(range(int(catalog.offsets_U1[user]), int(target)))
    targets = {name: {int(t) for b in loader for t in b.target_B} for name, loader in loaders.items()}
    assert targets["test"] == {5, 10, 17} and targets["val"] == {4, 9, 16}
    assert targets["train"] == {1, 2, 3, 7, 8, 12, 13, 14, 15}


def padding_share(loader: BatchLoader) -> float:
    padded = sum(int((batch.tokens_BS == PAD).sum()) for batch in loader)
    return padded / sum(batch.tokens_BS.numel() for batch in loader)


def test_padding_stays_under_six_per_cent_where_a_random_batch_pads_several_times_as_much() -> None:
    data = synthetic(num_users=5000)
    assert padding_share(data.train_dataloader()) < 0.06
    assert padding_share(data.val_dataloader()) < 0.06
    draws = np.random.default_rng(0).permutation(len(data._train_lengths))
    random = BatchLoader(np.split(draws, range(256, len(draws), 256)), data.train_collate())
    assert padding_share(random) > 0.18


def test_padding_stays_under_six_per_cent_on_beauty(data_dir: Path) -> None:
    data = data_of(AmazonConfig("Beauty", str(data_dir)).build(), num_items=12_101)
    assert len(data._train_lengths) == 198_502 - 3 * 22_363  # three events of every user are no training target
    assert padding_share(data.train_dataloader()) < 0.06
    assert padding_share(data.val_dataloader()) < 0.06
    assert padding_share(data.test_dataloader()) < 0.06


def as_lists(batches: list[np.ndarray]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(1, 9), st.integers(0, 10**6))
def test_bucketed_batches_hold_every_example_once_and_neighbours_in_length(
    lengths: list[int], batch_size: int, seed: int
) -> None:
    length_E = np.array(lengths)
    batches = bucketed_batches(length_E, np.ones_like(length_E), batch_size, np.random.default_rng(seed))
    assert sorted(chain.from_iterable(as_lists(batches))) == list(range(len(lengths)))
    assert sorted(len(b) for b in batches)[1:] == [batch_size] * (len(batches) - 1)
    ranges = sorted((min(lengths[i] for i in b), max(lengths[i] for i in b)) for b in as_lists(batches))
    assert all(longest <= shortest for (_, longest), (shortest, _) in pairwise(ranges))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(1, 50), st.integers(0, 10**6))
def test_batches_of_examples_that_cost_their_length_hold_about_the_wanted_cost_and_are_as_many_every_pass(
    lengths: list[int], batch_size: int, seed: int
) -> None:
    length_E = np.array(lengths)
    batches = bucketed_batches(length_E, length_E, batch_size, np.random.default_rng(seed))
    assert sorted(chain.from_iterable(as_lists(batches))) == list(range(len(lengths)))
    ranges = sorted((min(lengths[i] for i in b), max(lengths[i] for i in b)) for b in as_lists(batches))
    assert all(longest <= shortest for (_, longest), (shortest, _) in pairwise(ranges))
    costs = sorted(sum(lengths[i] for i in b) for b in as_lists(batches))
    assert costs[-1] < batch_size + max(lengths)
    assert all(cost > batch_size - max(lengths) for cost in costs[1:])  # one batch holds what is left
    assert len(bucketed_batches(length_E, length_E, batch_size, np.random.default_rng(seed + 1))) == len(batches)


@pytest.mark.parametrize("learns_from", ["prefixes", "windows"])
def test_the_order_of_an_epoch_depends_on_the_seed_and_the_epoch_alone(learns_from: str) -> None:
    catalog = SyntheticConfig(num_users=60).build()
    one, same, other = (data_of(catalog, 200, seed, learns_from, batch_size=16) for seed in (0, 0, 1))
    one.epoch_batches(0), one.epoch_batches(1)  # what was asked before does not matter
    assert as_lists(one.epoch_batches(3)) == as_lists(same.epoch_batches(3))
    assert as_lists(one.epoch_batches(3)) != as_lists(one.epoch_batches(2))
    assert as_lists(one.epoch_batches(3)) != as_lists(other.epoch_batches(3))
    tokens = [batch.tokens_BS.tolist() for batch in as_rank(one, 0, 1, epoch=3).train_dataloader()]
    assert tokens == [batch.tokens_BS.tolist() for batch in as_rank(same, 0, 1, epoch=3).train_dataloader()]


@pytest.mark.parametrize("learns_from", ["prefixes", "windows"])
@pytest.mark.parametrize("steps", [1, 3, 7, 100])
def test_with_steps_per_epoch_the_epochs_are_one_stream_of_whole_passes(steps: int, learns_from: str) -> None:
    data = synthetic(20, learns_from, batch_size=16, steps_per_epoch=steps)
    passes, per_pass = 3, data.batches_per_pass()
    stream: list[np.ndarray] = []
    for epoch in range(-(-passes * per_pass // steps)):
        batches = data.epoch_batches(epoch)
        assert len(batches) == steps
        stream += batches
    for number in range(passes):
        one_pass = as_lists(stream[number * per_pass : (number + 1) * per_pass])
        assert sorted(chain.from_iterable(one_pass)) == list(range(len(data._train_lengths)))


@pytest.mark.parametrize("learns_from", ["prefixes", "windows"])
@pytest.mark.parametrize("steps", [0, 5])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_processes_share_the_batches_of_one_with_the_whole_batch_size(
    processes: int, steps: int, learns_from: str
) -> None:
    alone = synthetic(20, learns_from, batch_size=16 * processes, steps_per_epoch=steps)
    data = synthetic(20, learns_from, batch_size=16, steps_per_epoch=steps)
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


@pytest.mark.parametrize(("learns_from", "kind"), [("prefixes", SequenceBatch), ("windows", WindowBatch)])
def test_a_batch_is_a_tuple_that_lightning_can_move(learns_from: str, kind: type) -> None:
    data = synthetic(learns_from=learns_from)
    batch = next(iter(data.train_dataloader()))
    moved = data.transfer_batch_to_device(batch, torch.device("cpu"), 0)
    assert isinstance(moved, kind)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(moved, batch, strict=True))


@settings(max_examples=50, deadline=None)
@given(histories_of_users, st.integers(1, 5), st.data())
def test_a_batch_of_windows_equals_a_loop_over_them(
    histories: list[list[int]], max_items: int, draw: st.DataObject
) -> None:
    stride = draw.draw(st.integers(0, max_items))
    catalog = catalog_of(histories)
    data = data_of(catalog, learns_from="windows", max_items=max_items, stride=stride)
    collate = data.train_collate()
    assert isinstance(collate, WindowCollate)
    rows_B = draw.draw(st.lists(st.integers(0, len(collate.lengths()) - 1), min_size=1, max_size=5))
    batch = collate(np.array(rows_B))
    width = max(collate.lengths()[rows_B].tolist())
    for tokens_S, target_T, row in zip(batch.tokens_BS, batch.target_BT, rows_B, strict=True):
        user, start, first, end = (int(array_W[row]) for array_W in collate.windows)
        tokens, _ = slow_row(data, catalog.item_M[start:end].tolist(), user, width)
        assert tokens_S.tolist() == tokens
        assert target_T.tolist() == [first <= start + place < end for place in range(width)]
    assert batch.tokens_BS.dtype == torch.long and batch.target_BT.dtype == torch.bool


def numbered(lengths: list[int], **config: int) -> tuple[SequenceDataModule, np.ndarray]:
    """Windows of users with so many events, where item m is event m; and the offsets of the users."""
    ends_U = np.cumsum(lengths)
    catalog = catalog_of([list(range(end - length, end)) for end, length in zip(ends_U, lengths, strict=True)])
    return data_of(catalog, int(ends_U[-1]), learns_from="windows", **config), catalog.offsets_U1


def events(data: SequenceDataModule, batch: WindowBatch) -> torch.Tensor:
    """(B, T) the events of a batch of `numbered`, -1 behind."""
    tokens_BTL = batch.tokens_BS[:, 1:].unflatten(1, (-1, data._tokens.num_levels))
    return data._table.trie.find(data._tokens.decode(tokens_BTL))


lengths_of_users = st.lists(st.integers(3, 25), min_size=1, max_size=6).filter(lambda lengths: max(lengths) > 3)


@settings(max_examples=50, deadline=None)
@given(lengths_of_users, st.integers(1, 6), st.integers(1, 40), st.integers(0, 3))
def test_every_training_target_comes_exactly_once_a_pass_of_windows(
    lengths: list[int], max_items: int, batch_size: int, epoch: int
) -> None:
    data, _ = numbered(lengths, max_items=max_items, batch_size=batch_size)
    loader = as_rank(data, 0, 1, epoch).train_dataloader()
    targets = [event for batch in loader for event in events(data, batch)[batch.target_BT].tolist()]
    assert sorted(targets) == data.split.train.target_E.tolist()
    assert len(loader) == data.batches_per_pass()


@settings(max_examples=50, deadline=None)
@given(lengths_of_users, st.integers(1, 6))
def test_no_training_window_shows_an_event_from_the_validation_on(lengths: list[int], max_items: int) -> None:
    data, offsets_U1 = numbered(lengths, max_items=max_items, batch_size=20)
    # The last event of a user is the test, the last but one the validation.
    learnt = {event for end, n in zip(offsets_U1[1:], lengths, strict=True) for event in range(end - n, end - 2)}
    for batch in data.train_dataloader():
        assert set(events(data, batch).flatten().tolist()) <= learnt | {-1}


@settings(max_examples=30, deadline=None)
@given(lengths_of_users, st.integers(1, 6), st.integers(1, 40))
def test_window_batches_hold_about_batch_size_items_and_are_as_many_every_pass(
    lengths: list[int], max_items: int, batch_size: int
) -> None:
    data, _ = numbered(lengths, max_items=max_items, batch_size=batch_size)
    items = sorted(int((events(data, batch) >= 0).sum()) for batch in data.train_dataloader())
    longest = max_items + 1
    assert items[-1] < batch_size + longest
    assert all(count > batch_size - longest for count in items[1:])
    assert len({len(data.epoch_batches(epoch)) for epoch in range(4)}) == 1


@pytest.mark.parametrize("epoch", [0, 2])
def test_an_interrupted_epoch_of_windows_starts_again_with_the_same_batches(epoch: int) -> None:
    first, again = (synthetic(learns_from="windows", batch_size=50, max_items=4) for _ in range(2))
    list(as_rank(first, 0, 1, epoch=0).train_dataloader())  # the unbroken run has seen an epoch more
    pairs = zip(*(as_rank(data, 0, 1, epoch).train_dataloader() for data in (first, again)), strict=True)
    assert all(torch.equal(a, b) for one, other in pairs for a, b in zip(one, other, strict=True))


def test_windows_move_on_by_half_of_max_items_unless_told() -> None:
    untold, told, other = (
        synthetic(learns_from="windows", max_items=5, stride=stride).train_collate().windows for stride in (0, 3, 5)
    )
    assert all(np.array_equal(a, b) for a, b in zip(untold, told, strict=True))
    assert len(other.user_W) < len(untold.user_W)
