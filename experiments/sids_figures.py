"""The drawings of `sid.diagnostics`, for one table of semantic IDs or several in one drawing."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.figures import COLOURS, MOST_NAMED, NORMAL, OTHER, Panel, draw, finish, slug, titled

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Values = Sequence[float | None]
"""One for every prefix length, from 1; None where it was not measured."""


def neighbours(lines: Mapping[str, tuple[Values, Values]]) -> list[Panel]:
    """Table -> (share of the nearest items, chance), on a scale of powers."""
    return _by_prefix(
        "neighbours",
        "Nearest items with the same first codes",
        "Of the 10 items nearest to an item by vector, how many share its first codes; dotted: of any other items. A "
        "line ends where none does.",
        lines,
        log=True,
    )


def left(lines: Mapping[str, tuple[Values, Values]]) -> list[Panel]:
    """Table -> (share of the variance that is left, chance)."""
    return _by_prefix(
        "left",
        "Variance of the vectors that the codes leave",
        "Left by the best sum of one vector for every code, lower is better; dotted: by as many codes at random. The "
        "tokenizer's own decoder plays no part, so tables of any kind compare.",
        lines,
    )


def categories(depths: Sequence[Mapping[str, Any]], of: str = "") -> list[Panel]:
    """Adjusted mutual information of the prefixes and the categories at every depth of their tree."""
    lines: dict[str, tuple[Values, Values]] = {
        f"{depth['labels']:,} categories": (depth["adjusted"], []) for depth in depths
    }
    caption = (
        "Adjusted mutual information with the categories at each depth of their tree: 0 is chance, 1 one and the same. "
        "It falls as the codes part what the categories leave together; the first code matters most."
    )
    return _by_prefix("known", titled("Codes and categories", of), caption, lines, of=of, top=1)


def _by_prefix(
    name: str,
    title: str,
    caption: str,
    lines: Mapping[str, tuple[Values, Values]],
    log: bool = False,
    of: str = "",
    top: float | None = None,
) -> list[Panel]:
    """Lines over the prefix length, each with its dotted chance; nothing where there is nothing to draw."""
    drawn = {label: (_numbers(values, log), _numbers(chance, log)) for label, (values, chance) in lines.items()}
    if not any(np.isfinite(values).any() for values, _ in drawn.values()):
        return []
    longest = max(len(values) for values, _ in drawn.values())

    def paint(ax: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        for place, (label, (values, chance)) in enumerate(drawn.items()):
            colour = COLOURS[place % len(COLOURS)]
            ax.plot(np.arange(len(values)) + 1, values, "o-", color=colour, markersize=4, label=label)
            ax.plot(np.arange(len(chance)) + 1, chance, ":", color=colour if len(drawn) > 1 else OTHER)
        if log:
            ax.set_yscale("log")
        else:
            ax.set_ylim(0, top or 1.02)
        if top is None:
            ax.yaxis.set_major_formatter(lambda value, _: f"{100 * value:g}%")
        if longest <= MOST_NAMED:
            ax.set_xticks(range(1, longest + 1), [f"{n} code{'s' if n > 1 else ''}" for n in range(1, longest + 1)])
            ax.set_xlim(0.7, longest + 0.3)
        else:
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            ax.set_xlabel("first codes")
        finish(ax, len(drawn) > 1 or top is not None)

    return [Panel(title, draw(f"{name}{slug(of)}", title, NORMAL, paint), caption)]


def _numbers(values: Values, log: bool) -> np.ndarray:
    """NaN for what was not measured, and for zero where there is no place for it."""
    return np.array([np.nan if value is None or (log and not value) else value for value in values], dtype=float)
