"""Recommendations of a trained run: `python -m experiments.recommend RUN --history "id,id" --k 10`.

RUN is a run folder or an exported bundle. With `--users` histories are read from a Parquet file, however long, and
answers written to another.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.run import answer, wait_passively
from sid.errors import UserError

if TYPE_CHECKING:
    from serving.recommender import Question, Recommender

USAGE = """usage: python -m experiments.recommend RUN --history "id,id,..." [--k 10]
       python -m experiments.recommend RUN --users histories.parquet --out recommendations.parquet [--k 10]

RUN           a run folder, such as runs/tiger_tiny/1a2b3c4d5e6f, or an exported bundle
--history     ids of the items, oldest first, with commas between them
--users       columns user and history (a list of ids, oldest first); --out gets user, items, scores
--k           items to recommend (10)
--beams       beams of a generative model (those of its test)
--temperature         0: the likeliest items; above, they are drawn (0)
--first-temperature   of the first code, for lists of several kinds of item; the others are drawn at --temperature, or 1
--seed        of the draws (0)
--fresh       leave out items of the history
--device      cpu or cuda (cpu)
"""


class Parser(argparse.ArgumentParser):
    """Mistakes are a UserError."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise UserError(f"{message}\n{USAGE}")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Raises UserError."""
    parser = Parser(add_help=False)
    parser.add_argument("run", type=Path)
    parser.add_argument("--history")
    parser.add_argument("--users", type=Path)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--beams", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--first-temperature", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args(arguments)
    if (asked.history is None) == (asked.users is None):
        parser.error("give --history or --users")
    if (asked.users is None) != (asked.out is None):
        parser.error("--users and --out belong together")
    return asked


def recommend(arguments: Sequence[str]) -> None:
    """Does what the command line asks for."""
    asked = parse(arguments)
    wait_passively()
    from experiments.deploy import recommender
    from serving.recommender import Question
    from serving.table import recommend_table

    question = Question(asked.k, asked.beams, asked.temperature, asked.first_temperature, asked.seed, fresh=asked.fresh)
    ready = recommender(asked.run, asked.device)
    if asked.history is None:
        done = recommend_table(ready, asked.users, asked.out, question)
        print(f"{done.answered:,} users answered, {done.empty:,} without a known item; {asked.out}")
    else:
        show(ready, [raw.strip() for raw in asked.history.split(",") if raw.strip()], question)


def show(ready: "Recommender", raw_ids: list[str], question: "Question") -> None:
    """Prints the history and what is recommended after it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    history, unknown = ready.numbers(raw_ids)
    console = Console(emoji=False)
    if unknown:
        console.print(f"not in the catalogue, left out: {', '.join(unknown)}", style="yellow", markup=False)
    if not history:
        raise UserError(f"--history: none of these ids is in the catalogue of {ready.num_items:,} items")
    (lists, _) = ready.answer([history], question)
    table = Table("", "item", "title", "category", "semantic ID", "score", title=ready.bundle.card.name)
    rows = [("", item, None) for item in history]
    found = zip(lists.items_BK[0].tolist(), lists.scores_BK[0].tolist(), strict=True)
    rows += [(str(rank), item, score) for rank, (item, score) in enumerate(found, 1) if item >= 0]
    for rank, item, score in rows:
        row = ready.shown(item)
        codes = " ".join(map(str, row.get("codes", ())))
        words = (row["item"], row["title"], row["category"], codes, "" if score is None else f"{score:.3f}")
        table.add_row(rank, *map(Text, words))
        if item == history[-1] and rank == "":
            table.add_section()
    console.print(table)


def main(arguments: list[str]) -> int:
    return answer(arguments, USAGE, recommend)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
