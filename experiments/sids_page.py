"""The page of `experiments.sids`, and what it prints."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.config import to_yaml
from experiments.example_users import Shown, in_words
from experiments.grid import print_grid
from experiments.page import render
from experiments.provenance import provenance
from experiments.sids_tables import Diagnosed, alike, known, levels, section
from experiments.stages import write_all

if TYPE_CHECKING:
    from rich.console import Console

    from experiments.pipeline import Pipeline

FIRST = 20
"""Items that are listed in words."""


def first_items(tables: Sequence[Diagnosed]) -> list[tuple[list[str], list[list[Shown]]]]:
    """(labels, items with their codes in each of these tables): the first by code, of every catalogue."""
    lists = []
    for catalog in dict.fromkeys(one.table.catalog for one in tables):
        same = [one for one in tables if one.table.catalog == catalog]
        items = same[0].table.trie.leaf_item[:FIRST].tolist()
        rows = []
        for item, above in zip(items, [None, *items], strict=False):
            shown = [in_words(item, item if above is None else above, one.catalog, one.table) for one in same]
            if above is None:
                shown = [one._replace(agrees="", differs=one.agrees) for one in shown]
            rows.append(shown)
        lists.append(([one.label for one in same], rows))
    return lists


def print_tables(console: "Console", tables: Sequence[Diagnosed]) -> None:
    """What was measured, on the terminal."""
    for grid in [levels(tables), *known(tables)]:
        print_grid(console, grid)
    for sentence in alike(tables):
        console.print(f"\n{sentence}", highlight=False, markup=False)


def write(tables: Sequence[tuple[Diagnosed, "Pipeline"]], command: str) -> Path:
    """Writes the page, which needs no other file. Raises UserError where it cannot be written."""
    found, pipelines = [table for table, _ in tables], [pipeline for _, pipeline in tables]
    first = pipelines[0]
    catalogs = {one.table.catalog: (pipeline.config.name, one.catalog.figures()) for one, pipeline in tables}
    page = {
        "title": first.config.name,
        "labels": [one.label for one in found],
        "catalogs": list(catalogs.values()),
        "codes": section(found),
        "alike": alike(found),
        "lists": first_items(found),
        "configs": [(one.label, to_yaml(pipeline.config)) for one, pipeline in tables],
        "environment": environment(tables, command),
        "date": datetime.now(UTC).strftime("%d %B %Y"),
    }
    folder = first.output / "sids" / first.config.name
    write_all(folder, {"sids.html": render("sids.html.j2", page)})
    return folder / "sids.html"


def environment(tables: Sequence[tuple[Diagnosed, "Pipeline"]], command: str) -> dict[str, Any]:
    """Where the figures come from: commit, versions, machine, command, stages, raw files."""
    several = len(tables) > 1
    stages = {
        f"{stage.name} of {one.label}" if several else stage.name: stage.hash
        for one, pipeline in tables
        for stage in (pipeline.prepare, pipeline.embed, pipeline.tokenize)
    }
    raw: dict[str, str] = {}
    for one, pipeline in tables:
        for name, digest in pipeline.raw_files.items():
            raw[name if raw.get(name, digest) == digest else f"{name} of {one.label}"] = digest
    return {**provenance(command), "stages": stages, "raw_files": raw}
