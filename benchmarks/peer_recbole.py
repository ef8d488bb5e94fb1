"""RecBole's SASRec and GRU4Rec. Runs under the interpreter of a second environment, which holds RecBole.

A worker: one JSON job per line on stdin, one JSON answer per line on stdout, so that its rounds can be interleaved with
ours. Data set, data loaders, training loop, models, full ranking and evaluator are RecBole's own.

Equal to ours: events and their order, leave-one-out split, items of history, widths, layers, heads, dropout, softmax
over all items, targets a batch, learning rate; items of the history stay in the ranking, as RecBole has it for
sequential models. Not equal, and not an option there: every prefix is a sample of its own, padded to the longest
history, without windows or buckets; Adam that is not fused (but for `learn`); a post-norm transformer with LayerNorm,
biases and GELU. Its autocast is for training alone. RecBole turns autograd's anomaly mode on for every sequential model
(its module of SINE does so when imported), which takes about half of a training step: off here, but where a job asks
for it.

Legend: U users, M events, E test users.
"""

import json
import os
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.config import Config
from recbole.data import create_dataset, data_preparation
from recbole.data.dataloader import FullSortEvalDataLoader
from recbole.trainer import Trainer
from recbole.utils import get_model, init_seed

NAME = "catalogue"
SETTINGS = {
    "use_gpu": False,
    "show_progress": False,
    "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
    "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "group_by": "user", "mode": "full"},
    "metrics": ["Recall", "NDCG"],
    "topk": [10],
    "valid_metric": "NDCG@10",
    "metric_decimal_place": 6,
    "loss_type": "CE",
    "train_neg_sample_args": None,
}


class Worker:
    """The catalogue in RecBole's data loaders, and a trainer for every model that was built."""

    def __init__(self, path: Path) -> None:
        data = np.load(path)
        self.settings = {
            **SETTINGS,
            "data_path": str(path.parent),
            "checkpoint_dir": str(path.parent),
            "MAX_ITEM_LIST_LENGTH": int(data["max_items"]),
            "train_batch_size": int(data["train_batch"]),
            "eval_batch_size": int(data["eval_batch"]),
        }
        self.write(data["items"], data["offsets"])
        config = Config("SASRec", NAME, config_dict=self.settings)
        self.train_data, _, self.test_data = data_preparation(config, create_dataset(config))
        self.row_U = self.check(data["test_items"], int(data["train_targets"]))
        self.batches = self.endless()
        self.trainers: dict[str, Trainer] = {}

    def write(self, item_M: np.ndarray, offsets_U1: np.ndarray) -> None:
        """The atomic file. Time is the place in the user's sequence: RecBole keeps it in 32 bits and sorts by it."""
        length_U = np.diff(offsets_U1)
        user_M = np.repeat(np.arange(len(length_U)), length_U)
        time_M = np.arange(len(item_M)) - offsets_U1[user_M]
        path = Path(str(self.settings["data_path"])) / NAME / f"{NAME}.inter"
        path.parent.mkdir()
        heading = "user_id:token\titem_id:token\ttimestamp:float"
        np.savetxt(path, np.stack([user_M, item_M, time_M], 1), "%d", "\t", header=heading, comments="")

    def check(self, item_U: np.ndarray, train_targets: int) -> np.ndarray:
        """(U,) the row of every user in RecBole's test set, whose targets must be `item_U`, the same as ours."""
        test = self.test_data.dataset
        user_E, item_E = (
            test.field2id_token[field][test.inter_feat[field].numpy()].astype(int) for field in ("user_id", "item_id")
        )
        row_U: np.ndarray = np.argsort(user_E)
        learnt = len(self.train_data.dataset)
        if not np.array_equal(item_E[row_U], item_U) or learnt != train_targets:
            raise SystemExit(f"RecBole split otherwise: {learnt} training targets, ours {train_targets}; or test items")
        return row_U

    def endless(self) -> Iterator[Any]:
        """Batches of RecBole's training loader, pass after pass."""
        while True:
            yield from self.train_data

    def build(self, model: str, sizes: dict[str, float]) -> dict[str, int]:
        """A fresh model and its trainer; the parameters, and the batches of a pass."""
        config = Config(model, NAME, config_dict=self.settings | sizes)
        init_seed(config["seed"], True)
        self.train_data.generator.manual_seed(config["seed"])
        network = get_model(model)(config, self.train_data.dataset)
        self.trainers[model] = Trainer(config, network)
        parameters = sum(parameter.numel() for parameter in network.parameters())
        return {"parameters": parameters, "batches": len(self.train_data)}

    def train(self, model: str, batches: int, bf16: bool = False, anomaly: bool = False) -> dict[str, float]:
        """Steps of RecBole's training loop; samples and CPU-seconds, data included."""
        torch.autograd.set_detect_anomaly(anomaly)
        self.trainers[model].enable_amp = bf16
        start, samples = time.process_time(), 0

        def counted() -> Iterator[Any]:
            nonlocal samples
            for interaction in islice(self.batches, batches):
                samples += len(interaction)
                yield interaction

        self.trainers[model]._train_epoch(counted(), 0)
        return {"samples": samples, "seconds": time.process_time() - start}

    def learn(
        self, model: str, epochs: int, rates: list[float], bf16: bool, weight_decay: float, clip: float
    ) -> dict[str, float]:
        """Whole training with the recipe of ours in place of RecBole's Adam at one rate: AdamW, matrices
        decayed, a rate for every step, gradients clipped. Metrics of all test users, and CPU-seconds of training."""
        trainer, start = self.trainers[model], time.process_time()
        parts = [[p for p in trainer.model.parameters() if (p.ndim >= 2) == matrix] for matrix in (True, False)]
        groups = [{"params": p, "weight_decay": w} for p, w in zip(parts, (weight_decay, 0.0), strict=True)]
        trainer.optimizer = torch.optim.AdamW(groups, lr=rates[0], fused=True)
        trainer.clip_grad_norm, trainer.enable_amp = {"max_norm": clip}, bf16
        upcoming = iter([*rates[1:], 0.0])

        def move_on(optimizer: torch.optim.Optimizer, *_: Any) -> None:
            rate = next(upcoming)
            for group in optimizer.param_groups:
                group["lr"] = rate

        trainer.optimizer.register_step_post_hook(move_on)
        torch.autograd.set_detect_anomaly(False)
        for epoch in range(epochs):
            trainer._train_epoch(self.train_data, epoch)
        seconds = time.process_time() - start
        return {"seconds": seconds, **trainer.evaluate(self.test_data, load_best_model=False)}

    def rank(self, model: str, users: list[int]) -> dict[str, float]:
        """RecBole's evaluation of some users, the whole catalogue ranked; CPU-seconds and metrics."""
        trainer, test = self.trainers[model], self.test_data.dataset
        chosen = test.copy(test.inter_feat[self.row_U[users]])
        loader = FullSortEvalDataLoader(trainer.config, chosen, None)
        start = time.process_time()
        found = trainer.evaluate(loader, load_best_model=False)
        return {"users": len(users), "seconds": time.process_time() - start, **found}


def main() -> None:
    torch.set_num_threads(1)
    path = Path(sys.argv.pop())
    os.chdir(path.parent)
    answers, sys.stdout = sys.stdout, sys.stderr
    worker = Worker(path)
    for line in sys.stdin:
        job = json.loads(line)
        print(json.dumps(getattr(worker, job.pop("job"))(**job)), file=answers, flush=True)


if __name__ == "__main__":
    main()
