"""A study of small runs that train nothing, and what it has written, for `test_study.py` and `test_study_parts.py`.
Legend: E examples, M events."""

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from experiments import pipeline
from experiments.studies import Study
from sid.configs import TreeConfig
from sid.errors import UserError

SMALL = [
    "data.num_users=40",
    "data.num_categories=2",
    "data.series=3",
    "data.old_events=12",
    "data.recent_events=6",
    "embed.dim=8",
    "tokenizer.codebook_sizes=[6,6]",
    "tokenizer.epochs=1",
    "model.width=16",
    "model.ff_width=16",
    "sequences.max_items=6",
    "train.max_epochs=1",
    "train.validate_every=1",
    "evaluation.num_beams=10",
    "evaluation.free_beams=10",
    "evaluation.recall_at=[10]",
    "evaluation.ndcg_at=[10]",
    "evaluation.entropy_at=[10]",
    "evaluation.invalid_at=[10]",
]
ORACLE = "first code given (oracle)"
WHOLE = "whole model"
QUALITY = {"tier": 0.2, "search": 0.3, "oracle_first_code": -0.2}
TWO = Study(
    "Two of everything",
    ["causal_tiny", "tiger_tiny"],
    {
        "own": [],
        "tree": ["tokenizer=tree"],
        "huge": ["tokenizer.codebook_sizes=[8,512]"],
        "shallow": {"tiger_tiny": ["model.num_layers=1"]},
        "combined": {"causal_tiny": ["combined_with=[tiger_tiny]", "embed.encoder=minilm"]},
    },
    base="own",
    tokenizer_seeds=True,
    published={"tiger_tiny": {"own": {"recall@10": 0.04, "ndcg@10": 0.02}, "tree": {"recall@10": 0.05}}},
)


class Faked(pipeline.Pipeline):
    """Trains nothing: every target is in the list with a chance that depends on the parts that are switched on. The
    stages, their folders and manifests are real."""

    trainings: ClassVar[list[pipeline.Pipeline]] = []
    killed_at: ClassVar[int] = 0
    """Ctrl-C comes in this training, counted from 1."""
    breaks: ClassVar[type | tuple[()]] = ()
    """With this kind of tokenizer a training runs out of memory."""

    def _embed(self, folder: Path) -> dict[str, Any]:
        return {}

    def _tokenize(self, folder: Path) -> dict[str, Any]:
        for other in self.companions:
            other.run("embed", lambda *figures: None)
        sizes = self.config.tokenizer.codebook_sizes
        if max(sizes) > 256:
            raise UserError(f"too few items for {max(sizes)} codes")
        rate = 0.5 if isinstance(self.config.tokenizer, TreeConfig) else 0.1
        return {
            "codebook_sizes": [*sizes, 3],
            "largest_group": 3,
            "collision_rate": rate,
            "usage": [1.0, 0.5],
            "reconstruction": [0.4, 0.2],
        }

    def _train(self, folder: Path) -> dict[str, Any]:
        if len(self.trainings) + 1 == self.killed_at:
            raise KeyboardInterrupt
        if isinstance(self.config.tokenizer, self.breaks):
            raise RuntimeError("out of memory\nTried to allocate 2 GiB")
        self.trainings.append(self)
        width = getattr(self.config.model, "width", 0)
        figures = {"cpu_seconds": 12.0, "seconds": 20.0, "device": "cpu", "precision": "32-true"}
        return {"parameters": 1000 * width, **figures}

    def _evaluate(self, folder: Path) -> dict[str, Any]:
        test = self.split.test
        switches = {**vars(self.config.model), **vars(self.config.evaluation)}
        chance = 0.2 + sum(value for name, value in QUALITY.items() if switches.get(name))
        chance += 0.8 * switches["oracle_first_code"]
        hit_E = np.random.default_rng(self.config.seed).random(len(test.user_E)) < chance
        target_E = self.catalog.item_M[test.target_E]
        rows = {"user": test.user_E, "rank": np.full(len(hit_E), 2, np.int32), "target": target_E.astype(np.int32)}
        rows["item"] = np.where(hit_E, target_E, (target_E + 1) % self.catalog.num_items).astype(np.int32)
        pq.write_table(pa.table(rows), folder / "recommendations.parquet")
        metrics = {"recall@10": float(hit_E.mean()), "ndcg@10": float(hit_E.mean() / np.log2(3))}
        return {"metrics": metrics, "users_per_second": 100.0}


def command(output: Path, *more: str) -> list[str]:
    return ["glass_tiny", *SMALL, f"output_dir={output}", *more]


def two(output: Path, *more: str) -> list[str]:
    return ["two", "data.num_users=60", "data.num_items=100", f"output_dir={output}", *more]


def written(output: Path, name: str) -> dict[str, dict[str, Any]]:
    """Experiment -> table, its rows by name."""
    tables = json.loads((output / "studies" / name / "study.json").read_text())["tables"]
    return {table["experiment"]: {**table, "rows": {row["name"]: row for row in table["rows"]}} for table in tables}


def glass(output: Path) -> dict[str, Any]:
    return written(output, "glass_tiny")["glass_tiny"]
