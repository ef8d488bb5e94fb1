"""The lists of the test users as a Parquet file.

Legend: B users, K ranks, U users without an item.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist

from sid.decode import Recommendations


class RecommendationFile:
    """An observer of `Retrieval`: collects the lists of every batch, and writes them once, sorted by user and rank.

    A user with several targets of equal rights has one history, so one list: the first is written. With `by_target`
    (the model was told something of the target) there is one for every target of a user.
    """

    def __init__(self, raw_ids: pa.ChunkedArray, by_target: bool = False) -> None:
        self.raw_ids, self.by_target = raw_ids, by_target
        self.parts: list[tuple[np.ndarray, ...]] = []

    def __call__(self, recommendations: Recommendations, batch: Any) -> None:
        asked_B = batch.target_B if self.by_target else batch.user_B
        columns = (batch.user_B, asked_B, recommendations.items_BK)
        whole = [column.cpu().numpy().astype(np.int32) for column in columns]
        self.parts.append((*whole, recommendations.scores_BK.cpu().numpy().astype(np.float32)))

    def write(self, path: Path) -> None:
        """Columns user, rank (from 1), item (int32), raw_id (string), score (float32); with `by_target` also target,
        the item that was asked for (int32). Users with no item at all, having had every one, have no row, but stand in
        the schema's metadata, `unanswered`, a JSON list of their numbers. All ranks call it.
        """
        parts = self.parts
        if dist.is_initialized():
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, parts)
            parts = [part for rank in gathered for part in rank]
            if dist.get_rank() > 0:
                return
        user_B, asked_B, items_BK, scores_BK = (np.concatenate(column) for column in zip(*parts, strict=True))
        first_B = np.unique(user_B.astype(np.int64) << 32 | asked_B, return_index=True)[1]
        user_B, asked_B, items_BK, scores_BK = (rows[first_B] for rows in (user_B, asked_B, items_BK, scores_BK))
        ranks = np.tile(np.arange(1, items_BK.shape[1] + 1, dtype=np.int32), len(user_B))
        real = items_BK.ravel() >= 0
        items = items_BK.ravel()[real]
        columns = {
            "user": np.repeat(user_B, items_BK.shape[1])[real],
            "rank": ranks[real],
            "item": items,
            "raw_id": self.raw_ids.take(pa.array(items)),
            "score": scores_BK.ravel()[real],
        }
        if self.by_target:
            columns["target"] = np.repeat(asked_B, items_BK.shape[1])[real]
        aside = path.with_name(f".{path.name}")
        without_U = np.setdiff1d(user_B, columns["user"])
        pq.write_table(pa.table(columns, metadata={"unanswered": json.dumps(without_U.tolist())}), aside)
        aside.replace(path)
