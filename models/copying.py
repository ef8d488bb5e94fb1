"""What codes have more for being those of an item of the history: a copy mechanism over prefixes of semantic IDs.

Where items of the history begin with the codes that are written already, the codes they go on with get a learnt number
more on their logits, one a level: much for the first code, less for later ones. A code that leads to one item only,
which is of the history, gets another number: where nothing comes twice that is a certain miss, which a model that
learns what is alike hardly knows. As CopyNet's (Gu et al. 2016, arXiv 1603.06393), with prefixes in place of attention.

Legend: X targets, B users, T items of a history, L levels, K beams, V codes of a level, P places of either
kind of code, N items.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sid.tokens import PAD, TokenSpace
from sid.trie import Trie

RATE = 10.0
"""How far the numbers move for a step of AdamW's, beside other weights: they are logits, not shares of one. Adafactor's
steps are shares of what a weight is, .001 at least: these start at nothing, and hardly move in the first 500."""


class Beginnings(NamedTuple):
    """The items of histories, and which of them begin with what is written."""

    codes_BTL: Tensor
    """Anything where there is no item."""
    alone_BT: Tensor
    """The level from which on no other item begins alike."""
    alike_BKT: Tensor
    """Which items begin with the codes of a beam: before any is written, all that there are (one beam)."""

    def written(self, level: int, codes_BK: Tensor, parents_BK: Tensor | None = None) -> "Beginnings":
        """After every beam wrote a code of `level`; see `sid.decode.Generator` for the parents."""
        alike_BKT = self.alike_BKT
        if parents_BK is not None:
            alike_BKT = alike_BKT.gather(1, parents_BK[..., None].expand(-1, -1, alike_BKT.shape[2]))
        same_BKT = self.codes_BTL[:, None, :, level] == codes_BK[..., None]
        return self._replace(alike_BKT=alike_BKT & same_BKT)


class Copying(nn.Module):
    """The learnt numbers, and what they are added to.

    Args:
        tokens: the vocabulary.
        codes_NL: of all items.
        new_N: items that training must know nothing of: it takes codes as if these were not there.
    """

    def __init__(self, tokens: TokenSpace, codes_NL: Tensor, new_N: Tensor | None = None) -> None:
        super().__init__()
        self.tokens, self.trie, levels = tokens, Trie.from_codes(codes_NL), tokens.num_levels
        self.alone_N = self.learnt_N = self.trie.alone(len(codes_NL))
        if new_N is not None:
            self.learnt_N = Trie.from_codes(codes_NL, (~new_N).nonzero()[:, 0]).alone(len(codes_NL))
        self.more = nn.Parameter(torch.zeros(levels))
        """Of codes that lead to other items, too. None of the last level does."""
        self.again = nn.Parameter(torch.zeros(levels))
        """Of codes that lead to one item only."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Copying":
        """Moves the catalogue's tables with the model. They are no buffers: those are broadcast."""
        self.trie, self.alone_N, self.learnt_N = self.trie.each(fn), fn(self.alone_N), fn(self.learnt_N)
        return super()._apply(fn, recurse)

    def beginnings(self, tokens_BTL: Tensor) -> Beginnings:
        """Histories of such tokens, PAD where there is no item, before anything is written."""
        codes_BTL = self.tokens.decode(tokens_BTL)
        alone_N = self.learnt_N if self.training else self.alone_N
        alone_BT = alone_N[self.trie.find(codes_BTL).clamp_min(0)]
        return Beginnings(codes_BTL, alone_BT, (tokens_BTL[..., 0] != PAD)[:, None])

    def added(self, level: int, past: Beginnings) -> Tensor:
        """(B, K, V) float32, what the logits of `level` get."""
        num_codes = self.tokens.codebook_sizes[level]
        place_BT = past.codes_BTL[..., level] + num_codes * (past.alone_BT <= level)
        place_BKT = torch.where(past.alike_BKT, place_BT[:, None], 2 * num_codes)
        there_BKP = place_BKT.new_zeros(*place_BKT.shape[:2], 2 * num_codes + 1, dtype=torch.bool)
        others_BKV, again_BKV, _ = there_BKP.scatter_(2, place_BKT, True).split([num_codes, num_codes, 1], dim=2)
        return RATE * (self.more[level].float() * others_BKV + self.again[level].float() * again_BKV)

    def taught(self, past: Beginnings, codes_XL: Tensor) -> list[Tensor]:
        """(X, V) float32 for every level, what its logits get where each is told the codes of the target before it."""
        added = []
        for level, code_X in enumerate(codes_XL.unbind(1)):
            added.append(self.added(level, past)[:, 0])
            past = past.written(level, code_X[:, None])
        return added
