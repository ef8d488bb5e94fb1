"""T5-style transformer stacks, shared by the generative retrievers.

`Encoder` and `Decoder` are T5's (Raffel et al. 2020, v1.0): pre-norm RMSNorm, relative position buckets shared by the
layers of a stack; equal to Hugging Face's (tested). `CausalStack` has the same layers without position buckets.
Legend: B users, S source tokens, T target tokens, K beams, P past positions, M places of a packed
batch, H heads, E head width, D model width.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Attention, FeedForward, KeysValues, Part, RelativeBias, Shape, Shared, Source, laid_out
from models.dropout import add_dropout, dropout
from models.norm import RMSNorm

ROUND = 64
"""Rows of what is read at once come in multiples of it."""


def rounded(x: Tensor) -> Tensor:
    """With zeros behind, up to a multiple of `ROUND` rows: oneDNN compiles products for every number of rows."""
    return F.pad(x, (0, 0) * (x.ndim - 1) + (0, -x.shape[0] % ROUND))


class EncoderLayer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.rate = shape.dropout
        self.attention, self.attention_norm = Attention(shape, cross=False), RMSNorm(shape.width)
        self.feed_forward, self.feed_forward_norm = FeedForward(shape), RMSNorm(shape.width)

    def forward(self, x_BSD: Tensor, bias: Tensor | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The layer's output, and its keys and values. Without bias: causal."""
        attended, keys_values = self.attention.self_attention(self.attention_norm(x_BSD), bias)
        return self.after_self(add_dropout(x_BSD, attended, self.rate, self.training)), keys_values

    def packed(self, x_MD: Tensor, parts: Sequence[Part]) -> Tensor:
        """`forward` for several parts, whose places lie one behind another."""
        attended_MD = self.attention.packed_attention(self.attention_norm(x_MD), parts)
        return self.after_self(add_dropout(x_MD, attended_MD, self.rate, self.training))

    def after_self(self, x: Tensor) -> Tensor:
        """Feed-forward, the same for S tokens and for K beams."""
        return add_dropout(x, self.feed_forward(self.feed_forward_norm(x)), self.rate, self.training)


def read_together(
    stack: "Encoder | CausalStack", inputs: Sequence[Tensor], biases: Sequence[Tensor | None]
) -> list[Tensor]:
    """The normalised states of several (B, S, D). All but attention is done for all of them at once, as small
    operations cost a CPU more than their arithmetic."""
    parts = [Part(x_BSD.shape[0], x_BSD.shape[1], bias) for x_BSD, bias in zip(inputs, biases, strict=True)]
    sizes = [part.batch * part.length for part in parts]
    x_MD = torch.cat([x_BSD.flatten(0, 1) for x_BSD in inputs])
    x_MD = dropout(rounded(x_MD), stack.rate, stack.training)
    layers: Any = stack.layers
    for layer in layers:
        x_MD = layer.packed(x_MD, parts)
    states = stack.norm(x_MD)[: sum(sizes)].split(sizes)
    return [states_MD.view_as(x_BSD) for states_MD, x_BSD in zip(states, inputs, strict=True)]


class Encoder(nn.Module):
    """Bidirectional stack: (B, S, D) embeddings to (B, S, D) states."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.rate = shape.dropout
        self.bias = RelativeBias(shape, bidirectional=True)
        self.layers = nn.ModuleList(EncoderLayer(shape) for _ in range(shape.num_layers))
        self.norm = RMSNorm(shape.width)

    def forward(self, x_BSD: Tensor, mask_B11S: Tensor | None) -> Tensor:
        """`mask_B11S` is 0 where a token is and -inf where padding is; None when there is no padding."""
        bias = self._biases(x_BSD, mask_B11S)
        x_BSD = dropout(x_BSD, self.rate, self.training)
        for layer in self.layers:
            x_BSD, _ = layer(x_BSD, bias)
        return dropout(self.norm(x_BSD), self.rate, self.training)

    def packed(self, inputs: Sequence[Tensor], masks: Sequence[Tensor | None]) -> list[Tensor]:
        """`forward` of several (B, S, D) with their masks; see `read_together`."""
        states = read_together(self, inputs, list(map(self._biases, inputs, masks)))
        return [dropout(states_BSD, self.rate, self.training) for states_BSD in states]

    def _biases(self, x_BSD: Tensor, mask_B11S: Tensor | None) -> Tensor:
        bias: Tensor = self.bias(x_BSD.shape[1], x_BSD.shape[1])
        return bias if mask_B11S is None else bias + mask_B11S


class CausalState(NamedTuple):
    """What decoding keeps, layer by layer: a history that the beams of a user share, if there is one, and the own
    tokens of every beam."""

    history: list[Shared | None]
    past: list[KeysValues | None]


class CausalStack(nn.Module):
    """Causal stack without cross-attention and without position bias: positions are the caller's.

    Not T5's choices (`Shape.t5`), with which both forms start more slowly and the item form ends far behind
    (experiments/LOG.md).
    """

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        shape = replace(shape, t5=False)
        self.rate = shape.dropout
        self.layers = nn.ModuleList(EncoderLayer(shape) for _ in range(shape.num_layers))
        self.norm = RMSNorm(shape.width)

    def forward(self, x_BSD: Tensor, bias: Tensor | None = None) -> Tensor:
        """All S positions at once: (B, S, D) to (B, S, D). A `bias` stands in for the causal mask."""
        return self.read(x_BSD, bias)[0]

    def read(self, x_BSD: Tensor, bias: Tensor | None = None) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        """As `forward`, with the keys and values (B, H, S, E) of every layer."""
        x_BSD = dropout(x_BSD, self.rate, self.training)
        memory = []
        for layer in self.layers:
            x_BSD, keys_values = layer(x_BSD, bias)
            memory.append(keys_values)
        return self.norm(x_BSD), memory

    def packed(self, inputs: Sequence[Tensor], biases: Sequence[Tensor | None] | None = None) -> list[Tensor]:
        """`forward` of several (B, S, D); see `read_together`. One alone is read as by `forward`."""
        biases = biases or [None] * len(inputs)
        if len(inputs) == 1:
            return [self(inputs[0], biases[0])]
        return read_together(self, inputs, biases)

    def begin(self, x_BSD: Tensor, mask_B11S: Tensor | None) -> tuple[Tensor, CausalState]:
        """Reads a history that is kept once a user; padding stands behind, so only later tokens need the mask."""
        x_BSD, memory = self.read(x_BSD)
        history: list[Shared | None] = [Shared(*laid_out(*keys_values), mask_B11S) for keys_values in memory]
        return x_BSD, CausalState(history, [None] * len(history))

    def empty(self) -> CausalState:
        """The state before the first token, with no history."""
        return CausalState([None] * len(self.layers), [None] * len(self.layers))

    def step(self, x_BKD: Tensor, parents_BK: Tensor | None, state: CausalState) -> tuple[Tensor, CausalState]:
        """One more token a beam: (B, K, D) to (B, K, D). What is shared is never copied: beams are queries."""
        past = []
        layers: Any = self.layers
        for layer, before, history in zip(layers, state.past, state.history, strict=True):
            normed = layer.attention_norm(x_BKD)
            attended, after = layer.attention.beam_attention(normed, before, parents_BK, None, history)
            x_BKD = layer.after_self(x_BKD + attended)
            past.append(after)
        return self.norm(x_BKD), state._replace(past=past)


class DecoderLayer(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.rate = shape.dropout
        self.attention, self.attention_norm = Attention(shape, cross=False), RMSNorm(shape.width)
        self.cross, self.cross_norm = Attention(shape, cross=True), RMSNorm(shape.width)
        self.feed_forward, self.feed_forward_norm = FeedForward(shape), RMSNorm(shape.width)

    def read(self, x: Tensor, source: Source, mask_B11S: Tensor | None, aside: Any) -> Tensor:
        """What the normalised states take from the source. `aside` is for decoders that read something more."""
        return self.cross.cross_attention(x, source, mask_B11S)

    def after_self(self, x: Tensor, source: Source, mask_B11S: Tensor | None, aside: Any) -> Tensor:
        """Cross-attention and feed-forward, the same for T teacher-forced tokens and for K beams."""
        x = add_dropout(x, self.read(self.cross_norm(x), source, mask_B11S, aside), self.rate, self.training)
        return add_dropout(x, self.feed_forward(self.feed_forward_norm(x)), self.rate, self.training)

    def forward(self, x_BTD: Tensor, bias: Tensor, source: Source, mask_B11S: Tensor | None, aside: Any) -> Tensor:
        attended, _ = self.attention.self_attention(self.attention_norm(x_BTD), bias)
        x_BTD = add_dropout(x_BTD, attended, self.rate, self.training)
        return self.after_self(x_BTD, source, mask_B11S, aside)


class DecoderState(NamedTuple):
    """What decoding keeps: keys and values of the source once a user, and those of the few own tokens of every beam."""

    source: list[tuple[Tensor, Tensor]]
    mask_B11S: Tensor | None
    past: list[KeysValues | None]


class Decoder(nn.Module):
    """Causal stack with cross-attention to an encoded source; `layer` makes its layers."""

    def __init__(self, shape: Shape, layer: Callable[[Shape], DecoderLayer] = DecoderLayer) -> None:
        super().__init__()
        self.rate = shape.dropout
        self.bias = RelativeBias(shape, bidirectional=False)
        self.layers = nn.ModuleList(layer(shape) for _ in range(shape.num_layers))
        self.norm = RMSNorm(shape.width)

    def forward(
        self, x_BTD: Tensor, source: Source, mask_B11S: Tensor | None, asides: Sequence[Any] | None = None
    ) -> Tensor:
        """All T positions at once, for training: (B, T, D) to (B, T, D). `asides`: what each layer reads besides."""
        bias = self.bias(x_BTD.shape[1], x_BTD.shape[1])
        x_BTD = dropout(x_BTD, self.rate, self.training)
        for layer, aside in zip(self.layers, asides or [None] * len(self.layers), strict=True):
            x_BTD = layer(x_BTD, bias, source, mask_B11S, aside)
        return dropout(self.norm(x_BTD), self.rate, self.training)

    def begin(self, source_BSD: Tensor, mask_B11S: Tensor | None) -> DecoderState:
        """The state before the first token; keys and values are laid out once for the products of every step."""
        layers: Any = self.layers
        source = []
        for layer in layers:
            source.append(laid_out(*layer.cross.keys_values(source_BSD)))
        return DecoderState(source, mask_B11S, [None] * len(source))

    def step(
        self,
        x_BKD: Tensor,
        parents_BK: Tensor | None,
        state: DecoderState,
        asides: Sequence[Any] | None = None,
    ) -> tuple[Tensor, DecoderState]:
        """One more token a beam: (B, K, D) embeddings to (B, K, D). The source is never copied: beams are queries."""
        first = state.past[0]
        length = 1 if first is None else len(first.keys) + 1
        bias_HP = self.bias(1, length)[0, :, 0]
        past = []
        layers: Any = self.layers
        asides = asides or [None] * len(layers)
        for layer, source, before, aside in zip(layers, state.source, state.past, asides, strict=True):
            normed = layer.attention_norm(x_BKD)
            attended, after = layer.attention.beam_attention(normed, before, parents_BK, bias_HP)
            x_BKD = layer.after_self(x_BKD + attended, source, state.mask_B11S, aside)
            past.append(after)
        return self.norm(x_BKD), state._replace(past=past)
