"""The drawings of how well new items are found (TIGER, Figure 5)."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from callbacks.unseen import RANK, SHARE
from experiments.figures import COLOURS, NORMAL, Panel, draw, finish, slug, titled
from experiments.page import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NAME = re.compile(r"(new|all)_recall@(\d+)/share([\d.]+)")
DASHES: dict[str, Any] = {"new": "-", "all": (0, (3, 1.5))}
WORDS = {"new": "target is new", "all": "all users"}

Points = dict[tuple[str, str], list[tuple[float, float]]]
"""(run, new or all) -> points of a line."""


def panels(runs: Mapping[str, Mapping[str, float]], of: str = "") -> list[Panel]:
    """Recall over K, and over the share of new items in the list; nothing where it was not measured.

    Args:
        runs: what to call a run -> the metrics of its test, or means over seeds.
        of: what tells these panels from others of the page.
    """
    over_k: Points = {}
    over_share: Points = {}
    for run, metrics in runs.items():
        for name, value in metrics.items():
            if not (found := NAME.fullmatch(name)):
                continue
            who, rank, share = found[1], int(found[2]), float(found[3])
            if share == SHARE:
                over_k.setdefault((run, who), []).append((rank, value))
            if rank == RANK:
                over_share.setdefault((run, who), []).append((share, value))
    if not over_k:
        return []
    asked = ", ".join(sorted({count(metrics["new_targets"]) for metrics in runs.values() if "new_targets" in metrics}))
    caption = (
        "New items, which are in no history or target of the training, are known by content alone: an answer in "
        "codes stands also for those whose codes are the same but for the digit. Test users whose target is one "
        f"(solid lines): {asked}; dashed: all test users."
    )
    titles = f"Recall@K with at most {SHARE:.0%} new items", f"Recall@{RANK} over the share of new items"
    return [
        _lines(f"new-k{slug(of)}", titled(titles[0], of), "K", over_k, caption),
        _lines(f"new-share{slug(of)}", titled(titles[1], of), "largest share", over_share, caption),
    ]


def _lines(prefix: str, title: str, axis: str, lines: Points, caption: str) -> Panel:
    runs = list(dict.fromkeys(run for run, _ in lines))

    def paint(ax: "Axes") -> None:
        for (run, who), points in lines.items():
            x, y = zip(*sorted(points), strict=True)
            label = WORDS[who] if len(runs) == 1 else run if who == "new" else None
            colour, dashes = COLOURS[runs.index(run) % len(COLOURS)], DASHES[who]
            ax.plot(x, y, color=colour, linestyle=dashes, marker="o", markersize=4, label=label)
        ax.set_xlabel(axis)
        ax.set_ylim(bottom=0)
        finish(ax, True)

    return Panel(title, draw(prefix, title, NORMAL, paint), caption)
