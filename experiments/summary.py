"""What the terminal shows of a stage."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = ("recall@1", "recall@5", "ndcg@5", "recall@10", "ndcg@10", "recall@20", "ndcg@20")


def show(stage: str, figures: dict[str, Any], folder: Path) -> None:
    """Prints a stage's figures, beside the official ones where there are any; for `evaluate` the test table."""
    console = Console()
    if stage == "evaluate":
        console.print(test_table(figures))
        where = folder / ("report.html" if (folder / "report.html").exists() else "test.json")
        console.print(f"{figures['users']:,} test users, {figures['users_per_second']:.0f} a second; {where}")
        return
    console.print(figures_table(stage, figures))


def figures_table(stage: str, figures: dict[str, Any]) -> Table:
    """One row a figure; `official`, where it is there and not empty, becomes a column."""
    official = figures.get("official", {})
    columns = ("", "here", "official") if official else ("", "")
    table = Table(*columns, title=stage, show_header=bool(official), title_justify="left")
    for name in dict.fromkeys([*figures, *official]):
        if name not in ("items_per_prefix", "categories", "official"):  # `make sids` shows them
            cells = [_words(source.get(name, "")) for source in (figures, official)]
            table.add_row(name, *cells[: len(columns) - 1])
    return table


def test_table(result: dict[str, Any]) -> Table:
    """Our row, popularity, and the published rows: item-level metrics on all test users."""
    table = Table(title="test: Recall and NDCG, items, full ranking", title_justify="left")
    table.add_column("")
    for column in COLUMNS:
        table.add_column(column.replace("recall", "R").replace("ndcg", "N"), justify="right", no_wrap=True)
    fresh = {name: value for name in COLUMNS if (value := result["metrics"].get(f"fresh_{name}")) is not None}
    ours = {"this run": result["metrics"], "history left out": fresh}
    rows = {**ours, "popularity": result["popularity"], **result["published"]}
    for name, row in rows.items():
        table.add_row(name, *(f"{row[column]:.4f}" if column in row else "" for column in COLUMNS))
    others = {k: v for k, v in result["metrics"].items() if k.split("@")[0] in ("entropy", "coverage", "invalid")}
    table.caption = "  ".join(f"{name} {value:.4f}" for name, value in others.items())
    table.caption_justify = "left"
    return table


def _words(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return "  ".join(_words(entry) for entry in value)
    if isinstance(value, dict):
        return "  ".join(f"{name} {_words(entry)}" for name, entry in value.items())
    return str(value)
