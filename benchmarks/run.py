"""`make bench`: TIGER and the causal retriever beside Hugging Face's T5 and cornac's TIGER, in one run on one thread.

    python -m benchmarks.run [--part train|decode|quality|all] [--rounds 5] [--minutes 2] [--no-cornac] [--save]
    python -m benchmarks.run --part decode --run runs/tiger_beauty/<hash>    # beams of a trained TIGER, no cornac

Everybody gets the same catalogue, semantic IDs, split and allocator settings, every TIGER the paper's size (or the
run's); what differs is said in the docstrings of `huggingface` and `peer_cornac`. The causal models have their own
sizes (`CausalConfig`): their rows compare ways to learn from the same targets and to rank for the same users, not equal
arithmetic. Default: about thirty CPU-minutes.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.measure import Work, interleave, machine, operations, ratio, timed, tune_process
from benchmarks.peers import CORNAC, Peer, install_cornac
from sid.errors import UserError

RESULTS = Path(__file__).parent / "results"
TRAIN_BATCHES, OUR_BATCH, THEIR_BATCH, CHECKED_USERS, CORNAC_USERS, QUALITY_USERS = 4, 64, 16, 64, 16, 1024
QUALITY_BATCH, QUALITY_BEAMS = 64, 20
BEAMS = (20, 50)
TIE = 2e-5
PEERS = ("Hugging Face", "cornac")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("train", "decode", "quality", "all"), default="all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=2.0, help="CPU-minutes of training before R@10 is compared")
    parser.add_argument("--no-cornac", action="store_true", help="leave out the peer with an environment of its own")
    sources = parser.add_mutually_exclusive_group()
    sources.add_argument("--sids", type=Path, help="folder of a finished tokenize stage")
    sources.add_argument("--run", type=Path, help="folder of a trained TIGER on this data: its IDs, sizes and weights")
    parser.add_argument("--peer-python", type=Path, default=CORNAC, help="Python that has cornac; made when absent")
    parser.add_argument("--save", action="store_true", help=f"write the numbers to {RESULTS.name}/<date>-<commit>.json")
    options = parser.parse_args()
    if options.run and options.part != "decode":
        parser.error("--run decodes with a trained model: write --part decode")
    if options.part == "quality" and options.no_cornac:
        parser.error("--part quality compares with cornac: leave out --no-cornac")
    tune_process()
    try:
        Bench(options).run()
    except UserError as error:
        sys.exit(f"error: {error}")


class Bench:
    """The contenders, built once: our model, its copy as a Hugging Face T5, and the worker that holds cornac."""

    def __init__(self, options: argparse.Namespace) -> None:
        import numpy as np
        import torch
        from rich.console import Console
        from transformers.utils import logging

        from benchmarks import huggingface, ours
        from benchmarks.problem import load_problem, of_run
        from models.configs import TigerConfig
        from models.hugging_face import to_hugging_face

        logging.set_verbosity_error()
        git = ["git", "rev-parse", "--short", "HEAD"]  # now: the tree may move on while the benchmark runs
        self.commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
        self.options, self.console, self.ours, self.hf = options, Console(width=120), ours, huggingface
        self.generator = np.random.default_rng(1)
        torch.manual_seed(0)
        self.build = lambda: TigerConfig().build(self.problem.table.codebook_sizes, 20)
        if options.run:
            self.problem, self.model = of_run(options.run)
        else:
            self.problem = load_problem(options.sids)
            self.model = self.build()
            self.few_steps(self.model, self.problem.data)
        self.causal = self.trained_causal()
        self.peer = to_hugging_face(self.model)
        self.peer.set_attn_implementation("eager")  # 1.2 times as fast as "sdpa" on a CPU at these sizes
        self.prefixes = huggingface.PrefixTable(self.problem.table, self.problem.tokens)
        self.report: dict[str, Any] = {"ids": self.problem.name, "codebooks": self.problem.table.codebook_sizes}

    def trained_causal(self) -> dict[str, Any]:
        """Both forms of the causal retriever at their default sizes, after a few steps. They copy nothing."""
        from models.configs import CausalConfig

        models = {}
        for form in ("item", "flat"):
            data = self.problem.windows
            model = CausalConfig(form=form).build(self.problem.table.codebook_sizes, data.config.max_items)
            self.few_steps(model, data)
            models[f"causal {form}"] = model
        return models

    def few_steps(self, model: Any, data: Any) -> None:
        batches = map(data.train_parts(), data.epoch_batches(0)[:8])
        self.ours.train(model, self.ours.optimizer(model), batches, bf16="bf16" in self.ours.kinds())

    def run(self) -> None:
        part = self.options.part
        self.report["machine"] = {"before": machine()}
        self.console.print(self.problem.name, self.problem.table.codebook_sizes, self.report["machine"])
        self.report["checks"] = self.checks()
        self.console.print(self.report["checks"])
        cornac = None
        if not (self.options.no_cornac or self.options.run):
            cornac = Peer(self.options.peer_python, install_cornac, "peer_cornac.py", self.problem.save)
            cornac.ask("train", batch_size=256, batches=1)
        if part in ("train", "all"):
            self.compare("training, targets", self.training(cornac))
        if part in ("decode", "all"):
            for beams in BEAMS:
                self.compare(f"{beams} beams, users", self.decoding(beams, cornac))
        if part in ("quality", "all") and cornac:
            self.quality(cornac)
        if cornac:
            cornac.process.terminate()
        self.report["machine"]["after"] = machine()
        self.console.print(self.report["machine"]["after"])
        if self.options.save:
            self.save()

    def checks(self) -> dict[str, float]:
        """Same weights, same batch, eval mode: the losses, and the share of users with identical top-K lists."""
        import torch

        batch = self.problem.random_batch(self.generator)
        labels_BL = self.problem.tokens.encode(batch.codes_BL)
        with torch.no_grad():
            ours = self.model.eval().loss(batch.tokens_BS, batch.codes_BL).item()
            theirs = self.hf.loss(self.peer.eval(), batch.tokens_BS, labels_BL).item()
        result = {"loss_ours": ours, "loss_hugging_face": theirs}
        assert abs(ours - theirs) <= 1e-4, f"not the same model: loss {ours} and {theirs} on one batch"
        tokens_BS = self.problem.user_batches(self.problem.users(CHECKED_USERS), CHECKED_USERS)[0].tokens_BS
        for beams, constrained in product(BEAMS, (False, True)):
            a_BK = self.ours.recommend(self.model, self.problem, tokens_BS, beams, constrained=constrained).items_BK
            b_BK = self.hf.beam_search(self.peer, self.prefixes, tokens_BS, beams, constrained)
            same_B = (a_BK == b_BK).all(1)
            differ = (~same_B).nonzero()[:, 0]
            ties = [self.tied(tokens_BS[i : i + 1], a_BK[i], b_BK[i], constrained) for i in differ]
            which = f"{beams}_constrained" if constrained else beams
            result[f"identical_lists_{which}"] = same_B.float().mean().item()
            alike = result[f"identical_up_to_ties_{which}"] = (int(same_B.sum()) + sum(ties)) / len(same_B)
            assert alike == 1, f"{which} beams: {1 - alike:.1%} of the lists differ by more than rounding"
        return result

    def tied(self, tokens_1S: Any, ours_K: Any, theirs_K: Any, constrained: bool) -> bool:
        """Whether two lists differ by a float tie: where they differ, some prefix of an item of one and another prefix
        of that length of an item of the other have scores less than TIE apart, so that rounding chose."""
        import torch

        differ_K = ours_K != theirs_K
        items_X = torch.cat([ours_K[differ_K], theirs_K[differ_K]])
        codes_XL = self.problem.table.codes_NL[items_X]
        tokens_XL = self.problem.tokens.encode(codes_XL)
        with torch.no_grad():
            logits_XLW = self.model.eval()(tokens_1S.expand(len(codes_XL), -1), codes_XL)
        if constrained:
            logits_XLW[~self.prefixes.allowed(tokens_XL, logits_XLW.shape[2])] = -torch.inf
        score_XL = logits_XLW.log_softmax(-1).gather(2, tokens_XL[..., None])[..., 0].cumsum(1)
        (ours_DL, theirs_DL), (our_score_DL, their_score_DL) = tokens_XL.chunk(2), score_XL.chunk(2)
        other_DDL = (ours_DL[:, None] != theirs_DL).cumsum(-1) > 0
        gap_DDL = (our_score_DL[:, None] - their_score_DL).abs()
        return bool((gap_DDL[other_DDL] < TIE).any())

    def training(self, cornac: Peer | None) -> dict[str, Callable[[], Work]]:
        data, windows = self.problem.data, self.problem.windows
        our_optimizer, their_optimizer = self.ours.optimizer(self.model), self.ours.optimizer(self.peer)

        def ours(bf16: bool) -> int:
            return self.learn(self.model, our_optimizer, data, bf16)

        def theirs(bf16: bool) -> int:
            self.peer.train()
            batch = self.problem.random_batch(self.generator)
            with self.ours.precision(bf16):
                loss = self.hf.loss(self.peer, batch.tokens_BS, self.problem.tokens.encode(batch.codes_BL))
            self.ours.step(loss, their_optimizer)
            return len(batch.user_B)

        contenders: dict[str, Callable[[], Work]] = {}
        for name, bf16 in self.ours.kinds().items():
            contenders[f"TIGER {name}"] = partial(timed, partial(ours, bf16))
            contenders[f"Hugging Face {name}"] = partial(timed, partial(theirs, bf16))
        for form, model in self.causal.items():
            for name, bf16 in self.ours.kinds().items():
                job = partial(self.learn, model, self.ours.optimizer(model), windows, bf16)
                contenders[f"{form} {name}"] = partial(timed, job)
        if cornac:
            contenders["cornac fp32"] = partial(cornac.work, "train", batch_size=256, batches=1)
        return contenders

    def learn(self, model: Any, optimizer: Any, data: Any, bf16: bool) -> int:
        return self.ours.train(model, optimizer, self.problem.training_batches(data, TRAIN_BATCHES), bf16)

    def decoding(self, beams: int, cornac: Peer | None) -> dict[str, Callable[[], Work]]:
        """Ours on batches of like length, as its evaluation makes them; the others on random users, as theirs does, and
        Hugging Face once more on batches of like length ("sorted"): its beams each carry the padding."""
        ours, lent = (
            [batch.tokens_BS for batch in self.problem.typical_batches(self.problem.data, size)]
            for size in (OUR_BATCH, THEIR_BATCH)
        )
        collate, users = self.problem.data.collate(self.problem.data.split.test), self.problem.users(4 * THEIR_BATCH)
        theirs = [collate(rows).tokens_BS for rows in users.reshape(-1, THEIR_BATCH)]
        self.peer.eval()

        bare = [batch.tokens_BS for batch in self.problem.typical_batches(self.problem.windows, OUR_BATCH)]

        def our_job(model: Any, batches: list[Any], bf16: bool, constrained: bool = False) -> int:
            return sum(
                len(self.ours.recommend(model, self.problem, b, beams, bf16, constrained).items_BK) for b in batches
            )

        def their_job(batches: list[Any], bf16: bool, constrained: bool = False) -> int:
            with self.ours.precision(bf16):
                return sum(len(self.hf.beam_search(self.peer, self.prefixes, b, beams, constrained)) for b in batches)

        contenders: dict[str, Callable[[], Work]] = {}
        for name, bf16 in self.ours.kinds().items():
            contenders[f"TIGER {name}"] = partial(timed, partial(our_job, self.model, ours, bf16))
            job = partial(our_job, self.model, ours, bf16, constrained=True)
            contenders[f"TIGER {name}, constrained"] = partial(timed, job)
            for form, model in self.causal.items():
                contenders[f"{form} {name}"] = partial(timed, partial(our_job, model, bare, bf16))
                job = partial(our_job, model, bare, bf16, constrained=True)
                contenders[f"{form} {name}, constrained"] = partial(timed, job)
            contenders[f"Hugging Face {name}"] = partial(timed, partial(their_job, theirs, bf16))
            contenders[f"Hugging Face {name}, sorted"] = partial(timed, partial(their_job, lent, bf16))
            job = partial(their_job, theirs, bf16, constrained=True)
            contenders[f"Hugging Face {name}, constrained"] = partial(timed, job)
        if cornac:
            numbers = self.problem.user_numbers(self.problem.users(CORNAC_USERS))
            contenders["cornac fp32"] = partial(cornac.work, "beam", users=numbers, num_beams=beams)
        return contenders

    def quality(self, cornac: Peer) -> None:
        """R@10 and held-out likelihood that the same CPU time reaches, each at its own default optimiser."""
        seconds, rows = self.options.minutes * 60, self.problem.users(QUALITY_USERS)
        model = self.build()
        with self.console.status(f"{self.options.minutes:g} CPU-minutes of training: ours, then cornac"):
            samples = self.ours.train_for(model, self.problem, QUALITY_BATCH, seconds, bf16="bf16" in self.ours.kinds())
            recall, nats = self.ours.quality(model, self.problem, rows, QUALITY_BEAMS)
            fit = cornac.ask("train", batch_size=QUALITY_BATCH, budget_s=seconds)
            theirs = {**fit, **cornac.ask("beam", users=self.problem.user_numbers(rows), num_beams=QUALITY_BEAMS)}
            theirs |= cornac.ask("nats", users=self.problem.user_numbers(rows))
        self.report["quality"] = {
            "cpu_minutes": self.options.minutes,
            "precision": list(self.ours.kinds())[-1],
            "users": len(rows),
            "popularity_recall_at_10": self.problem.popularity_recall(rows),
            "ours": {"samples": samples, "recall_at_10": recall, "nats": nats},
            "cornac": {name: theirs[name] for name in ("samples", "recall_at_10", "nats")},
        }
        self.console.print(self.report["quality"])

    def compare(self, what: str, contenders: dict[str, Callable[[], Work]]) -> None:
        """Runs the contenders in interleaved rounds and prints the table."""
        with self.console.status("counting operations") as status:
            work = {name: operations(job) for name, job in contenders.items() if not name.startswith("cornac")}
            rates = interleave(contenders, self.options.rounds, status.update)
        self.table(what, rates, work)

    def table(self, what: str, rates: dict[str, list[float]], work: dict[str, float]) -> None:
        """Medians and spread of the rates; ratios of ours to the peers in the same round; the operations of the matrix
        products for one target or user, and how many that makes a CPU-second: beside those of the GEMM (fp32), the
        room that is left."""
        from statistics import median

        from rich.table import Table

        peers = [name for name in rates if name.startswith(PEERS) and "fp32" in name]
        headings = ("contender", "median", "least", "greatest", "MFLOP each", "GFLOP", *(f"x {peer}" for peer in peers))
        table = Table(*headings, title=f"{what} per CPU-second, {self.options.rounds} rounds")
        for name, values in rates.items():
            cells = [f"{number:.1f}" for number in (median(values), min(values), max(values))]
            each = work.get(name, 0)
            cells += [f"{each / 1e6:,.0f}", f"{each * median(values) / 1e9:.1f}"] if each else ["", ""]
            for peer in peers if not name.startswith((*PEERS, "GEMM")) else ():
                found = ratio(values, rates[peer])
                alike = "constrained" in name or "constrained" not in peer
                cells.append(f"{found.median:.1f} ({found.low:.1f}-{found.high:.1f})" if alike else "")
            table.add_row(f"{name}, GFLOP" if name == "GEMM" else name, *cells)
        self.console.print(table)
        self.report[what] = rates
        self.report[f"{what}, operations"] = work

    def save(self) -> None:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{time.strftime('%Y-%m-%d')}-{self.commit or 'uncommitted'}.json"
        path.write_text(json.dumps(self.report, indent=1) + "\n")
        self.console.print(f"saved {path}")


if __name__ == "__main__":
    main()
