"""The drawings of a comparison: validation quality and loss against the time of training, a line a run."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from experiments.figures import COLOURS, WIDE, Paint, Panel, draw, finish, png
from experiments.results import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Groups = Mapping[str, Sequence[Run]]
"""Label -> the runs of one configuration."""

QUALITY = {"val/recall@10": "Recall@10", "val/ndcg@10": "NDCG@10"}
LOSS = {"val/loss": "Loss"}
DASHES, MARKERS = ("-", "--", ":"), ("o", "s", "^")


def panels(groups: Groups) -> list[Panel]:
    """Quality and loss over minutes; nothing where no run has been validated."""
    drawings = (
        (
            "quality",
            "Quality against time of training",
            QUALITY,
            "On validation users. A marker is a validation, a line a run, a colour a configuration with all its seeds. "
            "Higher at the same time learns faster; the last marker is where the run ends, or stands now.",
        ),
        (
            "loss",
            "Validation loss against time of training",
            LOSS,
            "Nats a code, lower is better. Only runs with the same semantic IDs can be compared by it.",
        ),
    )
    return [
        Panel(title, draw(name, title, size(groups), *paints), caption, wide=True)
        for name, title, columns, caption in drawings
        if (paints := painters(groups, columns))
    ]


def quality_png(groups: Groups) -> bytes:
    """The drawing of quality as an image; empty where no run has been validated."""
    paints = painters(groups, QUALITY)
    return png(size(groups), *paints) if paints else b""


def size(groups: Groups) -> tuple[float, float]:
    """Plots with room for the legend below them, in inches."""
    return WIDE[0], WIDE[1] + 0.17 * math.ceil(len(groups) / legend_columns(groups))


def legend_columns(groups: Groups) -> int:
    return max(1, int(16 * WIDE[0] / (max(map(len, groups)) + 6)))  # 16 letters an inch


def painters(groups: Groups, columns: Mapping[str, str]) -> list[Paint]:
    """One for every column that a run has; the last one adds the legend."""
    runs = [run for members in groups.values() for run in members]
    there = [name for name in columns if any(len(points(run, name)[0]) for run in runs)]
    ends = [x[-1] for run in runs for name in there if len(x := points(run, name)[0]) and x[-1] > 0]
    log = bool(ends) and max(ends) > 10 * min(ends)
    return [plot(groups, name, columns[name], log, name == there[-1]) for name in there]


def plot(groups: Groups, column: str, title: str, log: bool, legend: bool) -> Paint:
    """Draws one column of every run over its minutes."""

    def paint(ax: "Axes") -> None:
        for place, (label, runs) in enumerate(groups.items()):
            style = place // len(COLOURS) % len(DASHES)
            colour, dash, marker = COLOURS[place % len(COLOURS)], DASHES[style], MARKERS[style]
            label = label.replace("$", r"\$")  # no formula
            for x, y in (points(run, column) for run in runs):
                if not len(x):
                    continue
                if x[-1] > 0:
                    ax.plot(x, y, dash, color=colour, marker=marker, markersize=3.5, label=label)
                else:  # without training; a logarithmic axis has no place for it
                    ax.axhline(y[-1], color=colour, linestyle=dash, linewidth=1, label=label)
                label = "_again"  # a label with a leading underscore stays out of the legend
        ax.set_title(title, fontsize=9, loc="left")
        ax.set_xlabel(f"{clock(groups)} minutes of training")
        finish(ax, False)
        if log:
            minutes_on_log_scale(ax)
        else:
            ax.set_xlim(left=0)
        if legend:
            figure = ax.get_figure()
            assert figure is not None, "the axes were made by a figure"
            key = ax.get_legend_handles_labels()
            figure.legend(*key, loc="outside lower left", ncols=legend_columns(groups), fontsize=8)

    return paint


def clock(groups: Groups) -> str:
    walls = {run.wall for runs in groups.values() for run in runs if len(run.minutes)}
    return "CPU (where marked: wall)" if len(walls) > 1 else "Wall" if walls == {True} else "CPU"


def minutes_on_log_scale(ax: "Axes") -> None:
    """Plain numbers at 1, 2, 5, 10, ..."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    ax.xaxis.set_minor_locator(NullLocator())


def points(run: Run, column: str) -> tuple[np.ndarray, np.ndarray]:
    """(minutes, values) of the epochs that have a value."""
    x, y = run.minutes, run.columns.get(column, np.empty(0))
    if len(x) != len(y):
        return np.empty(0), np.empty(0)
    there = np.isfinite(x) & np.isfinite(y)
    return x[there], y[there]
