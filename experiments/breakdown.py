"""For whom a run works: its test by length of the history and by how often the target was seen in training.

Array names end in their shape: E test examples.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from datamodules.catalog import Catalog
from datamodules.split import Split, learnt_counts
from experiments.figures import COLOURS, NORMAL, Panel, draw, finish
from experiments.paired import history_lengths, quartiles, scores, target_ranks

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class Group(NamedTuple):
    """Test examples of like kind."""

    label: str
    """The range of what they were put together by."""
    examples: int
    recall: float
    ndcg: float
    error: float
    """Standard error of the recall over examples."""


def groups(value_E: np.ndarray, recall_E: np.ndarray, ndcg_E: np.ndarray) -> list[Group]:
    """Up to four groups of rising value, about equally large."""
    found = []
    for rows in quartiles(value_E):
        low, high = int(value_E[rows].min()), int(value_E[rows].max())
        recall = float(recall_E[rows].mean())
        error = float(np.sqrt(recall * (1 - recall) / len(rows)))
        label = f"{low:,}" if low == high else f"{low:,}–{high:,}"
        found.append(Group(label, len(rows), recall, float(ndcg_E[rows].mean()), error))
    return found


def breakdown(lists: Path, catalog: Catalog, split: Split) -> list[Panel]:
    """Panels of Recall@10 and NDCG@10 by group. Raises UserError where the lists cannot be read."""
    test = split.test
    hits = scores(target_ranks(lists, catalog, test)[None])
    seen_E = learnt_counts(catalog, split)[catalog.item_M[test.target_E]]
    by = {
        "history": ("By length of the history", "events before the target", history_lengths(catalog, test)),
        "popularity": ("By popularity of the target", "times the target was seen in training", seen_E),
    }
    return [
        panel(name, title, words, groups(value_E, hits.recall_E, hits.ndcg_E))
        for name, (title, words, value_E) in by.items()
    ]


def panel(name: str, title: str, words: str, found: Sequence[Group]) -> Panel:
    def paint(ax: "Axes") -> None:
        place = np.arange(len(found))
        bars = {"Recall@10": [g.recall for g in found], "NDCG@10": [g.ndcg for g in found]}
        for number, (label, heights) in enumerate(bars.items()):
            ax.bar(place + 0.36 * number - 0.18, heights, 0.34, color=COLOURS[number], label=label)
        ax.errorbar(place - 0.18, bars["Recall@10"], [g.error for g in found], fmt="none", ecolor="#888", linewidth=1)
        ax.set_xticks(place, [g.label for g in found])
        ax.set_xlabel(words)
        ax.set_ylim(bottom=0)
        finish(ax, True)

    sizes = ", ".join(f"{group.examples:,}" for group in found)
    caption = f"Test targets in groups of {sizes}; the thin lines are a standard error over them on either side."
    return Panel(title, draw(f"by-{name}", title, NORMAL, paint), caption)
