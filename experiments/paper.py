"""The tables and figures of a paper on one page, each beside what was published:

    python -m experiments.paper NAME [seeds="1 2 3"] [data="beauty"] [only="Table 2,Figure 5"] [key=value ...]

The runs are those of studies (see `experiments.study`): finished ones are reused, killed ones go on, and one that
fails leaves the others alone. After each, the page of all that is finished is written to
<output_dir>/papers/<name>/paper.{html,md,json}.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from experiments.named import experiments, require_named
from experiments.named._rivals import DATASETS
from experiments.papers import PAPERS, Paper
from experiments.run import answer, choose, leave, take, wait_passively
from experiments.stages import process_rank
from experiments.studies import STUDIES, Study
from experiments.study import SEEDS, execute, look, read_seeds, refuse_keys
from experiments.study_plan import Asked, Say, command, plan
from sid.errors import UserError

if TYPE_CHECKING:
    from experiments.paper_page import Page
    from experiments.pipeline import Pipeline
    from experiments.study_table import Cell

USAGE = """usage: make paper NAME=<paper> [SEEDS="1 2 3"] [DATA="beauty"] [ONLY="<part>,<part>"] [ARGS="key=value ..."]
       python -m experiments.paper <paper> [seeds="1 2 3"] [data="beauty"] [only="<part>,<part>"] [key=value ...]

Makes the tables and figures of a paper again, on its data sets or those of data=, and writes one page with ours beside
the published ones. Any field of the configuration but the seed is a key, and holds for all that have it: so a small
budget is ARGS="train.max_epochs=2 model.width=64"; keys that a part varies, such as model.num_layers, are the paper's.
"""


class Wanted(NamedTuple):
    """What a command asks for."""

    name: str
    paper: Paper
    studies: list[tuple[str, Asked]]
    """Heading -> what is asked of its study."""


class Chapter(NamedTuple):
    """A part of the paper, and what has come of it."""

    heading: str
    asked: Asked
    cells: list["Cell"]
    pipelines: dict[str, "Pipeline"]


def listing() -> str:
    lines = []
    for name, paper in PAPERS.items():
        lines += [f"  {name}  {paper.title}", *(f"    {part.heading}" for part in paper.parts)]
    return "\n".join(["papers:", *lines])


def read(arguments: Sequence[str]) -> Wanted:
    """Raises UserError."""
    own: dict[str, str | None] = {"seeds": SEEDS, "data": None, "only": None}
    rest = take(arguments, own)
    name, overrides = choose(rest, "paper", "make paper NAME=<paper>", PAPERS, listing())
    paper, seeds = PAPERS[name], read_seeds(own["seeds"] or "")
    data = None if own["data"] is None else own["data"].replace(",", " ").split()
    labels = [part.label for part in paper.parts]
    wanted = labels if own["only"] is None else [part.strip() for part in own["only"].split(",")]
    if unknown := [part for part in wanted if part not in labels]:
        raise UserError(f"there is no part {unknown[0]!r}; expected some of: {', '.join(labels)}")
    refuse_varied(paper, overrides)
    studies = []
    for place, part in enumerate(paper.parts):
        study = STUDIES[part.study]
        if part.rows:
            study = replace(study, rows={row: study.rows[row] for row in part.rows})
        refuse_keys(study, overrides)
        on = study.experiments if data is None else elsewhere(study, data)
        on = on if part.label in wanted else []
        studies.append((part.heading, Asked(f"{part.study}-{place}", study, seeds, list(study.rows), on, overrides)))
    if not any(asked.on for _, asked in studies):
        raise UserError(f"data={own['data']}: none of what is asked for has an experiment there")
    return Wanted(name, paper, studies)


def refuse_varied(paper: Paper, overrides: Sequence[str]) -> None:
    """Raises UserError for a key that some part varies: its rows would not be what they are called."""
    for part in paper.parts:
        for row, changes in STUDIES[part.study].rows.items():
            lists = changes.values() if isinstance(changes, dict) else [changes]
            varied = {word.partition("=")[0] for words in lists for word in words}
            for override in overrides:
                if override.partition("=")[0] in varied and (not part.rows or row in part.rows):
                    raise UserError(f"{override}: {part.label} varies it; leave it to the paper, or use make exp")


def elsewhere(study: Study, data: Sequence[str]) -> list[str]:
    """The study's models on these data sets. Raises UserError for one that there is not."""
    for name in data or [""]:
        if name not in DATASETS:
            require_named(f"tiger_{name}")
    models = dict.fromkeys(experiment.rpartition("_")[0] for experiment in study.experiments)
    known = set(experiments())
    return [f"{model}_{name}" for name in data for model in models if f"{model}_{name}" in known]


def run(arguments: Sequence[str]) -> None:
    """Runs or reuses everything; the first process writes the page. Raises UserError."""
    wanted = read(arguments)
    wait_passively()
    first = process_rank() == 0
    say: Say = print if first else lambda line: None
    chapters = []
    for heading, asked in wanted.studies:
        cells = plan(asked, say)
        chapters.append(Chapter(heading, asked, cells, look(cells)))
    from experiments.paper_page import gather, show, write
    from experiments.provenance import provenance

    environment = provenance(shlex.join(["python", "-m", "experiments.paper", *arguments]))
    configs = (config for chapter in chapters for cell in chapter.cells for config in cell.configs.values())
    folder = Path(next(configs).output_dir) / "papers" / wanted.name

    def save() -> "Page":
        page = gather(wanted.paper.title, chapters, environment)
        write(page, folder)
        return page

    page = None
    try:
        for chapter in chapters:
            if chapter.asked.on:
                say(chapter.heading)
                seeds, command_of = chapter.asked.seeds, partial(command, chapter.asked)
                keep = save if first else lambda: None
                execute(seeds, chapter.cells, chapter.pipelines, command_of, say, keep)
    finally:
        for chapter in chapters:
            chapter.pipelines.update(look(chapter.cells))  # another part may have run what this one shows
        page = save() if first else None
    if page is None:
        return
    show(page)
    print(f"written: {folder / 'paper.html'}, .md and .json")
    if failed := [cell for chapter in chapters for cell in chapter.cells if cell.asked and cell.problems]:
        rows = ", ".join(f"{cell.row} on {cell.experiment}" for cell in failed)
        raise UserError(f"{rows} failed, for the reason that stands below the table")


def main(arguments: list[str]) -> int:
    return answer(arguments, f"{USAGE}\n{listing()}\n", run)


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
