"""The table of an ablation in words: on the terminal, as Markdown, JSON and one HTML page with one drawing."""

import dataclasses
import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.ablation_table import Row, Summary
from experiments.ablations import PLAIN, WHOLE
from experiments.figures import COLOURS, FAINT, INK, WIDE, Panel, draw
from experiments.page import count, number, render
from experiments.paired import Interval
from experiments.stages import write_atomically
from sid.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOTE = (
    "±: standard deviation over seeds. In brackets: 95% interval of a paired bootstrap over test users, on every "
    "user's mean over seeds; it does not hold the spread of seeds."
)


class Grid(NamedTuple):
    """A table in words; the first column is left, the others are right."""

    title: str
    heads: list[str]
    rows: list[list[str]]


def tables(summary: Summary) -> list[Grid]:
    """The rows, and where the plain model was run, the whole against it by history length."""
    clock = "wall" if summary.wall else "CPU"
    heads = ["", "seeds", "R@10", "N@10", "R@10 against the whole", "param.", f"training {clock} s"]
    grids = [Grid(f"{summary.name}: parts switched off", heads, [row_words(row) for row in summary.rows])]
    if summary.parts:
        rows = []
        for place, part in enumerate(summary.parts):
            recall, ndcg = part.changes["recall@10"], part.changes["ndcg@10"]
            length = f"{part.shortest:,}–{part.longest:,}" if part.shortest < part.longest else f"{part.longest:,}"
            pairs = (f"{number(pair.ours)} / {number(pair.base)}" for pair in (recall, ndcg))
            gains = (signed(recall.relative), signed(ndcg.relative))
            rows.append([f"{'quartile: ' if place else 'all: '}{length}", count(part.targets), *pairs, *gains])
        heads = ["events before the target", "targets", "R@10", "N@10", "gain in R@10", "gain in N@10"]
        grids.append(Grid(f"{WHOLE} / {PLAIN}, by length of the history", heads, rows))
    return grids


def row_words(row: Row) -> list[str]:
    change = signed(row.changes["recall@10"].relative) if row.changes else ""
    seconds = "–" if row.borrowed else count(row.seconds)
    scores = (mean_and_spread(values) for values in row.scores.values())
    return [row.name, " ".join(map(str, row.seeds)), *scores, change, f"{row.parameters / 1e6:.2f}M", seconds]


def mean_and_spread(values: Sequence[float]) -> str:
    mean = number(statistics.fmean(values))
    return f"{mean} ± {number(statistics.stdev(values))}" if len(values) > 1 else mean


def signed(interval: Interval) -> str:
    """`-12.3% [-15.0%, -9.1%]`, dashes where there is no number."""
    value, low, high = (f"{part:+.1%}" if math.isfinite(part) else "–" for part in dataclasses.astuple(interval))
    return f"{value} [{low}, {high}]"


def notes(summary: Summary) -> list[str]:
    """What a reader of the figures must know."""
    size = f"{summary.users:,} test users, {summary.targets:,} targets, full ranking."
    borrowed = [row.name for row in summary.rows if row.borrowed]
    words = [f"{', '.join(borrowed)}: the weights are those of the whole model, asked otherwise."] if borrowed else []
    return [f"{size} {NOTE}", *words]


def show(summary: Summary) -> None:
    """Prints the tables; no figure is cut, however narrow the terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    for grid in tables(summary):
        table = Table(box=box.SIMPLE_HEAD, title=grid.title, title_justify="left", padding=(0, 2, 0, 0))
        for place, head in enumerate(grid.heads):
            table.add_column(head, justify="right" if place else "left", no_wrap=True)
        for words in grid.rows:
            table.add_row(*words)
        console.width = max(console.width, Console(width=1000).measure(table).maximum)
        console.print(table, markup=False)
    for note in notes(summary):
        console.print(note, style="dim", highlight=False, markup=False)


def write(summary: Summary, folder: Path) -> list[Path]:
    """ablation.json, .md and .html. Raises UserError where they cannot be written."""
    texts = {
        "ablation.json": json.dumps(plain(dataclasses.asdict(summary)), indent=1, ensure_ascii=False) + "\n",
        "ablation.md": markdown(summary),
        "ablation.html": page(summary),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            write_atomically(folder / name, text)
    except OSError as error:
        raise UserError(f"{error.filename or folder} cannot be written: {error.strerror}") from error
    return [folder / name for name in texts]


def plain(value: Any) -> Any:
    """Numbers that JSON does not have as null."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def markdown(summary: Summary) -> str:
    parts = []
    for grid in tables(summary):
        rules = ["---", *["---:"] * (len(grid.heads) - 1)]
        parts.append(f"## {grid.title}")
        parts.append("\n".join(f"| {' | '.join(words)} |" for words in (grid.heads, rules, *grid.rows)))
    parts += notes(summary)
    commit = summary.environment.get("commit") or "unknown"
    parts.append(f"Commit {commit[:12]}{' with local changes' if summary.environment.get('dirty') else ''}:")
    parts.append(f"    {summary.environment.get('command', '')}")
    return "\n\n".join(parts) + "\n"


def page(summary: Summary) -> str:
    """The HTML page; it needs no other file."""
    content = {"summary": summary, "tables": tables(summary), "notes": notes(summary), "drawings": panels(summary)}
    return render("ablation.html.j2", content)


def panels(summary: Summary) -> list[Panel]:
    """Relative change of R@10, a line a switch; rows that borrow their weights change the question, not the model."""
    rows = [row for row in summary.rows if row.changes and not row.borrowed]
    changes = {row.name: row.changes["recall@10"].relative for row in rows}
    changes = {name: interval for name, interval in changes.items() if math.isfinite(interval.value)}
    if not changes:
        return []

    def paint(ax: "Axes") -> None:
        from matplotlib.ticker import PercentFormatter

        ax.axvline(0, color=INK, linewidth=0.8)
        for place, interval in enumerate(changes.values()):
            if math.isfinite(interval.low):
                ax.plot([interval.low, interval.high], [place, place], color=COLOURS[0], linewidth=2.2)
            ax.plot(interval.value, place, "o", color=COLOURS[0], markersize=6)
        ax.set_yticks(range(len(changes)), list(changes))
        ax.set_ylim(len(changes) - 0.5, -0.5)
        ax.xaxis.set_major_formatter(PercentFormatter(1))
        ax.grid(axis="x", color=FAINT)
        ax.set_axisbelow(True)

    title = "Relative change of Recall@10 against the whole model"
    caption = (
        "Dot: mean over seeds; line: 95% interval over test users. Left of 0: worse than the whole. A line across 0: "
        "these test users do not tell."
    )
    drawing = draw("switches", title, (WIDE[0], 0.7 + 0.3 * len(changes)), paint)
    return [Panel(title, drawing, caption, wide=True)]
