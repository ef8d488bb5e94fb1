"""Metrics of recommendation lists. Each is exact under any number of processes: its states are integer counts.

A metric is one class with `update(recommendations, batch)` and `compute() -> {name: value}`.
Legend: B users, K ranks, N items, C categories, L levels.
"""

from typing import Protocol

import torch
from torch import Tensor
from torchmetrics import Metric

from sid.decode import Recommendations, without


class Targets(Protocol):
    """What a batch must offer to be evaluated."""

    target_B: Tensor
    codes_BL: Tensor

    @property
    def seen_BT(self) -> Tensor: ...


class RankMetrics(Metric):
    """Item-level Recall@K and NDCG@K of one target a user, from the histogram of the target's ranks."""

    rank_R: Tensor

    def __init__(self, recall_at: list[int], ndcg_at: list[int]) -> None:
        super().__init__()
        self.recall_at, self.ndcg_at = recall_at, ndcg_at
        self.deepest = max(recall_at + ndcg_at)
        self.add_state("rank_R", torch.zeros(self.deepest + 1, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, recommendations: Recommendations, batch: Targets) -> None:
        hit_BK = recommendations.items_BK[:, : self.deepest] == batch.target_B[:, None]
        rank_B = torch.where(hit_BK.any(1), hit_BK.int().argmax(1), self.deepest)
        self.rank_R += torch.bincount(rank_B, minlength=self.deepest + 1)

    def compute(self) -> dict[str, Tensor]:
        """`recall@K` and `ndcg@K` in [0, 1]; with one target NDCG is 1 / log2(rank + 1), rank from 1."""
        users = self.rank_R.sum().clamp_min(1).double()
        gain_R = 1 / torch.log2(torch.arange(self.deepest, device=self.rank_R.device).double() + 2)
        named = {f"recall@{k}": self.rank_R[:k].sum() / users for k in self.recall_at}
        return named | {f"ndcg@{k}": (self.rank_R[:k] * gain_R[:k]).sum() / users for k in self.ndcg_at}


class FreshRankMetrics(RankMetrics):
    """The same with the items of the history, as the model reads it, taken out of the lists, as services answer and as
    many papers count: on data without repetitions such an item is a certain miss. The lists are those of `RankMetrics`,
    so shorter by that.
    """

    def update(self, recommendations: Recommendations, batch: Targets) -> None:
        super().update(without(recommendations, batch.seen_BT), batch)

    def compute(self) -> dict[str, Tensor]:
        """`fresh_recall@K` and `fresh_ndcg@K`."""
        return {f"fresh_{name}": value for name, value in super().compute().items()}


class EntropyDiversity(Metric):
    """Entropy@K: entropy (natural log) of the categories of a user's top K, mean over users (TIGER, section 4.3).

    A user's entropy is kept as a whole number of 2^-30, so that the sum does not depend on the order of users.
    """

    entropy_K: Tensor
    users: Tensor

    def __init__(self, category_N: Tensor, at: list[int]) -> None:
        super().__init__()
        self.at = at
        self.register_buffer("category_N", category_N, persistent=False)
        self.category_N: Tensor
        self.num_categories = int(category_N.max()) + 1
        self.add_state("entropy_K", torch.zeros(len(at), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("users", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, recommendations: Recommendations, batch: Targets) -> None:
        items_BK = recommendations.items_BK
        valid_BK = items_BK >= 0
        category_BK = self.category_N[items_BK.clamp_min(0)]
        for place, k in enumerate(self.at):
            count_BC = torch.zeros(len(items_BK), self.num_categories, device=items_BK.device, dtype=torch.double)
            count_BC.scatter_add_(1, category_BK[:, :k], valid_BK[:, :k].double())
            p_BC = count_BC / count_BC.sum(1, keepdim=True).clamp_min(1)
            entropy_B = torch.special.entr(p_BC).sum(1)
            self.entropy_K[place] += (entropy_B * 2**30).round().long().sum()
        self.users += len(items_BK)

    def compute(self) -> dict[str, Tensor]:
        """`entropy@K` in nats."""
        mean_K = self.entropy_K.double() / 2**30 / self.users.clamp_min(1)
        return {f"entropy@{k}": mean_K[place] for place, k in enumerate(self.at)}


class Coverage(Metric):
    """Share of the items that may be recommended (`candidates`; by default all) that are in some user's top K."""

    seen_N: Tensor

    def __init__(self, num_items: int, k: int, candidates: int | None = None) -> None:
        super().__init__()
        self.k, self.candidates = k, candidates or num_items
        self.add_state("seen_N", torch.zeros(num_items, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, recommendations: Recommendations, batch: Targets) -> None:
        items_BK = recommendations.items_BK[:, : self.k]
        self.seen_N[items_BK[items_BK >= 0]] += 1

    def compute(self) -> dict[str, Tensor]:
        """`coverage@K` in [0, 1]."""
        return {f"coverage@{self.k}": (self.seen_N > 0).sum().double() / self.candidates}


class PrefixHits(Metric):
    """How much of the target's codes the lists find, level by level: SID-level figures, beside the item-level ones.

    `prefix@1/levelL`: the best beam starts with the target's first L codes. `prefix@K/levelL`: any of the top K does.
    """

    hits_2L: Tensor
    users: Tensor

    def __init__(self, num_levels: int, k: int) -> None:
        super().__init__()
        self.k = k
        self.add_state("hits_2L", torch.zeros(2, num_levels, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("users", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, recommendations: Recommendations, batch: Targets) -> None:
        if recommendations.codes_BKL is None:
            return
        same_BKL = recommendations.codes_BKL[:, : self.k] == batch.codes_BL[:, None]
        prefix_BKL = same_BKL.cumprod(2)
        self.hits_2L[0] += prefix_BKL[:, 0].sum(0)
        self.hits_2L[1] += prefix_BKL.amax(1).sum(0)
        self.users += len(same_BKL)

    def compute(self) -> dict[str, Tensor]:
        if not self.users:
            return {}
        share_2L = self.hits_2L.double() / self.users
        return {
            f"prefix@{k}/level{level + 1}": share_2L[row, level]
            for row, k in enumerate((1, self.k))
            for level in range(share_2L.shape[1])
        }


class InvalidRate(Metric):
    """Share of the top K of an unconstrained beam that are codes of no item (TIGER, Figure 6)."""

    invalid_K: Tensor
    written_K: Tensor

    def __init__(self, at: list[int]) -> None:
        super().__init__()
        self.at = at
        self.add_state("invalid_K", torch.zeros(len(at), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("written_K", torch.zeros(len(at), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, recommendations: Recommendations, batch: Targets) -> None:
        for place, k in enumerate(self.at):
            items_BK, scores_BK = recommendations.items_BK[:, :k], recommendations.scores_BK[:, :k]
            written_BK = scores_BK > -torch.inf
            self.invalid_K[place] += ((items_BK < 0) & written_BK).sum()
            self.written_K[place] += written_BK.sum()

    def compute(self) -> dict[str, Tensor]:
        """`invalid@K` in [0, 1]."""
        share_K = self.invalid_K.double() / self.written_K.clamp_min(1)
        return {f"invalid@{k}": share_K[place] for place, k in enumerate(self.at)}
