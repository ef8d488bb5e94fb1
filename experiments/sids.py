"""The semantic IDs of an experiment, measured and drawn, alone or beside others:

    python -m experiments.sids NAME [against="NAME2 key=value ..."] [against="key=value ..."] [key=value ...]

Runs or reuses the stages up to tokenize (see `experiments.run`). The table is printed, and written with drawings to
<output_dir>/sids/<name>/sids.html.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from experiments.named import listing, named
from experiments.run import STAGES, answer, parse, wait_passively
from sid.errors import UserError

if TYPE_CHECKING:
    from experiments.config import RunConfig
    from experiments.pipeline import Pipeline

USAGE = """usage: make sids NAME=<experiment> [AGAINST="<overrides, or another experiment>"] [ARGS="key=value ..."]
       python -m experiments.sids <experiment> [against="[<experiment>] key=value ..."] [key=value ...]

Measures and draws the semantic IDs of an experiment; with against=, beside those that it has with other settings
(against=tokenizer=lsh), or that another experiment has (against=causal_sports). Finished stages are reused. Any field
of the configuration is a key.
"""


def read(arguments: Sequence[str]) -> list[tuple[str, "RunConfig"]]:
    """Configurations of one or two tables, and what tells them apart. Raises UserError."""
    against = [argument.partition("=")[2] for argument in arguments if argument.startswith("against=")]
    rest = [argument for argument in arguments if not argument.startswith("against=")]
    if not rest or "=" in rest[0]:
        raise UserError("which experiment? Write make sids NAME=<experiment>\n" + listing())
    if len(against) > 1:
        raise UserError("against= is there twice; two tables can be compared")
    name, stage, force, overrides = parse(rest)
    if (stage, force) != (STAGES[-1], ""):
        raise UserError("stage= and force= are for single runs: use them with make exp")
    from experiments.overrides import override

    config = override(named(name), overrides)
    if not against:
        return [(label(config), config)]
    words = read_words(against[0])
    changes = [word for word in words if "=" in word]
    if len(words) - len(changes) > 1:
        raise UserError(f"against={against[0]}: expected one experiment at most, and overrides like tokenizer=lsh")
    base = [named(word) for word in words if word not in changes]
    other = override(replace(base[0], output_dir=config.output_dir) if base else config, changes)
    labels = [f"{one.name} " * (other.name != config.name) + label(one) for one in (config, other)]
    if labels[0] == labels[1]:
        own = [word for word in overrides if not word.startswith("output_dir=")] if base else []
        labels = [", ".join(filter(None, (labels[0], " ".join(words)))) for words in (own, changes)]
    return list(zip(labels, (config, other), strict=True))


def read_words(against: str) -> list[str]:
    """The words of against=, as a shell would part them. Raises UserError."""
    try:
        words = shlex.split(against)
    except ValueError as error:
        raise UserError(f"against={against}: {error}") from error
    if not words:
        raise UserError('against= names nothing; write overrides, for instance against="tokenizer=lsh"')
    return words


def label(config: "RunConfig") -> str:
    """The tokenizer and the sizes of its codebooks: `rqvae 3×256`."""
    from experiments.config import TOKENIZERS

    names = {kind: name for name, kind in TOKENIZERS.items()}
    sizes = config.tokenizer.codebook_sizes
    alike = len(set(sizes)) == 1
    return f"{names[type(config.tokenizer)]} {f'{len(sizes)}×{sizes[0]}' if alike else '·'.join(map(str, sizes))}"


def run(arguments: Sequence[str]) -> None:
    """Runs or reuses the stages of each table, prints what was measured and writes the page. Raises UserError."""
    configs = read(arguments)
    wait_passively()
    from experiments.pipeline import Pipeline

    pipelines = {label: Pipeline(config) for label, config in configs}
    if len({pipeline.tokenize.hash for pipeline in pipelines.values()}) < len(configs):
        raise UserError("against= changes nothing that the semantic IDs depend on: both tables are the same")
    for pipeline in pipelines.values():
        pipeline.run("tokenize", lambda *figures: None)
    show(pipelines, shlex.join(["python", "-m", "experiments.sids", *arguments]))


def show(pipelines: dict[str, "Pipeline"], command: str) -> None:
    """Prints the tables and writes the page."""
    from rich.console import Console

    from experiments.sids_page import print_tables, write
    from experiments.sids_tables import Diagnosed

    tables = {
        label: Diagnosed(label, pipeline.table, measured(pipeline), pipeline.catalog)
        for label, pipeline in pipelines.items()
    }
    console = Console()
    print_tables(console, list(tables.values()))
    with console.status("drawing"):
        path = write([(table, pipelines[label]) for label, table in tables.items()], command)
    print(f"written: {path}")


def measured(pipeline: "Pipeline") -> dict[str, Any]:
    """The figures of the tokenize stage; measured now where it was finished by a version that did not."""
    figures = pipeline.figures["tokenize"]
    if "neighbourhood" in figures:
        return figures
    import numpy as np

    from experiments.tokenize import figures as measure

    pipeline.say("measuring: the tokenize stage is from a version that measured less")
    return measure(
        pipeline.table, np.load(pipeline.embed.folder / "vectors.npy", mmap_mode="r"), pipeline.catalog.items
    )


def main(arguments: list[str]) -> int:
    return answer(arguments, USAGE, run)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
