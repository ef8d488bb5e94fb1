"""The drawings of the pages, as inline SVG that takes its ink and paper from the page's style sheet.

Array names end in their shape: N items, L levels, C categories, A codes of a level.
"""

import html
import io
import itertools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Paint = Callable[["Axes"], None]
COLOURS = ("#4269d0", "#ff725c", "#3ca951", "#efb118", "#a463f2", "#6cc5b0", "#ff8ab7", "#9c6b4e")
OTHER = "#9498a0"
INK, FAINT = "#010203", "#040506"  # stand-ins, replaced by variables of the style sheet
PRINTED = {INK: "#1d1f23", FAINT: "#a9adb5"}
MOST_NAMED = 6
"""Levels that have a name or a colour of their own in a drawing."""
NORMAL, WIDE = (4.5, 2.7), (9.4, 3.0)
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": FAINT,
    "ytick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "grid.alpha": 0.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


class Panel(NamedTuple):
    """One drawing with its words; `legend` holds (colour, label) where the key stands outside the drawing."""

    title: str
    svg: str
    caption: str
    legend: Sequence[tuple[str, str]] = ()
    wide: bool = False


def draw(name: str, title: str, size: tuple[float, float], *paints: Paint) -> str:
    """Axes side by side as an <svg> element without addresses or clashing ids; `name` must be unique on the page."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        painted(size, paints).savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = text.replace("xlink:href", "href").replace(INK, "var(--ink)").replace(FAINT, "var(--faint)")
    view_box = re.search(r'viewBox="[^"]*"', text)
    assert view_box, "matplotlib writes a viewBox"
    points = round(size[0] * 72)
    opening = f'<svg {view_box[0]} role="img" aria-label="{html.escape(title)}" style="width:{points}pt">'
    return re.sub(r"<svg[^>]*>", lambda _: opening, text, count=1)


def png(size: tuple[float, float], *paints: Paint) -> bytes:
    """The same axes as a PNG image on white paper."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({key: PRINTED.get(value, value) for key, value in STYLE.items()}):
        painted(size, paints).savefig(buffer, format="png", dpi=160, facecolor="white")
    return buffer.getvalue()


def painted(size: tuple[float, float], paints: Sequence[Paint]) -> "Figure":
    """A figure with one pair of axes a painter."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    for ax, paint in zip(figure.subplots(1, len(paints), squeeze=False)[0], paints, strict=True):
        paint(ax)
    return figure


def titled(title: str, of: str) -> str:
    """The title of a drawing, with whose it is where there are several."""
    return f"{title}: {of}" if of else title


def slug(words: str) -> str:
    """A part for the name of a drawing."""
    return "".join(f"-{word}" for word in re.findall(r"\w+", words))


def codebooks(usage: Sequence[float], perplexity: Sequence[float], sizes: Sequence[int], of: str = "") -> list[Panel]:
    """Share of the codes in use, and perplexity over codebook size, of every level; `of`: whose, where it matters."""
    levels = min(len(usage), len(perplexity), len(sizes))
    if not levels:
        return []

    def paint(ax: "Axes") -> None:
        from matplotlib.ticker import PercentFormatter

        place_L = np.arange(levels)
        effective_L = np.array(perplexity[:levels]) / np.array(sizes[:levels])
        ax.bar(place_L - 0.2, usage[:levels], 0.38, color=COLOURS[0], label="in use")
        ax.bar(place_L + 0.2, effective_L, 0.38, color=COLOURS[3], label="perplexity / size")
        if levels <= MOST_NAMED:
            ax.set_xticks(place_L, [f"level {level + 1}\n{size} codes" for level, size in enumerate(sizes[:levels])])
        else:
            few_L = place_L[:: max(1, levels // 8)]
            ax.set_xticks(few_L, few_L + 1)
            ax.set_xlabel("level")
        ax.set_ylim(0, 1.02)
        ax.set_yticks(np.linspace(0, 1, 6))
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        finish(ax, True)

    caption = (
        "Full bars: every code is used, and equally often. Perplexity well below usage: a few codes take most items."
    )
    title = titled("Use of the codebooks", of)
    return [Panel(title, draw(f"codebooks{slug(of)}", title, NORMAL, paint), caption)]


def prefixes(histograms: Sequence[Sequence[Sequence[int]]], of: str = "") -> list[Panel]:
    """How many items share a prefix, for prefix lengths from the first to the last; [items, prefixes] pairs."""
    chosen = np.unique(np.linspace(0, len(histograms) - 1, min(len(histograms), MOST_NAMED)).round().astype(int))
    pairs = {level: np.array(histograms[level], dtype=np.int64).reshape(-1, 2) for level in chosen.tolist()}
    pairs = {level: pair for level, pair in pairs.items() if len(pair)}
    if not pairs:
        return []
    largest = max(int(pair[:, 0].max()) for pair in pairs.values())
    num_bins = int(np.ceil(np.log2(largest))) + 1
    edges = [0, *(2**b for b in range(num_bins))]  # (0, 1], (1, 2], (2, 4], ...

    def paint(ax: "Axes") -> None:
        from matplotlib.ticker import PercentFormatter

        width = 0.84 / len(pairs)
        for place, (level, pair) in enumerate(pairs.items()):
            count = np.histogram(np.ceil(np.log2(pair[:, 0])), np.arange(num_bins + 1) - 0.5, weights=pair[:, 1])[0]
            x = np.arange(num_bins) + (place - (len(pairs) - 1) / 2) * width
            label = f"{level + 1} code{'s' if level else ''}"
            ax.bar(x, count / count.sum(), width * 0.95, color=COLOURS[place], label=label)
        names = [f"{low + 1}–{high}" if high > low + 1 else f"{high}" for low, high in itertools.pairwise(edges)]
        ax.set_xticks(range(num_bins), names, rotation=45 if num_bins > 7 else 0)
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        ax.set_ylim(0, 1.02)
        ax.set_xlabel("items that share the prefix")
        ax.set_ylabel("prefixes")
        finish(ax, True)

    caption = "Each further code should split the groups: mass moves to the left, and at full length to 1."
    title = titled("Items per prefix", of)
    return [Panel(title, draw(f"prefixes{slug(of)}", title, NORMAL, paint), caption)]


def categories(
    category_N: Sequence[str], finer_N: Sequence[str], codes_NL: np.ndarray, most: int = len(COLOURS), of: str = ""
) -> list[Panel]:
    """TIGER's Figure 4: categories by first code, and finer ones by second code within a crowded first code."""
    wide = "Each bar is a code, as wide as its number of items; the colours are their categories."
    panels = [
        mosaic(
            f"first-code{slug(of)}",
            titled("Categories by first code", of),
            f"{wide} Codes stand by their most common category: bars of one colour mean that the first code has "
            "learnt what an item is.",
            category_N,
            codes_NL[:, 0],
            most,
        )
    ]
    if codes_NL.shape[1] > 1:
        crowded = varied_code(codes_NL[:, 0], finer_N)
        inside = np.flatnonzero(codes_NL[:, 0] == crowded).tolist()
        panels.append(
            mosaic(
                f"second-code{slug(of)}",
                titled(f"Finer categories by second code, in the {len(inside):,} items of first code {crowded}", of),
                f"{wide} A crowded first code from inside: the second code should part what the first left together.",
                [finer_N[item] for item in inside],
                codes_NL[inside, 1],
                most,
            )
        )
    return panels


def varied_code(code_N: np.ndarray, finer_N: Sequence[str]) -> int:
    """Among codes at least half as large as the largest, the one with the most even mix of finer categories."""
    kinds, kind_N = np.unique(np.asarray(finer_N, dtype=str), return_inverse=True)
    count_AC = np.zeros((code_N.max() + 1, len(kinds)))
    np.add.at(count_AC, (code_N, kind_N), 1)
    items_A = count_AC.sum(1)
    p_AC = count_AC / np.maximum(items_A, 1)[:, None]
    entropy_A = -(p_AC * np.log(np.where(p_AC > 0, p_AC, 1))).sum(1)
    return int(np.where(2 * items_A >= items_A.max(), entropy_A, -1).argmax())


def mosaic(name: str, title: str, caption: str, label_N: Sequence[str], code_N: np.ndarray, most: int) -> Panel:
    """Bars as wide as a code's number of items, stacked by label; the commonest labels have colours of their own."""
    labels, label_index_N = np.unique(np.asarray(label_N, dtype=str), return_inverse=True)
    common_C = np.argsort(-np.bincount(label_index_N), kind="stable")[:most]
    position = np.full(len(labels), len(common_C))
    position[common_C] = np.arange(len(common_C))
    _, code_index_N = np.unique(code_N, return_inverse=True)
    count_AC = np.zeros((code_index_N.max() + 1, len(common_C) + 1))
    np.add.at(count_AC, (code_index_N, position[label_index_N]), 1)
    items_A = count_AC.sum(1)
    share_AC = count_AC / items_A[:, None]
    order_A = np.lexsort((-share_AC.max(1), share_AC.argmax(1)))
    edges = np.append(0, items_A[order_A].cumsum())
    top_AC = share_AC[order_A].cumsum(1)
    key = [(COLOURS[place], html.unescape(str(labels[index]))) for place, index in enumerate(common_C)]
    if count_AC[:, -1].any():
        key.append((OTHER, f"{(rest := len(labels) - len(common_C))} other{'s' if rest > 1 else ''}"))

    def paint(ax: "Axes") -> None:
        from matplotlib.ticker import PercentFormatter

        bottom_A = np.zeros(len(order_A))
        for place, (colour, _) in enumerate(key):
            ax.stairs(top_AC[:, place], edges, baseline=bottom_A, fill=True, color=colour, linewidth=0)
            bottom_A = top_AC[:, place]
        if len(order_A) <= 300:
            x = np.repeat(edges[1:-1], 3)  # one line with gaps: far smaller than a line for each code
            ax.plot(x, np.tile([0, 1, np.nan], len(x) // 3), color="#ffffff", linewidth=0.25, alpha=0.6)
        ax.set_xlim(0, edges[-1])
        ax.set_ylim(0, 1)
        ax.yaxis.set_major_formatter(PercentFormatter(1))
        ax.set_xlabel(f"items, by code ({len(order_A)} codes)")

    return Panel(title, draw(name, title, WIDE, paint), caption, key, wide=True)


def finish(ax: "Axes", legend: bool) -> None:
    """Quiet horizontal lines behind the data, and a key above it where there is more than one thing."""
    ax.grid(axis="y")
    ax.set_axisbelow(True)
    if legend:
        ax.legend(fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, columnspacing=1.2)
