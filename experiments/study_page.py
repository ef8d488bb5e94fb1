"""The tables of a study in words: on the terminal, as Markdown, JSON and one HTML page with a drawing an experiment."""

import dataclasses
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.figures import COLOURS, FAINT, INK, Panel, draw
from experiments.grid import Grid, markdown_grid, print_grid
from experiments.page import count, number, render, share
from experiments.paired import Interval
from experiments.stages import write_all
from experiments.study_table import SCORES, Part, Row, SIDs, Summary, Table

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NOTE = (
    "±: standard deviation over seeds, which are {seeds}. In brackets: 95% interval of a paired bootstrap over test "
    "users, on every user's mean over the seeds that both rows have; it does not hold the spread of seeds."
)
SEEDS = {True: "those of tokenizer and retriever", False: "those of the retriever alone"}
SIDS_NOTE = (
    "codes: codebooks and, behind the +, the size of the level that tells items of equal codes apart. collisions: "
    "share of the items that need it. codes in use: a mean over codebooks. variance left: what is left of the variance "
    "of the item vectors once every code has the vector that suits it best."
)


WIDTH = 6.0
"""Of a drawing, in inches: shrunk to a phone's width it can still be read."""


class Section(NamedTuple):
    """What there is to say of one experiment."""

    scores: Grid
    notes: list[str]
    drawings: list[Panel]
    more: list[Grid]
    """The semantic IDs, where they differ; the base against another row by history length, where the study asks."""


def sections(summary: Summary) -> list[Section]:
    found = []
    for table in summary.tables:
        scores = Grid.of(table.experiment, [scores_words(summary.base, table, row) for row in table.rows])
        more = []
        if tables_differ(table):
            rows = [{"": row.name, **sids_words(row.sids)} for row in table.rows]
            more.append(Grid.of(f"Semantic IDs, {table.experiment}", rows))
        if table.parts:
            title = f"{summary.base} / {summary.by_length}, by length of the history"
            more.append(Grid.of(title, [part_words(part, place == 0) for place, part in enumerate(table.parts)]))
        found.append(Section(scores, notes(summary, table), panels(summary, table), more))
    return found


def scores_words(base: str, table: Table, row: Row) -> dict[str, str]:
    """Head -> words, the same heads in every row of a table."""
    words = {"": row.name, "seeds": " ".join(map(str, row.seeds)) or "failed"}
    words |= {"R@10": mean_and_spread(row.scores["recall@10"]), "N@10": mean_and_spread(row.scores["ndcg@10"])}
    if len(table.rows) > 1:
        change = signed(row.changes["recall@10"].relative) if row.changes else "–"
        words[f"R@10 against {base}"] = "" if row.name == base else change
    if any(other.published for other in table.rows):
        words["published R@10 / N@10"] = published_words(base, table, row)
    words["param."] = "–" if row.parameters is None else f"{row.parameters / 1e6:.2f}M"
    words[f"training {'wall' if table.wall else 'CPU'} s"] = count(None if row.borrowed else row.seconds)
    return words


def published_words(base: str, table: Table, row: Row) -> str:
    """`0.0533 / 0.0309, -17.7%`."""
    if not row.published:
        return "–"
    pair = " / ".join(number(row.published.get(name)) for name in SCORES)
    return pair if row.name == base else f"{pair}, {percent(published_change(base, table, row))}"


def published_change(base: str, table: Table, row: Row) -> float:
    """Of R@10, against the base of the same paper; NaN where either is not published."""
    ours, bases = row.published.get("recall@10"), [one.published for one in table.rows if one.name == base]
    theirs = bases[0].get("recall@10") if bases else None
    return ours / theirs - 1 if ours and theirs else math.nan


def tables_differ(table: Table) -> bool:
    return any(row.sids != table.rows[0].sids for row in table.rows if row.sids)


def sids_words(sids: SIDs | None) -> dict[str, str]:
    if sids is None:
        return dict.fromkeys(("codes", "collisions", "codes in use", "variance left"), "–")
    return {
        "codes": sizes_words(sids.sizes) + (f" + {sids.largest_group}" if sids.digit else ""),
        "collisions": share(sids.collision_rate),
        "codes in use": share(sids.usage),
        "variance left": share(sids.variance_left),
    }


def sizes_words(sizes: Sequence[int]) -> str:
    """`3x256`, or `256, 2x128` where they are not all the same."""
    runs = [(size, len(list(run))) for size, run in groupby(sizes)]
    return ", ".join(f"{length}x{size}" if length > 1 else str(size) for size, length in runs)


def part_words(part: Part, everything: bool) -> dict[str, str]:
    recall, ndcg = part.changes["recall@10"], part.changes["ndcg@10"]
    length = f"{part.shortest:,}–{part.longest:,}" if part.shortest < part.longest else f"{part.longest:,}"
    return {
        "events before the target": f"{'all' if everything else 'quartile'}: {length}",
        "targets": count(part.targets),
        "R@10": f"{number(recall.ours)} / {number(recall.base)}",
        "N@10": f"{number(ndcg.ours)} / {number(ndcg.base)}",
        "gain in R@10": signed(recall.relative),
        "gain in N@10": signed(ndcg.relative),
    }


def mean_and_spread(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = number(statistics.fmean(values))
    return f"{mean} ± {number(statistics.stdev(values))}" if len(values) > 1 else mean


def percent(value: float) -> str:
    return f"{value:+.1%}" if math.isfinite(value) else "–"


def signed(interval: Interval) -> str:
    """`-12.3% [-15.0%, -9.1%]`, dashes where there is no number."""
    return f"{percent(interval.value)} [{percent(interval.low)}, {percent(interval.high)}]"


def float32_notes(in_float32: Mapping[str, Sequence[int]]) -> list[str]:
    """One line, or none."""
    found = ", ".join(f"{name} (seeds {' '.join(map(str, seeds))})" for name, seeds in in_float32.items())
    return [f"In float32 for want of bfloat16, so that times are of two kinds: {found}."] if found else []


def notes(summary: Summary, table: Table) -> list[str]:
    """What a reader of an experiment's figures must know."""
    words = []
    if table.finished < table.planned:
        words.append(f"Partial: {table.finished} of {table.planned} runs are finished.")
    for row in table.rows:
        for problem, seeds in row.problems.items():
            words.append(f"{row.name} failed{' with seed ' if seeds else ''}{' '.join(map(str, seeds))}: {problem}")
    for left_out in dict.fromkeys(tuple(row.left_out) for row in table.rows if row.left_out):
        rows = [row.name for row in table.rows if tuple(row.left_out) == left_out]
        words.append(
            f"{', '.join(rows)}: without {' '.join(left_out)}, as the kind of model or tokenizer has no such field."
        )
    words += float32_notes(table.in_float32)
    if table.users:
        words.append(f"{table.users:,} test users, {table.targets:,} targets, full ranking.")
    if borrowed := [row.name for row in table.rows if row.borrowed]:
        words.append(f"{', '.join(borrowed)}: the weights are those of {summary.base}, asked otherwise.")
    return words


def common_notes(summary: Summary) -> list[str]:
    """What holds for every table."""
    words = [NOTE.format(seeds=SEEDS[summary.tokenizer_seeds])]
    return [*words, SIDS_NOTE] if any(map(tables_differ, summary.tables)) else words


def show(summary: Summary) -> None:
    """Prints the tables."""
    from rich.console import Console

    console = Console()

    def say(lines: Sequence[str]) -> None:
        for line in lines:
            console.print(line, style="dim", highlight=False, markup=False)

    for section in sections(summary):
        print_grid(console, section.scores)
        say(section.notes)
        for more in section.more:
            print_grid(console, more)
    say(common_notes(summary))


def write(summary: Summary, folder: Path) -> None:
    """study.json, .md and .html. Raises UserError where they cannot be written."""
    found = sections(summary)
    content = {"summary": summary, "sections": found, "notes": common_notes(summary)}
    texts = {
        "study.json": json.dumps(plain(dataclasses.asdict(summary)), indent=1, ensure_ascii=False) + "\n",
        "study.md": markdown(summary, found),
        "study.html": render("study.html.j2", content),
    }
    write_all(folder, texts)


def plain(value: Any) -> Any:
    """Numbers that JSON does not have as null."""
    if isinstance(value, dict):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def markdown(summary: Summary, found: Sequence[Section]) -> str:
    parts = [f"# {summary.title}"]
    for section in found:
        parts += [*markdown_grid(section.scores), *section.notes]
        parts += [part for more in section.more for part in markdown_grid(more)]
    parts += common_notes(summary)
    commit = summary.environment.get("commit") or "unknown"
    parts.append(f"Commit {commit[:12]}{' with local changes' if summary.environment.get('dirty') else ''}:")
    parts.append(f"    {summary.environment.get('command', '')}")
    return "\n\n".join(parts) + "\n"


def panels(summary: Summary, table: Table) -> list[Panel]:
    """Relative change of R@10, a line a row; rows that borrow their weights change the question, not the model."""
    rows = [row for row in table.rows if row.changes and not row.borrowed]
    rows = [row for row in rows if math.isfinite(row.changes["recall@10"].relative.value)]
    if not rows:
        return []
    published = [(place, published_change(summary.base, table, row)) for place, row in enumerate(rows)]
    published = [(place, value) for place, value in published if math.isfinite(value)]

    def paint(ax: "Axes") -> None:
        from matplotlib.ticker import PercentFormatter

        ax.axvline(0, color=INK, linewidth=0.8)
        for place, interval in enumerate(row.changes["recall@10"].relative for row in rows):
            if math.isfinite(interval.low):
                ax.plot([interval.low, interval.high], [place, place], color=COLOURS[0], linewidth=2.2)
            ax.plot(interval.value, place, "o", color=COLOURS[0], markersize=6)
        for place, value in published:
            ax.plot(value, place, "D", color=COLOURS[1], markersize=6, fillstyle="none")
        ax.set_yticks(range(len(rows)), [row.name for row in rows])
        ax.set_ylim(len(rows) - 0.5, -0.5)
        ax.xaxis.set_major_formatter(PercentFormatter(1))
        ax.grid(axis="x", color=FAINT)
        ax.set_axisbelow(True)

    title = f"Relative change of Recall@10 against {summary.base}"
    caption = (
        "Dot: mean over seeds; line: 95% interval over test users. Left of 0: worse. A line across 0: these test users "
        f"do not tell.{' Diamond: published.' if published else ''}"
    )
    size = (WIDTH, 0.7 + 0.3 * len(rows))
    drawing = draw(f"changes-{summary.name}-{table.experiment}", f"{title}, {table.experiment}", size, paint)
    return [Panel(title, drawing, caption, wide=True)]
