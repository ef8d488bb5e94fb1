"""This project's side: retrievers on the batches of their data module, and `beam_search` under the trie."""

import time
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from benchmarks.problem import Problem
from datamodules.batch import Parts
from experiments.named import named
from experiments.trainers import has_bfloat16
from lightning_modules.generative import training_loss
from lightning_modules.optimizers import build_optimizer, build_schedule
from models.causal import Causal
from models.tiger import Tiger
from sid.decode import Recommendations, beam_search


def kinds() -> dict[str, bool]:
    """Name of a precision -> whether that is bf16. Without bf16 where the CPU has no instructions for it."""
    return {"fp32": False} | ({"bf16": True} if has_bfloat16("cpu") else {})


def precision(bf16: bool) -> torch.autocast:
    """Autocast to bf16, or nothing."""
    return torch.autocast("cpu", torch.bfloat16, enabled=bf16)


def optimizer(model: torch.nn.Module, rate: float = 1e-3, weight_decay: float = 1e-4) -> torch.optim.Optimizer:
    """The same for ours and for Hugging Face's when speed is measured."""
    return torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=weight_decay, fused=True)


def step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def train(
    model: Tiger | Causal,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Parts],
    bf16: bool,
) -> int:
    """One step a batch, collation included; the number of targets."""
    model.train()
    learnt = 0
    for parts in batches:
        with precision(bf16):
            loss, targets = training_loss(model, parts)
        step(loss, optimizer)
        learnt += int(targets)
    return learnt


@torch.inference_mode()
def recommend(
    model: Tiger | Causal,
    problem: Problem,
    tokens_BS: Tensor,
    num_beams: int,
    bf16: bool = False,
    constrained: bool = False,
) -> Recommendations:
    with precision(bf16):
        state = model.eval().begin(tokens_BS)
        return beam_search(model, state, problem.table.trie, num_beams, constrained)


def train_for(model: Tiger, problem: Problem, batch_size: int, seconds: float, bf16: bool) -> int:
    """Trains with TIGER's recipe for a number of CPU-seconds; the number of samples."""
    problem.data.config.batch_size = batch_size
    collate = problem.data.train_parts()
    deadline = time.process_time() + seconds

    def until_deadline() -> Iterator[Parts]:
        epoch = 0
        while True:
            for rows in problem.data.epoch_batches(epoch):
                if time.process_time() > deadline:
                    return
                yield collate(rows)
            epoch += 1

    config = named("tiger_beauty").optimizer
    ours = build_optimizer(config, model.parameters())
    schedule = torch.optim.lr_scheduler.LambdaLR(ours, build_schedule(config, lambda: 0))
    ours.register_step_post_hook(lambda *_: schedule.step())
    return train(model, ours, until_deadline(), bf16)


@torch.inference_mode()
def quality(model: Tiger, problem: Problem, rows: np.ndarray, num_beams: int) -> tuple[float, float]:
    """R@10 by beam search and the mean negative log-likelihood (nats an item) of the test users' last items."""
    hits, nats = 0, 0.0
    for batch in problem.user_batches(rows, 64):
        items_BK = recommend(model, problem, batch.tokens_BS, num_beams).items_BK[:, :10]
        hits += int((items_BK == batch.target_B[:, None]).any(1).sum())
        nats += model.loss(batch.tokens_BS, batch.codes_BL).item() * problem.table.num_levels * len(batch.user_B)
    return hits / len(rows), nats / len(rows)
