"""LETTER: what it adds to an RQ-VAE's loss, so that items of the same users get alike codes (arXiv 2405.07314).

Legend: N items, B rows of a batch, D latent width, C collaborative width, K codes of a level, G groups of codes.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from sid.clusters import balance
from sid.kmeans import kmeans, nearest


def alignment(sums_BC: Tensor, collaborative_BC: Tensor, temperature: float) -> Tensor:
    """InfoNCE between quantized and collaborative embeddings of the same items: the paper's L_CF.

    -mean_i log(exp(<z_i, h_i> / t) / sum_j exp(<z_i, h_j> / t)), over the batch's items that have an h: those whose
    collaborative vector is not all zero. 0 where none has.
    """
    known = collaborative_BC.any(dim=1)
    score_BB = sums_BC[known] @ collaborative_BC[known].T / temperature
    own_B = torch.arange(len(score_BB), device=score_BB.device)
    return cross_entropy(score_BB, own_B, reduction="sum") / max(1, len(own_B))


def diversity(codebook_KD: Tensor, group_K: Tensor, codes_B: Tensor, temperature: float) -> Tensor:
    """Draws a chosen code to those of its group and away from all others: the paper's L_Div of one level.

    -mean_i mean_p log(exp(<e_i, e_p> / t) / sum_{j != i} exp(<e_i, e_j> / t)), with e_i the code of item i, and p the
    other codes of its group: the mean that the paper's single p, drawn at random, has. A code alone in its group has
    no p, and gives 0.
    """
    itself_KK = torch.eye(len(codebook_KD), dtype=torch.bool, device=codebook_KD.device)
    alike_KK = (group_K[:, None] == group_K) & ~itself_KK
    score_KK = (codebook_KD @ codebook_KD.T / temperature).masked_fill(itself_KK, -1e9)
    log_p_KK = score_KK.log_softmax(dim=1)
    loss_K = -log_p_KK.where(alike_KK, 0).sum(1) / alike_KK.sum(1).clamp_min(1)
    return loss_K[codes_B].mean()


@torch.no_grad()
def code_groups(codebook_KD: Tensor, num_groups: int, seed: int) -> Tensor:
    """(K,) group of every code, of about equal size: constrained k-means.

    Of few codes, fewer groups: two codes each.
    """
    num_groups = max(1, min(num_groups, len(codebook_KD) // 2))
    centres_GD, prices_G = balance(codebook_KD, kmeans(codebook_KD, num_groups, seed))
    return nearest(codebook_KD, centres_GD, prices_G)
