"""A run as one page: what it reached, how it learnt, what its codes mean, what it recommends, where it came from."""

import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.catalog import Catalog
from datamodules.split import Split
from experiments.example_users import example_users
from experiments.page import count, duration, number, read_columns, read_json, read_text, render, share
from experiments.published import comparable
from experiments.results import PRETRAINING, training_columns
from experiments.stages import write_atomically

if TYPE_CHECKING:
    from sid.table import SIDTable

DIAGNOSTICS = {
    "entropy": "categories of a user's top {k}: mean entropy in nats, higher is more varied",
    "coverage": "catalogue items in at least one user's top {k}",
    "invalid": "top {k} of an unconstrained beam: codes of no item, lower is better",
}
LEARNT = "; validation targets were learnt too, so validation shows what is known, not what is found"


def write_report(
    run: Path, catalog: Catalog, split: Split, table: "SIDTable | None", tokenizer: Path | None, ordered: bool = True
) -> Path:
    """Write `<run>/report.html`, one page that needs nothing else, and return its path.

    Args:
        run: folder with config.yaml, environment.json, metrics.csv, test.json and recommendations.parquet.
        table: None for a model without semantic IDs, and `tokenizer` with it.
        tokenizer: folder with tokenize.manifest.json and, where the tokenizer was trained, metrics.csv.
        ordered: whether codes are written one behind another, so that items may begin alike.

    Raises:
        UserError: a file is missing, empty or unreadable.
    """
    from omegaconf import OmegaConf

    from experiments import cold, curves, inside_figures, sampled
    from experiments.breakdown import breakdown

    config_text = read_text(run / "config.yaml")
    environment, test = read_json(run / "environment.json"), read_json(run / "test.json")
    columns = training_columns(run)
    before = len(read_columns(run / PRETRAINING)["epoch"]) if (run / PRETRAINING).exists() else 0
    stages = {name: key for name, key in environment.get("stages", {}).items() if name != "evaluate"}
    people = example_users(run / "recommendations.parquet", catalog, split.test, table if ordered else None)
    config = OmegaConf.create(config_text)
    name = str(OmegaConf.select(config, "name", default=run.name))
    learnt = OmegaConf.select(config, "split.learn_validation", default=False)
    weight = OmegaConf.select(config, "model.item_loss", default=0)
    more = f"{weight:g} times the loss over whole items" if weight else ""
    page = {
        "name": name,
        "data": catalog.figures(),
        "seed": environment.get("seed"),
        "environment": {**environment, "stages": stages},
        "date": datetime.fromtimestamp((run / "test.json").stat().st_mtime, UTC).strftime("%d %B %Y"),
        "verdict": verdict(test),
        "training": training_words(columns, before) + (LEARNT if learnt else ""),
        "test": test,
        "results": results_table(name, test),
        "error": recall_error(test),
        "diagnostics": diagnostics_table(test),
        "level_rows": inside_figures.level_rows(test.get("metrics", {})),
        "inside": inside_figures.inside(test.get("metrics", {})),
        "breakdown": breakdown(run / "recommendations.parquet", catalog, split),
        "variety": [
            *inside_figures.invalid_curve(test.get("metrics", {})),
            *sampled.panels(test.get("drawn", {}), test.get("metrics", {})),
        ],
        "cold": cold.panels({name: test.get("metrics", {})}),
        "learning": curves.learning(columns, test.get("popularity", {}), more),
        "codes": codes_section(name, table, tokenizer, catalog)
        if table is not None and tokenizer is not None
        else None,
        "ordered": ordered,
        "examples": people,
        "config": config_text,
    }
    path = run / "report.html"
    write_atomically(path, render("report.html.j2", page))
    return path


def codes_section(name: str, table: "SIDTable", tokenizer: Path, catalog: Catalog) -> dict[str, Any]:
    """What `codes.html.j2` shows."""
    from experiments import curves
    from experiments.sids_tables import Diagnosed, section

    figures = read_json(tokenizer / "tokenize.manifest.json").get("figures", {})
    curve_file = tokenizer / "metrics.csv"
    learnt = curves.quantizer(read_columns(curve_file)) if curve_file.exists() else []
    return section([Diagnosed(name, table, figures, catalog)], learnt)


def verdict(test: Mapping[str, Any]) -> str:
    """The result in one sentence."""
    metrics = test.get("metrics", {})
    if "recall@10" not in metrics:
        return f"Tested on {count(test.get('users'))} users; Recall@10 was not measured."
    ours = metrics["recall@10"]
    against = []
    if popular := test.get("popularity", {}).get("recall@10"):
        against.append(f"{ours / popular:.1f}× popularity")
    for source, row in comparable(test.get("published", {})).items():
        if row.get("recall@10"):
            against.append(f"{ours / row['recall@10']:.0%} of the published {row['recall@10']:.4f} ({source})")
            break
    words = f"Recall@10 {ours:.4f} on {count(test.get('users'))} test users"
    return f"{words}: {', '.join(against)}." if against else f"{words}."


def recall_error(test: Mapping[str, Any]) -> float | None:
    """Standard error over users of our Recall@10, where each has one target: a hit or none."""
    ours, users = test.get("metrics", {}).get("recall@10"), test.get("users")
    single = users and test.get("targets", users) == users
    return math.sqrt(ours * (1 - ours) / users) if ours is not None and single else None


def training_words(columns: Mapping[str, np.ndarray], before: int = 0) -> str:
    """How long the retriever was trained, in words; `before`: epochs of pretraining, whose time counts."""
    from experiments.curves import best_epoch

    epochs = len(next(iter(columns.values())))
    words = [f"{epochs:,} epoch{'s' if epochs > 1 else ''} logged"]
    if before:
        words[0] += f" after {before:,} of pretraining"
    if "step" in columns and np.isfinite(columns["step"]).any():
        words.append(f"{int(np.nanmax(columns['step'])):,} steps")
    if "seconds" in columns and np.isfinite(columns["seconds"]).any():
        words.append(duration(float(np.nanmax(columns["seconds"]))))
    if (best := best_epoch(columns)) is not None:
        words.append(f"best at epoch {best:g}")
    return ", ".join(words)


def results_table(name: str, test: Mapping[str, Any]) -> dict[str, Any]:
    """Item-level metrics: ours, popularity, then every published row; the best of each column is marked, of those
    that are of one protocol."""
    ours = test.get("metrics", {})
    fresh = {key.removeprefix("fresh_"): value for key, value in ours.items() if key.startswith("fresh_")}
    others = {"History left out of the lists": fresh, "Popularity": test.get("popularity", {})}
    published = test.get("published", {})
    rows = {name: ours, **others, **published}
    foreign = published.keys() - comparable(published).keys()
    found = {key for row in rows.values() for key in row if re.fullmatch(r"(recall|ndcg)@\d+", key)}
    keys = sorted(found, key=lambda key: (key.startswith("ndcg"), int(key.split("@")[1])))
    best = {key: max(row.get(key) or 0.0 for label, row in rows.items() if label not in foreign) for key in keys}
    heads = [key.replace("recall", "Recall").replace("ndcg", "NDCG") for key in keys]
    return {
        "heads": heads,
        "rows": [
            (label, [(row.get(key), label not in foreign and row.get(key) == best[key]) for key in keys], place == 0)
            for place, (label, row) in enumerate(rows.items())
            if row
        ],
        "foreign": bool(foreign),
    }


def diagnostics_table(test: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """(measure, ours, popularity, what it says) of entropy, coverage and invalid IDs."""
    metrics, popularity = test.get("metrics", {}), test.get("popularity", {})
    rows = []
    for stem, words in DIAGNOSTICS.items():
        write = number if stem == "entropy" else share
        ks = sorted(int(key.split("@")[1]) for key in metrics if re.fullmatch(stem + r"@\d+", key))
        label = "Invalid IDs" if stem == "invalid" else stem.title()
        for k in ks:
            key = f"{stem}@{k}"
            rows.append((f"{label}@{k}", write(metrics[key]), write(popularity.get(key)), words.format(k=k)))
    return rows
