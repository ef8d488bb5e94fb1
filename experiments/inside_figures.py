"""The report's look inside a generative retriever: where it loses the target, and what its gates let in."""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from experiments.figures import COLOURS, NORMAL, Paint, Panel, draw, finish
from experiments.page import share

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROWS = {
    r"accuracy/level": "told the codes before, the most likely one is right",
    r"in_beam/level": "the target's beginning is in the beam",
    r"beam_rank/level": "its mean place there",
}


def level_rows(metrics: Mapping[str, float]) -> list[tuple[str, list[str]]]:
    """(what is counted, a cell a level) of everything that is measured level by level."""
    rows = []
    stems = dict(ROWS)
    for k in sorted({int(m[1]) for name in metrics if (m := re.fullmatch(r"prefix@(\d+)/level\d+", name))}):
        words = "the best answer starts like the target" if k == 1 else f"one of the top {k} starts like the target"
        stems[rf"prefix@{k}/level"] = words
    for stem, words in stems.items():
        values = by_number(metrics, stem)
        if values:
            rows.append((words, [f"{v:.1f}" if stem.startswith("beam_rank") else share(v) for v in values.values()]))
    return rows


def by_number(metrics: Mapping[str, float], stem: str) -> dict[int, float]:
    """Number at the end of the name -> value, of the metrics `<stem><number>`."""
    found = {int(m[1]): v for n, v in metrics.items() if (m := re.fullmatch(re.escape(stem) + r"(\d+)", n))}
    return dict(sorted(found.items()))


def inside(metrics: Mapping[str, float]) -> list[Panel]:
    """Panels of what was measured; none for a model that shows nothing of itself."""
    return [*_lost(metrics), *_gates(metrics)]


def invalid_curve(metrics: Mapping[str, float]) -> list[Panel]:
    """The share of invalid IDs among the top K of a free beam, over K."""
    rate = by_number(metrics, "invalid@")
    if len(rate) < 2:
        return []

    def paint(ax: "Axes") -> None:
        from matplotlib.ticker import PercentFormatter

        ax.plot(list(rate), list(rate.values()), "o-", color=COLOURS[1], markersize=4)
        ax.set_xlabel("K")
        ax.set_ylim(bottom=0)
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        finish(ax, False)

    caption = "Answers of an unconstrained beam that are no item's codes, among its best K (TIGER, Figure 6)."
    title = "Invalid IDs over K"
    return [Panel(title, draw("invalid-k", title, NORMAL, paint), caption)]


def _lost(metrics: Mapping[str, float]) -> list[Panel]:
    lines = {
        "in the beam": by_number(metrics, "in_beam/level"),
        "told the codes before": by_number(metrics, "accuracy/level"),
    }
    lines = {label: values for label, values in lines.items() if values}
    if not lines:
        return []

    def paint(ax: "Axes") -> None:
        from matplotlib.ticker import PercentFormatter

        for place, (label, values) in enumerate(lines.items()):
            ax.plot(list(values), list(values.values()), "o-", color=COLOURS[place], label=label, markersize=4)
        ax.set_xticks(list(next(iter(lines.values()))))
        ax.set_xlabel("level")
        ax.set_ylim(0, 1)
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        finish(ax, True)

    caption = (
        "Test users whose target's first codes are still in the beam after each level: where the line falls, the "
        "target is lost. Beside it, how often the most likely code is right when the codes before are given."
    )
    title = "Where the target is lost"
    return [Panel(title, draw("lost", title, NORMAL, paint), caption)]


def _gates(metrics: Mapping[str, float]) -> list[Panel]:
    layers = by_number(metrics, "gate/layer")
    if not layers:
        return []
    groups = {n.removeprefix("gate/found_"): v for n, v in metrics.items() if n.startswith("gate/found_")}
    bars = {
        "layer": [(str(layer), value) for layer, value in layers.items()],
        "items found": sorted(groups.items(), key=lambda pair: int(re.match(r"\d+", pair[0])[0])),  # type: ignore[index]
    }

    def painter(name: str) -> Paint:
        def paint(ax: "Axes") -> None:
            labels, heights = zip(*bars[name], strict=True)
            ax.bar(np.arange(len(labels)), heights, 0.6, color=COLOURS[2])
            ax.set_xticks(np.arange(len(labels)), labels)
            ax.set_xlabel(name)
            ax.set_ylim(0, 1)
            finish(ax, False)

        return paint

    caption = (
        "Mean opening of the gate to what the search brought back, from 0 (closed) to 1 (fully open), over the "
        f"test users for whom it found something. For {share(metrics.get('search/nothing'))} it found nothing; for "
        f"{share(metrics.get('search/empty_bucket'))} nothing with the target's first code itself."
    )
    title = "How far the gates open"
    return [Panel(title, draw("gates", title, NORMAL, *(painter(name) for name in bars if bars[name])), caption)]
