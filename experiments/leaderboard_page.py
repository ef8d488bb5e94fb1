"""A leaderboard in words: on the terminal, as Markdown, JSON and one HTML page."""

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.figures import COLOURS, FAINT, INK, Panel, draw
from experiments.grid import Grid, markdown_grid, print_grid
from experiments.page import count, number, render
from experiments.paired import Change
from experiments.published import comparable
from experiments.stages import write_all
from experiments.study_page import float32_notes, mean_and_spread, plain, signed
from experiments.study_table import Cell, Judge, Measured
from sid.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from experiments.pipeline import Pipeline

METRICS = (
    "recall@5", "ndcg@5", "recall@10", "ndcg@10", "fresh_recall@10", "fresh_ndcg@10", "coverage@10", "entropy@10"
)  # fmt: skip
HEADS = ("R@5", "N@5", "R@10", "N@10", "fresh R@10", "fresh N@10", "cov@10", "ent@10")
WIDTH = 6.4
LABEL, LABEL_LENGTH = 7, 90
"""Size of a label beside a dot, and about how long the longest is, in points."""
NOTES = (
    "Ranked by Recall@10 on all test users, items, full ranking. ±: standard deviation over seeds. published: Recall@10"
    " / NDCG@10 of the paper named in the experiment. fresh: with the items of the history taken out of the lists, as "
    "S3-Rec's comparison counts, whose rows most published ones are. cov@10: share of the items in somebody's top 10; "
    "ent@10: entropy of the categories of a user's top 10, in nats.",
    "over the next: change of Recall@10 against the row below, with the 95% interval of a paired bootstrap over test "
    "users on the seeds that both have; it does not hold the spread of seeds.",
    "Training: {clock}, a mean over seeds, pre-training included, tokenizers and item vectors not. users/s: users "
    "answered a second of wall time at the test, metrics included; it depends on what else the machine does.",
)


@dataclass(frozen=True)
class Row:
    """One retriever."""

    experiment: str
    title: str
    seeds: list[int]
    folders: list[str]
    metrics: dict[str, list[float]]
    """Of every seed, on all test targets."""
    published: dict[str, float]
    parameters: float
    seconds: float
    """Training, a mean over seeds; see `Board.wall`."""
    users_per_second: float
    over: dict[str, Change]
    """Title of another row -> from that one to this, in Recall@10; none where they have no seed in common."""


@dataclass(frozen=True)
class Board:
    """The rows that are finished in part at least, best first."""

    title: str
    users: int
    wall: bool
    """Seconds are wall seconds, validations included, as some run was on an accelerator; else those of the CPU."""
    rows: list[Row]
    problems: dict[str, str]
    """Experiment -> what went wrong."""
    unfinished: list[str]
    in_float32: dict[str, list[int]]
    """Experiment -> seeds; see `Cell.in_float32`."""
    environment: dict[str, Any]


def rank(
    title: str, cells: Sequence[Cell], pipelines: Mapping[str, "Pipeline"], environment: dict[str, Any]
) -> Board | None:
    """None where nothing is finished.

    Raises:
        UserError: a file of recommendations is missing or damaged, or rows have other test targets.
    """
    found = [cell for cell in cells if cell.found]
    if not found:
        return None
    tests = {pipelines[cell.experiment].prepare.hash for cell in found}
    if len(tests) > 1:
        raise UserError(f"{', '.join(cell.experiment for cell in found)}: prepared differently, so not to be compared")
    pipeline = pipelines[found[0].experiment]
    judge = Judge(pipeline.catalog, pipeline.split.test)
    runs = [run for cell in found for run in cell.found.values()]
    wall = any(run.train.get("device", "cpu") != "cpu" for run in runs)
    found.sort(key=lambda cell: -statistics.fmean(run.metrics["recall@10"] for run in cell.found.values()))
    return Board(
        title,
        users=len(set(pipeline.split.test.user_E.tolist())),
        wall=wall,
        rows=[board_row(cell, found[place + 1 :], judge, wall) for place, cell in enumerate(found)],
        problems={cell.experiment: "; ".join(cell.problems) for cell in cells if cell.asked and cell.problems},
        unfinished=[cell.experiment for cell in cells if len(cell.found) < len(cell.configs)],
        in_float32={cell.experiment: cell.in_float32 for cell in found if cell.in_float32},
        environment=environment,
    )


def board_row(cell: Cell, below: Sequence[Cell], judge: Judge, wall: bool) -> Row:
    """A cell with what it amounts to, beside those that are behind it."""
    runs: list[Measured] = [cell.found[seed] for seed in sorted(cell.found)]
    changes = {other.row: judge.changes(cell.found, other.found) for other in below}
    return Row(
        cell.experiment,
        cell.row,
        seeds=sorted(cell.found),
        folders=[str(run.lists.parent) for run in runs],
        metrics={name: [run.metrics[name] for run in runs] for name in METRICS if name in runs[0].metrics},
        published=published(cell),
        parameters=statistics.fmean(run.train["parameters"] for run in runs),
        seconds=statistics.fmean(run.train["seconds" if wall else "cpu_seconds"] for run in runs),
        users_per_second=statistics.fmean(run.users_per_second for run in runs),
        over={title: change["recall@10"] for title, change in changes.items() if change},
    )


def published(cell: Cell) -> dict[str, float]:
    """The model's own row of a paper, if there is one: "TIGER, Table 1" is TIGER's."""
    rows = comparable(next(iter(cell.configs.values())).published)
    return next((dict(row) for name, row in rows.items() if name.startswith(f"{cell.row},")), {})


def table(board: Board) -> Grid:
    rows = []
    for place, row in enumerate(board.rows):
        words = {"": row.title, "seeds": " ".join(map(str, row.seeds))}
        words |= {head: mean_and_spread(row.metrics.get(name, [])) for head, name in zip(HEADS, METRICS, strict=True)}
        pair = [number(row.published.get(name)) for name in ("recall@10", "ndcg@10")]
        words["published"] = " / ".join(pair) if row.published else "–"
        following = board.rows[place + 1].title if place + 1 < len(board.rows) else ""
        words["over the next"] = signed(row.over[following].relative) if following in row.over else "–"
        words["param."] = f"{row.parameters / 1e6:.2f}M"
        words[f"training {'wall' if board.wall else 'CPU'} s"] = count(row.seconds)
        words["users/s"] = count(row.users_per_second)
        rows.append(words)
    return Grid.of(f"{board.title}: {board.users:,} test users", rows)


def duels(board: Board) -> Grid:
    """Which of two rows is ahead in Recall@10, and whether these test users tell."""
    numbers = [str(place + 1) for place in range(len(board.rows))]
    rows = []
    for place, row in enumerate(board.rows):
        words = {"": f"{numbers[place]} {row.title}"}
        for other, head in zip(board.rows, numbers, strict=True):
            words[head] = "" if other is row else verdict(row.over.get(other.title), other.over.get(row.title))
        rows.append(words)
    return Grid.of("Recall@10, the row against the column", rows)


def verdict(over: Change | None, under: Change | None) -> str:
    """`+`, `−` or `=` where the 95% interval holds 0; `?` where there is no seed in common."""
    change = over or under
    if change is None:
        return "?"
    if change.difference.low <= 0 <= change.difference.high:
        return "="
    return "+" if (change.difference.value > 0) == (over is not None) else "−"


def notes(board: Board) -> list[str]:
    clock = "wall seconds, validations included" if board.wall else "CPU seconds of all threads, without validations"
    words = [note.format(clock=clock) for note in NOTES]
    if board.unfinished:
        words.insert(0, f"Partial: runs of {', '.join(board.unfinished)} are missing.")
    words += float32_notes(board.in_float32)
    return [*words, *(f"{experiment} failed: {problem}" for experiment, problem in board.problems.items())]


def show(board: Board) -> None:
    """Prints the table."""
    from rich.console import Console

    console = Console()
    print_grid(console, table(board))
    for note in notes(board):
        console.print(note, style="dim", highlight=False, markup=False)


def write(board: Board, folder: Path) -> None:
    """leaderboard.json, .md and .html. Raises UserError where they cannot be written."""
    words = notes(board)
    parts = [f"# {board.title}", *markdown_grid(table(board)), *words, *markdown_grid(duels(board))]
    commit = (board.environment.get("commit") or "unknown")[:12]
    parts.append(f"Commit {commit}{' with local changes' if board.environment.get('dirty') else ''}:")
    parts.append(f"    {board.environment.get('command', '')}")
    page = {"board": board, "table": table(board), "duels": duels(board), "notes": words, "drawings": panels(board)}
    texts = {
        "leaderboard.json": json.dumps(plain(dataclasses.asdict(board)), indent=1, ensure_ascii=False) + "\n",
        "leaderboard.md": "\n\n".join(parts) + "\n",
        "leaderboard.html": render("leaderboard.html.j2", page),
    }
    write_all(folder, texts)


def panels(board: Board) -> list[Panel]:
    """Quality against what training and answering cost."""
    trained = [(row.seconds / 60, row) for row in board.rows if row.seconds > 0]
    answered = [(row.users_per_second, row) for row in board.rows]
    clock = "wall" if board.wall else "CPU"
    drawn = [("training", f"{clock} minutes of training", trained), ("answers", "test users a second", answered)]
    return [scatter(name, words, places) for name, words, places in drawn if places]


def label_lifts(dots: Sequence[tuple[float, float]]) -> list[float]:
    """How far above its dot (x, y, in points) each label's foot is: below those of higher dots that it would cover."""
    feet: list[tuple[float, float]] = []
    lifts = [0.0] * len(dots)
    for place in sorted(range(len(dots)), key=lambda place: -dots[place][1]):
        x, y = dots[place]
        foot = y + LABEL / 2
        for other_x, other_foot in sorted(feet, key=lambda other: -other[1]):
            if abs(other_x - x) < LABEL_LENGTH and abs(other_foot - foot) < LABEL + 1:
                foot = other_foot - LABEL - 1
        feet.append((x, foot))
        lifts[place] = foot - y
    return lifts


def scatter(name: str, words: str, places: Sequence[tuple[float, Row]]) -> Panel:
    """Rows as dots, each with its name."""

    def paint(ax: "Axes") -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

        for place, (cost, row) in enumerate(places):
            colour = COLOURS[place % len(COLOURS)]
            recall = row.metrics["recall@10"]
            if len(recall) > 1:
                ax.plot([cost, cost], [min(recall), max(recall)], color=colour, linewidth=1.6)
            ax.plot(cost, statistics.fmean(recall), "o", color=colour, markersize=5)
        ax.set_xscale("log")
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.xaxis.set_major_formatter(FuncFormatter(lambda cost, _: f"{cost:g}" if cost < 1000 else f"{cost / 1000:g}k"))
        ax.xaxis.set_minor_locator(NullLocator())
        low, high = (math.log10(edge(cost for cost, _ in places)) for edge in (min, max))
        ax.set_xlim(10 ** (low - 0.15), 10 ** (high + 0.5))
        ax.set_ylim(bottom=0)
        ax.set_xlabel(words)
        ax.set_ylabel("Recall@10")
        ax.grid(color=FAINT)
        ax.set_axisbelow(True)
        dots = [(cost, statistics.fmean(row.metrics["recall@10"])) for cost, row in places]
        shown = ax.transData.transform(dots) * 72 / ax.figure.dpi  # in points
        for (_, row), dot, lift in zip(places, dots, label_lifts(shown.tolist()), strict=True):
            ax.annotate(row.title, dot, xytext=(5, lift), textcoords="offset points", fontsize=LABEL, color=INK)

    title = f"Recall@10 against {words}"
    caption = "Dot: mean over seeds; line: from the worst seed to the best."
    return Panel(title, draw(f"scatter-{name}", title, (WIDTH, 4.2), paint), caption, wide=True)
