"""The learning curves of the report: of the retriever and of the tokenizer."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from experiments.figures import COLOURS, FAINT, NORMAL, OTHER, Panel, draw, finish

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Columns = Mapping[str, np.ndarray]
"""A metrics file: name of a column -> its values in order, NaN where a cell is empty."""

DASHES = ("-", "--", "-.", ":")


def curves(
    name: str,
    title: str,
    caption: str,
    columns: Columns,
    wanted: Mapping[str, str],
    percent: bool = False,
    best: float | None = None,
    levels: Mapping[str, float] | None = None,
) -> list[Panel]:
    """Columns over epochs, or nothing where the file has none of them.

    Args:
        wanted: column -> label.
        percent: the values are shares.
        best: an epoch to mark.
        levels: label -> height of horizontal lines.
    """
    lines = {label: points for column, label in wanted.items() if len((points := over_epochs(columns, column))[0])}
    if not lines:
        return []

    def paint(ax: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator, PercentFormatter

        for place, (label, (x, y)) in enumerate(lines.items()):
            marker = "o" if len(x) < 15 else None
            dash, colour = DASHES[place % len(DASHES)], COLOURS[place % len(COLOURS)]
            ax.plot(x, y, dash, color=colour, label=label, marker=marker, markersize=3)
            if best is not None and best in x:
                ax.plot([best], [y[list(x).index(best)]], "o", color=colour, markersize=7, fillstyle="none")
        for label, height in (levels or {}).items():
            ax.axhline(height, color=OTHER, linestyle=(0, (1, 1.5)), label=label)
        if best is not None:
            ax.axvline(best, color=FAINT, linewidth=0.8, zorder=0)
        if percent:
            ax.yaxis.set_major_formatter(PercentFormatter(1))
        if levels or percent:
            ax.set_ylim(bottom=0)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.set_xlabel("epoch")
        finish(ax, len(lines) + len(levels or {}) > 1)

    return [Panel(title, draw(name, title, NORMAL, paint), caption)]


def over_epochs(columns: Columns, name: str) -> tuple[np.ndarray, np.ndarray]:
    """(epochs, values) where the column has a value; two empty arrays where there is no such column."""
    if name not in columns:
        return np.empty(0), np.empty(0)
    y = columns[name]
    x = columns.get("epoch", np.arange(len(y), dtype=float))
    there = np.isfinite(x) & np.isfinite(y)
    return x[there], y[there]


def best_epoch(columns: Columns) -> float | None:
    """The epoch of the highest validation NDCG@10 (Recall@10 where there is no NDCG)."""
    for name in ("val/ndcg@10", "val/recall@10"):
        x, y = over_epochs(columns, name)
        if len(x):
            return float(x[y.argmax()])
    return None


def learning(columns: Columns, popularity: Mapping[str, float], more_in_training: str = "") -> list[Panel]:
    """Loss, accuracy, invalid IDs and prefix hits over the epochs of the retriever.

    Args:
        more_in_training: what its training loss holds besides that of validation, where the two do not compare.
    """
    best = best_epoch(columns)
    ring = "" if best is None else f" The vertical line is epoch {best:g}, the best on validation."
    both = "Both should fall; a validation loss that rises while training falls is over-fitting."
    if more_in_training:
        both += f" Training's is larger by {more_in_training}, so where one line lies beside the other says nothing."
    panels = curves(
        "loss",
        "Loss",
        (both if "val/loss" in columns else "Of training, which should fall.") + ring,
        columns,
        {"train/loss": "training", "val/loss": "validation"},
        best=best,
    )
    for key, title in (("recall@10", "Recall@10"), ("ndcg@10", "NDCG@10")):
        level = {f"popularity (test) {popularity[key]:.4f}": popularity[key]} if popularity.get(key) else {}
        caption = f"On validation users. It should leave the popularity line early and flatten before the end.{ring}"
        panels += curves(key, title, caption, columns, {f"val/{key}": "validation"}, best=best, levels=level)
    panels += curves(
        "invalid",
        "Invalid IDs of a free beam",
        "Share of unconstrained answers that are no item's codes: it should fall towards zero as the model learns "
        "which codes exist. The constrained beam, which makes the recommendations, has none.",
        columns,
        {f"val/invalid@{k}": f"top {k}" for k in (10, 20)},
        percent=True,
        best=best,
    )
    for k, who in ((1, "the best answer"), (10, "any of the top 10")):
        panels += curves(
            f"prefix{k}",
            f"Prefix hits, {'top 1' if k == 1 else f'top {k}'}",
            f"How often {who} starts with the target's first codes. A further code can only lose hits.",
            columns,
            by_level(columns, f"val/prefix@{k}/level"),
            percent=True,
            best=best,
        )
    return panels


def quantizer(columns: Columns) -> list[Panel]:
    """How the tokenizer learnt: reconstruction, collisions, usage and perplexity of every level."""
    chosen = (
        ("reconstruction", "Reconstruction error", {"train/reconstruction": "training"}, False, "It should fall."),
        (
            "collisions",
            "Collisions",
            {"collision_rate": "before the extra digit"},
            True,
            "Share of items beyond the first with the same codes, before the extra digit: lower is better.",
        ),
        (
            "usage",
            "Codes in use",
            by_level(columns, "usage/level"),
            True,
            "It should stay near 100% at every level; a falling line is a collapsing codebook.",
        ),
        (
            "perplexity",
            "Perplexity of the codes",
            by_level(columns, "perplexity/level"),
            False,
            "The number of codes that are effectively in use: high and level is good.",
        ),
    )
    panels: list[Panel] = []
    for key, title, wanted, percent, caption in chosen:
        panels += curves(f"quantizer-{key}", title, caption, columns, wanted, percent=percent)
    return panels


def by_level(columns: Columns, stem: str) -> dict[str, str]:
    """The columns `<stem>1`, `<stem>2`, ... with their labels, in order."""
    numbers = sorted(int(name.removeprefix(stem)) for name in columns if re.fullmatch(re.escape(stem) + r"\d+", name))
    return {f"{stem}{number}": f"level {number}" for number in numbers}
