"""How well lists find items that training never saw (TIGER, section 4.3, Figure 5).

Legend: B users, K ranks, N items, G new items of one prefix at most, P prefixes, S shares, R ranks that are counted.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from callbacks.metrics import Targets
from sid.decode import Recommendations

SHARES = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
SHARE, RANK = 0.1, 10
"""Recall is counted at every rank with this share, and for every share at this rank."""


class UnseenItems(Metric):
    """Recall of lists in which at most a share of the top K are new items, over K and over the share.

    An answer stands for its own item and, right behind it, for every new item that has the same codes but for the
    collision digit: nothing was learnt about it. Where a prefix comes again, its new items stay where they were first.
    Surplus new items are passed over.
    """

    full_state_update = False
    hits_2SR: Tensor
    targets_2: Tensor

    def __init__(self, contents_NL: Tensor | None, new_N: Tensor, recall_at: Sequence[int]) -> None:
        """`contents_NL`: codes without the digit, or None for a model that scores whole items, whose answers
        stand for themselves; `new_N`: (N,) bool."""
        super().__init__()
        prefix_N = torch.arange(len(new_N))
        if contents_NL is not None:
            prefix_N = torch.unique(contents_NL, dim=0, return_inverse=True)[1]
        self.register_buffer("new_N", new_N, persistent=False)
        self.register_buffer("prefix_N", prefix_N, persistent=False)
        self.register_buffer("new_PG", new_items(prefix_N, new_N), persistent=False)
        self.new_N: Tensor
        self.prefix_N: Tensor
        self.new_PG: Tensor
        self.counted = sorted({*recall_at, RANK})
        zeros = torch.zeros(2, len(SHARES), len(self.counted), dtype=torch.long)
        self.add_state("hits_2SR", zeros, dist_reduce_fx="sum")
        self.add_state("targets_2", torch.zeros(2, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, recommendations: Recommendations, batch: Targets) -> None:
        items_BK = self.with_new_items(recommendations.items_BK)
        new_BK, old_BK = self.new_N[items_BK] & (items_BK >= 0), ~self.new_N[items_BK] & (items_BK >= 0)
        hit_BK = items_BK == batch.target_B[:, None]
        here_BK = hit_BK & (hit_BK.cumsum(1) == 1)
        news_B, olds_B = (((kind_BK.cumsum(1)) * here_BK).sum(1) for kind_BK in (new_BK, old_BK))
        is_new_B, found_B = self.new_N[batch.target_B], hit_BK.any(1)
        self.targets_2 += torch.bincount(is_new_B.long(), minlength=2)
        for s, share in enumerate(SHARES):
            for r, rank in enumerate(self.counted):
                most = int(share * rank + 1e-9)
                place_B = olds_B + news_B.clamp_max(most)
                hit_B = found_B & (place_B <= rank) & (~is_new_B | (news_B <= most))
                self.hits_2SR[:, s, r] += torch.bincount(is_new_B[hit_B].long(), minlength=2)

    def with_new_items(self, items_BK: Tensor) -> Tensor:
        """(B, K x (1 + G)) items, -1 where there is none: every answer, if it is no new item, before those it stands
        for."""
        prefix_BK = self.prefix_N[items_BK.clamp_min(0)].masked_fill(items_BK < 0, -1)
        again_BKK = (prefix_BK[:, :, None] == prefix_BK[:, None, :]).tril(-1)
        gone_BK = again_BKK.any(2) | (items_BK < 0)
        new_BKG = self.new_PG[prefix_BK.clamp_min(0)].masked_fill(gone_BK[..., None], -1)
        old_BK = items_BK.masked_fill(self.new_N[items_BK.clamp_min(0)], -1)
        return torch.cat([old_BK[..., None], new_BKG], dim=2).flatten(1)

    def compute(self) -> dict[str, Tensor]:
        """`new_recall@K/shareE` of the users whose target is a new item, `all_recall@K/shareE` of all of them, and
        `new_targets`."""
        new_SR = self.hits_2SR[1].double() / self.targets_2[1].clamp_min(1)
        all_SR = self.hits_2SR.sum(0).double() / self.targets_2.sum().clamp_min(1)
        named = {"new_targets": self.targets_2[1]}
        for s, share in enumerate(SHARES):
            for r, rank in enumerate(self.counted):
                if share == SHARE or rank == RANK:
                    named[f"new_recall@{rank}/share{share:g}"] = new_SR[s, r]
                    named[f"all_recall@{rank}/share{share:g}"] = all_SR[s, r]
        return named


def new_items(prefix_N: Tensor, new_N: Tensor) -> Tensor:
    """(P, G) the new items of every prefix in rising order, -1 behind them; G is at least 1."""
    items_X = new_N.nonzero()[:, 0]
    order_X = prefix_N[items_X].argsort(stable=True)
    items_X, prefix_X = items_X[order_X], prefix_N[items_X][order_X]
    count_P = torch.bincount(prefix_X, minlength=int(prefix_N.max()) + 1)
    place_X = torch.arange(len(items_X)) - (count_P.cumsum(0) - count_P)[prefix_X]
    new_PG = prefix_N.new_full((len(count_P), max(int(count_P.max()), 1)), -1)
    new_PG[prefix_X, place_X] = items_X
    return new_PG
