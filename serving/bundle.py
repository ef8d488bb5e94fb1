"""A trained retriever as one folder with all that answering takes: what is exported, served and shipped.

Legend: N items, L levels, D vector width, A attributes of an item.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor, nn

from models.classic_configs import ClassicConfig
from models.configs import Content, GenerativeConfig, ModelConfig
from models.next_item import Known
from sid.errors import UserError
from sid.table import FILES, SIDTable

CARD, WEIGHTS, INPUTS, ITEMS, USERS, EXAMPLES = (
    "bundle.json",
    "model.safetensors",
    "inputs.safetensors",
    "items.parquet",
    "users.parquet",
    "examples.parquet",
)
FORMAT = 3


@dataclass(frozen=True)
class Card:
    """What is written in bundle.json."""

    name: str
    """The experiment."""
    model: dict[str, Any]
    """The kind of the model's config, and its fields."""
    max_items: int
    long_items: int
    """Items before the last `max_items` that the model reads; 0: none."""
    num_users: int
    num_beams: int
    """What it was tested with."""
    constrained: bool
    knows_users: bool
    """Whether the model has something of its own for every user, so that users.parquet is there."""
    provenance: dict[str, Any] = field(default_factory=dict)
    """Run, commit, versions, test table."""
    format: int = FORMAT


@dataclass(frozen=True)
class Bundle:
    """A model and what it was built from.

    Attributes:
        card: the sizes, and where it comes from.
        model: on the CPU, in evaluation mode.
        items: columns item (the shop's id), title, category, candidate.
        users: (U,) ids of the users by number, for models that know users; None for others.
        table: None for a classic model.
        inputs: what the model is built from besides (see `build`), by name.
        examples: columns user, history (item numbers, oldest first) and next: a few to try it with.
    """

    card: Card
    model: nn.Module
    items: pa.Table
    users: pa.Array | None
    table: SIDTable | None
    inputs: dict[str, Tensor]
    examples: pa.Table

    def save(self, folder: Path) -> None:
        """Writes the bundle into an empty folder; bundle.json comes last."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: t.contiguous().clone() for name, t in self.model.state_dict().items()}, folder / WEIGHTS)
        save_file({name: t.contiguous() for name, t in self.inputs.items()}, folder / INPUTS)
        pq.write_table(self.items, folder / ITEMS)
        pq.write_table(self.examples, folder / EXAMPLES)
        if self.users is not None:
            pq.write_table(pa.table({"user": self.users}), folder / USERS)
        if self.table is not None:
            self.table.save(folder)
        written = asdict(self.card) | {"files": {name: sha256(folder / name) for name in self.files}}
        (folder / CARD).write_text(json.dumps(written, indent=1) + "\n")

    @property
    def files(self) -> list[str]:
        """Names of what `save` writes beside bundle.json."""
        users = [] if self.users is None else [USERS]
        return [WEIGHTS, INPUTS, ITEMS, EXAMPLES, *users, *([] if self.table is None else FILES)]

    @classmethod
    def load(cls, folder: Path) -> "Bundle":
        """Reads what `save` has written. Raises UserError where a file is missing, damaged or of another format."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            written = json.loads((folder / CARD).read_text())
            if written["format"] != FORMAT:
                raise UserError(
                    f"{folder} is a bundle of format {written['format']}; this version reads {FORMAT}. Export it again."
                )
            files = written.pop("files")
            for name, expected in files.items():
                if sha256(folder / name) != expected:
                    raise UserError(f"{folder / name} is damaged or was changed: export the run again")
            card = Card(**written)
            weights, inputs = load_file(folder / WEIGHTS), load_file(folder / INPUTS)
            items, examples = pq.read_table(folder / ITEMS), pq.read_table(folder / EXAMPLES)
            users = pq.read_table(folder / USERS)["user"].combine_chunks() if card.knows_users else None
            config = model_config(card.model)
            table = SIDTable.load(folder) if isinstance(config, GenerativeConfig) else None
            model = build(config, card, table, items.num_rows, inputs)
            model.load_state_dict(weights)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{folder} holds no whole bundle ({error}). Export the run again.") from error
        bundle = cls(card, model.eval(), items, users, table, inputs, examples)
        if unchecked := [name for name in bundle.files if name not in files]:
            raise UserError(
                f"{folder / CARD} is damaged: it does not say what {unchecked[0]} holds. Export the run again."
            )
        return bundle


def sha256(path: Path) -> str:
    """In hex, of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def model_config(written: dict[str, Any]) -> ModelConfig:
    """The config that a card describes. Raises ValueError for a kind, revision or field that this version does not
    have."""
    kinds: dict[str, type[ModelConfig]] = {}
    waiting: list[type[ModelConfig]] = [ModelConfig]
    while waiting:
        kind = waiting.pop()
        kinds[kind.__name__] = kind
        waiting += kind.__subclasses__()
    values = dict(written)
    name = values.pop("kind")
    if name not in kinds:
        raise ValueError(f"there is no model {name!r} in this version")
    if values.pop("revision", 0) != kinds[name].revision:
        raise ValueError(f"{name} computes otherwise since")
    unknown = values.keys() - {f.name for f in fields(kinds[name])}
    if unknown:
        raise ValueError(f"{name} has no {', '.join(sorted(unknown))} in this version")
    return kinds[name](**values)


def build(
    config: ModelConfig, card: Card, table: SIDTable | None, num_items: int, inputs: dict[str, Tensor]
) -> nn.Module:
    """A freshly initialised model.

    Args:
        inputs: vectors_ND, the content vectors, for a model that reads them, with new_N (see `Content`), where there
            are such items; for classic ones also counts_N and, where they read them, attributes_NA and codes_NL (see
            `models.next_item.Known`).
    """
    if isinstance(config, GenerativeConfig) and table is not None:
        vectors_ND: np.ndarray | None = inputs["vectors_ND"].numpy() if "vectors_ND" in inputs else None
        content = Content(table.codes_NL, vectors_ND, inputs.get("new_N"))
        return config.build(table.codebook_sizes, card.max_items, content)
    if isinstance(config, ClassicConfig):
        named = {name: inputs.get(name) for name in ("vectors_ND", "attributes_NA", "codes_NL")}
        return config.build(Known(num_items, card.num_users, card.max_items, inputs["counts_N"], **named))
    raise ValueError(f"{type(config).__name__} is neither a generative nor a classic model")
