"""The typed configuration of a run, and `key=value` overrides on it.

Every part's dataclass lives beside what it builds. A field with `metadata={"hashed": False}` changes no result (where
files lie, what is logged): it does not enter the hash that names a stage.
"""

import dataclasses
import difflib
from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from datamodules.catalog import CatalogConfig
from datamodules.configs import SequenceConfig
from datamodules.embed import EmbedConfig
from datamodules.split import SplitConfig
from lightning_modules.configs import OptimizerConfig, RQVAEConfig
from models.configs import ModelConfig, TigerConfig
from sid.errors import UserError

LOGGERS = ("csv", "wandb")


@dataclass
class TrainConfig:
    """The Lightning trainer of the retriever."""

    max_epochs: int = 200
    patience: int = 10
    """Validations without a better val/ndcg@10 before training stops."""
    validate_every: int = 1
    """Epochs between two validations, each followed by a checkpoint."""
    precision: str = "32-true"
    """32-true or bf16-mixed."""
    clip: float = 1.0
    """Largest gradient norm."""
    accelerator: str = "auto"
    devices: str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"


@dataclass
class EvaluationConfig:
    """What is decoded and counted at every validation, and at the test."""

    num_beams: int = 50
    free_beams: int = 20
    recall_at: list[int] = field(default_factory=lambda: [1, 5, 10, 20])
    ndcg_at: list[int] = field(default_factory=lambda: [5, 10, 20])
    entropy_at: list[int] = field(default_factory=lambda: [10, 20, 50])
    invalid_at: list[int] = field(default_factory=lambda: [10, 20])
    coverage_at: int = 10


def _unhashed(default: str) -> Any:
    return field(default=default, metadata={"hashed": False})


@dataclass
class RunConfig:
    """One experiment from raw files to a test table."""

    name: str
    data: CatalogConfig
    seed: int = 1
    """Seed of the retriever: weights, batch order, dropout. The tokenizer has its own."""
    split: SplitConfig = field(default_factory=SplitConfig)
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    tokenizer: RQVAEConfig = field(default_factory=RQVAEConfig)
    sequences: SequenceConfig = field(default_factory=SequenceConfig)
    model: ModelConfig = field(default_factory=TigerConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    published: dict[str, dict[str, float]] = field(default_factory=dict, metadata={"hashed": False})
    """Rows of papers to print beside ours: name -> metric -> value."""
    logger: str = _unhashed("csv")
    """csv (always written), or wandb as well."""
    output_dir: str = _unhashed(".")
    """Where artifacts/ and runs/ go."""


def hashed(config: Any) -> Any:
    """A config as plain data, without the fields that change no result."""
    if not dataclasses.is_dataclass(config):
        return config
    fields = (f for f in dataclasses.fields(config) if f.metadata.get("hashed", True))
    return {f.name: hashed(getattr(config, f.name)) for f in fields}


def override(config: RunConfig, assignments: list[str]) -> RunConfig:
    """The config with `key=value` assignments applied, e.g. `model.num_layers=3`.

    Raises UserError for an assignment without "=", an unknown key (with the nearest one) or a value of the wrong type.
    """
    tree = OmegaConf.structured(config)
    for assignment in assignments:
        key, sign, _ = assignment.partition("=")
        if not sign:
            raise UserError(f"{assignment!r} is not an override; write key=value, for instance seed=2")
        if key not in (known := _keys(tree)):
            near = difflib.get_close_matches(key, known, n=3) or sorted(k for k in known if "." not in k)
            raise UserError(f"unknown key {key!r}; did you mean {', '.join(near)}?")
        try:
            tree.merge_with_dotlist([assignment])
            OmegaConf.to_object(tree)
        except OmegaConfBaseException as error:
            raise UserError(f"{assignment}: {str(error).splitlines()[0]}") from error
    result: Any = OmegaConf.to_object(tree)
    if result.logger not in LOGGERS:
        raise UserError(f"logger={result.logger}: expected one of {', '.join(LOGGERS)}")
    return result


def _keys(tree: DictConfig, prefix: str = "") -> list[str]:
    names = []
    for key in map(str, tree):
        names.append(f"{prefix}{key}")
        if not OmegaConf.is_missing(tree, key) and OmegaConf.is_dict(tree[key]):
            names += _keys(tree[key], f"{prefix}{key}.")
    return names


def to_yaml(config: RunConfig) -> str:
    """The resolved config as YAML."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))
