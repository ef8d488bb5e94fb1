"""Runs side by side: `python -m experiments.compare RUN [RUN ...] [--out compare.html] [--png FILE]`.

RUN is a folder like runs/tiger_beauty/197e01a39f81. Prints a table and writes it with learning curves as one page.
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments.compare_curves import Groups, panels, quality_png
from experiments.figures import COLOURS
from experiments.page import number, render
from experiments.results import Run, by_config, differing, is_under, read_run, settings
from sid.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

LONGEST_LABEL = 70
BEAMS = ("evaluation.num_beams", "evaluation.free_beams", "evaluation.constrained")
NOTE = (
    "val: at the validation whose weights are kept, the one with the best NDCG@10; test: all test users, full ranking; "
    "CPU min: training without its validations; spread: standard deviation of a sample."
)


class Column(NamedTuple):
    """A figure of the table: what it is called and how it is written."""

    key: str
    head: str
    write: Callable[[float], str]
    higher_is_better: bool = False


COLUMNS = (
    Column("parameters", "param.", lambda value: f"{value / 1e6:.2f}M"),
    Column("minutes", "CPU\nmin", lambda value: f"{value:,.1f}"),
    Column("targets_per_cpu_second", "targets/\nCPU s", lambda value: f"{value:,.0f}"),
    Column("peak_memory_gib", "peak\nGiB", lambda value: f"{value:.1f}"),
    Column("val/recall@10", "val\nR@10", number, True),
    Column("val/ndcg@10", "val\nN@10", number, True),
    Column("test/recall@5", "test\nR@5", number, True),
    Column("test/ndcg@5", "test\nN@5", number, True),
    Column("test/recall@10", "test\nR@10", number, True),
    Column("test/ndcg@10", "test\nN@10", number, True),
    Column("users_per_second", "users/s", lambda value: f"{value:,.0f}"),
)


class Cell(NamedTuple):
    """A figure in words, over several seeds with its spread."""

    value: str = "–"
    spread: str = ""
    best: bool = False


class Row(NamedTuple):
    """A run, or the mean over seeds."""

    title: str
    subtitle: str
    model: str
    settings: list[str]
    notes: list[str]
    cells: list[Cell]
    colour: str
    mean: bool = False


def compare(folders: Sequence[Path], out: Path, image: Path | None) -> None:
    """Prints the table, writes the page and, where it is wanted, the drawing of quality. Raises UserError."""
    from rich.console import Console

    different = list(dict.fromkeys(folder.resolve() for folder in folders))
    empty = [folder for folder in different if folder.is_dir() and not any(folder.iterdir())]
    if len(empty) < len(different):
        for folder in empty:
            print(f"left out, as nothing is in it yet: {folder}")
        different = [folder for folder in different if folder not in empty]
    runs = [read_run(folder) for folder in different]
    groups = by_config(runs)
    labels = label(groups)
    blocks, warnings = table_rows(groups), cautions(runs)
    drawn = quality_png(labels) if image else b""
    if image and not drawn:
        raise UserError(f"none of the runs has been validated yet, so there is nothing to draw in {image}")
    console = Console()
    for warning in warnings:
        console.print(f"warning: {warning}", style="yellow", highlight=False, markup=False, soft_wrap=True)
    shown = terminal_table(blocks)
    console.width = max(console.width, Console(width=1000).measure(shown).minimum)
    console.print(shown)
    page = {"blocks": blocks, "heads": [column.head for column in COLUMNS], "warnings": warnings, "note": NOTE}
    page |= {"drawings": panels(labels), "runs": runs}
    write(out, render("compare.html.j2", page).encode())
    if image:
        write(image, drawn)


def write(path: Path, content: bytes) -> None:
    try:
        path.write_bytes(content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}") from error
    print(f"written: {path}")


def cautions(runs: Sequence[Run]) -> list[str]:
    """What keeps the figures from being compared, one line each."""

    def values(key: str) -> str:
        found = dict.fromkeys(str(run.options.get(key)) for run in runs)
        return ", ".join(found) if len(found) > 1 else ""

    said = []
    if (found := values("prepare")) and not same_sources(runs):
        said.append(f"different catalogues (prepare {found}): the figures of these runs are NOT comparable")
    elif found:
        said.append(
            f"the same raw files, prepared by different versions of the code (prepare {found}): the figures are "
            "comparable only if they made the same catalogue; the semantic IDs may differ too"
        )
    elif found := values("tokenize"):
        said.append(
            f"different semantic IDs (tokenize {found}): losses are NOT comparable, and Recall and NDCG are those of "
            "IDs and model together"
        )
    if any(key.startswith("split.") for key in differing(runs)):
        said.append("different splits: the figures of these runs are NOT comparable")
    elif found := values("sequences.eval_users"):
        said.append(f"validated on different users (sequences.eval_users {found}; 0: all): compare by the test")
    beams = [f"{key} {found}" for key in BEAMS if (found := values(key))]
    if beams:
        said.append(
            f"decoded in different ways ({'; '.join(beams)}): lists, speed and memory are not those of one test"
        )
    if any(run.options.get("code") for run in runs):
        said.append("code: runs of versions that compute otherwise; repeat their commands before comparing them")
    machines = dict.fromkeys(str(run.environment["device"]) for run in runs if run.environment.get("device"))
    if len(machines) > 1:
        said.append(f"different machines ({', '.join(machines)}): times and memory are not comparable")
    return said


def same_sources(runs: Sequence[Run]) -> bool:
    """Whether all runs are known to have read the same files with the same options."""
    raw = [sorted(run.environment["raw_files"].values()) for run in runs if "raw_files" in run.environment]
    same_files = len(raw) == len(runs) and all(files == raw[0] for files in raw)
    return same_files and not any(key.startswith("data.") for key in differing(runs))


def label(groups: Sequence[Sequence[Run]]) -> Groups:
    """The groups under short names: the model, and where another group has the same, in what they differ."""
    named = {}
    for runs in groups:
        first = runs[0]
        alike = [other[0] for other in groups if other[0].model == first.model]
        keys = [key for key in differing(alike) if key != "seed"]
        words = ", ".join([first.model, *settings(first, keys, known(alike))])
        if len(words) > LONGEST_LABEL or first.model == "–":
            words = f"{first.model} {first.title}".removeprefix("– ")
        words += f" ({len(runs)} seeds)" if len(runs) > 1 else ""
        named[words + " (wall time)" * any(run.wall for run in runs)] = runs
    return named


def known(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(["name", *(key for run in runs for key in run.options)]))


def table_rows(groups: Sequence[Sequence[Run]]) -> list[list[Row]]:
    """A row a run, and one more where several finished runs differ in nothing but the seed."""
    runs = [run for members in groups for run in members]
    keys = differing(runs)
    blocks = []
    for place, members in enumerate(groups):
        colour = COLOURS[place % len(COLOURS)]
        block = []
        for run in members:
            cells = [cell([run], column, runs if ranks(column, keys) else []) for column in COLUMNS]
            words = settings(run, keys, known(runs))
            block.append(Row(run.name, run.folder.name, run.model, words, run.notes, cells, colour))
        if len(seeds := list({run.options.get("seed"): run for run in members if run.finished}.values())) > 1:
            cells = [cell(seeds, column, []) for column in COLUMNS]
            block.append(Row("mean ± spread", f"of {len(seeds)} seeds", seeds[0].model, [], [], cells, colour, True))
        blocks.append(block)
    return blocks


def ranks(column: Column, differ: Sequence[str]) -> bool:
    """Whether the best run of a column can be told, given the keys in which the runs differ."""
    hindrances = ("prepare", "split", *BEAMS, *(["sequences.eval_users"] if column.key.startswith("val/") else []))
    return column.higher_is_better and not any(is_under(key, hindrances) for key in differ)


def cell(runs: Sequence[Run], column: Column, rivals: Sequence[Run]) -> Cell:
    """The figure of a run, or mean and spread of several; a dash unless all of them have it."""
    values = [run.figures[column.key] for run in runs if column.key in run.figures]
    if len(values) < len(runs):
        return Cell()
    spread = f"±{column.write(statistics.stdev(values))}" if len(set(values)) > 1 else ""
    others = [run.figures[column.key] for run in rivals if column.key in run.figures]
    return Cell(column.write(statistics.fmean(values)), spread, len(others) > 1 and values[0] == max(others))


def terminal_table(blocks: Sequence[Sequence[Row]]) -> "Table":
    """Every row as the lines it needs; figures are never cut."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=NOTE, caption_justify="left", expand=True)
    table.add_column("run", width=20, overflow="fold")
    table.add_column("model", no_wrap=True)
    table.add_column("where they differ", min_width=30, ratio=1, overflow="fold")
    for column in COLUMNS:
        table.add_column(column.head, justify="right", no_wrap=True)
    for row in (row for block in blocks for row in block):
        title = Text("\n".join([row.title, row.subtitle, *row.notes]))
        figures = [
            Text(f"{cell.value}\n{cell.spread}" if cell.spread else cell.value, "bold" if cell.best else "")
            for cell in row.cells
        ]
        style = "italic" if row.mean else ""
        table.add_row(title, row.model, Text(" ".join(row.settings)), *figures, style=style, end_section=row.mean)
    return table


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m experiments.compare", description="Puts runs side by side.")
    parser.add_argument(
        "runs", metavar="RUN", nargs="+", type=Path, help="a folder like runs/tiger_beauty/197e01a39f81"
    )
    parser.add_argument("--out", type=Path, default=Path("compare.html"), help="the page (default: %(default)s)")
    parser.add_argument("--png", type=Path, metavar="FILE", help="save the drawing of quality against time as well")
    options = parser.parse_args(arguments)
    try:
        compare(options.runs, options.out, options.png)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
