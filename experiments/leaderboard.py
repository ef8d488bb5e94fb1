"""Every retriever of one data set side by side, over seeds:

    python -m experiments.leaderboard DATASET [seeds="1 2 3"] [only="sasrec,tiger"] [key=value ...]

The runs are ordinary ones (see `experiments.run`): finished ones are reused, killed ones go on, and one that fails
leaves the others alone. After each, the table of all that is finished is written to
<output_dir>/leaderboards/<dataset>/leaderboard.{json,md,html}; at the end it is printed.
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments.named import documented, named
from experiments.named._rivals import DATASETS, RIVALS
from experiments.run import answer, choose, leave, take, wait_passively
from experiments.stages import process_rank
from experiments.study import SEEDS, Say, execute, look, read_seeds
from sid.errors import UserError

if TYPE_CHECKING:
    from experiments.leaderboard_page import Board
    from experiments.study_table import Cell

USAGE = """usage: make leaderboard DATASET=<dataset> [SEEDS="1 2 3"] [ONLY="<model>,<model>"] [ARGS="key=value ..."]
       python -m experiments.leaderboard <dataset> [seeds="1 2 3"] [only="<model>,<model>"] [key=value ...]

Runs every retriever of a data set, or those of only=, and ranks them. Finished runs are reused; the table holds all
that is finished with these seeds and keys, whatever models are asked for now, and takes the place of one with others.
Any field of the configuration but the seed is a key, and holds for all that have it: of classic models RPG alone has
a tokenizer, and model.num_layers is that of the models with layers.
"""
GENERATIVE = {
    "tiger": "TIGER",
    "tiger_small": "TIGER, small",
    "tiger_copying": "TIGER, small, copying",
    "causal": "Decoder-only",
    "sidlight": "Sidlight",
    "glass": "GLASS",
    "glass_small": "GLASS, small",
}


class Asked(NamedTuple):
    """What a command asks for."""

    data: str
    seeds: list[int]
    models: list[str]
    """To be run."""
    overrides: list[str]


def listing() -> str:
    return "\n".join(["datasets:", *(f"  {name:8}  {title}" for name, title in DATASETS.items())])


def retrievers(data: str) -> dict[str, str]:
    """Models that have an experiment with this data set's users and targets, and what to call them."""
    known = {model: named(f"{model}_{data}") for model in GENERATIVE if f"{model}_{data}" in documented()}
    first = next(iter(known.values()))
    alike = [model for model, config in known.items() if (config.data, config.split) == (first.data, first.split)]
    return {model: GENERATIVE[model] for model in alike} | RIVALS


def read(arguments: Sequence[str]) -> Asked:
    """Raises UserError."""
    own: dict[str, str | None] = {"seeds": SEEDS, "only": None}
    rest = take(arguments, own)
    data, overrides = choose(rest, "data set", "make leaderboard DATASET=<dataset>", DATASETS, listing())
    for override in overrides:
        if override.partition("=")[0] in ("seed", "stage", "force"):
            raise UserError(f'{override}: for single runs, with make exp; a leaderboard has seeds="1 2 3"')
        if override.startswith("data.name="):
            raise UserError(
                f"{override}: a leaderboard is of the data set it is named for; compare runs, with make compare"
            )
    known = retrievers(data)
    only = own["only"]
    models = list(known) if only is None else [model.strip() for model in only.split(",")]
    if unknown := [model for model in models if model not in known]:
        raise UserError(f"there is no model {unknown[0]!r} on {data}; expected some of: {', '.join(known)}")
    return Asked(data, read_seeds(own["seeds"] or ""), models, overrides)


def plan(asked: Asked) -> list["Cell"]:
    """A row for every model; one that cannot be configured so is a problem of its own."""
    from dataclasses import replace

    from experiments.config import check
    from experiments.overrides import override
    from experiments.study_plan import keys
    from experiments.study_table import Cell

    titles = retrievers(asked.data)
    known = {model: keys(named(f"{model}_{asked.data}"), asked.overrides) for model in titles}
    every = set().union(*known.values())
    cells = []
    for model, title in titles.items():
        lacks = every - known[model]
        left_out = [word for word in asked.overrides if word.partition("=")[0] in lacks]
        given = [word for word in asked.overrides if word not in left_out]
        cell = Cell(f"{model}_{asked.data}", title, given, asked=model in asked.models, left_out=left_out)
        try:
            config = override(named(cell.experiment), given)
            configs = {seed: replace(config, seed=seed) for seed in asked.seeds}
            for seeded in configs.values():
                check(seeded)
            cell.configs = configs
        except UserError as error:
            cell.problems[str(error)] = []
        cells.append(cell)
    return cells


def command(cell: "Cell", seed: int) -> str:
    """What to type for one run alone."""
    return shlex.join(["python", "-m", "experiments.run", cell.experiment, *cell.overrides, f"seed={seed}"])


def run(arguments: Sequence[str]) -> None:
    """Runs or reuses everything; the first process writes and shows the table. Raises UserError."""
    asked = read(arguments)
    wait_passively()
    first = process_rank() == 0
    say: Say = print if first else lambda line: None
    cells = plan(asked)
    from experiments.leaderboard_page import rank, show, write
    from experiments.provenance import provenance

    configs = [config for cell in cells for config in cell.configs.values()]
    if not configs:
        raise UserError(next(problem for cell in cells for problem in cell.problems))
    for cell in cells:
        if cell.asked and cell.left_out:
            say(f"{cell.experiment}: runs without {' '.join(cell.left_out)}, which it does not have")
    pipelines = look(cells)
    environment = provenance(shlex.join(["python", "-m", "experiments.leaderboard", *arguments]))
    folder = Path(configs[0].output_dir) / "leaderboards" / asked.data

    def save() -> "Board | None":
        board = rank(DATASETS[asked.data], cells, pipelines, environment)
        if board is not None:
            write(board, folder)
        return board

    try:
        execute(asked.seeds, cells, pipelines, command, say, save if first else lambda: None)
    finally:
        board = save() if first else None
    if board is not None:
        show(board)
        print(f"written: {folder / 'leaderboard.html'}, .md and .json")
    if failed := [cell.experiment for cell in cells if cell.asked and cell.problems]:
        problems = "; ".join(problem for cell in cells if cell.asked for problem in cell.problems)
        raise UserError(f"{', '.join(failed)} failed: {problems}")


def main(arguments: list[str]) -> int:
    return answer(arguments, f"{USAGE}\n{listing()}\n", run)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
