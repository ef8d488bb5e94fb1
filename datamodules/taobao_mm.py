"""TAOBAO-MM (Wu et al., 2025, arXiv 2512.07216): what nine million users of Taobao looked at, up to 1,000 items each,
and which advertised items they clicked. Items have a vector and a category; there are no texts and no times.

Preparation is that of GLASS (arXiv 2602.05663), without what its released code does by mistake:

- A sample is a user and an item that was shown; those that were clicked count. Targets are the items that were clicked
  often enough in the training part and at all in the test part, and have a vector; 10,000 of them are drawn, only they
  may be recommended, and the samples with a target item are kept. GLASS prints the counts in OFFICIAL and a mean
  history of 987.
- A history is what the user looked at before, oldest first. Missing items and those without a vector are dropped.
- Training and test rows of one person are two users of the catalogue, "train:<id>" and "test:<id>", each with its own
  history. The released code looks histories up by person, so that a training row may see what came later.
- Validation users are drawn from the training part (`SplitConfig(kind="given")`). The released code splits the samples
  of the test part at random, so that one person is in validation and test.
"""

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from datamodules.catalog import Catalog, CatalogConfig, data_folder
from datamodules.taobao_histories import Answers, Clicks, history_items, read_clicks, write_answered, write_newest
from datamodules.taobao_tables import ITEM, PARTS, SCHEMAS, VECTORS, batches, ids, table_files
from datamodules.taobao_write import ItemNumbers, NpyWriter, UserList, places, write_items, write_vectors
from sid.errors import UserError, require

TARGETS = ("clicks", "newest")
OFFICIAL = {"users": 189_423, "candidates": 10_000, "samples": 265_301}
ID_ROWS = 1 << 20


@dataclass
class TaobaoMMConfig(CatalogConfig):
    """TAOBAO-MM from the official Parquet files.

    Attributes:
        targets: clicks: the protocol above. newest: the newest item of every history is its user's target, all items
            may be recommended, and neither samples nor vectors are read. That is for copies whose tables do not join,
            such as the previews of ten rows, which share no user and no item.
        min_train_clicks: clicked training samples that a target item has at least.
        num_targets: target items; all where fewer qualify.
        seed: draws the target items.
        data_dir: the files lie in, or are downloaded to (51 GB), `<data_dir>/taobao_mm`; empty: the environment's
            DATA_DIR, else `data`.
    """

    revision: ClassVar[int] = 1

    targets: str = "clicks"
    min_train_clicks: int = 5
    num_targets: int = 10_000
    seed: int = 42
    data_dir: str = field(default="", metadata={"hashed": False})

    @property
    def official(self) -> dict[str, float]:
        """The counts of GLASS's paper, of the whole data set."""
        return dict(OFFICIAL) if self.targets == "clicks" else {}

    def raw_files(self) -> list[Path]:
        """The files of the tables that are read, downloaded from the hub if absent.

        Raises:
            UserError: a setting is wrong, or a table is absent and cannot be downloaded.
        """
        return [path for files in self._tables().values() for path in files]

    def _tables(self) -> dict[str, list[Path]]:
        require(self.targets in TARGETS, "data.targets", self.targets, " or ".join(TARGETS))
        for name, least in (("min_train_clicks", 1), ("num_targets", 1), ("seed", 0)):
            require(getattr(self, name) >= least, f"data.{name}", getattr(self, name), f"at least {least}")
        unread = {VECTORS, *(f"{part}_samples" for part in PARTS)} if self.targets == "newest" else set()
        folder = data_folder(self.data_dir) / "taobao_mm"
        return {name: table_files(folder, name) for name in SCHEMAS if name not in unread}

    def build(self) -> Catalog:
        """Prepare into a temporary folder, and load.

        Raises:
            UserError: as `write`.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.write(Path(folder))
            return Catalog.load(Path(folder))

    def write(self, folder: Path) -> dict[str, float]:
        """Prepare the tables into an empty folder, a batch at a time. Each is read once, the vectors' ids twice.

        Beside what `Catalog.load` reads, vectors.npy (N, D) int8 has the items' vectors times 127. Items are numbered
        the targets first, by raw id, then in the order of their first appearance. Nothing depends on how a table is cut
        into files. Memory: half a GB, 40 bytes an item with a vector and 40 a clicked sample.

        Raises:
            UserError: a file is missing, damaged or of another format, no item can be a target, or no user is left.
        """
        tables, users, candidates = self._tables(), UserList(), None
        histories = {part: tables[f"{part}_user_features"] for part in PARTS}
        with NpyWriter(folder / "item.npy", np.int32) as log:
            if self.targets == "clicks":
                known_V = _listed_items(tables[VECTORS])
                clicks = {part: read_clicks(tables[f"{part}_samples"], f"{part}_samples") for part in PARTS}
                target_X = self._choose(clicks, known_V)
                candidates, numbers = len(target_X), ItemNumbers(known_V, target_X)
                for part in PARTS:
                    answers = Answers.of(clicks.pop(part), target_X)
                    write_answered(histories[part], part, answers, numbers, users, log)
                write_vectors(tables[VECTORS], numbers, folder / "vectors.npy")
            else:
                numbers = ItemNumbers(history_items(histories), np.empty(0, np.int64))
                for part in PARTS:
                    write_newest(histories[part], part, numbers, users, log)
        users.write(folder)
        write_items(tables["item_features"], numbers, candidates, folder / "items.parquet")
        samples = {part: users.num_targets(part) for part in PARTS}
        counts = {"candidates": candidates or numbers.count, "samples": sum(samples.values())}
        return Catalog.load(folder).figures() | counts | {"test_samples": samples["test"]}

    def _choose(self, clicks: dict[str, Clicks], known_V: np.ndarray) -> np.ndarray:
        """The raw ids of the target items, in rising order; `known_V` are those with a vector."""
        id_X, clicks_X = np.unique(clicks["train"].item_S, return_counts=True)
        often_X = id_X[clicks_X >= self.min_train_clicks]
        asked_X = often_X[np.isin(often_X, clicks["test"].item_S)]
        fit_X = asked_X[places(known_V, asked_X) >= 0]
        if len(fit_X) == 0:
            raise UserError(
                f"TAOBAO-MM: no item can be a target. Of {len(id_X)} items that were clicked in the training part, "
                f"{len(often_X)} have at least {self.min_train_clicks} clicks there; {len(asked_X)} of these were "
                f"clicked in the test part; none of these is among the {len(known_V)} items with a vector. Lower "
                "data.min_train_clicks. For tables that do not belong together (the previews of ten rows) set "
                "data.targets=newest."
            )
        if len(fit_X) <= self.num_targets:
            return fit_X
        return np.sort(np.random.default_rng(self.seed).choice(fit_X, self.num_targets, replace=False))


def _listed_items(files: list[Path]) -> np.ndarray:
    """(V,) raw ids of the items with a vector, in rising order."""
    found = [ids(batch, ITEM).copy() for batch in batches(files, VECTORS, [ITEM], ID_ROWS)]
    known_V = np.unique(np.concatenate([np.empty(0, np.int64), *found]))
    return known_V[known_V != 0]
