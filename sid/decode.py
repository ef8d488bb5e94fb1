"""Beam search over semantic IDs, and the best of scores: plain functions of tensors, usable without a trainer.

Legend: B users, K beams, A beams that the model is asked about, V codes of a level, C children of a
prefix or items that may be recommended, L levels, N items, X places, T items that were seen, G groups, I places within.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from sid.sampling import Sampler, children_ranks
from sid.trie import Children, PrefixTree

GROUP = 12
"""Places of a group in `greatest`."""


class Recommendations(NamedTuple):
    """The top-K items of every user, best first. What every retriever, generative or classic, ends as."""

    items_BK: Tensor
    """(B, K) int64 item numbers; -1 where there is no such item (its score is -inf, or the codes are invalid)."""
    scores_BK: Tensor
    """(B, K) float; the log-likelihood of the item, for a generative model that does not judge whole items."""
    codes_BKL: Tensor | None
    """(B, K, L) int64 codes, -1 at score -inf; None for a model without codes."""

    def part(self, rows: slice, ranks: slice) -> "Recommendations":
        """Some users' lists, or the tops of them."""
        codes_BKL = None if self.codes_BKL is None else self.codes_BKL[rows, ranks]
        return Recommendations(self.items_BK[rows, ranks], self.scores_BK[rows, ranks], codes_BKL)

    def ordered(self, order_BK: Tensor) -> "Recommendations":
        """The lists with place `order_BK[b, k]` at k."""
        codes_BKL = self.codes_BKL
        if codes_BKL is not None:
            codes_BKL = codes_BKL.gather(1, order_BK[..., None].expand_as(codes_BKL))
        return Recommendations(self.items_BK.gather(1, order_BK), self.scores_BK.gather(1, order_BK), codes_BKL)


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


class FirstCodeGiven:
    """A model that is told the first code of every user: what the rest of it could reach at best."""

    def __init__(self, model: Generator, first_B: Tensor) -> None:
        self.model, self.first_B = model, first_B
        if hasattr(model, "worth"):
            self.worth = model.worth

    def next_logp(
        self, state: Any, level: int, codes_BK: Tensor | None, parents_BK: Tensor | None
    ) -> tuple[Tensor, Any]:
        logp_BKV, state = self.model.next_logp(state, level, codes_BK, parents_BK)
        if level:
            return logp_BKV, state
        other_BV = torch.arange(logp_BKV.shape[2], device=logp_BKV.device) != self.first_B[:, None]
        return logp_BKV.masked_fill(other_BV[:, None], -torch.inf), state


def beam_search(
    model: Generator,
    state: Any,
    tree: PrefixTree,
    num_beams: int,
    constrained: bool = False,
    trace: list[Tensor] | None = None,
    sampler: Sampler | None = None,
    worth: Sequence[Tensor] | None = None,
) -> Recommendations:
    """The `num_beams` most likely semantic IDs of the tree for every user, best first.

    `state` holds B users (the model's encoding of their histories). The tree limits what is written in two ways:

    - masking (default): the model's own log-softmax, then the mask. A score is the model's log-likelihood of the item.
    - `constrained`: the probabilities are normalised anew over the children of each prefix, so those of all items sum
      to one. The ranking differs. A prefix with one item left costs nothing more: its continuation is certain, and the
      model is asked about the other beams alone.

    `trace` collects the codes (B, K, l) of all beams after each level l, best first; -1 where there are no more.

    With a `sampler` (`constrained` only) the items are drawn without replacement, each time with its probability among
    those that are left, and come in the order of the draws; see `sid.sampling`.

    `worth` has for every level what each of its nodes in the trie is worth to a user (B, n) beside the likelihood of
    its codes. The sum of both decides which beams go on, and is the score.

    The first step runs on one beam. Where a catalogue holds fewer than `num_beams` items the rest is filled with item
    -1 at score -inf.
    """
    if sampler is not None and not constrained:
        raise ValueError("sampling needs probabilities that sum to one over the items: constrained=True")
    next_BKV, state = model.next_logp(state, 0, None, None)
    rank_BK = logp_BK = next_BKV.new_zeros(len(next_BKV), 1)
    nodes_BK = torch.zeros_like(logp_BK, dtype=torch.long)
    prefix_BKL = nodes_BK.new_zeros(len(next_BKV), 1, 0)
    asked_BA = slots_BK = nodes_BK
    for level in range(tree.num_levels):
        child = tree.children(level, nodes_BK)
        gain_BKC = _gains(next_BKV, child, asked_BA, constrained)
        width = gain_BKC.shape[2]
        total_BKC = logp_BK[..., None] + gain_BKC
        rank_BKC = total_BKC if sampler is None else children_ranks(total_BKC, rank_BK, sampler)
        if worth is not None:
            rank_BKC = rank_BKC + worth[level].gather(1, child.nodes_BKC.flatten(1)).view_as(total_BKC)
        rank_BK, picks_BK = rank_BKC.flatten(1).topk(min(num_beams, rank_BKC[0].numel()))
        logp_BK = total_BKC.flatten(1).gather(1, picks_BK)
        parents_BK = picks_BK // width
        codes_BK = child.codes_BKC.flatten(1).gather(1, picks_BK)
        nodes_BK = child.nodes_BKC.flatten(1).gather(1, picks_BK)
        prefix_BKL = prefix_BKL.gather(1, parents_BK[..., None].expand(-1, -1, level))
        prefix_BKL = torch.cat([prefix_BKL, codes_BK[..., None]], dim=2)
        if trace is not None:
            trace.append(prefix_BKL.masked_fill(_dead(logp_BK), -1))
        if level + 1 == tree.num_levels:
            break
        parents_BK = slots_BK.gather(1, parents_BK)
        asked_BA, slots_BK = _asked(tree, level, nodes_BK, logp_BK, constrained)
        if asked_BA.shape[1]:
            codes_BA, parents_BA = codes_BK.gather(1, asked_BA), parents_BK.gather(1, asked_BA)
            next_BKV, state = model.next_logp(state, level + 1, codes_BA, parents_BA)
    items_BK = tree.items(nodes_BK, prefix_BKL).masked_fill(logp_BK == -torch.inf, -1)
    missing = (0, num_beams - items_BK.shape[1])
    return Recommendations(
        F.pad(items_BK, missing, value=-1),
        F.pad(logp_BK if worth is None else rank_BK, missing, value=-torch.inf),
        F.pad(prefix_BKL.masked_fill(_dead(logp_BK), -1), (0, 0, *missing), value=-1),
    )


def _dead(logp_BK: Tensor) -> Tensor:
    """(B, K, 1): beams that fill up where there are fewer prefixes than beams; what they hold is another's codes."""
    return logp_BK[..., None] == -torch.inf


def recommended(
    model: Any,
    state: Any,
    tree: PrefixTree,
    num_beams: int,
    constrained: bool = False,
    trace: list[Tensor] | None = None,
    sampler: Sampler | None = None,
) -> Recommendations:
    """A beam search, led by what whole items are worth where a model can judge those.

    Such a model offers `worth(state) -> (B, N)`. A prefix is worth as much as the best item below it, so the beam that
    leads to an item whose worth outweighs all else is not given up on the way.
    """
    judge = None if sampler is not None else getattr(model, "worth", None)
    worth = None if judge is None else tree.best(judge(state))
    return beam_search(model, state, tree, num_beams, constrained, trace, sampler, worth)


def top_items(scores_BN: Tensor, items_C: Tensor, num_items: int, sampler: Sampler | None = None) -> Recommendations:
    """The best of the items (C,), best first; -1 where there are no more, or the score is -inf.

    The items (C,) are in ascending order. With a `sampler` they are drawn without replacement from the softmax of the
    scores, as in `beam_search`.
    """
    among_BC = scores_BN if len(items_C) == scores_BN.shape[1] else scores_BN[:, items_C]
    rank_BC = among_BC if sampler is None else among_BC + sampler.gumbel(among_BC)
    place_BK = greatest(rank_BC, min(num_items, len(items_C)))
    scores_BK = among_BC.gather(1, place_BK)
    items_BK = items_C[place_BK].masked_fill(scores_BK == -torch.inf, -1)
    missing = (0, num_items - items_BK.shape[1])
    return Recommendations(F.pad(items_BK, missing, value=-1), F.pad(scores_BK, missing, value=-torch.inf), None)


def greatest(x_BC: Tensor, num: int) -> Tensor:
    """(B, num) places of the greatest in every row, greatest first, as `topk`; on a CPU in half the time.

    They all lie in the `num` groups of places whose own greatest are the greatest.
    """
    places = x_BC.shape[1]
    groups = places // GROUP
    if x_BC.device.type != "cpu" or groups < 2 * num:
        return x_BC.topk(num, dim=1).indices
    grouped = groups * GROUP
    best_BG = x_BC[:, :grouped].unflatten(1, (GROUP, groups)).amax(1)
    group_BK = best_BG.topk(num, dim=1).indices
    inside_BI = (group_BK[:, None] + groups * torch.arange(GROUP)[:, None]).flatten(1)
    place_BI = torch.cat([inside_BI, torch.arange(grouped, places).expand(len(x_BC), -1)], dim=1)
    return place_BI.gather(1, x_BC.gather(1, place_BI).topk(num, dim=1).indices)


def without(lists: Recommendations, seen_BT: Tensor) -> Recommendations:
    """The lists without the items (B, T), -1 behind; the others move up, and -1 at score -inf fills the end."""
    gone_BK = (lists.items_BK[..., None] == seen_BT[:, None]).any(2) | (lists.items_BK < 0)
    left = Recommendations(
        lists.items_BK.masked_fill(gone_BK, -1),
        lists.scores_BK.masked_fill(gone_BK, -torch.inf),
        None if lists.codes_BKL is None else lists.codes_BKL.masked_fill(gone_BK[..., None], -1),
    )
    return left.ordered(gone_BK.byte().argsort(dim=1, stable=True))


def _gains(next_BAV: Tensor, child: Children, asked_BA: Tensor, constrained: bool) -> Tensor:
    """What each child adds to the score of its beam (B, K, C), -inf for padding. `asked_BA` are the beams that the
    model's rows belong to; the others have one item left."""
    rest_BKC = torch.zeros_like(child.valid_BKC, dtype=next_BAV.dtype).masked_fill(~child.valid_BKC, -torch.inf)
    if not asked_BA.shape[1]:
        return rest_BKC
    if not constrained:
        return next_BAV.gather(2, child.codes_BKC) + rest_BKC
    rows_BAC = asked_BA[..., None].expand(-1, -1, child.codes_BKC.shape[2])
    rest_BAC = rest_BKC.gather(1, rows_BAC)
    gain_BAC = next_BAV.gather(2, child.codes_BKC.gather(1, rows_BAC)) + rest_BAC
    ruled_out_BA1 = gain_BAC.isneginf().all(2, keepdim=True)
    gain_BAC = gain_BAC.log_softmax(2).masked_fill(ruled_out_BA1, -torch.inf)
    certain_BA1 = rest_BAC.isfinite().sum(2, keepdim=True) == 1
    return rest_BKC.scatter(1, rows_BAC, torch.where(certain_BA1, rest_BAC, gain_BAC))


def _asked(tree: PrefixTree, level: int, nodes_BK: Tensor, logp_BK: Tensor, constrained: bool) -> tuple[Tensor, Tensor]:
    """Which beams the model is asked about (B, A), and the place of every beam among them (B, K).

    A is what the user with the most such beams needs; the others fill up with beams that have one item left, whose
    answers are normalised to certainty. Those have no place of their own, and their offspring needs none.
    """
    slots_BK = torch.arange(nodes_BK.shape[1], device=nodes_BK.device).expand_as(nodes_BK)
    if not constrained:
        return slots_BK, slots_BK
    open_BK = ~tree.lone(level, nodes_BK) & (logp_BK > -torch.inf)
    most = int(open_BK.sum(1).max())
    order_BK = open_BK.byte().argsort(dim=1, descending=True, stable=True)
    places_BK = torch.zeros_like(nodes_BK).scatter(1, order_BK, slots_BK)
    return order_BK[:, :most], places_BK.clamp_max(max(most - 1, 0))
