"""Histories of users as semantic-ID token sequences: batches with little padding, collated without Python per sample.

Legend: U users, M events, N items, E examples, W windows, B rows of a batch, T items of a row, L levels, S tokens.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import lightning
import numpy as np
import torch
from torch import Tensor

from datamodules.batch import SequenceBatch, WindowBatch, token_sequence
from datamodules.batching import (
    PART_COST,
    ItemDropout,
    cut_by_length,
    evaluation_batches,
    like_batches,
    random_batches,
)
from datamodules.catalog import Catalog
from datamodules.configs import SequenceConfig
from datamodules.split import Examples, Split
from datamodules.windows import Windows, cut_windows
from sid.errors import UserError
from sid.table import SIDTable
from sid.tokens import TokenSpace


class Log(NamedTuple):
    """The events and the codes of the items, on the device where batches are made."""

    item_M: Tensor
    codes_NL: Tensor
    tokens: TokenSpace

    def items(self, start_B: np.ndarray, end_B: np.ndarray) -> Tensor:
        """(B, T) items of the stretches [start, end); -1 behind."""
        start_B1, end_B1 = self.put(start_B)[:, None], self.put(end_B)[:, None]
        position_BT = start_B1 + torch.arange(int((end_B - start_B).max()), device=self.item_M.device)
        item_BT = self.item_M[torch.minimum(position_BT, end_B1 - 1)].long()
        return item_BT.masked_fill(position_BT >= end_B1, -1)

    def sequence(self, item_BT: Tensor, user_B: np.ndarray) -> Tensor:
        """(B, S) tokens of users and their items."""
        return token_sequence(item_BT, self.put(user_B), self.codes_NL, self.tokens)

    def put(self, numbers: np.ndarray) -> Tensor:
        """As int64 on the device."""
        return torch.from_numpy(numbers.astype(np.int64)).to(self.item_M.device, non_blocking=True)


class Collate(NamedTuple):
    """Example numbers to a SequenceBatch, in a fixed number of array operations."""

    log: Log
    examples: Examples
    offsets_U1: np.ndarray
    max_items: int
    long_items: int

    def lengths(self) -> np.ndarray:
        """(E,) number of history items of every example, at most `max_items`."""
        start_E = self.offsets_U1[self.examples.user_E]
        return np.minimum(self.examples.end_E - start_E, self.max_items)

    def __call__(self, rows_B: np.ndarray, kept_BT: np.ndarray | None = None) -> SequenceBatch:
        """`kept_BT`: which of the history's items are shown; all of them where it is None."""
        user_B, end_B = self.examples.user_E[rows_B], self.examples.end_E[rows_B]
        oldest_B = self.offsets_U1[user_B]
        start_B = np.maximum(oldest_B, end_B - self.max_items)
        history_BT = self.log.items(start_B, end_B)
        if kept_BT is not None:
            history_BT = only(history_BT, torch.from_numpy(kept_BT).to(history_BT.device))
        long_BT = self.log.items(np.maximum(oldest_B, start_B - self.long_items), start_B) if self.long_items else None
        target_B = self.log.item_M[self.log.put(self.examples.target_E[rows_B])].long()
        tokens_BS = self.log.sequence(history_BT, user_B)
        codes_BL, users_B = self.log.codes_NL[target_B], self.log.put(user_B)
        return SequenceBatch(tokens_BS, codes_BL, history_BT, target_B, users_B, long_BT)


def only(item_BT: Tensor, kept_BT: Tensor) -> Tensor:
    """The kept items of every row in their order, -1 behind; `kept_BT` may be wider."""
    kept_BT = kept_BT[:, : item_BT.shape[1]]
    most = int(kept_BT.sum(1).max())
    front_BT = kept_BT.int().argsort(dim=1, descending=True, stable=True)[:, :most]
    return item_BT.masked_fill(~kept_BT, -1).gather(1, front_BT)


class WindowCollate(NamedTuple):
    """Window numbers to a WindowBatch, in a fixed number of array operations."""

    log: Log
    windows: Windows

    def lengths(self) -> np.ndarray:
        """(W,) number of items of every window."""
        return self.windows.end_W - self.windows.start_W

    def __call__(self, rows_B: np.ndarray) -> WindowBatch:
        user_B, start_B, first_B, end_B = (array_W[rows_B] for array_W in self.windows)
        item_BT = self.log.items(start_B, end_B)
        index_T = torch.arange(item_BT.shape[1], device=item_BT.device)
        target_BT = (index_T >= self.log.put(first_B - start_B)[:, None]) & (item_BT >= 0)
        return WindowBatch(self.log.sequence(item_BT, user_B), target_BT, item_BT, self.log.put(user_B))


class InParts(NamedTuple):
    """Rows of a batch to its parts, each of like length."""

    collate: Collate | WindowCollate
    length_E: np.ndarray
    part_cost: float
    """What a part more costs, in places of a sequence; see `cut_by_length`."""
    item_dropout: ItemDropout | None = None

    def __call__(self, rows_B: np.ndarray) -> list[SequenceBatch | WindowBatch]:
        length_B = self.length_E[rows_B]
        if self.item_dropout is None:
            return [self.collate(part) for part in cut_by_length(rows_B, length_B, self.part_cost)]
        assert isinstance(self.collate, Collate)
        kept_BT = self.item_dropout.kept(rows_B, length_B)
        parts = cut_by_length(np.arange(len(rows_B)), kept_BT.sum(1), self.part_cost)
        return [self.collate(rows_B[part], kept_BT[part]) for part in parts]


class BatchLoader:
    """Batches of row numbers, collated as they are asked for. Collation is array work, so there are no workers.

    Its state is how many batches of a pass have been given; with it, an interrupted pass goes on.
    """

    def __init__(self, batches: list[np.ndarray], collate: Collate | WindowCollate | InParts) -> None:
        self.batches, self.collate = batches, collate
        self._start = self._given = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        self._given, self._start = self._start, 0
        for rows_B in self.batches[self._given :]:
            self._given += 1
            yield self.collate(rows_B)

    def state_dict(self) -> dict[str, int]:
        return {"given": self._given % len(self.batches)}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._start = state["given"]


class SequenceDataModule(lightning.LightningDataModule):
    """Training samples, validation and test users of one catalogue as batches of semantic-ID tokens.

    Args:
        learns_from: prefixes (a sample is a history and its next item) or windows (a user, all items at once).
        reads_long: batches carry the items before the history, up to `config.long_items`.

    The order of epoch e depends on the seed and e alone, so a resumed run sees the batches that an unbroken one sees.
    Use with `Trainer(reload_dataloaders_every_n_epochs=1)`.
    """

    def __init__(
        self,
        config: SequenceConfig,
        catalog: Catalog,
        split: Split,
        table: SIDTable,
        tokens: TokenSpace,
        seed: int,
        learns_from: str = "prefixes",
        reads_long: bool = False,
    ) -> None:
        super().__init__()
        self.config, self.split, self.seed = config, split, seed
        self._long_items = config.long_items if reads_long else 0
        self._catalog, self._table, self._tokens = catalog, table, tokens
        if learns_from not in ("prefixes", "windows"):
            raise ValueError(f"learns_from={learns_from!r}: expected prefixes or windows")
        self._windows = None
        if learns_from == "windows":
            stride = config.stride or -(-config.max_items // 2)
            self._windows = cut_windows(split.train, catalog.offsets_U1, config.max_items, stride)
        self._logs: dict[torch.device, Log] = {}
        self._train_lengths = self.train_collate().lengths()

    def _device(self) -> torch.device:
        return self.trainer.strategy.root_device if self.trainer else torch.device("cpu")

    def _log(self) -> Log:
        """The log on the trainer's device where it takes at most a quarter of the free memory, else on the CPU."""
        device = self._device()
        if device not in self._logs:
            size = self._catalog.item_M.nbytes + self._table.codes_NL.nbytes
            fits = device.type == "cuda" and size <= torch.cuda.mem_get_info(device)[0] / 4
            place = device if fits else torch.device("cpu")
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", ".*not writable.*")  # a view of the catalogue's file; nobody writes
                item_M = torch.from_numpy(self._catalog.item_M)
            self._logs[device] = Log(item_M.to(place), self._table.codes_NL.to(place), self._tokens)
        return self._logs[device]

    def collate(self, examples: Examples) -> Collate:
        """The collate function of any examples of this catalogue."""
        return Collate(self._log(), examples, self._catalog.offsets_U1, self.config.max_items, self._long_items)

    def train_collate(self) -> Collate | WindowCollate:
        """The collate function of the training samples."""
        if self._windows is None:
            return self.collate(self.split.train)
        return WindowCollate(self._log(), self._windows)

    def train_parts(self) -> InParts:
        """What makes training batches. Prefixes of like length come in one part, in which little is padded, unless
        items of them are hidden; and so does everything on an accelerator, where a part costs launches, and a window's
        places next to nothing (those of a prefix were not measured)."""
        in_parts = (self._random or self.config.item_dropout) and self._device().type == "cpu"
        part_cost = PART_COST["prefixes" if self._windows is None else "windows"] if in_parts else math.inf
        epoch = self.trainer.current_epoch if self.trainer else 0
        share = self.config.item_dropout
        dropout = ItemDropout(share, self.seed, epoch) if share else None
        return InParts(self.train_collate(), self._train_lengths, part_cost, dropout)

    @property
    def _random(self) -> bool:
        return self._windows is not None or self.config.batches == "random"

    def _pass(self, number: int, processes: int) -> list[np.ndarray]:
        """The batches of all processes together, without one that has no row for some of them."""
        generator = np.random.default_rng([self.seed, number])
        size = self.config.batch_size * processes
        if self._random:
            count = len(self._train_lengths)
            cost = count if self._windows is None else int(self._train_lengths.sum())
            batches = random_batches(count, cost, size, generator)
        else:
            batches = like_batches(self._train_lengths, size, generator)
        return [rows_B for rows_B in batches if len(rows_B) >= processes]

    def batches_per_pass(self, processes: int = 1) -> int:
        """Steps of one pass over the training samples. Raises UserError where there are none."""
        batches = len(self._pass(0, processes))
        if batches == 0:
            raise UserError(f"{len(self._train_lengths)} training samples cannot feed {processes} processes; use fewer")
        return batches

    def epoch_batches(self, epoch: int, processes: int = 1) -> list[np.ndarray]:
        """The training batches of an epoch. With several processes every batch is theirs together, `batch_size` for
        each: the run takes the steps that one process with the whole size would take."""
        per_pass = self.batches_per_pass(processes)
        length = self.config.steps_per_epoch or per_pass
        first, last = epoch * length, (epoch + 1) * length
        batches: list[np.ndarray] = []
        for number in range(first // per_pass, -(-last // per_pass)):
            batches += self._pass(number, processes)
        skipped = first // per_pass * per_pass
        return batches[first - skipped : last - skipped]

    def _ranks(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def train_dataloader(self) -> BatchLoader:
        rank, world_size = self._ranks()
        epoch = self.trainer.current_epoch if self.trainer else 0
        batches = [rows_B[rank::world_size] for rows_B in self.epoch_batches(epoch, world_size)]
        return BatchLoader(batches, self.train_parts())

    def _evaluation(self, examples: Examples) -> BatchLoader:
        collate = self.collate(examples)
        return BatchLoader(evaluation_batches(collate.lengths(), self.config.eval_batch_size, *self._ranks()), collate)

    def val_dataloader(self) -> BatchLoader:
        examples, wanted = self.split.validation, self.config.eval_users
        if 0 < wanted < len(examples.user_E):
            rows = np.sort(np.random.default_rng(0).permutation(len(examples.user_E))[:wanted])
            examples = examples.only(rows)
        return self._evaluation(examples)

    def test_dataloader(self) -> BatchLoader:
        return self._evaluation(self.split.test)

    def some_tests(self, most: int) -> list[SequenceBatch]:
        """Test examples, evenly spaced, at most so many; all of them on every rank."""
        examples = self.split.test
        places = np.linspace(0, len(examples.user_E) - 1, min(most, len(examples.user_E))).astype(int)
        collate = self.collate(examples.only(np.unique(places)))
        return [collate(rows_B) for rows_B in evaluation_batches(collate.lengths(), self.config.eval_batch_size, 0, 1)]
