"""The lists of the test users as a Parquet file.

Legend: B users, K ranks.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch.distributed as dist

from sid.decode import Recommendations


class RecommendationFile:
    """An observer of `Retrieval`: collects the lists of every batch, and writes them once, sorted by user and rank."""

    def __init__(self, raw_ids: pa.ChunkedArray) -> None:
        self.raw_ids = raw_ids
        self.parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def __call__(self, recommendations: Recommendations, batch: Any) -> None:
        parts = batch.user_B, recommendations.items_BK, recommendations.scores_BK
        user_B, items_BK, scores_BK = (tensor.cpu().numpy() for tensor in parts)
        self.parts.append((user_B.astype(np.int32), items_BK.astype(np.int32), scores_BK.astype(np.float32)))

    def write(self, path: Path) -> None:
        """Columns user, rank (from 1), item (int32), raw_id (string), score (float32). All ranks call it."""
        parts = self.parts
        if dist.is_initialized():
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, parts)
            parts = [part for rank in gathered for part in rank]
            if dist.get_rank() > 0:
                return
        user_B, items_BK, scores_BK = (np.concatenate(column) for column in zip(*parts, strict=True))
        order_B = np.argsort(user_B)
        user_B, items_BK, scores_BK = user_B[order_B], items_BK[order_B], scores_BK[order_B]
        ranks = np.tile(np.arange(1, items_BK.shape[1] + 1, dtype=np.int32), len(user_B))
        real = items_BK.ravel() >= 0
        items = items_BK.ravel()[real]
        table = pa.table(
            {
                "user": np.repeat(user_B, items_BK.shape[1])[real],
                "rank": ranks[real],
                "item": items,
                "raw_id": self.raw_ids.take(pa.array(items)),
                "score": scores_BK.ravel()[real],
            }
        )
        aside = path.with_name(f".{path.name}")
        pq.write_table(table, aside)
        aside.replace(path)
