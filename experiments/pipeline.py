"""The five stages of an experiment: prepare, embed, tokenize, train, evaluate. Heavy packages are imported where used.

Legend: N items, D vector width, L levels.
"""

import json
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datamodules.catalog import Catalog
from datamodules.split import Split, learnt_counts
from experiments.config import RunConfig, as_trained, asked_at_test, hashed, to_yaml, unread
from experiments.named import named
from experiments.provenance import provenance
from experiments.stages import LAST, VERSIONS, Stage, file_hash, fingerprint, process_rank, raw_hash, write_atomically
from lightning_modules.configs import LETTERConfig
from models.classic_configs import ClassicConfig
from models.configs import Content, GenerativeConfig, SidlightConfig
from sid.errors import UserError, require

if TYPE_CHECKING:
    from datamodules.sequences import SequenceDataModule
    from lightning_modules.retriever import RetrieverModule
    from models.next_item import Known
    from sid.table import SIDTable

STAGES = tuple(VERSIONS)


@dataclass
class Pipeline:
    """The stages of one configuration, each run or reused when asked for."""

    config: RunConfig
    force: str = ""
    """Rebuild from this stage on."""
    say: Callable[[str], None] = print
    command: str = ""
    """What to type for this run; "": the command line of this process."""
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    watchers: list[Any] = field(default_factory=list)
    """Lightning callbacks that look at the training, and change nothing that it leaves."""

    @property
    def output(self) -> Path:
        return Path(self.config.output_dir)

    @property
    def stages(self) -> tuple[str, ...]:
        """Those that this experiment needs, in order: a classic model seldom has semantic IDs or vectors."""
        model = self.config.model
        missing = unread(model) if isinstance(model, ClassicConfig) else []
        return tuple(name for name in STAGES if {"tokenize": "tokenizer"}.get(name, name) not in missing)

    def _artifact(self, name: str, inputs: dict[str, Any], resumes: bool = False) -> Stage:
        inputs = {"version": VERSIONS[name], **inputs}
        return Stage(name, self.output / "artifacts" / name / fingerprint(inputs), inputs, resumes)

    @cached_property
    def raw_files(self) -> dict[str, str]:
        """Contents of the input files in their order: name -> SHA-256; of two of one name the second is `2:name`."""
        found: dict[str, str] = {}
        for path in self.config.data.raw_files():
            name = path.name if path.name not in found else f"{len(found) + 1}:{path.name}"
            found[name] = raw_hash(path, self.output / "artifacts" / "raw_hashes.json")
        return found

    @cached_property
    def prepare(self) -> Stage:
        data = {"kind": type(self.config.data).__name__, **hashed(self.config.data)}
        inputs: dict[str, Any] = {"data": data, "raw": list(self.raw_files.values())}
        if revision := self.config.data.revision:
            inputs["revision"] = revision
        return self._artifact("prepare", inputs)

    @cached_property
    def embed(self) -> Stage:
        encoder = self.config.embed.encoder
        given = [self.config.embed.file, *(Path(encoder).rglob("*") if "/" in encoder else ())]
        inputs = {"embed": hashed(self.config.embed), "prepare": self.prepare.hash}
        inputs["given"] = [file_hash(path) for path in sorted(given) if path.is_file()]
        if self.config.embed.collaborative:
            inputs["split"] = hashed(self.config.split)
        return self._artifact("embed", inputs)

    @cached_property
    def tokenize(self) -> Stage:
        config = self.config.tokenizer
        inputs = {"kind": type(config).__name__, "tokenizer": hashed(config)}
        inputs["embed"] = [self.embed.hash, *(other.embed.hash for other in self.companions)]
        if config.reassign:
            inputs["revision"] = 1  # since then without a digit that is 0 for all
        if getattr(config, "balanced", False) or isinstance(config, LETTERConfig):
            inputs["balance"] = "of far vectors too"  # which older ones left in one cluster
        if config.reads_events or self.config.split.cold_share:
            inputs["split"] = hashed(self.config.split)
        return self._artifact("tokenize", inputs, resumes=True)

    @cached_property
    def train(self) -> Stage:
        parts = ("seed", "split", "sequences", "model", "optimizer", "train", "evaluation")
        inputs = {part: hashed(getattr(self.config, part)) for part in parts}
        inputs["kind"] = type(self.config.model).__name__
        inputs["version"] = VERSIONS["train"]
        if revision := self.config.model.revision:
            inputs["revision"] = revision
        if self.config.split.cold_share and isinstance(self.config.model, SidlightConfig):
            inputs["new_items"] = "unknown"  # older ones learnt to tell them from others
        if self.config.train.ema and getattr(self.config.model, "reads_attributes", False):
            inputs["ema"] = "of weights alone"  # older ones averaged the numbers of attributes too
        weights = getattr(self.config.model, "weights", "")
        given = sorted(Path(weights).glob("[!.]*")) if weights else []
        if hashes := [file_hash(path) for path in given if path.is_file()]:
            inputs["weights"] = hashes
        if isinstance(self.config.model, ClassicConfig):
            parents = [name for name in ("prepare", "embed", "tokenize") if name in self.stages]
            inputs |= {name: getattr(self, name).hash for name in parents}
        else:
            inputs["tokenize"] = self.tokenize.hash
        return Stage(
            "train",
            self.output / "runs" / self.config.name / fingerprint(inputs),
            inputs,
            resumes=True,
            collective=True,
            spare=LAST,
        )

    @cached_property
    def evaluate(self) -> Stage:
        """The test: in the run's folder, or in one of its own where it is asked for something out of the ordinary."""
        inputs = {"version": VERSIONS["evaluate"], "train": self.train.hash, "published": self.config.published}
        if asked := asked_at_test(self.config.evaluation):
            inputs["evaluation"] = asked
            if self.config.evaluation.oracle_first_code and isinstance(self.config.model, SidlightConfig):
                inputs["oracle"] = "judges whole items"  # which it did not before
            folder = self.output / "artifacts" / "evaluate" / fingerprint(inputs)
            return Stage("evaluate", folder, inputs, collective=True)
        return Stage("evaluate", self.train.folder, inputs, True, owns_folder=False, collective=True, spare=LAST)

    def run(self, last: str, show: Callable[[str, dict[str, Any], Path], None]) -> None:
        """Runs or reuses every stage up to `last`, and shows what each one reports.

        Raises UserError where this experiment has no such stage.
        """
        for asked in filter(None, (last, self.force)):
            expected = f"one of {', '.join(self.stages)}: {self.config.name} has no other"
            require(asked in self.stages, "stage", asked, expected)
        reached = not self.force or self.stages.index(self.force) <= self.stages.index(last)
        require(reached, "force", self.force, f"a stage up to stage={last}")
        forced = False
        for name in self.stages[: self.stages.index(last) + 1]:
            forced = forced or name == self.force
            stage: Stage = getattr(self, name)
            self.figures[name] = stage.run(getattr(self, f"_{name}"), forced, self.say)
            show(name, self.figures[name], stage.folder)

    @cached_property
    def companions(self) -> list["Pipeline"]:
        """The experiments whose items share the codebooks."""
        own = self.config
        others = [replace(named(name), embed=own.embed, output_dir=own.output_dir) for name in own.combined_with]
        return [Pipeline(config, say=self.say) for config in others]

    @cached_property
    def catalog(self) -> Catalog:
        return self.config.split.known(Catalog.load(self.prepare.folder))

    @cached_property
    def split(self) -> Split:
        return self.config.split.build(self.catalog)

    @cached_property
    def table(self) -> "SIDTable":
        from sid.table import SIDTable

        table = SIDTable.load(self.tokenize.folder)
        table.require_catalog(self.prepare.hash, self.catalog.num_items)
        return table

    @property
    def codes(self) -> "SIDTable | None":
        """What is decoded; None for a classic model, which scores whole items."""
        return self.table if isinstance(self.config.model, GenerativeConfig) else None

    def retriever(self) -> tuple["RetrieverModule", "SequenceDataModule"]:
        """The untrained module of this configuration, and its data."""
        import torch

        from datamodules.sequences import SequenceDataModule
        from lightning_modules.classic import ClassicModule
        from lightning_modules.generative import GenerativeModule
        from sid.table import SIDTable
        from sid.tokens import TokenSpace

        config, model = self.config, self.config.model
        torch.manual_seed(config.seed)
        module: RetrieverModule
        if isinstance(model, GenerativeConfig):
            table, reads_long = self.table, model.reads_long
            new_N = torch.from_numpy(self.new_items()) if config.split.cold_share else None
            content = Content(table.codes_NL, self._vectors() if model.reads_content else None, new_N)
            network = model.build(table.codebook_sizes, config.sequences.max_items, content)
            module = GenerativeModule(network, config.optimizer, config.seed)
            tokens = module.model.tokens
        elif isinstance(model, ClassicConfig):
            table, reads_long = SIDTable.of_numbers(self.catalog.num_items), False
            module = ClassicModule(model.build(self._known(model)), config.optimizer, config.seed)
            tokens = TokenSpace(table.codebook_sizes)
        data = SequenceDataModule(
            config.sequences, self.catalog, self.split, table, tokens, config.seed, model.learns_from, reads_long
        )
        return module, data

    def _vectors(self) -> np.ndarray:
        return np.load(self.embed.folder / "vectors.npy", mmap_mode="r")

    def new_items(self) -> np.ndarray:
        """(N,) bool: items that are in no history or target of the training."""
        return learnt_counts(self.catalog, self.split) == 0

    def _known(self, model: ClassicConfig) -> "Known":
        """What a classic model is built from."""
        import torch

        from datamodules.attributes import attributes
        from models.next_item import Known

        catalog = self.catalog
        return Known(
            catalog.num_items,
            catalog.num_users,
            self.config.sequences.max_items,
            torch.from_numpy(learnt_counts(catalog, self.split)),
            torch.from_numpy(np.array(self._vectors(), np.float32)) if model.reads_vectors else None,
            torch.from_numpy(attributes(catalog.items)[0]) if model.reads_attributes else None,
            self.table.contents_NL if model.reads_codes else None,
        )

    def _prepare(self, folder: Path) -> dict[str, Any]:
        return {**self.config.data.write(folder), "official": self.config.data.official}

    def _embed(self, folder: Path) -> dict[str, Any]:
        embed, path = self.config.embed, folder / "vectors.npy"
        encoded = replace(embed, whiten=0, collaborative=0.0)
        if embed == encoded:
            items, width = embed.write(self.catalog.items, self.prepare.folder, path)
            return {"items": items, "width": width}
        from datamodules.collaborative import cooccurrence, joined
        from datamodules.embed import whitened

        force = "embed" if self.force in ("prepare", "embed") else ""
        content = Pipeline(replace(self.config, embed=encoded), force, self.say)
        content.run("embed", lambda *figures: None)
        vectors_ND: np.ndarray = content._vectors()
        if embed.whiten:
            vectors_ND = whitened(np.array(vectors_ND), embed.whiten)
        if embed.collaborative:
            vectors_ND = joined(vectors_ND, cooccurrence(self.catalog, self.split), embed.collaborative)
        np.save(path, vectors_ND)
        return {"items": len(vectors_ND), "width": vectors_ND.shape[1]}

    def _shared_vectors(self) -> tuple[np.ndarray, slice]:
        """(N, D) vectors of all items that share the codebooks, in one order for each of the experiments; our rows.

        Raises UserError where two experiments have the same items, or vectors of different width.
        """
        parts = sorted((self, *self.companions), key=lambda part: part.embed.hash)
        if len({part.embed.hash for part in parts}) < len(parts):
            names = ", ".join(part.config.name for part in (self, *self.companions))
            raise UserError(
                f"combined_with={self.config.combined_with}: of {names}, two have the same items and vectors, which "
                "would count twice; name experiments on other data"
            )
        for other in self.companions:
            other.run("embed", lambda *figures: None)
        tables = [np.load(part.embed.folder / "vectors.npy", mmap_mode="r") for part in parts]
        widths = {part.config.name: vectors_ND.shape[1] for part, vectors_ND in zip(parts, tables, strict=True)}
        if len(set(widths.values())) > 1:
            raise UserError(f"combined_with: item vectors differ in width ({widths}); give all the same embed.encoder")
        own = [part is self for part in parts].index(True)
        start = sum(map(len, tables[:own]))
        vectors_ND = np.concatenate(tables) if len(tables) > 1 else tables[0]
        return vectors_ND, slice(start, start + len(tables[own]))

    def _tokenize(self, folder: Path) -> dict[str, Any]:
        import torch

        from datamodules.collaborative import collaborative
        from experiments.tokenize import export, figures, tokenize
        from sid.table import SIDTable

        config = self.config.tokenizer
        vectors_ND, own = self._shared_vectors()
        new_N = np.zeros(len(vectors_ND), dtype=bool)
        if self.config.split.cold_share:
            new_N[own] = self.new_items()
        whole = SIDTable.resolve(
            tokenize(
                config,
                vectors_ND,
                np.flatnonzero(~new_N),
                lambda rows: collaborative(self.catalog, self.split, config.seed)[rows],
                folder,
                self.config.train.accelerator,
            ),
            tuple(config.codebook_sizes),
            last_N=torch.from_numpy(new_N),
            always=not config.reassign,
        )
        table = replace(whole, codes_NL=whole.codes_NL[own], catalog=self.prepare.hash)
        table.save(folder)
        export(table, self.catalog, folder / "sids.tsv")
        return figures(table, vectors_ND[own], self.catalog.items)

    def _train(self, folder: Path) -> dict[str, Any]:
        from experiments.training import settle, train

        module, data = self.retriever()
        config = as_trained(self.config)
        if process_rank() == 0:  # only the first process is sure to find the folder
            write_atomically(folder / "config.yaml", to_yaml(config))
            self._note_environment(folder / "environment.json")
        if isinstance(config.model, ClassicConfig) and not config.model.learns:
            return settle(config, module, data, self.catalog, folder)
        return train(config, module, data, self.codes, self.catalog, folder, self.watchers)

    def _evaluate(self, folder: Path) -> dict[str, Any]:
        from experiments.report import write_report
        from experiments.trainers import log_report
        from experiments.training import evaluate

        alone = self.evaluate.owns_folder  # report and wandb run are those of the training and its ordinary test
        config = replace(self.config, logger="csv") if alone else self.config
        module, data = self.trained()
        start = time.perf_counter()
        result = evaluate(config, module, data, self.codes, self.catalog, self.split, folder)
        result |= {"seconds": round(time.perf_counter() - start, 1), "published": self.config.published}
        result["provenance"] = {**provenance(self.command), "stages": {"evaluate": self.evaluate.hash}}
        if process_rank():
            return result
        write_atomically(folder / "test.json", json.dumps(result, indent=1) + "\n")
        if not alone:
            table, tokenizer = (self.table, self.tokenize.folder) if "tokenize" in self.stages else (None, None)
            ordered = self.codes is not None
            log_report(config, write_report(folder, self.catalog, self.split, table, tokenizer, ordered))
        return result

    def trained(self) -> tuple["RetrieverModule", "SequenceDataModule"]:
        """The module with the weights of the best validation, in evaluation mode, and its data."""
        from experiments.training import load_best

        module, data = self.retriever()
        return load_best(module, self.train.folder), data

    def _note_environment(self, path: Path) -> None:
        """Commit, versions, machine, seed, hashes of raw files and parents; each resumption is added to the first."""
        stages = {name: getattr(self, name).hash for name in self.stages}
        noted = {**provenance(self.command), "seed": self.config.seed, "stages": stages, "raw_files": self.raw_files}
        with suppress(OSError, ValueError, TypeError):  # the first time, or what was there is damaged
            first = json.loads(path.read_text())
            noted = {**first, "resumed": [*first.get("resumed", []), provenance(self.command)]}
        write_atomically(path, json.dumps(noted, indent=1) + "\n")
