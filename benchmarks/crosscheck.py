"""Are our SASRec and GRU4Rec as good as RecBole's, trained with one recipe on one split?

    python -m benchmarks.crosscheck [--epochs 12] [--items 20] [--seeds 1 2]

Amazon Beauty from DATA_DIR. Equal: events, split, widths, layers, heads, dropout, softmax over all items, steps, AdamW
with its rate at every step, clipping, precision of training (bf16 where the CPU has it), the last weights, full ranking
with the history left in. Different: the models as the docstring of `peer_recbole` has it, and its samples, which are
prefixes of `--items` items; ours are windows, where targets of longer users may see half as many (a tenth of all
targets at 20 items). The recipe is the one that was chosen for ours. We test in the precision of training, RecBole in
fp32. Ours are ordinary runs under runs/, reused when finished.
"""

import argparse
import json
import subprocess
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import mean

from rich.console import Console
from rich.table import Table

from benchmarks.classic import MODELS, RESULTS, save, sizes
from benchmarks.measure import tune_process
from benchmarks.peers import RECBOLE, Peer, install_recbole
from experiments.pipeline import Pipeline
from experiments.run import run
from lightning_modules.schedules import cosine

METRICS = ("recall@10", "ndcg@10")
Found = dict[str, dict[str, list[float]]]
"""Model -> "<contender> <metric>" -> a value a seed."""


def tested(pipeline: Pipeline) -> dict[str, float]:
    """The metrics of the test of a finished run."""
    found: dict[str, float] = json.loads((pipeline.evaluate.folder / "test.json").read_text())["metrics"]
    return found


def learn(peer: Peer, name: str, pipeline: Pipeline) -> dict[str, float]:
    """RecBole's model of this name, trained with the run's recipe, seed and sizes."""
    config = pipeline.config
    asked = {**sizes(config), "seed": config.seed}
    batches, ours = int(peer.ask("build", model=name, sizes=asked)["batches"]), pipeline.retriever()[1]
    if batches != ours.batches_per_pass():
        raise SystemExit(
            f"RecBole has {batches} batches a pass, ours {ours.batches_per_pass()}: other numbers of steps"
        )
    steps = batches * config.train.max_epochs
    factor, recipe = cosine(config.optimizer.warmup_steps, steps), config.optimizer
    rates = [recipe.learning_rate * factor(step) for step in range(steps)]
    arguments = {"epochs": config.train.max_epochs, "weight_decay": recipe.weight_decay, "clip": config.train.clip}
    figures = json.loads((pipeline.train.folder / "train.manifest.json").read_text())["figures"]
    bf16 = figures.get("precision", config.train.precision) == "bf16-mixed"
    return peer.ask("learn", model=name, rates=rates, bf16=bf16, **arguments)


def table(found: Found) -> Table:
    shown = Table("", "", *METRICS, "by seed (recall@10)")
    for name, values in found.items():
        for contender in ("ours", "RecBole"):
            means = [f"{mean(values[f'{contender} {metric}']):.4f}" for metric in METRICS]
            by_seed = " ".join(f"{value:.4f}" for value in values[f"{contender} {METRICS[0]}"])
            shown.add_row(name, contender, *means, by_seed)
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--items", type=int, default=20, help="of history")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--output-dir", default=".", help="where the runs are")
    parser.add_argument("--peer-python", type=Path, default=RECBOLE, help="Python that has RecBole; made when absent")
    options = parser.parse_args()
    tune_process()
    git = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    path = RESULTS / f"{time.strftime('%Y-%m-%d')}-{commit or 'uncommitted'}-crosscheck.json"
    asked = [f"train.max_epochs={options.epochs}", f"train.validate_every={options.epochs}"]
    asked += [f"sequences.max_items={options.items}", f"output_dir={options.output_dir}"]
    console, found, peer = Console(width=120), Found(), None
    runs: list[str] = []
    for seed in options.seeds:
        for name, experiment in MODELS.items():
            ours = run([experiment, *asked, f"seed={seed}"])
            if peer is None:
                learnt, steps = len(ours.split.train.target_E), ours.retriever()[1].batches_per_pass()
                problem = partial(save, catalog=ours.catalog, split=ours.split, max_items=options.items)
                problem = partial(problem, targets=-(-learnt // steps))
                peer = Peer(options.peer_python, install_recbole, "peer_recbole.py", problem)
            theirs = learn(peer, name, ours)
            for contender, metrics in (("ours", tested(ours)), ("RecBole", theirs)):
                for metric in METRICS:
                    found.setdefault(name, {}).setdefault(f"{contender} {metric}", []).append(metrics[metric])
            runs.append(f"{ours.config.name}/{ours.train.folder.name}")
            report = {"epochs": options.epochs, "items": options.items, "seeds": options.seeds, "found": found}
            report |= {"runs": runs, "clip": ours.config.train.clip}
            path.write_text(json.dumps({**report, "recipe": asdict(ours.config.optimizer)}, indent=1) + "\n")
            console.print(table(found), f"{theirs['seconds']:,.0f} CPU-seconds of RecBole; saved {path}")


if __name__ == "__main__":
    main()
