"""An experiment whole and with its parts switched off one by one, over seeds:

    python -m experiments.ablation NAME [seeds="1 2 3"] [only="ROW,ROW"] [key=value ...]

The runs are ordinary ones (see `experiments.run`), one after the other: finished ones are reused, killed ones go on.
The table is printed, and written to <output_dir>/ablations/<name>/ablation.{json,md,html}.
"""

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from experiments.named import listing, named
from experiments.run import STAGES, answer, parse
from experiments.stages import process_rank
from sid.errors import UserError

if TYPE_CHECKING:
    from experiments.ablation_table import Measured
    from experiments.config import RunConfig
    from experiments.pipeline import Pipeline

USAGE = """usage: make ablation NAME=<experiment> [SEEDS="1 2 3"] [ONLY="<row>,<row>"] [ARGS="key=value ..."]
       python -m experiments.ablation <experiment> [seeds="1 2 3"] [only="<row>,<row>"] [key=value ...]

Runs the experiment whole and with its parts switched off one by one; the rows are in experiments/ablations.py. Finished
runs are reused. Any field of the configuration but the seed is a key, and holds for every row.
"""
SEEDS = "1 2 3"


class Planned(NamedTuple):
    """One run of a row, to come."""

    row: str
    command: str
    """What to type for this run alone."""
    config: "RunConfig"


def read(arguments: Sequence[str]) -> tuple[str, list[int], str | None, list[str]]:
    """Experiment, seeds, rows (None: all) and overrides. Raises UserError."""
    own = {"seeds": SEEDS, "only": None}
    rest = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in own:
            own[key] = value
        else:
            rest.append(argument)
    if not rest:
        raise UserError("which experiment? Write make ablation NAME=<experiment>\n" + listing())
    name, stage, force, overrides = parse(rest)
    if (stage, force) != (STAGES[-1], ""):
        raise UserError("stage= and force= are for single runs: use them with make exp")
    if given := [override for override in overrides if override.partition("=")[0] == "seed"]:
        raise UserError(f'{given[0]}: an ablation has several; write seeds="1 2 3"')
    return name, read_seeds(own["seeds"] or ""), own["only"], overrides


def read_seeds(words: str) -> list[int]:
    """Raises UserError for anything but different whole numbers."""
    parts = words.replace(",", " ").split()
    seeds = [int(part) for part in parts if part.isascii() and part.isdecimal()]
    if not parts or len(set(seeds)) < len(parts):
        raise UserError(f'seeds={words!r}: expected different whole numbers, for instance seeds="1 2 3"')
    return seeds


def choose(config: "RunConfig", only: str | None) -> dict[str, list[str]]:
    """The rows of the experiment's model, or those of them that are asked for: name -> overrides.

    Raises UserError for a model without an ablation, or a row that there is not.
    """
    from experiments.ablations import ABLATIONS

    kind = type(config.model)
    if kind not in ABLATIONS:
        there = ", ".join(known.__name__ for known in ABLATIONS)
        raise UserError(
            f"{config.name} has no ablation: experiments/ablations.py has rows for {there}, not for {kind.__name__}"
        )
    rows = ABLATIONS[kind]
    wanted = list(rows) if only is None else [name.strip() for name in only.split(",")]
    if unknown := [name for name in wanted if name not in rows]:
        raise UserError(f"there is no row {unknown[0]!r}; expected some of: {', '.join(rows)}")
    return {name: overrides for name, overrides in rows.items() if name in wanted}


def plan(
    name: str, seeds: Sequence[int], only: str | None, overrides: Sequence[str], say: Callable[[str], None]
) -> tuple[dict[str, list[str]], list[Planned]]:
    """The rows (name -> overrides), the whole model first, and their runs. A row that changes nothing is left out."""
    from experiments.ablations import WHOLE
    from experiments.config import check, override

    def configure(more: Sequence[str]) -> "RunConfig":
        return override(named(name), [*overrides, *more])

    whole = configure([])
    rows: dict[str, list[str]] = {WHOLE: []}
    runs = []
    for row, more in {WHOLE: [], **choose(whole, only)}.items():
        config = configure(more)
        if row != WHOLE and config == whole:
            say(f"left out, as it changes nothing here: {row} ({' '.join(more)})")
            continue
        rows[row] = more
        for seed in seeds:
            command = shlex.join(["python", "-m", "experiments.run", name, *overrides, *more, f"seed={seed}"])
            runs.append(Planned(row, command, replace(config, seed=seed)))
            check(runs[-1].config)
    return rows, runs


def run(arguments: Sequence[str]) -> None:
    """Runs or reuses everything; the first process shows and writes the table. Raises UserError."""
    name, seeds, only, overrides = read(arguments)
    # Threads that spin while they wait make small models 18 times slower where another process has a core.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    say: Callable[[str], None] = print if process_rank() == 0 else lambda line: None
    rows, runs = plan(name, seeds, only, overrides, say)
    found, whole = execute(runs, say)
    if process_rank():
        return
    from experiments.ablation_page import show, write
    from experiments.ablation_table import summarise
    from experiments.provenance import provenance

    environment = provenance(shlex.join(["python", "-m", "experiments.ablation", *arguments]))
    summary = summarise(whole.config.name, whole.catalog, whole.split.test, rows, found, environment)
    show(summary)
    for path in write(summary, whole.output / "ablations" / whole.config.name):
        print(f"written: {path}")


def execute(runs: Sequence[Planned], say: Callable[[str], None]) -> tuple[dict[str, list["Measured"]], "Pipeline"]:
    """The runs one after the other, by row, and the pipeline of the first."""
    from experiments.ablation_table import measured
    from experiments.pipeline import Pipeline

    def news(line: str) -> None:
        if ": reused " not in line:
            say(f"  {line}")

    found: dict[str, list[Measured]] = {}
    pipelines: list[Pipeline] = []
    for number, planned in enumerate(runs, 1):
        say(f"[{number}/{len(runs)}] {planned.row}, seed {planned.config.seed}")
        pipeline = Pipeline(planned.config, say=news, command=planned.command)
        pipeline.run(STAGES[-1], lambda *figures: None)
        result = measured(pipeline)
        say(f"  R@10 {result.metrics['recall@10']:.4f}  N@10 {result.metrics['ndcg@10']:.4f}  {result.lists.parent}")
        found.setdefault(planned.row, []).append(result)
        pipelines = pipelines or [pipeline]
    return found, pipelines[0]


def main(arguments: list[str]) -> int:
    return answer(arguments, USAGE, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
