"""TIGER (Rajput et al., NeurIPS 2023, arXiv 2305.05065): a T5-style encoder-decoder over semantic-ID tokens.

It may copy codes from the history (`models.copying`), which the paper's does not.
Legend: B users, S source tokens, T items of a history, L levels, K beams, V codes of a level, W vocabulary, D width.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Packed, Shape, Source
from models.copying import Beginnings, Copying
from models.inside import Inside
from models.next_item import exact, products
from models.transformer import Decoder, DecoderState, Encoder
from sid.tokens import BOS, PAD, TokenSpace


class TigerState(NamedTuple):
    """What decoding keeps between two levels."""

    decoder: DecoderState
    past: Beginnings | None
    """What codes may be copied from, by a model that copies."""


class Tiger(nn.Module):
    """Embedding shared by source, target and output; the softmax runs over the whole vocabulary, as in T5.

    Args:
        shape: of either stack.
        tokens: users and codes.
        decoder: in place of T5's.
        num_words: of a prompt; their tokens come behind.
        copying: what codes of the history have more; None: nothing.
    """

    def __init__(
        self,
        shape: Shape,
        tokens: TokenSpace,
        decoder: Decoder | None = None,
        num_words: int = 0,
        copying: Copying | None = None,
    ) -> None:
        super().__init__()
        self.tokens = tokens
        self.embedding = nn.Parameter(torch.empty(tokens.size + num_words, shape.width).normal_())
        self.encoder = Encoder(shape)
        self.decoder = decoder or Decoder(shape)
        self.copying = copying

    @property
    def gated_layers(self) -> int:
        """Layers that mix in something besides the source."""
        return 0

    def embed(self, tokens_BS: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's input (B, S, D), and which of it is padding (B, S); a place of padding where S would be 0."""
        if not tokens_BS.shape[1]:
            tokens_BS = F.pad(tokens_BS, (0, 1), value=PAD)
        return F.embedding(tokens_BS, self.embedding), tokens_BS == PAD

    def mask(self, padding_BS: Tensor) -> Tensor | None:
        """(B, 1, 1, S) 0, or -inf for padding, but in rows of nothing else, so that every row has something to look at.
        None where a look, which only a CPU takes, finds no padding."""
        if padding_BS.device.type == "cpu" and not torch.compiler.is_compiling() and not padding_BS.any():
            return None
        hidden_BS = padding_BS & ~padding_BS.all(1, keepdim=True)
        mask_BS = torch.zeros_like(padding_BS, dtype=self.embedding.dtype).masked_fill_(hidden_BS, -torch.inf)
        return mask_BS[:, None, None]

    def encode(self, x_BSD: Tensor, padding_BS: Tensor) -> tuple[Tensor, Tensor | None]:
        """The encoder's output (B, S, D), and the mask (B, 1, 1, S) for those who read it."""
        mask_B11S = self.mask(padding_BS)
        return self.encoder(x_BSD, mask_B11S), mask_B11S

    def _logits(self, states: Tensor) -> Tensor:
        """(..., W), where codes are ranked and not learnt, not rounded."""
        states = states * self.embedding.shape[1] ** -0.5
        return F.linear(states, self.embedding) if self.training else products(states, self.embedding)

    def history(self, tokens_BS: Tensor) -> Tensor:
        """(B, T, L) tokens of the items that codes may be copied from, PAD where there is none."""
        return tokens_BS[:, min(self.tokens.num_user_tokens, 1) :].unflatten(1, (-1, self.tokens.num_levels))

    def past(self, inputs: Sequence[Sequence[Tensor]]) -> Beginnings | None:
        """For a model that copies, the histories of several parts, each what `begin` takes."""
        if self.copying is None:
            return None
        items = [self.history(*part) for part in inputs]
        longest = max(items_BTL.shape[1] for items_BTL in items)
        padded = [F.pad(items_BTL, (0, 0, 0, longest - items_BTL.shape[1]), value=PAD) for items_BTL in items]
        return self.copying.beginnings(torch.cat(padded))

    def _taught(
        self,
        source: Source,
        mask_B11S: Tensor | None,
        past: Beginnings | None,
        codes_BL: Tensor,
        asides: Sequence[Any] | None,
    ) -> Tensor:
        """Logits (B, L, W) of the target's tokens, each given those before it (teacher forcing)."""
        before_BL = F.pad(self.tokens.encode(codes_BL)[:, :-1], (1, 0), value=BOS)
        logits_BLW = self._logits(self.decoder(F.embedding(before_BL, self.embedding), source, mask_B11S, asides))
        if self.copying is not None and past is not None:
            logits_BLW = exact(logits_BLW)  # bfloat16 would round what is added
            for level, added_BV in enumerate(self.copying.taught(past, codes_BL)):
                logits_BLW[:, level, self.tokens.level(level)] += added_BV
        return logits_BLW

    def forward(self, tokens_BS: Tensor, codes_BL: Tensor) -> Tensor:
        """Logits (B, L, W) of the target's tokens, each given those before it (teacher forcing).

        Args:
            tokens_BS: user token and history; PAD where a row is shorter.
            codes_BL: codes of the target item.
        """
        return self.decode([tokens_BS], codes_BL)

    def decode(self, inputs: Sequence[Tensor], codes_BL: Tensor, asides: Sequence[Any] | None = None) -> Tensor:
        """Logits (B, L, W), as of `forward`.

        Args:
            inputs: what `begin` takes.
            codes_BL: codes of the target item.
            asides: what each layer of the decoder reads besides.
        """
        return self._taught(*self.encode(*self.embed(*inputs)), self.past([inputs]), codes_BL, asides)

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
        past = self.past([inputs for *inputs, _ in prefixes])
        logits_BLW = self._taught(Packed(states, masks), None, past, codes_BL, self.asides(prefixes))
        return self.token_loss(logits_BLW, codes_BL)

    def asides(self, prefixes: Sequence[tuple[Tensor, ...]]) -> Sequence[Any] | None:
        """What each layer of the decoder reads besides, for all rows of several parts."""
        return None

    def look_inside(self, tokens_BS: Tensor, codes_BL: Tensor) -> Inside:
        """Which codes the model gets right when it is told those before."""
        logits_BLW = self(tokens_BS, codes_BL)
        return Inside(self.token_loss(logits_BLW, codes_BL), self.right(logits_BLW, codes_BL), None, None, None)

    def read(self, *inputs: Tensor) -> TigerState:
        """The decoder's state before the first token, of what `begin` takes."""
        return TigerState(self.decoder.begin(*self.encode(*self.embed(*inputs))), self.past([inputs]))

    def begin(self, tokens_BS: Tensor) -> TigerState:
        """Encodes every history once, for `sid.decode.beam_search`."""
        return self.read(tokens_BS)

    def continue_with(
        self,
        state: TigerState,
        level: int,
        codes_BK: Tensor | None,
        parents_BK: Tensor | None,
        asides: Sequence[Any] | None = None,
    ) -> tuple[Tensor, TigerState]:
        """One step of every beam: log-probabilities (B, K, V) of the codes of `level`, and the new state."""
        past = state.past
        if codes_BK is None:
            users = state.decoder.source[0][0].shape[0]
            tokens_BK = torch.full((users, 1), BOS, device=self.embedding.device)
        else:
            tokens_BK = codes_BK + self.tokens.offsets[level - 1]
            past = past and past.written(level - 1, codes_BK, parents_BK)
        embedded_BKD = F.embedding(tokens_BK, self.embedding)
        states_BKD, decoder = self.decoder.step(embedded_BKD, parents_BK, state.decoder, asides)
        logits_BKW, own = self._logits(states_BKD), self.tokens.level(level)
        if self.copying is not None and past is not None:
            logits_BKW[..., own] += self.copying.added(level, past)
        logp_BKW = logits_BKW.log_softmax(-1, dtype=torch.float32)
        return logp_BKW[..., own], TigerState(decoder, past)

    def next_logp(
        self, state: TigerState, level: int, codes_BK: Tensor | None, parents_BK: Tensor | None
    ) -> tuple[Tensor, TigerState]:
        """Log-probabilities (B, K, V) of the codes of `level` (see `sid.decode.Generator`)."""
        return self.continue_with(state, level, codes_BK, parents_BK)
