"""The tokenize stage: item vectors to a SIDTable, with the figures that tell whether it is any good.

Legend: N items, D vector width, L levels.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from callbacks.history import History
from datamodules.catalog import Catalog
from experiments.trainers import fit, last_checkpoint, resume_from, trainer
from lightning_modules.configs import RQVAEConfig
from sid.collisions import collision_rate
from sid.kmeans import residual_kmeans
from sid.table import SIDTable


def tokenize(
    config: RQVAEConfig, vectors_ND: np.ndarray, catalog: Catalog, catalog_hash: str, folder: Path, accelerator: str
) -> dict[str, Any]:
    """Trains the RQ-VAE (or goes on from its last checkpoint), writes the SIDTable, returns the figures."""
    vectors = torch.from_numpy(vectors_ND)
    module = config.build(vectors)
    fitter = trainer(
        [History(folder / "metrics.csv"), last_checkpoint(folder)],
        max_epochs=config.epochs,
        reload_dataloaders_every_n_epochs=1,
        accelerator=accelerator,
        devices=1,
    )
    fit(fitter, module, ckpt_path=resume_from(folder, "tokenize"))
    codes_NL = module.to(vectors.device).codes()
    table = SIDTable.resolve(codes_NL, tuple(config.codebook_sizes), catalog_hash)
    table.save(folder)
    items = catalog.items
    raw_ids = items["item"].to_pylist()
    titles = [title or raw for title, raw in zip(items["title"].to_pylist(), raw_ids, strict=True)]
    table.export(folder / "sids.tsv", raw_ids, titles)
    return figures(module, vectors, codes_NL, table, items["category"].to_pylist(), config)


def figures(
    module: Any, vectors_ND: Tensor, codes_NL: Tensor, table: SIDTable, categories: list[str], config: RQVAEConfig
) -> dict[str, Any]:
    """Usage, perplexity, collisions, reconstruction, items per prefix, and how well first codes separate categories."""
    named = module.figures(codes_NL)
    sizes, levels = tuple(config.codebook_sizes), range(1, len(config.codebook_sizes) + 1)
    with torch.no_grad():
        reconstruction = float(module.model(vectors_ND).reconstruction / vectors_ND.square().sum(1).mean())
    kmeans_NL, _ = residual_kmeans(vectors_ND, sizes[:1], config.seed)
    generator = torch.Generator().manual_seed(config.seed)
    random_N = torch.randint(0, sizes[0], (len(codes_NL),), generator=generator)
    rivals = {"this table": codes_NL[:, 0], "residual k-means": kmeans_NL[:, 0], "random": random_N}
    return {
        "codebook_sizes": list(table.codebook_sizes),
        "usage": [named[f"usage/level{level}"] for level in levels],
        "perplexity": [named[f"perplexity/level{level}"] for level in levels],
        "collision_rate": named["collision_rate"],
        "collision_rate_resolved": collision_rate(table.codes_NL),
        "largest_group": table.codebook_sizes[-1],
        "reconstruction": reconstruction,
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
