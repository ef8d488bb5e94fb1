"""The tokenize stage: item vectors to a SIDTable, with the figures that tell whether it is any good.

Legend: N items, X some of them, D vector width, L levels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor, nn

from callbacks.history import History
from datamodules.catalog import Catalog
from experiments.interruptions import stoppable
from experiments.trainers import device_of, last_checkpoint, resume_from, trainer
from sid.collisions import collision_rate, groups
from sid.configs import TokenizerConfig
from sid.diagnostics import (
    Agreement,
    agreement,
    items_per_prefix,
    neighbourhood,
    prefixes,
    reconstruction,
)
from sid.quantizers import usage
from sid.table import SIDTable
from sid.tokenizers import Context, LastLevel, assign, assign_apart, drawn, require_vectors


def tokenize(
    config: TokenizerConfig,
    vectors_ND: np.ndarray,
    known_X: np.ndarray,
    collaborative: Callable[[np.ndarray], Tensor],
    folder: Path,
    accelerator: str,
) -> Tensor:
    """Fits the tokenizer (or goes on from its last checkpoint). Returns codes (N, L) that may collide.

    Args:
        vectors_ND: item vectors, which may be a mapped file.
        known_X: rows that it may be fitted to, in rising order.
        collaborative: collaborative vectors of these rows.
    """
    rows = known_X[drawn(known_X, config.sample, config.seed)]
    fitted = torch.from_numpy(np.ascontiguousarray(vectors_ND[rows], dtype=np.float32))
    require_vectors(fitted, config.codebook_sizes, sampled=len(rows) < len(known_X))
    context = Context(lambda module, epochs: train(module, epochs, folder, accelerator), lambda: collaborative(rows))
    tokenizer = config.fit(fitted, context)
    if not config.reassign:
        return assign(tokenizer, vectors_ND, device_of(accelerator))
    assert isinstance(tokenizer, LastLevel)
    return assign_apart(tokenizer, vectors_ND)


def train(module: nn.Module, epochs: int, folder: Path, accelerator: str) -> None:
    """Trains a tokenizer's module, with its curves and its checkpoint in `folder`."""
    assert isinstance(module, lightning.LightningModule)
    fitter = trainer(
        [History(folder / "metrics.csv"), last_checkpoint(folder)],
        max_epochs=epochs,
        reload_dataloaders_every_n_epochs=1,
        accelerator=accelerator,
        devices=1,
    )
    with stoppable(fitter):
        fitter.fit(module, ckpt_path=resume_from(folder, "tokenize"))


def export(table: SIDTable, catalog: Catalog, path: Path) -> None:
    """The table for people: raw ids, semantic IDs, titles."""
    raw_ids = catalog.items["item"].to_pylist()
    titles = [title or raw for title, raw in zip(catalog.items["title"].to_pylist(), raw_ids, strict=True)]
    table.export(path, raw_ids, titles)


def figures(table: SIDTable, vectors_ND: np.ndarray, items: pa.Table) -> dict[str, Any]:
    """What `sid.diagnostics` measures of a table before its collision digit; lists hold one value a level.

    Args:
        vectors_ND: item vectors, which may be a mapped file.
        items: the catalogue's.
    """
    codes_NL, sizes = table.contents_NL, table.codebook_sizes[: table.num_contents]
    used, prefix_NL = usage(codes_NL, sizes), prefixes(codes_NL)
    kept, near = reconstruction(codes_NL, sizes, vectors_ND), neighbourhood(prefix_NL, vectors_ND)
    return {
        "codebook_sizes": list(table.codebook_sizes),
        "digit": table.digit,
        "usage": used.share_L.tolist(),
        "perplexity": used.perplexity_L.tolist(),
        "collision_rate": collision_rate(codes_NL),
        "collision_rate_resolved": collision_rate(table.codes_NL),
        "largest_group": int(groups(codes_NL).bincount().max()),
        "neighbourhood": near.values,
        "neighbourhood_chance": near.chance,
        "reconstruction": kept.values,
        "reconstruction_chance": kept.chance,
        "categories": [
            {"depth": depth, "labels": int(label_N.max()) + 1, **agreements(prefix_NL, label_N)}
            for depth, label_N in category_levels(items).items()
        ],
        "items_per_prefix": [items_per_prefix(prefix_N) for prefix_N in prefix_NL.unbind(1)],
    }


def agreements(prefix_NL: Tensor, label_N: Tensor) -> dict[str, list[float]]:
    """Every measure of `sid.diagnostics.agreement`, for every prefix length."""
    found = [agreement(prefix_N, label_N) for prefix_N in prefix_NL.unbind(1)]
    return {name: [getattr(one, name) for one in found] for name in Agreement._fields}


def category_levels(items: pa.Table) -> dict[int, Tensor]:
    """Depth in the category tree, the root being 1 -> (N,) int64 category of every item, from 0.

    An item whose path ends earlier has the end of its path. Depths with a single category, and those that fewer than
    half of the items reach, are left out. Where no item has a path, `category` is depth 1.
    """
    paths = items["categories"].combine_chunks()
    length_N = pc.fill_null(pc.list_value_length(paths), 0).to_numpy()
    if not length_N.any():
        return {depth: label_N for depth, label_N in {1: _numbered(items["category"])}.items() if label_N.any()}
    levels = {}
    for depth in range(1, int(np.median(length_N)) + 1):
        label_N = _numbered(pc.binary_join(pc.list_slice(paths, 0, depth), "\0"))
        if label_N.any():
            levels[depth] = label_N
    return levels


def _numbered(names: pa.Array | pa.ChunkedArray) -> Tensor:
    found = pc.dictionary_encode(names, null_encoding="encode")
    found = found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found
    return torch.from_numpy(found.indices.to_numpy().astype(np.int64))
