"""What every contender is given: one catalogue, its semantic IDs, the same split, histories, samples and users."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from datamodules.amazon import AmazonConfig
from datamodules.batch import Parts, SequenceBatch
from datamodules.batching import evaluation_batches
from datamodules.catalog import Catalog
from datamodules.configs import SequenceConfig
from datamodules.embed import EmbedConfig
from datamodules.sequences import SequenceDataModule
from datamodules.split import SplitConfig
from datamodules.synthetic import SyntheticConfig
from experiments.deploy import bundle_of
from models.configs import TigerConfig
from models.tiger import Tiger
from sid.errors import require
from sid.kmeans import residual_kmeans
from sid.table import SIDTable
from sid.tokens import TokenSpace

LEVELS = (256, 256, 256)
BATCH = 256
WINDOW_ITEMS = 1500


@dataclass(frozen=True)
class Problem:
    """A catalogue with semantic IDs. `name` says which catalogue and where the IDs come from."""

    name: str
    catalog: Catalog
    table: SIDTable

    @cached_property
    def tokens(self) -> TokenSpace:
        return TokenSpace(self.table.codebook_sizes, TigerConfig().num_user_tokens)

    @cached_property
    def data(self) -> SequenceDataModule:
        split = SplitConfig().build(self.catalog)
        config = SequenceConfig(batch_size=BATCH)
        return SequenceDataModule(config, self.catalog, split, self.table, self.tokens, seed=0)

    @cached_property
    def windows(self) -> SequenceDataModule:
        """The same training targets and users for the causal models: whole users, no user token."""
        split, tokens = SplitConfig().build(self.catalog), TokenSpace(self.table.codebook_sizes)
        config = SequenceConfig(batch_size=WINDOW_ITEMS)
        return SequenceDataModule(config, self.catalog, split, self.table, tokens, seed=0, learns_from="windows")

    def training_batches(self, data: SequenceDataModule, count: int) -> Iterator[Parts]:
        """`count` of an epoch's batches, evenly spread over how long they are, so that they cost what its mean does."""
        parts = data.train_parts()
        batches = sorted(data.epoch_batches(0), key=lambda rows: parts.length_E[rows].mean())
        return (parts(batches[int((i + 0.5) / count * len(batches))]) for i in range(count))

    def random_batch(self, generator: np.random.Generator) -> SequenceBatch:
        """256 random samples padded to the longest: what a batch is without buckets."""
        examples = self.data.split.train
        return self.data.collate(examples)(generator.permutation(len(examples.user_E))[:BATCH])

    def users(self, count: int) -> np.ndarray:
        """A fixed random subset of the test users, as rows of the test split."""
        return np.random.default_rng(0).permutation(len(self.data.split.test.user_E))[:count]

    def user_numbers(self, rows: np.ndarray) -> list[int]:
        return [int(user) for user in self.data.split.test.user_E[rows]]

    def user_batches(self, rows: np.ndarray, batch_size: int) -> list[SequenceBatch]:
        """Test users in batches of like length."""
        collate = self.data.collate(self.data.split.test)
        return [collate(rows[part]) for part in evaluation_batches(collate.lengths()[rows], batch_size, 0, 1)]

    def typical_batches(self, data: SequenceDataModule, size: int, count: int = 4) -> list[SequenceBatch]:
        """Batches as an evaluation of all test users makes them (like length), evenly spread over the lengths."""
        collate = data.collate(data.split.test)
        order_E = np.argsort(collate.lengths(), kind="stable")
        starts = [int((i + 0.5) / count * len(order_E)) - size // 2 for i in range(count)]
        return [collate(order_E[start : start + size]) for start in starts]

    def popularity_recall(self, rows: np.ndarray) -> float:
        """R@10 of the ten most frequent training targets, on test users: the least a model must beat."""
        items_M, split = self.catalog.item_M, self.data.split
        top = np.argsort(-np.bincount(items_M[split.train.target_E], minlength=self.catalog.num_items))[:10]
        return float(np.isin(items_M[split.test.target_E[rows]], top).mean())

    def save(self, path: Path) -> None:
        """For a contender in another process: codes (N, L), events (M,) and user offsets (U + 1,)."""
        np.savez(path, codes=self.table.codes_NL.numpy(), items=self.catalog.item_M, offsets=self.catalog.offsets_U1)


def load_problem(sids: Path | None) -> Problem:
    """Beauty where DATA_DIR is set, else a synthetic catalogue; IDs from the folder `sids`, else the newest finished
    tokenizer of this catalogue under artifacts/, else residual k-means on TF-IDF vectors made now."""
    name, catalog = _catalog()
    found = [sids] if sids else _finished(catalog.num_items)
    if found:
        return Problem(f"{name}, IDs from {found[0]}", catalog, SIDTable.load(found[0]))
    vectors_ND = torch.from_numpy(EmbedConfig(encoder="tfidf", dim=64).build(catalog.items))
    table = SIDTable.resolve(residual_kmeans(vectors_ND, LEVELS, seed=0)[0], LEVELS)
    return Problem(f"{name}, IDs by residual k-means on TF-IDF vectors", catalog, table)


def of_run(run: Path) -> tuple[Problem, Tiger]:
    """A trained TIGER, and the problem with its IDs.

    Raises:
        UserError: no run, not trained to its end, or of another model, catalogue or kind of input than the problem's.
    """
    bundle = bundle_of(run)
    model, max_items, num_user_tokens = bundle.model, SequenceConfig().max_items, TigerConfig().num_user_tokens
    reads_alike = bundle.card.max_items == max_items
    fits = type(model) is Tiger and reads_alike and model.tokens.num_user_tokens == num_user_tokens
    require(fits, "--run", run, f"a TIGER with {num_user_tokens} user tokens that reads {max_items} items")
    assert isinstance(model, Tiger) and bundle.table is not None
    name, catalog = _catalog()
    bundle.table.require_catalog("", catalog.num_items)
    return Problem(f"{name}, IDs and weights of {run}", catalog, bundle.table), model


def _catalog() -> tuple[str, Catalog]:
    if os.environ.get("DATA_DIR"):
        return "Amazon Beauty", AmazonConfig().build()
    return "synthetic (DATA_DIR is not set)", SyntheticConfig(num_users=4000, num_items=2000).build()


def _finished(num_items: int) -> list[Path]:
    """Tables of so many items, the newest first, with the digit that cornac makes too."""
    headers = sorted(Path("artifacts").glob("**/sids.json"), key=lambda path: -path.stat().st_mtime)
    found = [(path.parent, json.loads(path.read_text())) for path in headers]
    return [folder for folder, header in found if header["num_items"] == num_items and header.get("digit", True)]
