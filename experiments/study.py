"""Some experiments as they are and with one thing changed, row by row, over seeds:

    python -m experiments.study NAME [seeds="1 2 3"] [only="ROW,ROW"] [on=EXPERIMENT,...] [key=value ...]

The runs are ordinary ones (see `experiments.run`), one after the other: finished ones are reused, killed ones go on,
and one that fails leaves the others alone. After each, the table of all that is finished is written to
<output_dir>/studies/<name>/study.{json,md,html}; at the end it is printed.
"""

import json
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.named import require_named
from experiments.run import STAGES, answer, choose, leave, take, wait_passively
from experiments.stages import TakenError, finish_wandb, process_rank
from experiments.studies import STUDIES, Study
from experiments.study_plan import Asked, Say, command, plan
from sid.errors import UserError

if TYPE_CHECKING:
    from experiments.config import RunConfig
    from experiments.pipeline import Pipeline
    from experiments.study_table import Cell, Summary

USAGE = """usage: make study NAME=<study> [SEEDS="1 2 3"] [ONLY="<row>,<row>"] [ON=<experiment>,...] [ARGS="key=value"]
       python -m experiments.study <study> [seeds="1 2 3"] [only="<row>,<row>"] [on=<experiment>,...] [key=value ...]

Runs the rows of a study (experiments/studies.py) on its experiments, or on others with on=, and compares each with the
base. Finished runs are reused; the table holds all that is finished with these seeds and keys, whatever rows are asked
for now, and takes the place of one with others. Any field of the configuration but the seed is a key, and holds for
every row whose kinds of model and tokenizer have it.
"""
SEEDS = "1 2 3"


def listing() -> str:
    width = max(map(len, STUDIES))
    lines = (f"  {name:{width}}  {study.title}, on {', '.join(study.experiments)}" for name, study in STUDIES.items())
    return "\n".join(["studies:", *lines])


def read(arguments: Sequence[str]) -> Asked:
    """Raises UserError."""
    own: dict[str, str | None] = {"seeds": SEEDS, "only": None, "on": None}
    rest = take(arguments, own)
    name, overrides = choose(rest, "study", "make study NAME=<study>", STUDIES, listing())
    study = STUDIES[name]
    refuse_keys(study, overrides)
    on = study.experiments if own["on"] is None else own["on"].replace(",", " ").split()
    for experiment in on or [""]:
        require_named(experiment)
    return Asked(name, study, read_seeds(own["seeds"] or ""), read_rows(study, own["only"]), on, overrides)


def refuse_keys(study: Study, overrides: Sequence[str]) -> None:
    """Raises UserError for what a study decides by itself."""
    keys = {override.partition("=")[0]: override for override in overrides}
    if single := {"stage", "force"} & set(keys):
        raise UserError(f"{keys[single.pop()]}: stage= and force= are for single runs: use them with make exp")
    if "data.name" in keys:
        raise UserError(
            f"{keys['data.name']}: the data set is that of the experiments: choose them with on=, a paper's with data="
        )
    for key in ("seed", "tokenizer.seed") if study.tokenizer_seeds else ("seed",):
        if key in keys:
            raise UserError(f'{keys[key]}: a study has several; write seeds="1 2 3"')


def read_seeds(words: str) -> list[int]:
    """Raises UserError for anything but different whole numbers."""
    parts = words.replace(",", " ").split()
    seeds = [int(part) for part in parts if part.isascii() and part.isdecimal()]
    if not parts or len(set(seeds)) < len(parts):
        raise UserError(f'seeds={words!r}: expected different whole numbers, for instance seeds="1 2 3"')
    return seeds


def read_rows(study: Study, only: str | None) -> list[str]:
    """The rows asked for and the base. Raises UserError for a row that there is not."""
    wanted = list(study.rows) if only is None else [row.strip() for row in only.split(",")]
    if unknown := [row for row in wanted if row not in study.rows]:
        raise UserError(f"there is no row {unknown[0]!r}; expected some of: {', '.join(study.rows)}")
    return [row for row in study.rows if row in (study.base, *wanted)]


def run(arguments: Sequence[str]) -> None:
    """Runs or reuses everything; the first process writes and shows the table. Raises UserError."""
    asked = read(arguments)
    wait_passively()
    first = process_rank() == 0
    say: Say = print if first else lambda line: None
    cells = plan(asked, say)
    from experiments.provenance import provenance
    from experiments.study_page import show, write
    from experiments.study_table import summarise

    pipelines = look(cells)
    environment = provenance(shlex.join(["python", "-m", "experiments.study", *arguments]))
    output = next(config.output_dir for cell in cells for config in cell.configs.values())
    folder = Path(output) / "studies" / asked.name

    def save() -> "Summary":
        summary = summarise(asked.name, asked.study, cells, pipelines, environment)
        if summary.tables:
            write(summary, folder)
        return summary

    try:
        execute(asked.seeds, cells, pipelines, partial(command, asked), say, save if first else lambda: None)
    finally:
        summary = save() if first else None
    if summary is None:
        return
    show(summary)
    print(f"written: {folder / 'study.html'}, .md and .json")
    if failed := [f"{cell.row} on {cell.experiment}" for cell in cells if cell.asked and cell.problems]:
        raise UserError(f"{', '.join(failed)} failed, for the reason that stands below the table")


def look(cells: Sequence["Cell"]) -> dict[str, "Pipeline"]:
    """Notes in the cells which runs are finished; a finished run of every experiment that has one."""
    from experiments.study_table import measured

    pipelines: dict[str, Pipeline] = {}
    for cell in cells:
        for seed, config in cell.configs.items():
            if pipeline := finished(config):
                cell.found[seed] = measured(pipeline)
                pipelines.setdefault(cell.experiment, pipeline)
    return pipelines


def finished(config: "RunConfig") -> "Pipeline | None":
    """The run with its figures where all of its stages are finished and sound; nothing is downloaded for the answer."""
    from experiments.pipeline import Pipeline

    pipeline = Pipeline(config, say=lambda line: None)
    if not (pipeline.output / "runs" / config.name).is_dir() or not all(map(embedded, pipeline.companions)):
        return None
    try:
        for stage in pipeline.stages:
            figures = getattr(pipeline, stage).figures()
            if figures is None:
                return None
            pipeline.figures[stage] = figures
    except UserError:
        return None
    return pipeline


def embedded(companion: "Pipeline") -> bool:
    """Whether its items and vectors are there.

    The hashes of its raw files are those of its last preparation: files that are gone would be downloaded.
    """
    from experiments.config import hashed

    data = {"kind": type(companion.config.data).__name__, **hashed(companion.config.data)}
    manifests = (companion.output / "artifacts" / "prepare").glob("*/prepare.manifest.json")
    for path in sorted(manifests, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            inputs = json.loads(path.read_text())["inputs"]
            if inputs["data"] != data:
                continue
            companion.raw_files = {str(place): digest for place, digest in enumerate(inputs["raw"])}
        except (OSError, ValueError, KeyError, TypeError):
            continue
        return companion.prepare.manifest.exists() and companion.embed.manifest.exists()
    return False


def execute(
    seeds: Sequence[int],
    cells: Sequence["Cell"],
    pipelines: dict[str, "Pipeline"],
    command_of: Callable[["Cell", int], str],
    say: Say,
    save: Callable[[], object],
) -> None:
    """Runs what is asked for and not finished, every row with one seed before the next.

    Saves after each run, but where that would take more than a tenth of the time. `command_of` says what to type for
    one run alone.
    """
    from experiments.pipeline import Pipeline
    from experiments.study_table import measured

    wanted = [(cell, seed) for seed in seeds for cell in cells if cell.asked and seed in cell.configs]
    runs = [(cell, seed) for cell, seed in wanted if seed not in cell.found]
    say(f"{len(wanted) - len(runs)} of {len(wanted)} runs are finished")

    def news(line: str) -> None:
        if ": reused " not in line:
            say(f"  {line}")

    rested = 0.0
    for number, (cell, seed) in enumerate(runs, 1):
        say(f"[{number}/{len(runs)}] {cell.experiment}: {cell.row}, seed {seed}")
        pipeline = Pipeline(cell.configs[seed], say=news, command=command_of(cell, seed))
        try:
            pipeline.run(STAGES[-1], lambda *figures: None)
        except TakenError:
            raise
        except UserError as error:
            say(f"  failed: {error}")
            cell.problems.setdefault(str(error), []).append(seed)
            finish_wandb(1)
            continue
        except Exception as error:  # of memory, CUDA, faiss, Lightning: the other rows can go on
            traceback.print_exc()
            problem = traceback.format_exception_only(error)[0].splitlines()[0]
            say(f"  failed: {problem}")
            cell.problems.setdefault(problem, []).append(seed)
            finish_wandb(1)
            continue
        result = cell.found[seed] = measured(pipeline)
        pipelines.setdefault(cell.experiment, pipeline)
        say(f"  R@10 {result.metrics['recall@10']:.4f}  N@10 {result.metrics['ndcg@10']:.4f}  {result.lists.parent}")
        if (start := time.monotonic()) >= rested:
            save()
            rested = time.monotonic() + 9 * (time.monotonic() - start)


def main(arguments: list[str]) -> int:
    return answer(arguments, f"{USAGE}\n{listing()}\n", run)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
