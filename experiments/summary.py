"""What the terminal shows of a stage."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = ("recall@1", "recall@5", "ndcg@5", "recall@10", "ndcg@10", "recall@20", "ndcg@20")


def show(stage: str, figures: dict[str, Any], folder: Path) -> None:
    """Prints a stage's figures; for `evaluate` the test table."""
    console = Console()
    if stage == "evaluate":
        console.print(test_table(figures))
        console.print(
            f"{figures['users']:,} test users, {figures['users_per_second']:.0f} a second; {folder}/report.html"
        )
        return
    table = Table(title=stage, show_header=False, title_justify="left")
    for name, value in figures.items():
        if name != "items_per_prefix":
            table.add_row(name, _words(value))
    console.print(table)


def test_table(result: dict[str, Any]) -> Table:
    """Our row, popularity, and the published rows: item-level metrics on all test users."""
    table = Table(title="test: Recall and NDCG, items, full ranking", title_justify="left")
    table.add_column("")
    for column in COLUMNS:
        table.add_column(column.replace("recall", "R").replace("ndcg", "N"), justify="right", no_wrap=True)
    rows = {"this run": result["metrics"], "popularity": result["popularity"], **result["published"]}
    for name, row in rows.items():
        table.add_row(name, *(f"{row[column]:.4f}" if column in row else "" for column in COLUMNS))
    others = {k: v for k, v in result["metrics"].items() if k.split("@")[0] in ("entropy", "coverage", "invalid")}
    table.caption = "  ".join(f"{name} {value:.4f}" for name, value in others.items())
    table.caption_justify = "left"
    return table


def _words(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, list):
        return "  ".join(_words(entry) for entry in value)
    if isinstance(value, dict):
        return "  ".join(f"{name} {_words(entry)}" for name, entry in value.items())
    return str(value)
