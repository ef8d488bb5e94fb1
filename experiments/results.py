"""A run folder as figures: what was asked for, what it cost, what it reached."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import numpy as np

import models.classic_configs
import models.configs
from experiments.config import unless_set
from experiments.page import read_columns, read_json, read_text
from experiments.stages import VERSIONS, require_files
from sid.errors import UserError, first_line

if TYPE_CHECKING:
    from torch import Tensor

BEST, CURVES, PRETRAINING = "best.ckpt", "metrics.csv", "pretraining.csv"
NO_RESULT = ("name", "logger", "output_dir", "published", "data.data_dir", "data.interactions", "data.items",
             "embed.path", "model.form")  # fmt: skip
"""Options that change no result, or are told by the model and by the hashes of the stages."""
CLOCKS = ("seconds", "cpu_seconds")
READ = ("config.yaml", "environment.json", CURVES, PRETRAINING, "test.json")
TESTED = ("recall@5", "ndcg@5", "recall@10", "ndcg@10")


@dataclass(frozen=True)
class Run:
    """One run folder; where something has not been measured, it is missing from `figures`."""

    folder: Path
    name: str
    model: str
    options: dict[str, Any]
    """Dotted key -> value; beside the configuration `model`, the hashes of the stages `prepare` and `tokenize`, and
    `code` (see `older_code`)."""
    environment: dict[str, Any]
    columns: dict[str, np.ndarray]
    """Of `training_columns`; empty before the end of the first epoch."""
    figures: dict[str, float]
    notes: list[str]
    finished: bool
    wall: bool
    """Times are wall times, validations included: the run had a GPU, or is older than the column `cpu_seconds`."""

    @property
    def title(self) -> str:
        return f"{self.name}/{self.folder.name}"

    @property
    def minutes(self) -> np.ndarray:
        """Training time at the end of every epoch."""
        return training_minutes(self.columns)

    @property
    def config(self) -> str:
        """The same for two runs that differ in nothing but the seed."""
        return json.dumps(
            {key: value for key, value in self.options.items() if value and key != "seed"}, sort_keys=True
        )


def read_run(folder: Path) -> Run:
    """Raises UserError where the folder is no run, or a file of it is damaged."""
    require_run(folder)
    manifest, tested = (finished_stage(folder, stage) for stage in ("train", "evaluate"))
    config = read_config(folder / "config.yaml")
    environment = read_json(folder / "environment.json")
    test = finished_test(folder) or {}
    columns = training_columns(folder) if (folder / CURVES).exists() else {}
    epochs, figures = len(columns.get("epoch", ())), manifest.get("figures", {})
    wall = bool(columns) and ("cpu_seconds" not in columns or figures.get("device", "cpu") != "cpu")
    if wall:
        columns = {name: values for name, values in columns.items() if name != "cpu_seconds"}
    asked = config.get("train.precision")
    precision = figures.get("precision", asked)
    remarks = {
        f"unfinished: {epochs} of {config.get('train.max_epochs', '?')} epochs": not manifest,
        "not tested": bool(manifest) and not test,
        "wall minutes, with validations": wall,
        f"computed in {precision}, as its machine has no bfloat16": precision != asked,
    }
    model = model_name(config, manifest)
    hashes, absent = environment.get("stages", {}), "none" if "stages" in environment else "unknown"
    stages = {name: hashes.get(name, absent) for name in ("prepare", "tokenize")}
    usual = unless_set()
    options = {
        key: value
        for key, value in config.items()
        if not is_under(key, NO_RESULT) and (key not in usual or value != usual[key])
    }
    return Run(
        folder,
        str(config.get("name", folder.parent.name)),
        model,
        {**options, "model": model, "code": older_code(manifest.get("inputs", {}), tested.get("inputs", {})), **stages},
        environment,
        columns,
        measured(columns, figures, test),
        [words for words, holds in remarks.items() if holds],
        bool(manifest),
        wall,
    )


def finished_stage(run: Path, stage: str) -> dict[str, Any]:
    """Its manifest; {} where it is not finished. Raises UserError where what is read here is not what it wrote."""
    path = run / f"{stage}.manifest.json"
    if not path.exists():
        return {}
    manifest = read_json(path)
    written, again = manifest.get("files", {}), f"Repeat the run's command with force={stage}."
    if not isinstance(written, dict):
        raise UserError(f"{path} is damaged: files={written!r}, expected names and hashes. {again}")
    require_files(run, stage, {name: digest for name, digest in written.items() if name in READ}, again)
    return manifest


def training_columns(run: Path) -> dict[str, np.ndarray]:
    """Column -> values of metrics.csv, whose clocks begin with the pretraining, where there was one.

    Raises UserError where a file is missing or no table.
    """
    columns = read_columns(run / CURVES)
    if (run / PRETRAINING).exists():
        before = read_columns(run / PRETRAINING)
        columns |= {name: columns[name] + before[name][-1] for name in CLOCKS if name in columns and name in before}
    return columns


def finished_test(run: Path) -> dict[str, Any] | None:
    """test.json; None where there is none, or a test that was begun again since has not ended."""
    return read_json(run / "test.json") if (run / "evaluate.manifest.json").exists() else None


def older_code(trained: Mapping[str, Any], tested: Mapping[str, Any]) -> str | None:
    """The versions that a run was computed by, where the code computes otherwise now; else None.

    Args:
        trained, tested: what went into the stages train and evaluate.
    """
    kind = trained.get("kind", "")
    config = getattr(models.configs, kind, getattr(models.classic_configs, kind, None))
    then = trained.get("version", VERSIONS["train"]), trained.get("revision", 0)
    now = VERSIONS["train"], getattr(config, "revision", then[1])
    test = tested.get("version", VERSIONS["evaluate"])
    told = kind == "SidlightConfig" and trained.get("split", {}).get("cold_share") and "new_items" not in trained
    older = [f"training {then[0]}.{then[1]}"] * (then != now) + [f"test {test}"] * (test != VERSIONS["evaluate"])
    older += ["new items told from others"] * bool(told)
    return ", ".join(older) or None


def require_run(folder: Path) -> None:
    """Raises UserError where the folder is no run."""
    if not (folder / "config.yaml").is_file():
        runs = ", ".join(str(path.parent) for path in sorted(folder.glob("*/config.yaml")))
        hint = f"; did you mean {runs}?" if runs else "; give folders like runs/tiger_beauty/197e01a39f81"
        raise UserError(f"{folder} is no run: it holds no config.yaml{hint}")


def read_config(path: Path) -> dict[str, Any]:
    """Dotted key -> value. Raises UserError where the file is no configuration."""
    import yaml  # type: ignore[import-untyped]
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        content = OmegaConf.to_container(OmegaConf.create(read_text(path)))
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise UserError(f"{path} is no configuration ({str(error).splitlines()[0]}). Run the stage again.") from error
    if not isinstance(content, dict) or not content:
        raise UserError(f"{path} is no configuration: it holds no keys. Run the stage again.")
    return flat(content)


def flat(tree: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return found


def is_under(key: str, parents: Sequence[str]) -> bool:
    return any(f"{key}.".startswith(f"{parent}.") for parent in parents)


def model_name(config: Mapping[str, Any], manifest: Mapping[str, Any]) -> str:
    """The form of a decoder-only model, else the kind, which runs of before 2026-11-22 note in the manifest."""
    kind = str(config.get("model.kind") or manifest.get("inputs", {}).get("kind", "–")).removesuffix("Config").lower()
    return str(config["model.form"]) if "model.form" in config and kind in ("causal", "–") else kind


def measured(columns: Mapping[str, np.ndarray], train: Mapping[str, Any], test: Mapping[str, Any]) -> dict[str, float]:
    """Cost, validation at the epoch whose weights are kept, test."""
    minutes = training_minutes(columns)
    found: dict[str, Any] = {"minutes": float(np.nanmax(minutes))} if np.isfinite(minutes).any() else {}
    found |= {key: train.get(key) for key in ("parameters", "targets_per_cpu_second", "peak_memory_gib")}
    ndcg = columns.get("val/ndcg@10", np.empty(0))
    if np.isfinite(ndcg).any():
        best = np.nanargmax(ndcg)
        found |= {key: float(columns[key][best]) for key in ("val/recall@10", "val/ndcg@10") if key in columns}
    found |= {f"test/{key}": test.get("metrics", {}).get(key) for key in TESTED}
    found["users_per_second"] = test.get("users_per_second")
    return {key: value for key, value in found.items() if value is not None and np.isfinite(value)}


def training_minutes(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """CPU minutes at the end of every epoch, wall minutes where the file has no others."""
    return columns.get("cpu_seconds", columns.get("seconds", np.empty(0))) / 60


def load_weights(run: Path) -> dict[str, "Tensor"]:
    """The model's weights of the run's best validation. Raises UserError where there are none that can be read."""
    import torch

    path = run / "checkpoints" / BEST
    try:
        weights = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    except (OSError, RuntimeError, EOFError, KeyError, UnpicklingError) as error:
        reason = first_line(error)
        raise UserError(f"{path} cannot be read ({reason}); train again with force=train") from error
    return {name.removeprefix("model."): weight for name, weight in weights.items() if name.startswith("model.")}


def by_config(runs: Sequence[Run]) -> list[list[Run]]:
    """The runs in their order, those that differ only in the seed together."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.config, []).append(run)
    return list(groups.values())


def differing(runs: Sequence[Run]) -> list[str]:
    """Keys in which the runs differ. An option that a run does not have (yet) counts as switched off: 0, false, ''."""
    keys = dict.fromkeys(key for run in runs for key in run.options)
    return [key for key in keys if len({json.dumps(run.options.get(key) or None) for run in runs}) > 1]


def settings(run: Run, keys: Sequence[str], known: Sequence[str]) -> list[str]:
    """`key=value` of the run, every key as short as it can be without meaning another of the `known` ones."""
    return [
        f"{shortest(key, known)}={value if isinstance(value, str) else json.dumps(value, separators=(',', ':'))}"
        for key in keys
        if key != "model" and (value := run.options.get(key)) is not None
    ]


def shortest(key: str, known: Sequence[str]) -> str:
    parts = key.split(".")
    tails = (".".join(parts[-length:]) for length in range(1, len(parts)))
    return next((tail for tail in tails if sum(f".{other}".endswith(f".{tail}") for other in known) == 1), key)
