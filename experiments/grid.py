"""Tables in words: on the terminal and as Markdown; `grid` of page.html.j2 draws them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from rich.console import Console


class Grid(NamedTuple):
    """A table in words; the first columns are left, the others are right."""

    title: str
    heads: list[str]
    rows: list[list[str]]
    left: int = 1
    notes: Sequence[str] = ()

    @classmethod
    def of(cls, title: str, rows: Sequence[dict[str, str]]) -> "Grid":
        """Rows of head -> words, with the same heads."""
        return cls(title, list(rows[0]), [list(words.values()) for words in rows])


def print_grid(console: "Console", grid: Grid) -> None:
    """On the terminal; no figure is cut, however narrow it is."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shown = Table(box=box.SIMPLE_HEAD, title=grid.title or None, title_justify="left", padding=(0, 2, 0, 0))
    for place, head in enumerate(grid.heads):
        shown.add_column(head, justify="right" if place >= grid.left else "left", no_wrap=True)
    for words in grid.rows:
        shown.add_row(*words)
    console.width = max(console.width, Console(width=1000).measure(shown).maximum)
    console.print(shown, markup=False)
    for note in grid.notes:
        console.print(note, style="dim", highlight=False, markup=False)


def markdown_grid(grid: Grid) -> list[str]:
    rules = ["---", *["---:"] * (len(grid.heads) - 1)]
    lines = (f"| {' | '.join(words)} |" for words in (grid.heads, rules, *grid.rows))
    return [f"## {grid.title}", "\n".join(lines)]
