"""Vectors to codes: the residual quantizer of RQ-VAE.

Legend: B vectors, D width, L levels, K codes of a level.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from sid.kmeans import nearest, residual_kmeans


class Quantized(NamedTuple):
    """What a quantizer makes of a batch."""

    sum_BD: Tensor
    """(B, D) the sum of the chosen codes; its gradient goes to the input (straight-through)."""
    codes_BL: Tensor
    """(B, L) int64."""
    loss: Tensor
    """sum over levels of ||sg[r] - e||^2 + beta ||r - sg[e]||^2, mean over the batch."""


class ResidualQuantizer(nn.Module):
    """r_0 = z; c_l = argmin_k ||r_l - e_k||; r_{l+1} = r_l - e_{c_l} (TIGER, section 3.1; Lee et al. 2022)."""

    def __init__(self, width: int, codebook_sizes: tuple[int, ...], commitment: float) -> None:
        super().__init__()
        self.codebook_sizes, self.commitment = codebook_sizes, commitment
        self.codebooks = nn.ParameterList(nn.Parameter(torch.randn(size, width)) for size in codebook_sizes)

    @torch.no_grad()
    def initialise(self, vectors_ND: Tensor, seed: int) -> None:
        """Sets every level to the k-means centres of that level's residuals."""
        _, centres = residual_kmeans(vectors_ND, self.codebook_sizes, seed)
        for codebook, centres_KD in zip(self.codebooks, centres, strict=True):
            codebook.copy_(centres_KD)

    def forward(self, vectors_BD: Tensor) -> Quantized:
        residual_BD, codes = vectors_BD, []
        loss = vectors_BD.new_zeros(())
        for codebook in self.codebooks:
            codes.append(nearest(residual_BD.detach(), codebook.detach()))
            chosen_BD = nn.functional.embedding(codes[-1], codebook)
            loss = loss + (residual_BD.detach() - chosen_BD).square().sum(1).mean()
            loss = loss + self.commitment * (residual_BD - chosen_BD.detach()).square().sum(1).mean()
            residual_BD = residual_BD - chosen_BD.detach()
        sum_BD = vectors_BD - residual_BD
        return Quantized(vectors_BD + (sum_BD - vectors_BD).detach(), torch.stack(codes, dim=1), loss)

    @torch.no_grad()
    def revive(self, vectors_ND: Tensor, generator: torch.Generator) -> int:
        """Moves every code that none of the N vectors uses onto the residual of a random vector of a crowded code.

        A vector is drawn with a chance proportional to the size of its code's bucket. Returns how many codes moved.
        """
        residual_ND, moved = vectors_ND, 0
        for codebook in self.codebooks:
            codes_N = nearest(residual_ND, codebook)
            count_K = torch.bincount(codes_N, minlength=len(codebook))
            dead = (count_K == 0).nonzero().squeeze(1)
            if len(dead):
                weight_N = count_K[codes_N].double().cpu()
                donors = torch.multinomial(weight_N, min(len(dead), len(weight_N)), generator=generator)
                codebook[dead[: len(donors)]] = residual_ND[donors.to(residual_ND.device)]
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
        p_K = torch.bincount(codes_NL[:, level], minlength=size).double() / len(codes_NL)
        shares.append((p_K > 0).double().mean())
        perplexities.append(torch.special.entr(p_K).sum().exp())
    return Usage(torch.stack(shares), torch.stack(perplexities))
