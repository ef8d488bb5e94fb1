"""From a run folder to a retriever in use: a bundle (`serving.bundle`) of the weights of its best validation.

Array names end in their shape: U users.
"""

import html
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import yaml  # type: ignore[import-untyped]

from datamodules.attributes import attributes
from datamodules.catalog import Catalog
from datamodules.split import Split, SplitConfig, learnt_counts
from experiments.page import read_json, read_text
from experiments.results import BEST, finished_test, load_weights, older_code, require_run
from experiments.stages import VERSIONS, require_files
from models.classic_configs import ClassicConfig
from models.configs import GenerativeConfig, ModelConfig
from serving.bundle import CARD, Bundle, Card, build, model_config
from serving.recommender import Recommender
from sid.errors import UserError
from sid.table import SIDTable

EXAMPLES = 50
WEIGHTS = f"checkpoints/{BEST}"


def artifacts_of(run: Path, prepared: str) -> Path:
    """Beside the runs as they are called, or as they lie, should a folder on the way be a link to another disk: where
    the catalogue is that the run was trained on."""
    called = Path(os.path.abspath(run / "../../../artifacts"))
    lying = (run.resolve() / "../../../artifacts").resolve()
    return lying if (lying / "prepare" / prepared).is_dir() else called


def recommender(folder: Path, device: str = "cpu") -> Recommender:
    """Of a run, or of a bundle that `experiments.export` has written. Raises UserError where it is neither."""
    return Recommender.load(folder, device) if (folder / CARD).exists() else Recommender(bundle_of(folder), device)


def bundle_of(run: Path) -> Bundle:
    """The bundle of a trained run, from its folder and the artifacts beside it; raw files are not needed.

    Raises:
        UserError: the folder is no run, its training is not finished or was another version's, or a part of it is
            missing or damaged.
    """
    require_run(run)
    try:
        return _bundle_of(run)
    except UserError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, OSError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{run}, or an artifact that it was trained on, is damaged ({type(error).__name__}: {reason}). Repeat its "
            "command with force=train, or take it from a copy."
        ) from error


def _bundle_of(run: Path) -> Bundle:
    environment = read_json(run / "environment.json")
    if not (run / "train.manifest.json").exists():
        raise UserError(f"{run} is not trained to its end; repeat {environment.get('command', 'its command')}")
    manifest = read_json(run / "train.manifest.json")
    trained, advice = manifest["inputs"], "Repeat the run's command with force=train, or take it from a copy."
    require_files(run, "train", {name: manifest["files"][name] for name in ("config.yaml", WEIGHTS)}, advice)
    config = yaml.safe_load(read_text(run / "config.yaml"))
    sizes = {"kind": trained["kind"], "revision": trained.get("revision", 0), **config["model"]}
    if "weights" in sizes:
        sizes["weights"] = ""  # where training started is of no use any more, and may not be there
    try:
        if trained.get("version") != VERSIONS["train"] or older_code(trained, {}):
            raise ValueError("models compute otherwise since")
        model = model_config(sizes)
    except ValueError as error:
        commit = environment.get("commit") or "unknown"
        raise UserError(f"{run} is of another version ({error}): train again, or use its commit ({commit})") from error
    stages = environment["stages"]
    artifacts = artifacts_of(run, stages["prepare"])
    splitting = SplitConfig(**config["split"])
    catalog = splitting.known(Catalog.load(artifacts / "prepare" / stages["prepare"]))
    split = splitting.build(catalog)
    reads_codes = isinstance(model, GenerativeConfig) or (isinstance(model, ClassicConfig) and model.reads_codes)
    codes = SIDTable.load(artifacts / "tokenize" / stages["tokenize"]) if reads_codes else None
    table = codes if isinstance(model, GenerativeConfig) else None
    embedded = artifacts / "embed" / stages.get("embed", "")
    inputs = model_inputs(model, catalog, split, embedded, codes, new=splitting.cold_share > 0)
    reads_long = isinstance(model, GenerativeConfig) and model.reads_long
    card = Card(
        name=config["name"],
        model=sizes,
        max_items=config["sequences"]["max_items"],
        long_items=config["sequences"]["long_items"] if reads_long else 0,
        num_users=catalog.num_users,
        num_beams=config["evaluation"]["num_beams"],
        constrained=config["evaluation"]["constrained"],
        knows_users=False,
        provenance=provenance(run),
    )
    network = build(model, card, table, catalog.num_items, inputs)
    network.load_state_dict(load_weights(run))
    card = replace(card, knows_users=knows_users(network))
    users = catalog.users["user"].combine_chunks() if card.knows_users else None
    return Bundle(card, network.eval(), shown_items(catalog), users, table, inputs, examples(catalog, split))


def provenance(run: Path) -> dict[str, Any]:
    """Where a bundle comes from, and what its model reached."""
    environment = read_json(run / "environment.json")
    kept = {name: environment.get(name) for name in ("commit", "versions", "seed", "stages")}
    test = finished_test(run)
    return {"run": run.resolve().name, **kept, "test": {} if test is None else test["metrics"]}


def model_inputs(
    model: ModelConfig, catalog: Catalog, split: Split, embedded: Path, codes: SIDTable | None, new: bool
) -> dict[str, torch.Tensor]:
    """What a model is built from besides its sizes (see `serving.bundle.build`); `embedded`: the embed stage's folder;
    `codes`: the table of one that reads them; `new`: whether some items were held back from the training.

    Raises UserError where that is needed and not what the stage wrote.
    """
    inputs = {}
    if isinstance(model, ClassicConfig):
        inputs["counts_N"] = torch.from_numpy(learnt_counts(catalog, split))
        if model.reads_attributes:
            inputs["attributes_NA"] = torch.from_numpy(attributes(catalog.items)[0])
        if codes is not None:
            inputs["codes_NL"] = codes.contents_NL
    if (isinstance(model, ClassicConfig) and model.reads_vectors) or (
        isinstance(model, GenerativeConfig) and model.reads_content
    ):
        files = read_json(embedded / "embed.manifest.json")["files"]
        require_files(embedded, "embed", files, f"Remove {embedded} and repeat the run's command.")
        if new and isinstance(model, GenerativeConfig):
            inputs["new_N"] = torch.from_numpy(learnt_counts(catalog, split) == 0)
        inputs["vectors_ND"] = torch.from_numpy(np.load(embedded / "vectors.npy").astype(np.float32))
    return inputs


def knows_users(network: Any) -> bool:
    """Whether the model has something of its own for every user, so that a bundle must know their ids."""
    return hasattr(network, "users") or bool(getattr(getattr(network, "tokens", None), "num_user_tokens", 0))


def shown_items(catalog: Catalog) -> pa.Table:
    """What is shown of the items: id, title (the id, where there is none), category, whether it may be recommended."""
    raw_ids = catalog.items["item"].to_pylist()
    titles = (" ".join(html.unescape(title or "").split()) for title in catalog.items["title"].to_pylist())
    columns = {
        "item": raw_ids,
        "title": [title or raw for title, raw in zip(titles, raw_ids, strict=True)],
        "category": [html.unescape(name or "") for name in catalog.items["category"].to_pylist()],
    }
    return pa.table({**columns, "candidate": catalog.items["candidate"]})


def examples(catalog: Catalog, split: Split) -> pa.Table:
    """Test users, evenly spaced: their ids, histories, and the item that came next."""
    chosen = np.unique(np.linspace(0, len(split.test.user_E) - 1, EXAMPLES).astype(int))
    asked = split.test.only(chosen)
    start_U = catalog.offsets_U1[asked.user_E]
    histories = [catalog.item_M[start:end].tolist() for start, end in zip(start_U, asked.end_E, strict=True)]
    return pa.table(
        {
            "user": catalog.users["user"].take(pa.array(asked.user_E)),
            "history": pa.array(histories, pa.list_(pa.int32())),
            "next": catalog.item_M[asked.target_E],
        }
    )
