"""The items before the short history, for models with a long one.

Legend: U users, M events, E examples, B rows of a batch, T items of a row.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from datamodules.batch import SequenceBatch
from datamodules.catalog import ITEM_SCHEMA, USER_SCHEMA, Catalog, user_table
from datamodules.configs import SequenceConfig
from datamodules.sequences import SequenceDataModule
from datamodules.split import SplitConfig
from sid.errors import UserError
from sid.table import SIDTable
from sid.tokens import TokenSpace
from tests.datamodules.toy_sequences import parts_of


def catalog_of(lengths: list[int]) -> Catalog:
    """Users with so many events, where item m is event m, so that a leaked item shows. For the given split the first
    two users are for training, the third for the test, and so on; one to four of the last events are targets."""
    rows = [(f"u{user}", "test" if user % 3 == 2 else "train", 1 + user % 4) for user in range(len(lengths))]
    users = pa.table([pa.array(column) for column in zip(*rows, strict=True)], USER_SCHEMA.names).cast(USER_SCHEMA)
    offsets_U1 = np.append(0, np.cumsum(lengths))
    item_M = np.arange(offsets_U1[-1], dtype=np.int32)
    return Catalog(ITEM_SCHEMA.empty_table(), users, offsets_U1, item_M, item_M.astype(np.int64))


def data_of(catalog: Catalog, split: SplitConfig, reads_long: bool = True, **config: int) -> SequenceDataModule:
    """May raise UserError: histories too short for the split."""
    table = SIDTable.resolve((torch.arange(catalog.num_events) % 4)[:, None], (4,))
    tokens = TokenSpace(table.codebook_sizes)
    if split.kind != "given":
        catalog = replace(catalog, users=user_table(catalog.users["user"].combine_chunks()))
    parts = split.build(catalog)
    return SequenceDataModule(SequenceConfig(**config), catalog, parts, table, tokens, 0, reads_long=reads_long)


kinds = st.one_of(
    st.builds(SplitConfig, st.just("leave_one_out"), st.integers(0, 3)),
    st.just(SplitConfig("given", validation_share=0.5)),
    st.just(SplitConfig("time", validation_share=0.2, test_share=0.2)),
)
lengths_of_users = st.lists(st.integers(2, 20), min_size=6, max_size=8)


@settings(max_examples=60)
@given(lengths_of_users, kinds, st.integers(1, 6), st.integers(1, 9))
def test_the_long_history_is_what_lies_before_the_short_one(
    lengths: list[int], split: SplitConfig, max_items: int, long_items: int
) -> None:
    catalog = catalog_of(lengths)
    try:
        data = data_of(catalog, split, max_items=max_items, long_items=long_items)
    except UserError:
        assume(False)
    for examples in data.split:
        batch = data.collate(examples)(np.arange(len(examples.user_E)))
        expected = []
        for user, end in zip(examples.user_E, examples.end_E, strict=True):
            before = list(range(catalog.offsets_U1[user], end))
            expected.append(before[:-max_items][-long_items:])
        width = max(len(items) for items in expected)
        assert batch.long_BT is not None and batch.long_BT.dtype == torch.long
        assert batch.long_BT.shape == (len(expected), width) and width <= long_items
        assert batch.long_BT.tolist() == [items + [-1] * (width - len(items)) for items in expected]
        assert batch.inputs == (batch.tokens_BS, batch.long_BT)

        siblings = {user: set(examples.target_E[examples.user_E == user].tolist()) for user in examples.user_E}
        for long_T, short_T, user, end in zip(
            batch.long_BT.tolist(), batch.history_BT, examples.user_E, examples.end_E, strict=True
        ):
            long = [item for item in long_T if item >= 0]
            oldest = int(short_T[0])
            assert not long or long[-1] + 1 == oldest
            assert all(catalog.offsets_U1[user] <= item < oldest < end for item in long)
            if split.kind == "given":
                assert not siblings[user] & {*long, *short_T.tolist()}


def test_a_batch_of_short_histories_has_a_long_one_of_no_width() -> None:
    data = data_of(catalog_of([4, 5, 6]), SplitConfig(), max_items=9)
    (batch,) = next(iter(data.train_dataloader()))
    assert isinstance(batch, SequenceBatch)
    assert batch.long_BT is not None and batch.long_BT.shape == (len(batch.user_B), 0)


@pytest.mark.parametrize("reads_long", [False, True])
def test_only_a_model_that_asks_gets_a_long_history_and_lightning_moves_it(reads_long: bool) -> None:
    data = data_of(catalog_of([9, 12, 15]), SplitConfig(), reads_long, max_items=3, eval_batch_size=2)
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        for batch in parts_of(loader):
            moved = data.transfer_batch_to_device(batch, torch.device("meta"), 0)
            assert isinstance(batch, SequenceBatch) and isinstance(moved, SequenceBatch)
            assert len(batch.inputs) == len(moved.inputs) == 1 + reads_long
            assert (batch.long_BT is None) == (moved.long_BT is None) == (not reads_long)
            assert all(tensor.device.type == "meta" for tensor in moved.inputs)
