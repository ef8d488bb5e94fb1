"""A paper's tables and figures in words: on the terminal, as Markdown, JSON and one HTML page."""

import dataclasses
import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments import cold, inside_figures, published, sampled
from experiments.figures import Panel, categories
from experiments.grid import Grid, markdown_grid, print_grid
from experiments.page import number, read_json, render
from experiments.sids_tables import item_categories
from experiments.stages import write_all
from experiments.study_page import Section, common_notes, plain, sections
from experiments.study_table import Summary, summarise

if TYPE_CHECKING:
    from experiments.paper import Chapter
    from experiments.pipeline import Pipeline

TEMPERATURES_NOTE = (
    "Lists of 500 test users at most, drawn without replacement, every code at the temperature; entropy in nats."
)


class Written(NamedTuple):
    """A part of the paper."""

    heading: str
    summary: Summary | None
    """None for what is drawn from a run of another part."""
    sections: list[Section]
    grids: list[Grid]
    drawings: list[Panel]


class Page(NamedTuple):
    title: str
    parts: list[Written]
    notes: list[str]
    environment: dict[str, Any]


def gather(title: str, chapters: Sequence["Chapter"], environment: dict[str, Any]) -> Page:
    """All that is finished."""
    parts = [chapter_part(chapter, environment) for chapter in chapters]
    parts = [part for part in parts if part.sections]
    first = chapters[0]
    shown = [first.pipelines[name] for name in [*first.asked.on, *first.pipelines] if name in first.pipelines]
    parts += looks(shown[0]) if shown else []
    notes = dict.fromkeys(note for part in parts if part.summary for note in common_notes(part.summary))
    return Page(title, parts, list(notes), environment)


def chapter_part(chapter: "Chapter", environment: dict[str, Any]) -> Written:
    asked = chapter.asked
    summary = summarise(asked.name, asked.study, chapter.cells, chapter.pipelines, environment)
    runs: dict[str, dict[str, dict[str, float]]] = {}
    for cell in chapter.cells:
        if cell.found:
            data = cell.experiment.rpartition("_")[2]
            runs.setdefault(data, {})[cell.experiment] = mean([run.metrics for run in cell.found.values()])
    drawings = [panel for data, group in runs.items() for panel in cold.panels(group, of=data)]
    return Written(chapter.heading, summary, sections(summary), [], drawings)


def mean(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of every metric that all runs have."""
    return {name: statistics.fmean(row[name] for row in rows) for name in rows[0] if all(name in row for row in rows)}


def looks(pipeline: "Pipeline") -> Iterable[Written]:
    """What the paper shows of one trained model: Figure 4, Figure 6, Tables 3 and 4."""
    name = pipeline.config.name
    category_N, finer_N = item_categories(pipeline.catalog)
    mosaics = categories(category_N, finer_N, pipeline.table.contents_NL.numpy())
    yield Written(f"Figure 4: what the codes mean, {name}", None, [], [], mosaics)
    test = read_json(pipeline.evaluate.folder / "test.json")
    if curve := inside_figures.invalid_curve(test["metrics"]):
        yield Written(f"Figure 6: invalid IDs, {name}", None, [], [], curve)
    if drawn := test.get("drawn"):
        drawings = sampled.panels(drawn, test["metrics"])
        heading = f"Tables 3 and 4: variety by temperature, {name}"
        yield Written(heading, None, [], [temperatures(drawn, pipeline.config.published)], drawings)


def temperatures(drawn: dict[str, dict[str, float]], beside: published.Rows) -> Grid:
    """A row for every temperature of all codes alike.

    Args:
        beside: what the run is shown beside; the paper's entropies are of Beauty.
    """
    on_beauty = beside == published.beside("beauty")
    rows = []
    for temperature, entropy in published.ENTROPY.items():
        ours = drawn.get(f"{temperature:g}", {})
        row = {"temperature": f"{temperature:g}", "Entropy@10": number(ours.get("entropy@10"))}
        row |= {"published Entropy@10": number(entropy)} if on_beauty else {}
        rows.append({**row, "Recall@10": number(ours.get("recall@10"))})
    return Grid.of("", rows)._replace(notes=[TEMPERATURES_NOTE])


def show(page: Page) -> None:
    """Prints the tables."""
    from rich.console import Console

    console = Console()
    for part in page.parts:
        for section in part.sections:
            print_grid(console, section.scores._replace(title=f"{part.heading}: {section.scores.title}"))
            for note in section.notes:
                console.print(note, style="dim", highlight=False, markup=False)
        for grid in part.grids:
            print_grid(console, grid._replace(title=part.heading))
    for note in page.notes:
        console.print(note, style="dim", highlight=False, markup=False)


def write(page: Page, folder: Path) -> None:
    """paper.json, .md and .html. Raises UserError where they cannot be written."""
    content = {part.heading: plain(dataclasses.asdict(part.summary)) for part in page.parts if part.summary}
    texts = {
        "paper.json": json.dumps(content, indent=1, ensure_ascii=False) + "\n",
        "paper.md": markdown(page),
        "paper.html": render("paper.html.j2", {"page": page}),
    }
    write_all(folder, texts)


def markdown(page: Page) -> str:
    lines = [f"# {page.title}"]
    for part in page.parts:
        for section in part.sections:
            lines += markdown_grid(section.scores._replace(title=f"{part.heading}: {section.scores.title}"))
            lines += section.notes
        for grid in part.grids:
            lines += [*markdown_grid(grid._replace(title=part.heading)), *grid.notes]
    commit = page.environment.get("commit") or "unknown"
    lines += [*page.notes, f"Commit {commit[:12]}{' with local changes' if page.environment.get('dirty') else ''}:"]
    return "\n\n".join([*lines, f"    {page.environment.get('command', '')}"]) + "\n"
