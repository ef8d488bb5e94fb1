"""`key=value` overrides of a run's configuration."""

import dataclasses
import difflib
import functools
import os
import re
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.config import TOKENIZERS, RunConfig, check, unread, unused
from models.classic_configs import ClassicConfig
from sid.configs import SIZES, TokenizerConfig
from sid.errors import UserError, require

PATHS = ("output_dir", "embed.path", "embed.encoder", "model.weights", "data.data_dir", "data.interactions",
         "data.items")  # fmt: skip
"""Keys whose values may begin with ~; a shell leaves it as it is behind `key=`."""


def override(config: RunConfig, assignments: list[str], idle: bool = False) -> RunConfig:
    """The config with `key=value` assignments applied, e.g. `model.num_layers=3`.

    Raises UserError for an assignment without "=", an unknown key (with the nearest one), a value of the wrong type,
    one that `check` refuses, or, unless `idle`, a key that nothing reads (see `unused`). Where the protocol becomes
    another, the experiment's rows of papers go.
    """
    if isinstance(config.model, ClassicConfig):
        refuse_unread(config.name, config.model, assignments)
    chosen = [assignment for assignment in assignments if assignment.startswith("tokenizer=")]
    for assignment in chosen:
        config = dataclasses.replace(config, tokenizer=choose_tokenizer(config.tokenizer, assignment))
    assignments = [assignment for assignment in assignments if assignment not in chosen]
    assignments = uniform_codebooks(config.tokenizer, assignments)
    tree = OmegaConf.structured(config)
    for assignment in assignments:
        key, sign, value = assignment.partition("=")
        if not sign:
            raise UserError(f"{assignment!r} is not an override; write key=value, for instance seed=2")
        if key not in (known := _keys(tree)):
            near = difflib.get_close_matches(key, known, n=3) or sorted(k for k in known if "." not in k)
            raise UserError(f"unknown key {key!r}; did you mean {', '.join(near)}?")
        try:
            given = value.strip() not in ("", "null") or (value == "" and _may_be_empty(config, key))
            if isinstance(OmegaConf.select(tree, key), str) and given:
                text = _text(value)
                OmegaConf.update(tree, key, os.path.expanduser(text) if key in PATHS else text)
            else:
                tree.merge_with_dotlist([assignment])
            OmegaConf.to_object(tree)
        except OmegaConfBaseException as error:
            inside = [name for name in known if name.startswith(f"{key}.")]
            problem = f"it has settings, {', '.join(inside)}" if inside else str(error).splitlines()[0]
            raise UserError(f"{assignment}: {problem}") from error
        except yaml.YAMLError as error:
            problem = getattr(error, "problem", None) or str(error).splitlines()[0]
            raise UserError(f"{assignment}: the value cannot be read ({problem}); write it as YAML") from error
    result: Any = OmegaConf.to_object(tree)
    if _protocol(result) != _protocol(config):
        result.published = {name: row for name, row in result.published.items() if config.published.get(name) != row}
    check(result)
    if not idle:
        refuse_unused(result, assignments)
    return result


def refuse_unused(config: RunConfig, assignments: list[str]) -> None:
    """Raises UserError for an override of what nothing reads in this configuration."""
    reasons = unused(config)
    for assignment in assignments:
        if why := reasons.get(assignment.partition("=")[0]):
            raise UserError(f"{assignment}: it changes nothing, as {why}")


def _may_be_empty(config: RunConfig, key: str) -> bool:
    *parents, name = key.split(".")
    if parents[:1] == ["published"]:  # by the names of papers' rows, which may have dots
        return False
    part: Any = functools.reduce(getattr, parents, config)
    return any(field.name == name and field.default == "" for field in dataclasses.fields(part))


def _text(value: str) -> str:
    """As YAML has it where it is quoted, else as it was written; YAML itself makes 20261130 of 2026_11_30."""
    value = value.strip()
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return str(yaml.safe_load(value)) if quoted else value


def _protocol(config: RunConfig) -> tuple[Any, ...]:
    """What makes results comparable: the data, which users and targets are asked for, and what the model is told."""
    split, told = config.split, config.evaluation.oracle_first_code
    return config.data.official, split.kind, split.cold_share, told


def uniform_codebooks(tokenizer: TokenizerConfig, assignments: list[str]) -> list[str]:
    """`tokenizer.size` and `tokenizer.depth`, two axes of a sweep, as `tokenizer.codebook_sizes`; the one that is not
    given is the tokenizer's. Raises UserError for one that is no number, or beside the sizes themselves."""
    axes = {"tokenizer.size": max(tokenizer.codebook_sizes), "tokenizer.depth": len(tokenizer.codebook_sizes)}
    given = [assignment for assignment in assignments if assignment.partition("=")[0] in axes]
    if not given:
        return assignments
    rest = [assignment for assignment in assignments if assignment not in given]
    for assignment in given:
        key, _, value = assignment.partition("=")
        number = int(value) if value.isascii() and value.isdecimal() else 0
        require(1 <= number < 2**31, key, value, "a whole number of at least 1")
        axes[key] = number
    twice = any(assignment.startswith("tokenizer.codebook_sizes=") for assignment in rest)
    require(not twice, given[0], "given", "nothing beside tokenizer.codebook_sizes")
    return [*rest, f"tokenizer.codebook_sizes={[axes['tokenizer.size']] * axes['tokenizer.depth']}"]


def refuse_unread(name: str, model: ClassicConfig, assignments: list[str]) -> None:
    """Raises UserError for an override of a part that the model does not have."""
    for assignment in assignments:
        part = re.split("[.=]", assignment, maxsplit=1)[0]
        if part in unread(model):
            raise UserError(f"{assignment}: {name} goes by item numbers and has no {part}")


def choose_tokenizer(old: TokenizerConfig, assignment: str) -> TokenizerConfig:
    """The tokenizer that `tokenizer=NAME` names, with seed, sample, sizes and, where it can, `reassign` of the old one.

    Sizes that either kind has of its own are not carried over. The old one itself where it is of that kind already.
    """
    name = assignment.partition("=")[2]
    if name not in TOKENIZERS:
        near = difflib.get_close_matches(name, TOKENIZERS, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise UserError(f"{assignment}: there is no such tokenizer{hint} (there are {', '.join(TOKENIZERS)})")
    if type(old) is TOKENIZERS[name]:
        return old
    kind = TOKENIZERS[name]
    new = kind(seed=old.seed, sample=old.sample, reassign=old.reassign and kind.has_last_level)
    if new.codebook_sizes == type(old)().codebook_sizes == list(SIZES):
        new.codebook_sizes = list(old.codebook_sizes)
    return new


def _keys(tree: DictConfig, prefix: str = "") -> list[str]:
    names = []
    for key in map(str, tree):
        names.append(f"{prefix}{key}")
        if not OmegaConf.is_missing(tree, key) and OmegaConf.is_dict(tree[key]):
            names += _keys(tree[key], f"{prefix}{key}.")
    return names
