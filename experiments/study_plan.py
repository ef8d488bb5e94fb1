"""Which runs a study consists of: a row of changes on an experiment, for every seed.

Heavy packages are imported where they are used: mistakes in what is asked for answer at once.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.studies import Study
from sid.errors import UserError

if TYPE_CHECKING:
    from experiments.config import RunConfig
    from experiments.study_table import Cell

Say = Callable[[str], None]


class Asked(NamedTuple):
    """What a command asks for."""

    name: str
    study: Study
    seeds: list[int]
    rows: list[str]
    """To be run, the base among them."""
    on: list[str]
    """Experiments to be run."""
    overrides: list[str]


def plan(asked: Asked, say: Say) -> list["Cell"]:
    """Every row of every experiment, those that are not asked for too: they may be finished.

    Raises UserError for a mistake in what is asked for; a row that cannot be configured is a problem of its own.
    """
    cells = []
    for experiment in dict.fromkeys([*asked.study.experiments, *asked.on]):
        try:
            cells += rows_on(experiment, asked, say)
        except UserError:
            if experiment in asked.on:
                raise
    return cells


def rows_on(experiment: str, asked: Asked, say: Say) -> list["Cell"]:
    """The rows that change something in this experiment, the base first. Raises UserError where the base cannot be."""
    from experiments.named import named
    from experiments.study_table import Cell

    study, here, own = asked.study, experiment in asked.on, named(experiment)
    printed = {row: dict(figures) for row, figures in study.published.get(experiment, {}).items()}
    left_out = lacking(experiment, asked)
    base = configure(own, study.base, asked, left_out[study.base])
    cells = []
    for row in (study.base, *(row for row in study.rows if row != study.base)):
        overrides = study.overrides(row, experiment)
        if overrides is None:
            continue
        cell = Cell(experiment, row, overrides, asked=here and row in asked.rows, left_out=left_out[row])
        try:
            config = configure(own, row, asked, left_out[row])
        except UserError as error:
            cell.problems[str(error)] = []
            cells.append(cell)
            continue
        if row != study.base and config == base:
            if cell.asked:
                say(f"left out, as it changes nothing in {experiment}: {row} ({' '.join(overrides)})")
            continue
        if (config.data, config.split) != (base.data, base.split):
            raise UserError(f"row {row!r} has other test targets than {study.base!r}: they cannot be compared")
        if row in printed:  # which go where the protocol is another
            shown = configure(replace(own, published=printed), row, asked, left_out[row])
            cell.published = shown.published.get(row, {})
        cell.configs = {seed: seeded(config, seed, study.tokenizer_seeds) for seed in asked.seeds}
        cells.append(cell)
    return cells


def configure(experiment: "RunConfig", row: str, asked: Asked, left_out: Sequence[str]) -> "RunConfig":
    from experiments.overrides import override

    given = without(asked.overrides, left_out)
    return override(experiment, [*given, *(asked.study.overrides(row, experiment.name) or [])])


def lacking(experiment: str, asked: Asked) -> dict[str, list[str]]:
    """Row -> overrides for all rows that its kinds of model and tokenizer have nothing for, but another row's, or
    another experiment's, have."""
    from experiments.named import named

    every = dict.fromkeys([experiment, *asked.study.experiments, *asked.on])
    kinds = {
        (name, row): keys(named(name), [*asked.overrides, *(asked.study.overrides(row, name) or [])])
        for name in every
        for row in asked.study.rows
    }
    known = set().union(*kinds.values())
    return {
        row: [word for word in asked.overrides if word.partition("=")[0] in known - kinds[experiment, row]]
        for row in asked.study.rows
    }


def keys(config: "RunConfig", overrides: Sequence[str]) -> set[str]:
    """Those of the kinds of model and tokenizer that the configuration has then, and of the parts that it reads."""
    from experiments.config import TOKENIZERS, unread, unused
    from models.classic_configs import ClassicConfig
    from sid.configs import TokenizerConfig

    chosen = {key: value for key, _, value in (word.partition("=") for word in overrides)}
    tokenizer = chosen.get("tokenizer")
    kinds: dict[str, Any] = {
        "model": type(config.model),
        "tokenizer": TOKENIZERS.get(tokenizer, TokenizerConfig) if tokenizer else type(config.tokenizer),
        **{part: type(getattr(config, part)) for part in ("embed", "sequences", "optimizer", "train", "evaluation")},
    }
    for part in unread(config.model) if isinstance(config.model, ClassicConfig) else ():
        del kinds[part]
    axes = ("tokenizer.size", "tokenizer.depth") if "tokenizer" in kinds else ()
    options = (f"{part}.{field.name}" for part, kind in kinds.items() for field in fields(kind))
    return {*kinds, *axes, *options} - {*unused(config, encoder=chosen.get("embed.encoder", ""))}


def without(overrides: Sequence[str], left_out: Sequence[str]) -> list[str]:
    return [override for override in overrides if override not in left_out]


def seeded(config: "RunConfig", seed: int, tokenizer_too: bool) -> "RunConfig":
    """Raises UserError for a seed that is too large."""
    from experiments.config import check

    tokenizer = replace(config.tokenizer, seed=seed) if tokenizer_too else config.tokenizer
    result = replace(config, seed=seed, tokenizer=tokenizer)
    check(result)
    return result


def command(asked: Asked, cell: "Cell", seed: int) -> str:
    """What to type for one run alone."""
    seeds = [f"seed={seed}", *([f"tokenizer.seed={seed}"] if asked.study.tokenizer_seeds else [])]
    given = without(asked.overrides, cell.left_out)
    return shlex.join(["python", "-m", "experiments.run", cell.experiment, *given, *cell.overrides, *seeds])
