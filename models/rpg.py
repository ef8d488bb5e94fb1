"""RPG (Hou et al. 2025, arXiv 2506.05781): long semantic IDs whose codes are predicted all at once.

A causal transformer reads items, each the mean of its code embeddings. From the state behind an item a head for every
level makes a distribution over that level's codes, and an item's score is the mean log-likelihood of its codes: they
have no order, and none waits for another. The published network is GPT-2's; here layers are those of `CausalStack`.
Unlike in the released code a softmax leaves out codes that no item has, what is read is scaled, and biases of heads
start at 0.
Scores are of all items; the paper, for large catalogues, looks for the best of them along a graph of similar ones.
Legend: B users, T items of a sequence, X targets, N items, L levels, K codes of a level, D width.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Shape
from models.next_item import INIT_STD, ItemReader, Known, at_once
from models.transformer import CausalStack, rounded

NO_TARGET = -100


class RPG(ItemReader):
    """See the module.

    Args:
        known: the catalogue, with the codes of its items.
        shape: of the transformer.
        temperature: of the softmax over a level's codes, whose logits are cosines.
    """

    def __init__(self, known: Known, shape: Shape, temperature: float) -> None:
        super().__init__()
        if known.codes_NL is None:
            raise ValueError("RPG needs the codes of the items")
        self.levels, self.temperature = known.codes_NL.shape[1], temperature
        self.averaged = self.levels
        """Log-likelihoods that a score is the mean of: an item is drawn by their sum."""
        size = int(known.codes_NL.max()) + 1
        rows_NL = known.codes_NL + size * torch.arange(self.levels)
        self.register_buffer("rows_NL", rows_NL, persistent=False)
        self.rows_NL: Tensor
        """The codes as rows of `codes`."""
        absent = torch.ones(self.levels * size, dtype=torch.bool)
        absent[rows_NL] = False
        absent_L1K = absent.view(self.levels, 1, size) if absent.any() else None
        self.register_buffer("absent_L1K", absent_L1K, persistent=False)
        self.absent_L1K: Tensor | None
        """Codes that no item has: of a larger level, or never used."""
        self.codes = nn.Parameter(torch.empty(self.levels * size, shape.width).normal_(std=INIT_STD))
        self.scale = (self.levels * shape.width) ** 0.5
        """Of what is read, so that at first it is as large as other models' items (`NextItem.embed`)."""
        self.position = nn.Parameter(torch.empty(known.max_items, shape.width).normal_(std=INIT_STD))
        self.stack = CausalStack(shape)
        self.heads = nn.Parameter(torch.zeros(self.levels, shape.width, shape.width))
        self.head_biases = nn.Parameter(torch.zeros(self.levels * shape.width))  # flat, so that it does not decay

    def embed(self, items: Tensor) -> Tensor:
        """(..., D), means of the code embeddings of items (...); zero where there is no item (-1)."""
        rows_ML = self.rows_NL[items.clamp_min(0).flatten()]
        read = F.embedding_bag(rows_ML, self.codes, mode="mean").view(*items.shape, self.codes.shape[1])
        return read * (self.scale * (items >= 0))[..., None]

    def states(self, item_BT: Tensor, user_B: Tensor) -> Tensor:
        return self.states_of([(item_BT, user_B)])[0]

    def states_of(self, parts: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        embedded = at_once(self.embed, [item_BT for item_BT, _ in parts])
        return self.stack.packed([item_BTD + self.position[: item_BTD.shape[1]] for item_BTD in embedded])

    def code_logits(self, states_XD: Tensor) -> Tensor:
        """(L, X, K) cosines over the temperature. What a head makes of a state is at first the state itself."""
        states_LXD = states_XD.expand(self.levels, -1, -1)
        biases_L1D = self.head_biases.view(self.levels, 1, -1)
        raised_LXD = states_LXD + F.silu(torch.baddbmm(biases_L1D, states_LXD, self.heads))
        codes_LKD = F.normalize(self.codes, dim=1).unflatten(0, (self.levels, -1))
        logits_LXK = torch.bmm(F.normalize(raised_LXD, dim=2) / self.temperature, codes_LKD.transpose(1, 2))
        return logits_LXK if self.absent_L1K is None else logits_LXK.masked_fill(self.absent_L1K, -torch.inf)

    def loss_of(self, states_XD: Tensor, target_X: Tensor) -> Tensor:
        """Mean cross-entropy (natural log) of all codes of the targets, as in the released code."""
        logits_LXK = self.code_logits(rounded(states_XD))
        level_L1 = torch.arange(self.levels, device=target_X.device)[:, None]
        code_LX = self.rows_NL[target_X].T - logits_LXK.shape[2] * level_L1
        code_LX = F.pad(code_LX, (0, logits_LXK.shape[1] - len(target_X)), value=NO_TARGET)
        return F.cross_entropy(logits_LXK.flatten(0, 1).float(), code_LX.flatten(), ignore_index=NO_TARGET)

    def scores_of(self, states_BD: Tensor) -> Tensor:
        with torch.autocast(states_BD.device.type, enabled=False):
            logp_LBK = self.code_logits(states_BD.float()).log_softmax(2)
            return F.embedding_bag(self.rows_NL, logp_LBK.transpose(1, 2).flatten(0, 1), mode="mean").T
