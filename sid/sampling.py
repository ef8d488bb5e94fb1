"""Sampling instead of the likeliest: lists that differ from call to call, as varied as the temperature asks for.

Legend: B users, K beams, C children of a prefix, V codes of a level.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from sid.decode import Generator


class Tempered:
    """A model whose log-probabilities at level l are divided by `temperatures[l]`: above 1 they are flatter. A high
    temperature at the first level alone varies what kind of item is written (TIGER, arXiv 2305.05065, section 4.3).

    What it gives is not normalised: decode with `constrained`.
    """

    def __init__(self, model: "Generator", temperatures: Sequence[float]) -> None:
        if not all(temperature > 0 for temperature in temperatures):
            raise ValueError(f"temperatures={list(temperatures)}: expected numbers above 0")
        self.model, self.temperatures = model, temperatures

    def next_logp(
        self, state: Any, level: int, codes_BK: Tensor | None, parents_BK: Tensor | None
    ) -> tuple[Tensor, Any]:
        logp_BKV, state = self.model.next_logp(state, level, codes_BK, parents_BK)
        return logp_BKV / self.temperatures[level], state


class Sampler:
    """Noise for B rows, each from a seed of its own: what a row draws does not depend on who is beside it."""

    def __init__(self, seeds: Sequence[int]) -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def gumbel(self, like: Tensor) -> Tensor:
        """Independent standard Gumbel noise of the shape (B, ...) of `like`, float32. Raises ValueError where B is not
        the number of seeds."""
        if len(like) != len(self.generators):
            raise ValueError(f"{len(like)} rows and {len(self.generators)} seeds; expected one for each row")
        rows = [torch.rand(like.shape[1:], generator=generator) for generator in self.generators]
        uniform = torch.stack(rows).clamp_(1e-10, 1 - 1e-7)
        return -(-uniform.log()).log().to(like.device)


def children_ranks(logp_BKC: Tensor, rank_BK: Tensor, sampler: Sampler) -> Tensor:
    """(B, K, C) perturbed log-probabilities of children whose largest is that of their parent.

    The top k of independently perturbed log-probabilities are k draws without replacement, in order. Drawn from the
    root on, the parent's value being known, a beam search finds them without looking at the other leaves (stochastic
    beam search, Kool et al. 2019, arXiv 1903.06059, appendix B.3).

    Args:
        logp_BKC: log-probabilities of the children from the root on; those of one parent add up to its own.
        rank_BK: the parents' perturbed log-probabilities.
    """
    noisy_BKC = logp_BKC + sampler.gumbel(logp_BKC)
    gap_BKC = noisy_BKC - noisy_BKC.amax(2, keepdim=True)
    shift_BKC = rank_BK[..., None] - noisy_BKC + torch.log1p(-gap_BKC.exp())
    ranks_BKC = rank_BK[..., None] - shift_BKC.clamp_min(0) - torch.log1p((-shift_BKC.abs()).exp())
    return ranks_BKC.masked_fill(logp_BKC == -torch.inf, -torch.inf)
