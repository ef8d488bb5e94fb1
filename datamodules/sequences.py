"""Histories of users as semantic-ID token sequences: length-bucketed batches, collated without Python per sample.

Legend: U users, M events, N items, E examples, B examples of a batch, T history items, L levels, S tokens.
"""

from collections.abc import Iterator
from typing import NamedTuple

import lightning
import numpy as np
import torch

from datamodules.batch import SequenceBatch
from datamodules.catalog import Catalog
from datamodules.configs import SequenceConfig
from datamodules.split import Examples, Split
from sid.errors import UserError
from sid.table import SIDTable
from sid.tokens import PAD, TokenSpace


class Collate(NamedTuple):
    """Example numbers to a SequenceBatch, in a fixed number of array operations."""

    examples: Examples
    item_M: np.ndarray
    offsets_U1: np.ndarray
    codes_NL: torch.Tensor
    tokens: TokenSpace
    max_items: int

    def lengths(self) -> np.ndarray:
        """(E,) number of history items of every example, at most `max_items`."""
        start_E = self.offsets_U1[self.examples.user_E]
        return np.minimum(self.examples.target_E - start_E, self.max_items)

    def __call__(self, rows_B: np.ndarray) -> SequenceBatch:
        user_B, end_B = self.examples.user_E[rows_B], self.examples.target_E[rows_B]
        start_B = np.maximum(self.offsets_U1[user_B], end_B - self.max_items)
        position_BT = start_B[:, None] + np.arange((end_B - start_B).max())
        inside_BT = position_BT < end_B[:, None]
        history_BT = np.where(inside_BT, self.item_M[np.minimum(position_BT, end_B[:, None] - 1)], -1)
        history = torch.from_numpy(history_BT).long()
        tokens_BTL = self.tokens.encode(self.codes_NL[history.clamp_min(0)])
        tokens_BTL = tokens_BTL.masked_fill((history < 0)[..., None], PAD)
        users, target = torch.from_numpy(user_B).long(), torch.from_numpy(self.item_M[end_B]).long()
        tokens_BS = tokens_BTL.flatten(1)
        if self.tokens.num_user_tokens:
            tokens_BS = torch.cat([self.tokens.user(users)[:, None], tokens_BS], dim=1)
        return SequenceBatch(tokens_BS, self.codes_NL[target], history, target, users)


def bucketed_batches(length_E: np.ndarray, batch_size: int, generator: np.random.Generator) -> list[np.ndarray]:
    """One pass over E examples in batches of like length, in random order.

    Examples are shuffled, sorted by length (the shuffle decides among equals), cut, and the batches shuffled: padding
    appears only where a batch straddles two lengths. Every example comes exactly once; there are ceil(E / batch_size)
    batches.
    """
    shuffled_E = generator.permutation(len(length_E))
    sorted_E = shuffled_E[np.argsort(length_E[shuffled_E], kind="stable")]
    batches = np.split(sorted_E, range(batch_size, len(sorted_E), batch_size))
    return [batches[i] for i in generator.permutation(len(batches))]


def evaluation_batches(length_E: np.ndarray, batch_size: int, rank: int, world_size: int) -> list[np.ndarray]:
    """This rank's examples, longest first; every example once over all ranks, and equally many batches on every rank.

    Raises UserError when there are fewer examples than ranks.
    """
    if len(length_E) < world_size:
        raise UserError(f"{len(length_E)} examples cannot be evaluated by {world_size} processes; use fewer")
    order_E = np.argsort(-length_E, kind="stable")
    smallest_share, largest_share = len(order_E) // world_size, -(-len(order_E) // world_size)
    num_batches = min(-(-largest_share // batch_size), smallest_share)
    return np.array_split(order_E[rank::world_size], num_batches)


class BatchLoader:
    """Batches of example numbers, collated as they are asked for. Collation is array work, so there are no workers."""

    def __init__(self, batches: list[np.ndarray], collate: Collate) -> None:
        self.batches, self.collate = batches, collate

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[SequenceBatch]:
        return (self.collate(rows_B) for rows_B in self.batches)


class SequenceDataModule(lightning.LightningDataModule):
    """Training prefixes, validation and test users of one catalogue as batches of semantic-ID tokens.

    The order of epoch e depends on the seed and e alone, so a resumed run sees the batches that an unbroken one sees.
    Use with `Trainer(reload_dataloaders_every_n_epochs=1)`.
    """

    def __init__(
        self, config: SequenceConfig, catalog: Catalog, split: Split, table: SIDTable, tokens: TokenSpace, seed: int
    ) -> None:
        super().__init__()
        self.config, self.split, self.seed = config, split, seed
        self._collate = Collate(
            split.train, catalog.item_M, catalog.offsets_U1, table.codes_NL, tokens, config.max_items
        )
        self._train_lengths = self._collate.lengths()

    def collate(self, examples: Examples) -> Collate:
        """The collate function of any examples of this catalogue."""
        return self._collate._replace(examples=examples)

    @property
    def batches_per_pass(self) -> int:
        """Batches of one pass over the training examples, over all ranks."""
        return -(-len(self._train_lengths) // self.config.batch_size)

    def epoch_batches(self, epoch: int, world_size: int = 1) -> list[np.ndarray]:
        """All ranks' training batches of an epoch; rank r takes every world_size-th from r. A whole number a rank."""
        per_pass = self.batches_per_pass // world_size * world_size
        if per_pass == 0:
            found = f"{self.batches_per_pass} training batches"
            raise UserError(f"{found} cannot feed {world_size} processes; lower sequences.batch_size")
        length = self.config.steps_per_epoch * world_size or per_pass
        first, last = epoch * length, (epoch + 1) * length
        batches: list[np.ndarray] = []
        for number in range(first // per_pass, -(-last // per_pass)):
            generator = np.random.default_rng([self.seed, number])
            batches += bucketed_batches(self._train_lengths, self.config.batch_size, generator)[:per_pass]
        skipped = first // per_pass * per_pass
        return batches[first - skipped : last - skipped]

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> BatchLoader:
        rank, world_size = self._ranks()
        epoch = self.trainer.current_epoch if self.trainer else 0
        return BatchLoader(self.epoch_batches(epoch, world_size)[rank::world_size], self._collate)

    def _evaluation(self, examples: Examples) -> BatchLoader:
        collate = self.collate(examples)
        return BatchLoader(evaluation_batches(collate.lengths(), self.config.eval_batch_size, *self._ranks()), collate)

    def val_dataloader(self) -> BatchLoader:
        examples, wanted = self.split.validation, self.config.eval_users
        if 0 < wanted < len(examples.user_E):
            rows = np.sort(np.random.default_rng(self.seed).permutation(len(examples.user_E))[:wanted])
            examples = Examples(examples.user_E[rows], examples.target_E[rows])
        return self._evaluation(examples)

    def test_dataloader(self) -> BatchLoader:
        return self._evaluation(self.split.test)
