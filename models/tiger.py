"""TIGER (Rajput et al., NeurIPS 2023, arXiv 2305.05065): a T5-style encoder-decoder over semantic-ID tokens.

Legend: B users, S source tokens, L levels, K beams, V codes of a level, W vocabulary, D width.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Packed, Shape, Source
from models.inside import Inside
from models.transformer import Decoder, DecoderState, Encoder
from sid.tokens import BOS, PAD, TokenSpace


class Tiger(nn.Module):
    """Embedding shared by source, target and output; the softmax runs over the whole vocabulary, as in T5.

    Args:
        shape: of either stack.
        tokens: users and codes.
        decoder: in place of T5's.
        num_words: of a prompt; their tokens come behind.
    """

    def __init__(self, shape: Shape, tokens: TokenSpace, decoder: Decoder | None = None, num_words: int = 0) -> None:
        super().__init__()
        self.tokens = tokens
        self.embedding = nn.Parameter(torch.empty(tokens.size + num_words, shape.width).normal_())
        self.encoder = Encoder(shape)
        self.decoder = decoder or Decoder(shape)

    @property
    def gated_layers(self) -> int:
        """Layers that mix in something besides the source."""
        return 0

    def embed(self, tokens_BS: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's input (B, S, D), and which of it is padding (B, S)."""
        return F.embedding(tokens_BS, self.embedding), tokens_BS == PAD

    def mask(self, padding_BS: Tensor) -> Tensor | None:
        """(B, 1, 1, S) 0, or -inf for padding behind the first place, so that every row has something to look at. None
        where a look, which only a CPU takes, finds no padding."""
        if padding_BS.device.type == "cpu" and not torch.compiler.is_compiling() and not padding_BS.any():
            return None
        mask_BS = torch.zeros_like(padding_BS, dtype=self.embedding.dtype)
        mask_BS[:, 1:].masked_fill_(padding_BS[:, 1:], -torch.inf)
        return mask_BS[:, None, None]

    def encode(self, x_BSD: Tensor, padding_BS: Tensor) -> tuple[Tensor, Tensor | None]:
        """The encoder's output (B, S, D), and the mask (B, 1, 1, S) for those who read it."""
        mask_B11S = self.mask(padding_BS)
        return self.encoder(x_BSD, mask_B11S), mask_B11S

    def _logits(self, states: Tensor) -> Tensor:
        return F.linear(states * self.embedding.shape[1] ** -0.5, self.embedding)

    def decode(
        self, x_BSD: Tensor, padding_BS: Tensor, codes_BL: Tensor, asides: Sequence[Any] | None = None
    ) -> Tensor:
        """Logits (B, L, W) of the target's tokens, each given those before it (teacher forcing)."""
        return self._taught(*self.encode(x_BSD, padding_BS), codes_BL, asides)

    def _taught(
        self, source: Source, mask_B11S: Tensor | None, codes_BL: Tensor, asides: Sequence[Any] | None
    ) -> Tensor:
        before_BL = F.pad(self.tokens.encode(codes_BL)[:, :-1], (1, 0), value=BOS)
        return self._logits(self.decoder(F.embedding(before_BL, self.embedding), source, mask_B11S, asides))

    def forward(self, tokens_BS: Tensor, codes_BL: Tensor) -> Tensor:
        """Logits (B, L, W) of the target's tokens, each given those before it (teacher forcing).

        Args:
            tokens_BS: user token and history; PAD where a row is shorter.
            codes_BL: codes of the target item.
        """
        return self.decode(*self.embed(tokens_BS), codes_BL)

    def token_loss(self, logits_BLW: Tensor, codes_BL: Tensor) -> Tensor:
        """Mean cross-entropy (natural log) of the target's tokens."""
        return F.cross_entropy(logits_BLW.flatten(0, 1).float(), self.tokens.encode(codes_BL).flatten())

    def right(self, logits_BLW: Tensor, codes_BL: Tensor) -> Tensor:
        """(B, L) whether the target's code is the most likely one of its level."""
        best_BL = [logits_BLW[:, level, self.tokens.level(level)].argmax(1) for level in range(codes_BL.shape[1])]
        return torch.stack(best_BL, dim=1) == codes_BL

    def loss(self, tokens_BS: Tensor, codes_BL: Tensor) -> Tensor:
        """Mean cross-entropy (natural log) of the target's tokens."""
        return self.token_loss(self(tokens_BS, codes_BL), codes_BL)

    def prefix_loss(self, prefixes: Sequence[tuple[Tensor, ...]]) -> Tensor:
        """`loss` of all rows of several parts, each what `loss` takes; see `models.transformer.read_together`."""
        embedded = [self.embed(*inputs) for *inputs, _ in prefixes]
        masks = [self.mask(padding_BS) for _, padding_BS in embedded]
        states = self.encoder.packed([x_BSD for x_BSD, _ in embedded], masks)
        codes_BL = torch.cat([codes_BL for *_, codes_BL in prefixes])
        logits_BLW = self._taught(Packed(states, masks), None, codes_BL, self.asides(prefixes))
        return self.token_loss(logits_BLW, codes_BL)

    def asides(self, prefixes: Sequence[tuple[Tensor, ...]]) -> Sequence[Any] | None:
        """What each layer of the decoder reads besides, for all rows of several parts."""
        return None

    def look_inside(self, tokens_BS: Tensor, codes_BL: Tensor) -> Inside:
        """Which codes the model gets right when it is told those before."""
        logits_BLW = self(tokens_BS, codes_BL)
        return Inside(self.token_loss(logits_BLW, codes_BL), self.right(logits_BLW, codes_BL), None, None, None)

    def read(self, x_BSD: Tensor, padding_BS: Tensor) -> DecoderState:
        """The decoder's state before the first token."""
        return self.decoder.begin(*self.encode(x_BSD, padding_BS))

    def begin(self, tokens_BS: Tensor) -> DecoderState:
        """Encodes every history once, for `sid.decode.beam_search`."""
        return self.read(*self.embed(tokens_BS))

    def continue_with(
        self,
        state: DecoderState,
        level: int,
        codes_BK: Tensor | None,
        parents_BK: Tensor | None,
        asides: Sequence[Any] | None = None,
    ) -> tuple[Tensor, DecoderState]:
        """One step of every beam: log-probabilities (B, K, V) of the codes of `level`, and the new state."""
        if codes_BK is None:
            users = len(state.source[0][0])
            tokens_BK = torch.full((users, 1), BOS, device=self.embedding.device)
        else:
            tokens_BK = codes_BK + self.tokens.offsets[level - 1]
        states_BKD, state = self.decoder.step(F.embedding(tokens_BK, self.embedding), parents_BK, state, asides)
        logp_BKW = self._logits(states_BKD).log_softmax(-1, dtype=torch.float32)
        return logp_BKW[..., self.tokens.level(level)], state

    def next_logp(
        self, state: DecoderState, level: int, codes_BK: Tensor | None, parents_BK: Tensor | None
    ) -> tuple[Tensor, DecoderState]:
        """Log-probabilities (B, K, V) of the codes of `level` (see `sid.decode.Generator`)."""
        return self.continue_with(state, level, codes_BK, parents_BK)
