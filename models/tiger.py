"""TIGER (Rajput et al., NeurIPS 2023, arXiv 2305.05065): a T5-style encoder-decoder over semantic-ID tokens.

Legend: B users, S source tokens, L levels, K beams, V codes of a level, W vocabulary, D width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Shape
from models.transformer import Decoder, DecoderState, Encoder
from sid.tokens import BOS, PAD, TokenSpace


class Tiger(nn.Module):
    """Embedding shared by source, target and output; the softmax runs over the whole vocabulary, as in T5."""

    def __init__(self, shape: Shape, tokens: TokenSpace) -> None:
        super().__init__()
        self.tokens = tokens
        self.embedding = nn.Parameter(torch.empty(tokens.size, shape.width).normal_())
        self.encoder = Encoder(shape)
        self.decoder = Decoder(shape)

    def _encode(self, tokens_BS: Tensor) -> tuple[Tensor, Tensor | None]:
        padding_BS = tokens_BS == PAD
        mask_B11S = None
        if tokens_BS.device.type != "cpu" or padding_BS.any():
            mask_B11S = torch.zeros_like(tokens_BS, dtype=self.embedding.dtype).masked_fill(padding_BS, -torch.inf)
            mask_B11S = mask_B11S[:, None, None]
        return self.encoder(F.embedding(tokens_BS, self.embedding), mask_B11S), mask_B11S

    def _logits(self, states: Tensor) -> Tensor:
        return F.linear(states * self.embedding.shape[1] ** -0.5, self.embedding)

    def forward(self, tokens_BS: Tensor, codes_BL: Tensor) -> Tensor:
        """Logits (B, L, W) of the target's tokens, each given those before it (teacher forcing).

        Args:
            tokens_BS: user token and history; PAD where a row is shorter.
            codes_BL: codes of the target item.
        """
        source_BSD, mask_B11S = self._encode(tokens_BS)
        before_BL = F.pad(self.tokens.encode(codes_BL)[:, :-1], (1, 0), value=BOS)
        return self._logits(self.decoder(F.embedding(before_BL, self.embedding), source_BSD, mask_B11S))

    def loss(self, tokens_BS: Tensor, codes_BL: Tensor) -> Tensor:
        """Mean cross-entropy (natural log) of the target's tokens."""
        logits_BLW = self(tokens_BS, codes_BL)
        return F.cross_entropy(logits_BLW.flatten(0, 1).float(), self.tokens.encode(codes_BL).flatten())

    def begin(self, tokens_BS: Tensor) -> DecoderState:
        """Encodes every history once, for `sid.decode.beam_search`."""
        return self.decoder.begin(*self._encode(tokens_BS))

    def next_logp(
        self, state: DecoderState, level: int, codes_BK: Tensor | None, parents_BK: Tensor | None
    ) -> tuple[Tensor, DecoderState]:
        """Log-probabilities (B, K, V) of the codes of `level` (see `sid.decode.Generator`)."""
        if codes_BK is None:
            users = len(state.source[0][0])
            tokens_BK = torch.full((users, 1), BOS, device=self.embedding.device)
        else:
            tokens_BK = codes_BK + self.tokens.offsets[level - 1]
        states_BKD, state = self.decoder.step(F.embedding(tokens_BK, self.embedding), parents_BK, state)
        logp_BKW = self._logits(states_BKD).log_softmax(-1, dtype=torch.float32)
        return logp_BKW[..., self.tokens.level(level)], state
