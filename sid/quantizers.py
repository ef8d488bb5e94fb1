"""Vectors to codes: the residual quantizer of RQ-VAE.

Legend: B vectors, D width, L levels, K codes of a level.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sid.kmeans import last_distances, nearest, residual_kmeans


def straight_through(vectors_BD: Tensor, sum_BD: Tensor) -> Tensor:
    """(B, D) the sum, whose gradient goes to the vectors as it is (Bengio et al. 2013; van den Oord et al. 2017)."""
    return vectors_BD + (sum_BD - vectors_BD).detach()


def rotate(vectors_BD: Tensor, sum_BD: Tensor) -> Tensor:
    """(B, D) the sum q, whose gradient turns and scales with the step from z to q (Fifty et al. 2024, section 4).

    q = sg[|q| / |z| R] z, where R = I - 2 r r^T + 2 q' z'^T rotates z' = z / |z| onto q' = q / |q| in their plane, and
    r = (z' + q') / |z' + q'|.
    """
    z_BD, q_BD = normalize(vectors_BD.detach()), normalize(sum_BD.detach())
    r_BD = normalize(z_BD + q_BD)
    along_r_B1, along_z_B1 = ((vectors_BD * axis_BD).sum(1, keepdim=True) for axis_BD in (r_BD, z_BD))
    turned_BD = vectors_BD - 2 * along_r_B1 * r_BD + 2 * along_z_B1 * q_BD
    length_B1 = vectors_BD.detach().norm(dim=1, keepdim=True).clamp_min(1e-6)
    turned_BD = sum_BD.detach().norm(dim=1, keepdim=True) / length_B1 * turned_BD
    return turned_BD + (sum_BD - turned_BD).detach()


GRADIENTS = {"straight_through": straight_through, "rotation": rotate}
"""(z, q) -> q with a gradient to z."""


class Quantized(NamedTuple):
    """What a quantizer makes of a batch."""

    sum_BD: Tensor
    """(B, D) the sum of the chosen codes; its gradient goes to the input."""
    codes_BL: Tensor
    """(B, L) int64."""
    loss: Tensor
    """sum over levels of ||sg[r] - e||^2 + beta ||r - sg[e]||^2, mean over the batch."""
    residuals: list[Tensor]
    """(B, D) of every level: the r that it chose a code for, without gradient."""


class CodeAverages(nn.Module):
    """Moving averages of the vectors that a level's codes win (van den Oord et al. 2017, appendix A.1).

    With n_k vectors of a batch won by code k, of sum s_k: N_k <- d N_k + (1 - d) n_k; m_k <- d m_k + (1 - d) s_k;
    e_k = m_k / N_k. N is smoothed (Laplace) like in vector-quantize-pytorch, so that a code that wins nothing for long
    divides by no zero. A new code counts as one that has won its own vector once.
    """

    def __init__(self, size: int, width: int, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("count_K", torch.ones(size))
        self.register_buffer("sum_KD", torch.zeros(size, width))
        self.count_K: Tensor
        self.sum_KD: Tensor

    def restart(self, codes_M: Tensor, vectors_MD: Tensor) -> None:
        """Makes codes new."""
        self.count_K[codes_M], self.sum_KD[codes_M] = 1, vectors_MD

    @torch.no_grad()
    def forward(self, vectors_BD: Tensor, codes_B: Tensor, epsilon: float = 1e-5) -> Tensor:
        """Takes in what the codes won in a batch. Returns the codebook (K, D)."""
        count_K = torch.bincount(codes_B, minlength=len(self.count_K)).to(self.count_K)
        self.count_K.lerp_(count_K, 1 - self.decay)
        self.sum_KD.lerp_(torch.zeros_like(self.sum_KD).index_add_(0, codes_B, vectors_BD), 1 - self.decay)
        total = self.count_K.sum()
        smooth_K = (self.count_K + epsilon) / (total + len(self.count_K) * epsilon) * total
        return self.sum_KD / smooth_K[:, None]


class ResidualQuantizer(nn.Module):
    """r_0 = z; c_l = argmin_k ||r_l - e_k||; r_{l+1} = r_l - e_{c_l} (TIGER, section 3.1; Lee et al. 2022).

    Args:
        gradient: how the gradient of the sum reaches z, see `GRADIENTS`.
        ema: decay of the averages that codebooks follow (see `CodeAverages`); 0: codebooks learn by gradient.
    """

    def __init__(
        self,
        width: int,
        codebook_sizes: tuple[int, ...],
        commitment: float,
        gradient: str = "straight_through",
        ema: float = 0.0,
    ) -> None:
        super().__init__()
        self.codebook_sizes, self.commitment = codebook_sizes, commitment
        self.pass_gradient = GRADIENTS[gradient]
        self.codebooks = nn.ParameterList(nn.Parameter(torch.randn(size, width)) for size in codebook_sizes)
        self.averages = nn.ModuleList(CodeAverages(size, width, ema) for size in codebook_sizes if ema)
        self.codebooks.requires_grad_(not ema)

    @torch.no_grad()
    def initialise(self, vectors_ND: Tensor, seed: int) -> None:
        """Sets every level to the k-means centres of that level's residuals."""
        _, centres = residual_kmeans(vectors_ND, self.codebook_sizes, seed)
        for level, centres_KD in enumerate(centres):
            self._put(level, torch.arange(len(centres_KD), device=centres_KD.device), centres_KD)

    def forward(self, vectors_BD: Tensor) -> Quantized:
        residual_BD, codes, residuals = vectors_BD, [], []
        loss = vectors_BD.new_zeros(())
        for codebook in self.codebooks:
            residuals.append(residual_BD.detach())
            codes.append(nearest(residuals[-1], codebook.detach()))
            chosen_BD = nn.functional.embedding(codes[-1], codebook)
            loss = loss + (residual_BD.detach() - chosen_BD).square().sum(1).mean()
            loss = loss + self.commitment * (residual_BD - chosen_BD.detach()).square().sum(1).mean()
            residual_BD = residual_BD - chosen_BD.detach()
        sum_BD = vectors_BD - residual_BD
        return Quantized(self.pass_gradient(vectors_BD, sum_BD), torch.stack(codes, dim=1), loss, residuals)

    @torch.no_grad()
    def follow(self, batch: Quantized) -> None:
        """Moves the codebooks to their averages, a batch further; does nothing where they learn by gradient."""
        for level, averages in enumerate(self.averages):
            self.codebooks[level].copy_(averages(batch.residuals[level], batch.codes_BL[:, level]))

    def last_distances(self, vectors_BD: Tensor, codes_BL: Tensor) -> Tensor:
        """(B, K) squared distances of the last level's codes to what the codes before leave over."""
        return last_distances(vectors_BD, codes_BL, list(self.codebooks))

    def _put(self, level: int, codes_M: Tensor, vectors_MD: Tensor) -> None:
        """Sets codes of a level, and lets their averages start anew from there."""
        self.codebooks[level][codes_M] = vectors_MD
        if self.averages:
            averages: Any = self.averages[level]
            averages.restart(codes_M, vectors_MD)

    @torch.no_grad()
    def revive(self, vectors_ND: Tensor, generator: torch.Generator) -> int:
        """Moves every code that none of the N vectors uses onto the residual of a random vector of a crowded code.

        A vector is drawn with a chance proportional to the size of its code's bucket. Returns how many codes moved.
        """
        residual_ND, moved = vectors_ND, 0
        for level, codebook in enumerate(self.codebooks):
            codes_N = nearest(residual_ND, codebook)
            count_K = torch.bincount(codes_N, minlength=len(codebook))
            dead = (count_K == 0).nonzero().squeeze(1)
            if len(dead):
                weight_N = count_K[codes_N].cpu().double()
                donors = torch.multinomial(weight_N, min(len(dead), len(weight_N)), generator=generator)
                self._put(level, dead[: len(donors)], residual_ND[donors.to(residual_ND.device)])
                moved += len(donors)
                codes_N = nearest(residual_ND, codebook)
            residual_ND = residual_ND - codebook[codes_N]
        return moved


class Usage(NamedTuple):
    """How evenly a level's codes are used."""

    share_L: Tensor
    """(L,) share of the codebook that some item uses."""
    perplexity_L: Tensor
    """(L,) exp of the entropy (natural log) of the code distribution; at most the codebook size."""


def usage(codes_NL: Tensor, codebook_sizes: tuple[int, ...]) -> Usage:
    """Usage and perplexity of every level of a code table (N, L)."""
    shares, perplexities = [], []
    for level, size in enumerate(codebook_sizes):
        p_K = torch.bincount(codes_NL[:, level], minlength=size).cpu().double() / len(codes_NL)
        shares.append((p_K > 0).double().mean())
        perplexities.append(torch.special.entr(p_K).sum().exp())
    return Usage(torch.stack(shares), torch.stack(perplexities))
