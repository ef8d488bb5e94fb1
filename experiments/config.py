"""The typed configuration of a run.

Every part's dataclass lives beside what it builds. A field with `metadata={"hashed": False}` changes no result (where
files lie, what is logged): it does not enter the hash that names a stage. One with `metadata={"hashed": "if set"}`
enters it only where it is not at its default: stages from before there was such a field are found again. A field with
`metadata=AT_TEST` changes the test alone: runs that differ in nothing else share their training (see `asked_at_test`).
"""

import dataclasses
import re
from dataclasses import dataclass, field
from typing import Any

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf

from datamodules.catalog import CatalogConfig
from datamodules.configs import SequenceConfig
from datamodules.embed import EmbedConfig
from datamodules.split import SplitConfig
from experiments.named import require_named
from lightning_modules.configs import LETTERConfig, OptimizerConfig, RQVAEConfig, VQVAEConfig
from models.classic_configs import ClassicConfig
from models.configs import GlassConfig, ModelConfig, SidlightConfig, TigerConfig
from sid.configs import (
    ChanceConfig,
    HyperplanesConfig,
    ProductConfig,
    ResidualKMeansConfig,
    TokenizerConfig,
    TreeConfig,
)
from sid.errors import require

LOGGERS = ("csv", "wandb")
PRECISIONS = ("32-true", "bf16-mixed")
ACCELERATORS = ("auto", "cpu", "gpu", "cuda")
STRATEGIES = ("auto", "ddp", "fsdp")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
AT_TEST = {"hashed": False, "at_test": True}
TOKENIZERS: dict[str, type[TokenizerConfig]] = {
    "rqvae": RQVAEConfig,
    "vqvae": VQVAEConfig,
    "letter": LETTERConfig,
    "rqkmeans": ResidualKMeansConfig,
    "tree": TreeConfig,
    "lsh": HyperplanesConfig,
    "opq": ProductConfig,
    "random": ChanceConfig,
}
"""What `tokenizer=` may be."""


@dataclass
class TrainConfig:
    """The Lightning trainer of the retriever."""

    max_epochs: int = 200
    patience: int = 10
    """Validations without a better val/ndcg@10 before training stops."""
    validate_every: int = 1
    """Epochs between two validations, each followed by a checkpoint; a divisor of `max_epochs`."""
    checkpoint_minutes: float = field(default=10.0, metadata={"hashed": False})
    """Minutes of training after which there is a checkpoint within an epoch too."""
    precision: str = "32-true"
    """32-true or bf16-mixed."""
    clip: float = 1.0
    """Largest gradient norm."""
    ema: float = 0.0
    """Decay a step of the running mean of the weights that is validated and kept; 0: the weights themselves."""
    accelerator: str = "auto"
    """cpu, gpu (or cuda), or auto: the GPU if there is one."""
    devices: str = "auto"
    num_nodes: int = 1
    strategy: str = "auto"
    """auto, ddp, or fsdp: the processes of a machine share out the optimiser's state."""

    def one_device(self) -> bool:
        """Whether it works on a single device of a single machine."""
        if self.num_nodes > 1:
            return False
        if self.devices != "auto" or self.accelerator == "cpu":
            return str(self.devices) in ("1", "auto")
        import torch

        return torch.cuda.device_count() <= 1

    def check(self, learns: bool = True) -> None:
        """Raise UserError for a value that no training can start with; `learns`: there are epochs."""
        require(self.precision in PRECISIONS, "train.precision", self.precision, " or ".join(PRECISIONS))
        require(self.accelerator in ACCELERATORS, "train.accelerator", self.accelerator, ", ".join(ACCELERATORS))
        require(self.strategy in STRATEGIES, "train.strategy", self.strategy, ", ".join(STRATEGIES))
        devices = str(self.devices)
        counted = devices.isdecimal() and int(devices) >= 1
        require(counted or devices == "auto", "train.devices", devices, "auto or a number of at least 1")
        require(self.num_nodes >= 1, "train.num_nodes", self.num_nodes, "at least 1")
        require(self.max_epochs >= 1, "train.max_epochs", self.max_epochs, "at least 1")
        fits = 1 <= self.validate_every <= self.max_epochs or not learns
        require(fits, "train.validate_every", self.validate_every, f"1 to train.max_epochs={self.max_epochs}")
        key, minutes = "train.checkpoint_minutes", self.checkpoint_minutes
        require(0 < minutes <= 1e6, key, minutes, "above 0, at most a million")
        require(self.patience >= 0, "train.patience", self.patience, "at least 0")
        require(self.clip >= 0, "train.clip", self.clip, "at least 0")
        require(0 <= self.ema < 1, "train.ema", self.ema, "at least 0 and below 1")
        averaged = self.strategy != "fsdp" or not self.ema
        require(averaged, "train.ema", self.ema, "0 with train.strategy=fsdp, where no process has all weights")


@dataclass
class EvaluationConfig:
    """What is decoded and counted at every validation, and at the test."""

    num_beams: int = 50
    free_beams: int = 20
    constrained: bool = False
    """Normalise the model's probabilities anew over the codes that each prefix allows, instead of masking them
    afterwards: faster, another ranking."""
    oracle_first_code: bool = field(default=False, metadata=AT_TEST)
    """Tell the model the first code of every target: the upper bound of what the other codes can reach."""
    recall_at: list[int] = field(default_factory=lambda: [1, 5, 10, 20])
    ndcg_at: list[int] = field(default_factory=lambda: [5, 10, 20])
    entropy_at: list[int] = field(default_factory=lambda: [10, 20, 50])
    invalid_at: list[int] = field(default_factory=lambda: [10, 20])
    coverage_at: int = 10

    def check(self) -> None:
        """Raise UserError for a list that is longer than what is decoded, or lacks the 10 that training looks at."""
        for name in ("num_beams", "free_beams"):
            require(getattr(self, name) >= 1, f"evaluation.{name}", getattr(self, name), "at least 1")
        for name in ("recall_at", "ndcg_at", "entropy_at", "invalid_at", "coverage_at"):
            value = getattr(self, name)
            counts = value if isinstance(value, list) else [value]
            beams = "free_beams" if name == "invalid_at" else "num_beams"
            limit = getattr(self, beams)
            fits = bool(counts) and all(1 <= count <= limit for count in counts)
            many = "one or more numbers from " if isinstance(value, list) else ""
            require(fits, f"evaluation.{name}", value, f"{many}1 to evaluation.{beams}={limit}")
        require(10 in self.ndcg_at, "evaluation.ndcg_at", self.ndcg_at, "10 among them: training goes by val/ndcg@10")
        require(10 in self.recall_at, "evaluation.recall_at", self.recall_at, "10 among them: reports show recall@10")


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
    tokenizer: TokenizerConfig = field(default_factory=RQVAEConfig)
    combined_with: list[str] = field(default_factory=list)
    """Experiments whose items share the codebooks: the tokenizer is fitted to all, one table (TIGER, Table 10). Each is
    as its file says, but for `embed` and `output_dir`, which are this run's: overrides of data.* do not reach it."""
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
    found = {f.name: (f, getattr(config, f.name)) for f in dataclasses.fields(config) if f.metadata.get("hashed", True)}
    unset = {name for name, (f, value) in found.items() if f.metadata.get("hashed") == "if set" and value == f.default}
    return {name: hashed(value) for name, (_, value) in found.items() if name not in unset}


def unless_set() -> dict[str, Any]:
    """Dotted key -> default of the fields that enter a stage's name only where they are not at it. Older configurations
    do not have them."""
    parts: dict[str, list[Any]] = {
        "split": [SplitConfig],
        "embed": [EmbedConfig],
        "tokenizer": list(TOKENIZERS.values()),
        "sequences": [SequenceConfig],
        "model": [SidlightConfig],
        "optimizer": [OptimizerConfig],
    }
    found = ((part, f) for part, kinds in parts.items() for kind in kinds for f in dataclasses.fields(kind))
    return {f"{part}.{f.name}": f.default for part, f in found if f.metadata.get("hashed") == "if set"}


def asked_at_test(config: EvaluationConfig) -> dict[str, Any]:
    """The fields that change the test alone, without those at their defaults."""
    fields = (f for f in dataclasses.fields(config) if f.metadata.get("at_test"))
    return {f.name: value for f in fields if (value := getattr(config, f.name)) != f.default}


def as_trained(config: RunConfig) -> RunConfig:
    """The config that a training sees: the test's own fields at their defaults."""
    fields = dataclasses.fields(config.evaluation)
    defaults: dict[str, Any] = {f.name: f.default for f in fields if f.metadata.get("at_test")}
    return dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, **defaults))


def unread(model: ClassicConfig) -> list[str]:
    """Parts of the configuration that a classic model does not have."""
    reads = {"tokenizer": model.reads_codes, "embed": model.reads_vectors or model.reads_codes}
    return [part for part, does in reads.items() if not does]


def unused_by(model: ModelConfig) -> dict[str, str]:
    """Dotted key -> why the model leaves it unread, of parts that it has."""
    found: dict[str, list[str]] = {}
    if model.learns_from == "prefixes":
        found["learns from prefixes"] = ["sequences.stride"]
    if not isinstance(model, GlassConfig):
        found["reads the last max_items alone"] = ["sequences.long_items"]
    if isinstance(model, ClassicConfig):
        found["scores whole items"] = ["evaluation.free_beams", "evaluation.invalid_at"]
        if not model.learns:
            names = ("max_epochs", "patience", "validate_every", "checkpoint_minutes", "clip", "ema")
            options = [f"optimizer.{f.name}" for f in dataclasses.fields(OptimizerConfig)]
            of_batches = [f"sequences.{name}" for name in ("stride", "steps_per_epoch", "item_dropout", "batch_size")]
            found["learns nothing"] = [*options, *(f"train.{name}" for name in names), *of_batches]
    return {key: why for why, keys in found.items() for key in keys}


def unused(config: RunConfig, kind: str = "", encoder: str = "") -> dict[str, str]:
    """Dotted key -> why nothing reads it in this configuration, whose split.kind and embed.encoder may be given."""
    kind, encoder = kind or config.split.kind, encoder or config.embed.encoder
    found = {key: f"{config.name} {why}" for key, why in unused_by(config.model).items()}
    if kind != "time":
        found["split.test_share"] = f"split.kind is {kind}"
    if kind == "leave_one_out":
        found["split.validation_share"] = f"split.kind is {kind}"
    if encoder != "tfidf":
        found["embed.dim"] = f"embed.encoder is {encoder}"
    return found


def check(config: RunConfig) -> None:
    """Raise UserError, with key, value and what was expected, for a value that a stage would stumble over later."""
    require(
        NAME.fullmatch(config.name) is not None,
        "name",
        repr(config.name),
        "letters, digits, _ . - after a letter or digit",
    )
    require(0 <= config.seed < 2**31, "seed", config.seed, f"0 to {2**31 - 1}")
    require(config.logger in LOGGERS, "logger", config.logger, f"one of {', '.join(LOGGERS)}")
    for part in (config.split, config.embed, config.tokenizer, config.sequences, config.model, config.optimizer):
        part.check()
    learns = not isinstance(config.model, ClassicConfig) or config.model.learns
    config.train.check(learns)
    epochs, every = config.train.max_epochs, config.train.validate_every
    used = epochs % every == 0 or config.split.learn_validation or not learns
    expected = f"a divisor of train.max_epochs={epochs}: what is learnt behind the last validation is thrown away"
    require(used, "train.validate_every", every, expected)
    config.evaluation.check()
    whole = config.optimizer.kind != "adafactor" or config.train.strategy != "fsdp"
    expected = "adamw, and its learning_rate, weight_decay, warmup_steps and schedule, with train.strategy=fsdp"
    require(whole, "optimizer.kind", config.optimizer.kind, expected)
    ordered = config.model.learns_from == "prefixes" or config.split.kind != "given"
    kinds = "leave_one_out or time: the model learns from whole sequences, and given targets have no order"
    require(ordered, "split.kind", config.split.kind, kinds)
    given = config.model.learns_from == "prefixes" or config.sequences.batches == "like"
    require(given, "sequences.batches", config.sequences.batches, "like: it is about prefixes, and windows are random")
    whole = config.model.learns_from == "prefixes" or not config.sequences.item_dropout
    expected = "0: it is about prefixes; models that learn from windows have model.item_dropout, or none"
    require(whole, "sequences.item_dropout", config.sequences.item_dropout, expected)
    seen = not (config.split.cold_share and config.tokenizer.reassign)
    expected = "false with split.cold_share: an item that nobody has seen must not get a code of its own"
    require(seen, "tokenizer.reassign", config.tokenizer.reassign, expected)
    able = [name for name, kind in TOKENIZERS.items() if kind.has_last_level]
    possible = config.tokenizer.has_last_level or not config.tokenizer.reassign
    expected = f"false: of the tokenizers, {', '.join(able)} have distances to the codes of a last level"
    require(possible, "tokenizer.reassign", config.tokenizer.reassign, expected)
    if isinstance(config.model, ClassicConfig):
        for key in ("evaluation.constrained", "evaluation.oracle_first_code"):
            value = getattr(config.evaluation, key.partition(".")[2])
            require(not value, key, value, f"false: {config.name} scores whole items")
        alone = config.model.reads_codes or not config.combined_with
        require(alone, "combined_with", config.combined_with, f"none: {config.name} has no codebooks")
    check_combined(config)


def check_combined(config: RunConfig) -> None:
    """Raise UserError where the other experiments are none, or none whose items can share the codebooks."""
    for name in config.combined_with:
        require_named(name)
    different = len(set(config.combined_with)) == len(config.combined_with)
    require(different, "combined_with", config.combined_with, "every name once")
    alone = not (config.combined_with and config.tokenizer.reads_events)
    require(alone, "combined_with", config.combined_with, "none: this tokenizer reads the events of one catalogue")
    embed = config.embed
    settings = f"embed.encoder={embed.encoder} embed.whiten={embed.whiten} embed.collaborative={embed.collaborative:g}"
    expected = (
        f"none with {settings}: every catalogue has a vector space of its own then, and no codebook fits two; choose "
        "vectors that are not fitted to the catalogue, such as embed.encoder=minilm embed.whiten=0 "
        "embed.collaborative=0"
    )
    require(not (config.combined_with and embed.own_space), "combined_with", config.combined_with, expected)


def to_yaml(config: RunConfig) -> str:
    """The resolved config as YAML, without parts that a classic model does not have; parts that could be of several
    kinds say which they are."""
    tree: Any = OmegaConf.to_container(OmegaConf.structured(config))
    missing = unread(config.model) if isinstance(config.model, ClassicConfig) else []
    for part in [*missing, "combined_with"] if "tokenizer" in missing else missing:
        del tree[part]
    for part in [part for part in ("data", "tokenizer", "model") if part in tree]:
        tree[part] = {"kind": type(getattr(config, part)).__name__, **tree[part]}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True)
