"""What batches hold: prefixes and windows against loops, every target once, nothing from after it.

Legend: U users, M events, N items, E examples, W windows, B rows of a batch, T items of a row, L levels, S tokens of a
row."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datamodules.batch import SequenceBatch, WindowBatch
from datamodules.sequences import SequenceDataModule, WindowCollate
from sid.tokens import PAD, TokenSpace
from tests.datamodules.toy_sequences import NUM_ITEMS, as_rank, catalog_of, data_of, parts_of, questions, synthetic

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
    for batch in (batch for loader in loaders.values() for batch in parts_of(loader)):
        for history, target, user in zip(batch.history_BT, batch.target_B, batch.user_B, strict=True):
            assert history[history >= 0].tolist() == list(range(int(catalog.offsets_U1[user]), int(target)))
    targets = {name: {int(t) for b in parts_of(loader) for t in b.target_B} for name, loader in loaders.items()}
    assert targets["test"] == {5, 10, 17} and targets["val"] == {4, 9, 16}
    assert targets["train"] == {1, 2, 3, 7, 8, 12, 13, 14, 15}


@pytest.mark.parametrize(("learns_from", "kind"), [("prefixes", SequenceBatch), ("windows", WindowBatch)])
def test_a_batch_is_a_tuple_that_lightning_can_move(learns_from: str, kind: type) -> None:
    data = synthetic(learns_from=learns_from)
    parts = next(iter(data.train_dataloader()))
    for part, moved in zip(parts, data.transfer_batch_to_device(parts, torch.device("cpu"), 0), strict=True):
        assert isinstance(moved, kind)
        assert all(a is b is None or torch.equal(a, b) for a, b in zip(moved, part, strict=True))


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
    targets = [event for batch in parts_of(loader) for event in events(data, batch)[batch.target_BT].tolist()]
    assert sorted(targets) == data.split.train.target_E.tolist()
    assert len(loader) == data.batches_per_pass()


@settings(max_examples=50, deadline=None)
@given(lengths_of_users, st.integers(1, 6))
def test_no_training_window_shows_an_event_from_the_validation_on(lengths: list[int], max_items: int) -> None:
    data, offsets_U1 = numbered(lengths, max_items=max_items, batch_size=20)
    # The last event of a user is the test, the last but one the validation.
    learnt = {event for end, n in zip(offsets_U1[1:], lengths, strict=True) for event in range(end - n, end - 2)}
    for batch in parts_of(data.train_dataloader()):
        assert set(events(data, batch).flatten().tolist()) <= learnt | {-1}


@settings(max_examples=30, deadline=None)
@given(lengths_of_users, st.integers(1, 6), st.integers(1, 40))
def test_window_batches_hold_about_batch_size_items_and_are_as_many_every_pass(
    lengths: list[int], max_items: int, batch_size: int
) -> None:
    data, _ = numbered(lengths, max_items=max_items, batch_size=batch_size)
    windows, batches = data.train_collate().lengths(), list(data.train_dataloader())
    assert len(batches) == min(math.ceil(windows.sum() / batch_size), len(windows))
    sizes = {sum(len(part.tokens_BS) for part in batch) for batch in batches}
    assert max(sizes) - min(sizes) <= 1
    assert len({len(data.epoch_batches(epoch)) for epoch in range(4)}) == 1


def test_windows_move_on_by_half_of_max_items_unless_told() -> None:
    untold, told, other = (
        synthetic(learns_from="windows", max_items=5, stride=stride).train_collate().windows for stride in (0, 3, 5)
    )
    assert all(np.array_equal(a, b) for a, b in zip(untold, told, strict=True))
    assert len(other.user_W) < len(untold.user_W)
