"""The only place where a (level, code) pair becomes a token id, and back.

Layout of the vocabulary: PAD, BOS, the codes of level 0, of level 1, ..., the user tokens. No two ranges overlap.
Legend: L levels.
"""

from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

PAD, BOS = 0, 1
_FIRST_CODE = 2
_KNUTH = 2654435761


@dataclass(frozen=True)
class TokenSpace:
    """Token ids of semantic IDs with `codebook_sizes[l]` codes at level l, and of `num_user_tokens` hashed users."""

    codebook_sizes: tuple[int, ...]
    num_user_tokens: int = 0

    @property
    def num_levels(self) -> int:
        return len(self.codebook_sizes)

    @property
    def offsets(self) -> tuple[int, ...]:
        """First token of every level, then the first user token: L + 1 numbers."""
        return tuple(accumulate(self.codebook_sizes, initial=_FIRST_CODE))

    @property
    def size(self) -> int:
        """Number of token ids, PAD and BOS included."""
        return self.offsets[-1] + self.num_user_tokens

    def level(self, level: int) -> slice:
        """The tokens of one level, as a slice of the vocabulary."""
        return slice(self.offsets[level], self.offsets[level + 1])

    def encode(self, codes: Tensor) -> Tensor:
        """Codes (..., L) to tokens (..., L)."""
        return codes + torch.tensor(self.offsets[:-1], device=codes.device)

    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens (..., L) to codes (..., L), the inverse of `encode`."""
        return tokens - torch.tensor(self.offsets[:-1], device=tokens.device)

    def user(self, users: Tensor) -> Tensor:
        """User numbers of any shape to user tokens (Knuth's multiplicative hash modulo `num_user_tokens`)."""
        return self.offsets[-1] + ((users.long() * _KNUTH) % 2**32) % self.num_user_tokens
