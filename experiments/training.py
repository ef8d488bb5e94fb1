"""The train and evaluate stages of a retriever.

Legend: B users, U users of the catalogue, N items, X items that may be recommended, M events, K ranks.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torchmetrics import Metric

from callbacks.history import History
from callbacks.inside import BeamRanks, Insight
from callbacks.metrics import Coverage, EntropyDiversity, FreshRankMetrics, InvalidRate, PrefixHits, RankMetrics
from callbacks.recommendations import RecommendationFile
from callbacks.retrieval import Retrieval
from callbacks.unseen import UnseenItems
from datamodules.catalog import Catalog
from datamodules.sequences import SequenceDataModule
from datamodules.split import Split, learnt_counts
from experiments.config import EvaluationConfig, RunConfig, TrainConfig
from experiments.interruptions import AtOnce, TimedCheckpoint, WithinEpoch, stoppable
from experiments.page import read_columns
from experiments.results import BEST, CURVES, PRETRAINING, load_weights
from experiments.sampled import drawn
from experiments.stages import LAST, process_rank
from experiments.trainers import (
    AtomicCheckpoints,
    WeightAverage,
    best_checkpoint,
    finished_epochs,
    hardware,
    last_checkpoint,
    peak_memory,
    reset_peak_memory,
    resume_from,
    trainer,
    wandb_logger,
)
from lightning_modules.classic import ClassicModule
from lightning_modules.retriever import RetrieverModule
from models.classic_configs import ClassicConfig
from sid.decode import Recommendations
from sid.table import SIDTable
from sid.trie import FreeTree, Trie

MONITOR = "val/ndcg@10"
INVALID_CURVE = (1, 2, 5, 10, 15, 20)
"""Where the test also counts invalid IDs, as far as the free beam goes (TIGER, Figure 6)."""


def list_metrics(config: EvaluationConfig, catalog: Catalog) -> list[Metric]:
    """The item-level metrics that every retriever is measured with."""
    candidates = catalog.candidates
    return [
        RankMetrics(config.recall_at, config.ndcg_at),
        EntropyDiversity(category_numbers(catalog), config.entropy_at),
        Coverage(catalog.num_items, config.coverage_at, None if candidates is None else len(candidates)),
    ]


def category_numbers(catalog: Catalog) -> torch.Tensor:
    """(N,) int64, the category of every item by number."""
    categories = catalog.items["category"].combine_chunks().dictionary_encode().indices.to_numpy()
    return torch.from_numpy(categories.astype(np.int64))


def retrieval(
    config: EvaluationConfig,
    table: SIDTable | None,
    catalog: Catalog,
    model: Any,
    *observers: Any,
    invalid_at: Sequence[int] = (),
    further: Sequence[Metric] = (),
) -> Retrieval:
    """The callback that decodes and counts; a classic model has no table. `invalid_at` and the `further` metrics go
    beyond the configuration's.

    Codes of items that may not be recommended count as invalid.
    """
    metrics = [*list_metrics(config, catalog), FreshRankMetrics(config.recall_at, config.ndcg_at), *further]
    candidates = catalog.candidates
    if table is None:
        items_C = torch.arange(catalog.num_items) if candidates is None else torch.from_numpy(candidates)
        return Retrieval(items_C, config.num_beams, metrics, observers=observers)
    trie = trie_of(table, catalog)
    return Retrieval(
        trie,
        config.num_beams,
        [*metrics, PrefixHits(table.num_levels, config.coverage_at)],
        FreeTree(table.codebook_sizes, trie),
        config.free_beams,
        [InvalidRate(sorted({*config.invalid_at, *invalid_at}))],
        observers,
        config.constrained,
        config.oracle_first_code,
        BeamRanks(table.num_levels),
        Insight(table.num_levels, model.gated_layers) if hasattr(model, "look_inside") else None,
    )


def trie_of(table: SIDTable, catalog: Catalog) -> Trie:
    """The semantic IDs of the items that may be recommended."""
    candidates = catalog.candidates
    return table.trie if candidates is None else Trie.from_codes(table.codes_NL, torch.from_numpy(candidates))


def between_epochs(checkpoints: Path, config: TrainConfig) -> list[Callback]:
    """What saves `last.ckpt` besides the ends of epochs."""
    last = checkpoints / LAST
    return [WithinEpoch(last), TimedCheckpoint(last, config.checkpoint_minutes)]


def train(
    config: RunConfig,
    module: RetrieverModule,
    data: SequenceDataModule,
    table: SIDTable | None,
    catalog: Catalog,
    run: Path,
    watchers: Sequence[Callback] = (),
) -> dict[str, Any]:
    """Fits until val/ndcg@10 stops rising, or goes on from the last checkpoint. Leaves best.ckpt and metrics.csv.

    Where validation targets are learnt too it goes to the end, keeps the last weights and validates them alone.
    """
    checkpoints = run / "checkpoints"
    history = History(run / CURVES)
    chosen, every = not config.split.learn_validation, config.train.validate_every
    looks_every = every if chosen else config.train.max_epochs
    callbacks: list[Callback] = [
        retrieval(config.evaluation, table, catalog, module.model),
        history,
        *([EarlyStopping(MONITOR, mode="max", patience=config.train.patience)] if chosen else []),
        best_checkpoint(checkpoints, MONITOR if chosen else None, looks_every),
        last_checkpoint(checkpoints, every),
        *between_epochs(checkpoints, config.train),
        *watchers,
    ]
    if config.train.ema:
        callbacks.insert(0, WeightAverage(decay=config.train.ema, use_buffers=False))  # before those that save a step
    resume = resume_from(checkpoints, "train")
    before = pretrain(config, module, data, run, done=resume is not None)
    fitter = trainer(
        callbacks,
        wandb_logger(config, run.name),
        max_epochs=finished_epochs(resume) or config.train.max_epochs,
        check_val_every_n_epoch=looks_every,
        gradient_clip_val=config.train.clip,
        reload_dataloaders_every_n_epochs=1,
        **hardware(config.train),
    )
    device = fitter.strategy.root_device
    reset_peak_memory(device)
    with stoppable(fitter):
        fitter.fit(module, datamodule=data, ckpt_path=resume)
    best = max(history.rows, key=lambda row: row.get(MONITOR, -1.0))
    passes = int(history.rows[-1]["step"]) / data.batches_per_pass(fitter.world_size)
    samples = passes * len(data.split.train.user_E)
    return {
        "epochs": len(history.rows),
        "best_epoch": best["epoch"],
        MONITOR: best[MONITOR],
        "parameters": sum(p.numel() for p in module.parameters()),
        "seconds": history.seconds + before.get("seconds", 0.0),
        "cpu_seconds": history.cpu_seconds + before.get("cpu_seconds", 0.0),
        "targets_per_cpu_second": samples / fitter.world_size / max(history.cpu_seconds, 1e-9),
        "peak_memory_gib": peak_memory(device),
        "device": device.type,
        "precision": fitter.precision,
    }


def pretrain(
    config: RunConfig, module: RetrieverModule, data: SequenceDataModule, run: Path, done: bool
) -> dict[str, float]:
    """What comes before the training, if anything does: from the last checkpoint on, or nothing where it is done.

    Leaves pretraining.csv, and returns its last epoch.
    """
    epochs = config.model.passes_before if isinstance(config.model, ClassicConfig) else 0
    if not (epochs and isinstance(module, ClassicModule)):
        return {}
    if not done:
        checkpoints = run / "checkpoints" / "pretraining"
        fitter = trainer(
            [History(run / PRETRAINING), last_checkpoint(checkpoints), *between_epochs(checkpoints, config.train)],
            max_epochs=epochs,
            limit_val_batches=0,
            gradient_clip_val=config.train.clip,
            reload_dataloaders_every_n_epochs=1,
            **hardware(config.train),
        )
        module.pretraining = True
        with stoppable(fitter):
            fitter.fit(module, datamodule=data, ckpt_path=resume_from(checkpoints, "train"))
    module.end_pretraining()
    return {name: float(values[-1]) for name, values in read_columns(run / PRETRAINING).items()}


def settle(
    config: RunConfig, module: RetrieverModule, data: SequenceDataModule, catalog: Catalog, run: Path
) -> dict[str, Any]:
    """The training of a model that has nothing to learn: one validation. Leaves what `train` does."""
    start = time.perf_counter()
    callback = retrieval(config.evaluation, None, catalog, module.model)
    validator = trainer([callback, AtOnce()], wandb_logger(config, run.name), **hardware(config.train))
    with stoppable(validator):
        (measured,) = validator.validate(module, datamodule=data, verbose=False)
    seconds = round(time.perf_counter() - start, 1)
    if process_rank() == 0:
        AtomicCheckpoints().save_checkpoint({"state_dict": module.state_dict()}, run / "checkpoints" / BEST)
        history = History(run / CURVES)
        history.rows = [{"epoch": 0, "step": 0, "seconds": seconds, "cpu_seconds": 0.0, **measured}]
        history.write()
    validator.strategy.barrier()
    return {
        "epochs": 0,
        "best_epoch": 0,
        MONITOR: measured[MONITOR],
        "parameters": 0,
        "seconds": 0.0,
        "cpu_seconds": 0.0,
        "device": validator.strategy.root_device.type,
        "precision": validator.precision,
    }


def load_best(module: RetrieverModule, run: Path) -> RetrieverModule:
    """Puts the weights of the run's best validation into the module."""
    module.model.load_state_dict(load_weights(run))
    return module.eval()


def evaluate(
    config: RunConfig,
    module: RetrieverModule,
    data: SequenceDataModule,
    table: SIDTable | None,
    catalog: Catalog,
    split: Split,
    run: Path,
) -> dict[str, Any]:
    """A trained module on every test user: metrics, recommendations.parquet in `run`, and popularity beside it."""
    lists = RecommendationFile(catalog.items["item"], by_target=config.evaluation.oracle_first_code)
    logger = wandb_logger(config, run.name)
    curve = [k for k in INVALID_CURVE if k <= config.evaluation.free_beams]
    further = []
    if config.split.cold_share:
        contents_NL = None if table is None else table.contents_NL
        never_N = torch.from_numpy(learnt_counts(catalog, split) == 0)
        if catalog.candidates is not None:
            never_N[np.setdiff1d(np.arange(catalog.num_items), catalog.candidates)] = False
        further.append(UnseenItems(contents_NL, never_N, config.evaluation.recall_at))
    callback = retrieval(config.evaluation, table, catalog, module.model, lists, invalid_at=curve, further=further)
    tester = trainer([callback, AtOnce()], logger, **hardware(config.train))
    start = time.perf_counter()
    with stoppable(tester):
        (measured,) = tester.test(module, datamodule=data, verbose=False)
    seconds = time.perf_counter() - start
    lists.write(run / "recommendations.parquet")
    sampled: dict[str, dict[str, float]] = {}
    if table is not None:
        module.to(tester.strategy.root_device)
        sampled = drawn(module, data, trie_of(table, catalog), config.evaluation, category_numbers(catalog))
    targets = len(split.test.user_E)
    return {
        "users": len(np.unique(split.test.user_E)),
        "targets": targets,
        "users_per_second": targets / seconds,
        "precision": tester.precision,
        "metrics": {name.removeprefix("test/"): value for name, value in measured.items()},
        "popularity": popularity(config.evaluation, catalog, split),
        "drawn": sampled,
    }


class Targets(NamedTuple):
    """All that item-level metrics need of a batch."""

    target_B: torch.Tensor


def popularity(config: EvaluationConfig, catalog: Catalog, split: Split) -> dict[str, float]:
    """The same metrics for recommending the most frequent training items to everybody; every rank counts all users."""
    count_N = torch.from_numpy(learnt_counts(catalog, split))
    candidates = catalog.candidates
    items_X = torch.arange(catalog.num_items) if candidates is None else torch.from_numpy(candidates)
    items_K = items_X[count_N[items_X].argsort(descending=True, stable=True)[: config.num_beams]]
    metrics = list_metrics(config, catalog)
    targets = torch.from_numpy(catalog.item_M[split.test.target_E]).long()
    for target_B in targets.split(4096):
        items_BK = items_K.expand(len(target_B), -1)
        lists = Recommendations(items_BK, count_N[items_BK].float(), None)
        for metric in metrics:
            metric.update(lists, Targets(target_B))
    return {name: float(value) for metric in metrics for name, value in metric.compute().items()}
