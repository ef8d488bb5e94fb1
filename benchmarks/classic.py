"""The second table of `make bench`: our SASRec and GRU4Rec beside RecBole's, in one run on one thread.

    python -m benchmarks.classic [--rounds 3]

Same events, split, sizes, dropout, loss and targets a batch, in fp32 and, where the CPU has it, under bf16 autocast;
what differs is said in the docstring of `peer_recbole`. "As it comes" is RecBole with autograd's anomaly mode, which it
leaves on. Training: data, loss, gradient and step. Ranking: the whole catalogue for the same test users, with the
metrics. Amazon Beauty from DATA_DIR.

Legend: E test users, C items, M events, W windows.
"""

import argparse
import json
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.measure import Work, interleave, machine, ratio, timed, tune_process
from benchmarks.ours import kinds, optimizer, precision, step
from benchmarks.peers import RECBOLE, Peer, install_recbole
from callbacks.metrics import RankMetrics
from datamodules.batching import evaluation_batches
from datamodules.catalog import Catalog
from datamodules.split import Split
from experiments.config import RunConfig
from experiments.named import named
from experiments.pipeline import Pipeline

RESULTS = Path(__file__).parent / "results"
MODELS = {"SASRec": "sasrec_beauty", "GRU4Rec": "gru4rec_beauty"}
NAMES = {
    "SASRecConfig": {
        "n_layers": "num_layers",
        "n_heads": "num_heads",
        "hidden_size": "width",
        "inner_size": "ff_width",
        "hidden_dropout_prob": "dropout",
    },
    "GRU4RecConfig": {
        "embedding_size": "width",
        "hidden_size": "hidden",
        "num_layers": "num_layers",
        "dropout_prob": "dropout",
    },
}
"""RecBole's names of our sizes. Ours has no dropout of attention weights, so RecBole's is set to 0."""
TARGETS, USERS, USER_BATCH, OUR_BATCHES, THEIR_BATCHES, TOP = 2048, 4096, 256, 8, 1, 10
PEER = "RecBole fp32"


class Ours:
    """One of our models with its data, at as many targets a batch as RecBole has."""

    def __init__(self, config: RunConfig) -> None:
        self.config, pipeline = config, Pipeline(config)
        pipeline.run("prepare", lambda *_: None)
        self.catalog, self.split = pipeline.catalog, pipeline.split
        self.module: Any
        self.module, self.data = pipeline.retriever()
        items = self.data.train_collate().lengths().sum()
        self.data.config.batch_size = round(TARGETS * items / len(self.split.train.target_E))
        self.optimizer = optimizer(self.module.model, config.optimizer.learning_rate, config.optimizer.weight_decay)
        self.batches = self.data.epoch_batches(0)[:OUR_BATCHES]

    def train(self, bf16: bool) -> int:
        """A step for each of some batches; the number of targets."""
        collate, module, learnt = self.data.train_parts(), self.module.train(), 0
        for rows_W in self.batches:
            with precision(bf16):
                loss, targets = module.batch_loss(collate(rows_W))
            step(loss, self.optimizer)
            learnt += int(targets)
        return learnt

    @torch.inference_mode()
    def rank(self, rows_E: np.ndarray, bf16: bool) -> int:
        """Top-10 lists and metrics of some test users, in batches as an evaluation makes them."""
        collate, metric = self.data.collate(self.split.test), RankMetrics([TOP], [TOP])
        items_C, module = torch.arange(self.catalog.num_items), self.module.eval()
        for part in evaluation_batches(collate.lengths()[rows_E], USER_BATCH, 0, 1):
            batch: Any = collate(rows_E[part])
            with precision(bf16):
                lists = module.recommend(batch, items_C, TOP)
            metric.update(lists, batch)
        metric.compute()
        return len(rows_E)


def sizes(config: RunConfig) -> dict[str, float]:
    """The model's sizes under RecBole's names."""
    model: Any = config.model
    fixed = {"learning_rate": config.optimizer.learning_rate, "attn_dropout_prob": 0.0}
    return fixed | {theirs: getattr(model, ours) for theirs, ours in NAMES[type(model).__name__].items()}


def save(path: Path, catalog: Catalog, split: Split, max_items: int, targets: int = TARGETS) -> None:
    """What the worker of `peer_recbole` is given; `targets`: in a batch of training."""
    np.savez(
        path, items=catalog.item_M, offsets=catalog.offsets_U1, test_items=catalog.item_M[split.test.target_E],
        train_targets=len(split.train.target_E), max_items=max_items, train_batch=targets, eval_batch=USER_BATCH,
    )  # fmt: skip


def compare(ours: dict[str, Ours], peer: Peer, rounds: int, note: Callable[[str], None]) -> dict[str, Any]:
    """Rates of everybody, interleaved within a task and a model: {task, model: {contender: [a rate a round]}}."""
    rates: dict[str, Any] = {}
    for name, mine in ours.items():
        rows_E = np.random.default_rng(0).permutation(len(mine.split.test.user_E))[:USERS]
        users = [int(user) for user in mine.split.test.user_E[rows_E]]
        learn = partial(peer.work, "train", model=name, batches=THEIR_BATCHES)
        train: dict[str, Callable[[], Work]] = {
            f"RecBole {kind}": partial(learn, bf16=own) for kind, own in kinds().items()
        }
        train[f"{PEER}, as it comes"] = partial(learn, anomaly=True)
        rank: dict[str, Callable[[], Work]] = {PEER: partial(peer.work, "rank", model=name, users=users)}
        for kind, bf16 in kinds().items():
            train[f"ours {kind}"] = partial(timed, partial(mine.train, bf16))
            rank[f"ours {kind}"] = partial(timed, partial(mine.rank, rows_E, bf16))
        rates[f"{name}, training targets"] = interleave(train, rounds, note)
        rates[f"{name}, users ranked"] = interleave(rank, rounds, note)
    return rates


def table(rates: dict[str, Any], rounds: int) -> Table:
    """Medians and spread of the rates; ratios to RecBole's fp32 in the same round."""
    shown = Table(
        "", "contender", "median", "least", "greatest", "x RecBole fp32", title=f"per CPU-second, {rounds} rounds"
    )
    for task, contenders in rates.items():
        for name, values in contenders.items():
            found = ratio(values, contenders[PEER])
            times = f"{found.median:.1f} ({found.low:.1f}-{found.high:.1f})" if name not in (PEER, "GEMM") else ""
            numbers = [f"{number:,.0f}" for number in (median(values), min(values), max(values))]
            shown.add_row(task, f"{name}, GFLOP" if name == "GEMM" else name, *numbers, times)
            task = ""
        shown.add_section()
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peer-python", type=Path, default=RECBOLE, help="Python that has RecBole; made when absent")
    options = parser.parse_args()
    tune_process()
    git = ["git", "rev-parse", "--short", "HEAD"]  # now: the tree may move on while the benchmark runs
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    console, before = Console(width=120), machine()
    ours = {name: Ours(named(experiment)) for name, experiment in MODELS.items()}
    one = ours["SASRec"]
    problem = partial(save, catalog=one.catalog, split=one.split, max_items=one.config.sequences.max_items)
    peer = Peer(options.peer_python, install_recbole, "peer_recbole.py", problem)
    parameters = {}
    for name, mine in ours.items():
        theirs = peer.ask("build", model=name, sizes=sizes(mine.config))["parameters"]
        parameters[name] = {"ours": sum(p.numel() for p in mine.module.model.parameters()), "RecBole": theirs}
    with console.status("") as status:
        rates = compare(ours, peer, options.rounds, status.update)
    peer.process.terminate()
    report = {"machine": {"before": before, "after": machine()}, "parameters": parameters, **rates}
    console.print(report["machine"], parameters, table(rates, options.rounds))
    path = RESULTS / f"{time.strftime('%Y-%m-%d')}-{commit or 'uncommitted'}-classic.json"
    path.write_text(json.dumps(report, indent=1) + "\n")
    console.print(f"saved {path}")


if __name__ == "__main__":
    main()
