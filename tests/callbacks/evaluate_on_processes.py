"""Validates an untrained TIGER on a made-up catalogue with some CPU processes; rank 0 writes the metrics as JSON."""

import json
from pathlib import Path

import lightning
import torch

from callbacks.metrics import Coverage, EntropyDiversity, InvalidRate, PrefixHits, RankMetrics
from callbacks.retrieval import Retrieval
from datamodules.configs import SequenceConfig
from datamodules.sequences import SequenceDataModule
from datamodules.split import SplitConfig
from datamodules.synthetic import SyntheticConfig
from lightning_modules.configs import OptimizerConfig
from lightning_modules.generative import GenerativeModule
from models.configs import TigerConfig
from sid.table import SIDTable
from sid.trie import FreeTree


def main(processes: int, output: Path) -> None:
    torch.manual_seed(0)
    catalog = SyntheticConfig(num_users=61, num_items=40, num_categories=4).build()
    table = SIDTable.resolve(torch.randint(0, 6, (40, 2)), (6, 6))
    sizes = TigerConfig(width=16, num_layers=1, num_heads=2, head_width=8, ff_width=32, num_user_tokens=20)
    model = sizes.build(table.codebook_sizes, 20)
    # In double precision: the width of a padded batch moves single-precision scores by more than their gaps.
    module = GenerativeModule(model.double(), OptimizerConfig(), seed=0)
    split = SplitConfig().build(catalog)
    data = SequenceDataModule(SequenceConfig(eval_batch_size=8), catalog, split, table, model.tokens, seed=0)
    category_N = torch.tensor([item % 4 for item in range(40)])
    metrics = [
        RankMetrics([1, 5, 10, 20], [5, 10, 20]),
        EntropyDiversity(category_N, [10, 20]),
        Coverage(40, 10),
        PrefixHits(table.num_levels, 10),
    ]
    free = FreeTree(table.codebook_sizes, table.trie)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=processes,
        strategy="ddp" if processes > 1 else "auto",
        callbacks=[Retrieval(table.trie, 20, metrics, free, 10, [InvalidRate([5, 10])])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    (logged,) = trainer.validate(module, datamodule=data, verbose=False)
    if trainer.is_global_zero:
        figures = {**logged, "users": catalog.num_users, "processes": trainer.world_size}
        output.write_text(json.dumps(figures))
