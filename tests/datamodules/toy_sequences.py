"""Batches of small catalogues, for `test_sequences.py` and `test_sequence_order.py`. Legend: U users, M events, B rows
of a batch, T items of a row."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from datamodules.catalog import ITEM_SCHEMA, USER_SCHEMA, Catalog
from datamodules.configs import SequenceConfig
from datamodules.sequences import BatchLoader, SequenceDataModule
from datamodules.split import SplitConfig
from datamodules.synthetic import SyntheticConfig
from sid.table import SIDTable
from sid.tokens import TokenSpace

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
    catalog: Catalog, num_items: int = NUM_ITEMS, seed: int = 0, learns_from: str = "prefixes", **config: Any
) -> SequenceDataModule:
    table = table_of(num_items, (3, 5))
    tokens = TokenSpace(table.codebook_sizes, num_user_tokens=6)
    split = SplitConfig().build(catalog)
    return SequenceDataModule(SequenceConfig(**config), catalog, split, table, tokens, seed, learns_from)


def synthetic(num_users: int = 60, learns_from: str = "prefixes", **config: Any) -> SequenceDataModule:
    return data_of(SyntheticConfig(num_users=num_users).build(), 200, learns_from=learns_from, **config)


def as_rank(data: SequenceDataModule, rank: int, world_size: int, epoch: int = 0) -> SequenceDataModule:
    place = SimpleNamespace(root_device=torch.device("cpu"))
    data.trainer = SimpleNamespace(global_rank=rank, world_size=world_size, current_epoch=epoch, strategy=place)
    return data


def parts_of(loader: BatchLoader) -> list[Any]:
    """All batches, those of training part by part."""
    return [part for batch in loader for part in (batch if isinstance(batch, list) else [batch])]


def questions(loader: BatchLoader) -> list[tuple[int, int]]:
    """(user, how many items come before the target), of every example; histories must not be cut."""
    return [
        (u, n)
        for b in parts_of(loader)
        for u, n in zip(b.user_B.tolist(), (b.history_BT >= 0).sum(1).tolist(), strict=True)
    ]
