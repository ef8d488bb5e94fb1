"""Beam search over semantic IDs: a plain function of tensors, usable without a trainer.

Legend: B users, K beams, V codes of a level, C children of a prefix, L levels.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from sid.trie import PrefixTree


class Recommendations(NamedTuple):
    """The top-K items of every user, best first. What every retriever, generative or classic, ends as."""

    items_BK: Tensor
    """(B, K) int64 item numbers; -1 where there is no such item (its score is -inf, or the codes are invalid)."""
    scores_BK: Tensor
    """(B, K) float; for a generative model the log-likelihood of the item."""
    codes_BKL: Tensor | None
    """(B, K, L) int64 codes, None for a model without codes."""


class Generator(Protocol):
    """A model that writes semantic IDs one level at a time. The state belongs to the model: encoded history, caches,
    whatever it prepares per beam between two steps."""

    def next_logp(
        self, state: Any, level: int, codes_BK: Tensor | None, parents_BK: Tensor | None
    ) -> tuple[Tensor, Any]:
        """Log-probabilities (B, K, V) of the codes of `level`, and the new state.

        Beam k of this call extends beam `parents_BK[:, k]` of the call before by the code `codes_BK[:, k]`; both are
        None at level 0, where there is one beam.
        """


def beam_search(model: Generator, state: Any, tree: PrefixTree, num_beams: int) -> Recommendations:
    """The `num_beams` most likely semantic IDs of the tree for every user, best first.

    `state` holds B users (the model's encoding of their histories). The constraint is applied after the model's own
    log-softmax, so a score is the model's log-likelihood of the item; masking logits before it would renormalise over
    siblings and change the ranking. The first step runs on one beam. Where a catalogue holds fewer than `num_beams`
    items the rest is filled with item -1 at score -inf.
    """
    next_BKV, state = model.next_logp(state, 0, None, None)
    logp_BK = next_BKV.new_zeros(len(next_BKV), 1)
    nodes_BK = torch.zeros_like(logp_BK, dtype=torch.long)
    prefix_BKL = nodes_BK.new_zeros(len(next_BKV), 1, 0)
    for level in range(tree.num_levels):
        child = tree.children(level, nodes_BK)
        total_BKC = logp_BK[..., None] + next_BKV.gather(2, child.codes_BKC)
        total_BKC = total_BKC.masked_fill(~child.valid_BKC, -torch.inf)
        width = total_BKC.shape[2]
        logp_BK, picks_BK = total_BKC.flatten(1).topk(min(num_beams, total_BKC[0].numel()))
        parents_BK = picks_BK // width
        codes_BK = child.codes_BKC.flatten(1).gather(1, picks_BK)
        nodes_BK = child.nodes_BKC.flatten(1).gather(1, picks_BK)
        prefix_BKL = prefix_BKL.gather(1, parents_BK[..., None].expand(-1, -1, level))
        prefix_BKL = torch.cat([prefix_BKL, codes_BK[..., None]], dim=2)
        if level + 1 < tree.num_levels:
            next_BKV, state = model.next_logp(state, level + 1, codes_BK, parents_BK)
    items_BK = tree.items(nodes_BK, prefix_BKL).masked_fill(logp_BK == -torch.inf, -1)
    missing = (0, num_beams - items_BK.shape[1])
    return Recommendations(
        torch.nn.functional.pad(items_BK, missing, value=-1),
        torch.nn.functional.pad(logp_BK, missing, value=-torch.inf),
        torch.nn.functional.pad(prefix_BKL, (0, 0, *missing), value=-1),
    )
