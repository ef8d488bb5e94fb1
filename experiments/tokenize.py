"""The tokenize stage: item vectors to a SIDTable, with the figures that tell whether it is any good.

Legend: N items, D vector width, L levels.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from callbacks.history import History
from datamodules.catalog import Catalog
from experiments.trainers import fit, last_checkpoint, resume_from, trainer
from sid.collisions import collision_rate
from sid.configs import TokenizerConfig
from sid.kmeans import residual_kmeans
from sid.quantizers import usage
from sid.table import SIDTable
from sid.tokenizers import Context, assign, drawn, require_vectors


def tokenize(
    config: TokenizerConfig,
    vectors_ND: np.ndarray,
    collaborative: Callable[[np.ndarray], Tensor],
    folder: Path,
    accelerator: str,
) -> Tensor:
    """Fits the tokenizer (or goes on from its last checkpoint). Returns codes (N, L) that may collide.

    Args:
        vectors_ND: item vectors, which may be a mapped file.
        collaborative: collaborative vectors of these rows.
    """
    rows = drawn(vectors_ND, config.sample, config.seed)
    fitted = torch.from_numpy(np.ascontiguousarray(vectors_ND[rows], dtype=np.float32))
    require_vectors(fitted, config.codebook_sizes)
    context = Context(lambda module, epochs: train(module, epochs, folder, accelerator), lambda: collaborative(rows))
    return assign(config.fit(fitted, context), vectors_ND)


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
    fit(fitter, module, ckpt_path=resume_from(folder, "tokenize"))


def export(table: SIDTable, catalog: Catalog, path: Path) -> None:
    """The table for people: raw ids, semantic IDs, titles."""
    raw_ids = catalog.items["item"].to_pylist()
    titles = [title or raw for title, raw in zip(catalog.items["title"].to_pylist(), raw_ids, strict=True)]
    table.export(path, raw_ids, titles)


def figures(
    config: TokenizerConfig, codes_NL: Tensor, table: SIDTable, vectors_ND: np.ndarray, categories: list[str]
) -> dict[str, Any]:
    """Usage, perplexity, collisions, items per prefix, and how well first codes separate categories."""
    sizes, levels = tuple(config.codebook_sizes), range(1, len(config.codebook_sizes) + 1)
    used = usage(codes_NL, sizes)
    kmeans_NL, _ = residual_kmeans(torch.from_numpy(np.asarray(vectors_ND)), sizes[:1], config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    random_N = torch.randint(0, sizes[0], (len(codes_NL),), generator=generator)
    rivals = {"this table": codes_NL[:, 0], "residual k-means": kmeans_NL[:, 0], "random": random_N}
    return {
        "codebook_sizes": list(table.codebook_sizes),
        "usage": used.share_L.tolist(),
        "perplexity": used.perplexity_L.tolist(),
        "collision_rate": collision_rate(codes_NL),
        "collision_rate_resolved": collision_rate(table.codes_NL),
        "largest_group": table.codebook_sizes[-1],
        "nmi_level1": {name: mutual_information(codes_N, categories) for name, codes_N in rivals.items()},
        "items_per_prefix": [items_per_prefix(codes_NL[:, :level]) for level in levels],
    }


def items_per_prefix(prefixes_NL: Tensor) -> list[list[int]]:
    """Histogram [n, how many prefixes hold n items]."""
    _, sizes = prefixes_NL.unique(dim=0, return_counts=True)
    held, count = sizes.unique(return_counts=True)
    return torch.stack([held, count], dim=1).tolist()


def mutual_information(codes_N: Tensor, categories: list[str]) -> float:
    """Normalised mutual information (arithmetic mean) of a code and the category, in [0, 1]."""
    from sklearn.metrics import normalized_mutual_info_score

    return float(normalized_mutual_info_score(categories, codes_N.numpy()))
