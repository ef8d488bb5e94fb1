"""Where a generative retriever loses the target: metrics of what happens inside it.

Legend: B users, K beams, L levels, G layers, R items that a search can find.
"""

from typing import Any, Protocol

import torch
from torch import Tensor
from torchmetrics import Metric

FOUND_GROUPS = {"none": 0, "1-5": 1, "6-15": 6, "16+": 16}
"""Groups by number of items found, with the lower end of each."""


class Codes(Protocol):
    codes_BL: Tensor


class BeamRanks(Metric):
    """The place of the target's prefix among the beams, level by level.

    `in_beam/levelL`: share of users whose target's first L codes are in the beam. `beam_rank/levelL`: its mean place
    there, from 1, of those users.
    """

    inside_L: Tensor
    rank_L: Tensor
    users: Tensor

    def __init__(self, num_levels: int) -> None:
        super().__init__()
        self.add_state("inside_L", torch.zeros(num_levels, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("rank_L", torch.zeros(num_levels, dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("users", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, trace: list[Tensor], batch: Codes) -> None:
        """`trace`: the beams' codes (B, K, l) after every level, best first (see `sid.decode.beam_search`)."""
        for level, prefix_BKl in enumerate(trace):
            same_BK = (prefix_BKl == batch.codes_BL[:, None, : level + 1]).all(2)
            inside_B = same_BK.any(1)
            self.inside_L[level] += inside_B.sum()
            self.rank_L[level] += ((same_BK.int().argmax(1) + 1) * inside_B).sum()
        self.users += len(batch.codes_BL)

    def compute(self) -> dict[str, Tensor]:
        share_L = self.inside_L.double() / self.users.clamp_min(1)
        rank_L = self.rank_L.double() / self.inside_L.clamp_min(1)
        named = {f"in_beam/level{level + 1}": share_L[level] for level in range(len(share_L))}
        return named | {f"beam_rank/level{level + 1}": rank_L[level] for level in range(len(rank_L))}


class Insight(Metric):
    """What a model shows of itself (`look_inside` -> `models.inside.Inside`): a mean over users.

    `accuracy/levelL`: the target's code is the most likely one, given those before it. For a model that searches a long
    history also `search/empty_bucket`, the share of users with no item of the target's first code there,
    `search/nothing`, the share for whom its neighbours had none either, `gate/layerG`, how far the gate of a
    layer opens where something was, and `gate/found_N-M`, the same over all layers by the number found.
    """

    right_L: Tensor
    users: Tensor
    empty: Tensor
    bucket: Tensor
    gate_G: Tensor
    by_found_2X: Tensor

    def __init__(self, num_levels: int, num_layers: int = 0) -> None:
        super().__init__()
        self.num_layers = num_layers
        groups = len(FOUND_GROUPS)
        for name, start in {
            "right_L": torch.zeros(num_levels, dtype=torch.long),
            "users": torch.zeros((), dtype=torch.long),
            "empty": torch.zeros((), dtype=torch.long),
            "bucket": torch.zeros((), dtype=torch.long),
            "gate_G": torch.zeros(num_layers, dtype=torch.double),
            "by_found_2X": torch.zeros(2, groups, dtype=torch.double),
        }.items():
            self.add_state(name, start, dist_reduce_fx="sum")

    def update(self, inside: Any) -> None:
        self.right_L += inside.right_BL.sum(0)
        self.users += len(inside.right_BL)
        if inside.found_B is None:
            return
        found_B = inside.found_B > 0
        self.empty += (~found_B).sum()
        self.bucket += (inside.own_B == 0).sum()
        gate_GB = inside.gate_GB.double() * found_B
        self.gate_G += gate_GB.sum(1)
        edges = torch.tensor(list(FOUND_GROUPS.values()), device=found_B.device)
        group_B = torch.bucketize(inside.found_B, edges, right=True) - 1
        self.by_found_2X[0].index_add_(0, group_B, gate_GB.mean(0))
        self.by_found_2X[1].index_add_(0, group_B, torch.ones_like(group_B, dtype=torch.double))

    def compute(self) -> dict[str, Tensor]:
        users = self.users.clamp_min(1)
        named = {f"accuracy/level{level + 1}": n.double() / users for level, n in enumerate(self.right_L)}
        if not self.num_layers:
            return named
        named["search/empty_bucket"] = self.bucket.double() / users
        named["search/nothing"] = self.empty.double() / users
        some = (self.users - self.empty).clamp_min(1)
        named |= {f"gate/layer{layer + 1}": total / some for layer, total in enumerate(self.gate_G)}
        for group, total, count in zip(FOUND_GROUPS, *self.by_found_2X, strict=True):
            if group != "none" and count:
                named[f"gate/found_{group}"] = total / count
        return named
