"""What a data module yields and a Lightning module takes.

Legend: B examples, S tokens, T history items, N items, L levels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from sid.tokens import PAD, TokenSpace


class SequenceBatch(NamedTuple):
    """Histories and the next item of every one; rows are padded on the right."""

    tokens_BS: Tensor
    """(B, S) int64 token ids: the user token, then the codes of the history, oldest first; PAD (0) behind."""
    codes_BL: Tensor
    """(B, L) int64 codes of the target."""
    history_BT: Tensor
    """(B, T) int64 items of the history, oldest first; -1 behind."""
    target_B: Tensor
    """(B,) int64 item to predict."""
    user_B: Tensor
    """(B,) int64 user numbers."""
    long_BT: Tensor | None = None
    """(B, T) int64 items before the history, oldest first, -1 behind; None for a model that does not ask for them."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What a model reads."""
        return (self.tokens_BS,) if self.long_BT is None else (self.tokens_BS, self.long_BT)

    def to(self, device: torch.device | str) -> "SequenceBatch":
        """The same on another device."""
        return SequenceBatch(*(part if part is None else part.to(device) for part in self))  # type: ignore[arg-type]

    @property
    def seen_BT(self) -> Tensor:
        """(B, T) all items that the model is shown of a user; -1 between and behind."""
        return self.history_BT if self.long_BT is None else torch.cat([self.long_BT, self.history_BT], dim=1)


class WindowBatch(NamedTuple):
    """Users' sequences with all their targets; rows are padded on the right."""

    tokens_BS: Tensor
    """(B, S) int64 token ids: the user token, then the codes of the items, oldest first; PAD (0) behind."""
    target_BT: Tensor
    """(B, T) bool: whether an item is to be predicted from those before it."""
    item_BT: Tensor
    """(B, T) int64 items, oldest first; -1 behind."""
    user_B: Tensor
    """(B,) int64 user numbers."""


Parts = Sequence[SequenceBatch] | Sequence[WindowBatch]
"""A training batch: examples of any length, those of like length together, so that little is padded."""


class IndexBatch(NamedTuple):
    """Rows of a table that lives on the device."""

    rows_B: Tensor
    """(B,) int64."""


def token_sequence(item_BT: Tensor, user_B: Tensor, codes_NL: Tensor, tokens: TokenSpace) -> Tensor:
    """(B, S) tokens: the user token, if there are any (PAD for user -1, who is not known), then the codes of the items
    (B, T), oldest first; PAD for -1 behind."""
    tokens_BTL = tokens.encode(codes_NL[item_BT.clamp_min(0)])
    tokens_BS = tokens_BTL.masked_fill((item_BT < 0)[..., None], PAD).flatten(1)
    if not tokens.num_user_tokens:
        return tokens_BS
    user_B1 = tokens.user(user_B).masked_fill(user_B < 0, PAD)[:, None]
    return torch.cat([user_B1, tokens_BS], dim=1)
