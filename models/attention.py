"""Attention and feed-forward of T5, in plain torch, shared by the generative retrievers.

As in T5 (Raffel et al. 2020, v1.0): no biases, attention without 1/sqrt(d) scaling, relative position buckets, ReLU
feed-forward, T5's initialisation; scaling, initialisation and dropout can be those of torch's layers (`Shape.t5`).
Legend: B users, S source tokens, T target tokens, K beams, P past positions, M places of a packed
batch, Q queries of all heads, H heads, E head width, D model width.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.dropout import dropout, relu_dropout


@dataclass(frozen=True)
class Shape:
    """Sizes of one transformer stack."""

    width: int
    num_layers: int
    num_heads: int
    head_width: int
    ff_width: int
    dropout: float
    num_buckets: int = 32
    max_distance: int = 128
    t5: bool = True
    """T5's initialisation, unscaled scores and dropout everywhere; else weights within 1/sqrt(inputs), as torch's own
    layers, scores divided by sqrt(head_width), and dropout on the input and the residual branches alone."""


def in_float32() -> torch.autocast:
    """For what is small, on a CPU: to compile each of its ever new shapes costs oneDNN more than bfloat16 saves.
    Elsewhere it changes nothing."""
    return torch.autocast("cpu", enabled=False)


def causal_mask(length: int, device: torch.device) -> Tensor:
    """(T, T): 0 up to the diagonal, -inf above it."""
    return torch.full((length, length), -torch.inf, device=device).triu_(1)


def attend(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, rate: float = 0.0, causal: bool = False
) -> Tensor:
    """softmax(Q K^T + bias) V without scaling, for (B, H, T, E) queries and (B, H, S, E) keys and values.

    `causal` (T = S, no bias) hides later keys. One fused call on an accelerator; on a CPU the explicit products are
    1.3-1.7 times as fast at these sizes.
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=bias, dropout_p=rate, is_causal=causal, scale=1.0
        )
    scores = query @ key.transpose(-1, -2)
    if causal:
        bias = causal_mask(query.shape[2], query.device)
    if bias is not None:
        scores = scores + bias
    weights = scores.softmax(-1).to(value.dtype)
    return dropout(weights, rate, training=rate > 0.0) @ value


def relative_buckets(num_query: int, num_key: int, shape: Shape, bidirectional: bool) -> Tensor:
    """T5's bucket (T, S) of the distance key - query, for queries that end where the keys end."""
    distance = torch.arange(num_key) - torch.arange(num_key - num_query, num_key)[:, None]
    buckets = shape.num_buckets
    base = torch.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        base = (distance > 0) * buckets
        distance = distance.abs()
    else:
        distance = (-distance).clamp_min(0)
    exact = buckets // 2
    log_ratio = torch.log(distance.clamp_min(1).float() / exact) / math.log(shape.max_distance / exact)
    far = (exact + (log_ratio * (buckets - exact)).long()).clamp_max(buckets - 1)
    return base + torch.where(distance < exact, distance, far)


class RelativeBias(nn.Module):
    """One learnt number a head and distance bucket, added to the attention scores."""

    def __init__(self, shape: Shape, bidirectional: bool) -> None:
        super().__init__()
        self.shape, self.bidirectional = shape, bidirectional
        self.weight = nn.Parameter(torch.empty(shape.num_buckets, shape.num_heads).normal_(std=shape.width**-0.5))

    def forward(self, num_query: int, num_key: int) -> Tensor:
        """(1, H, T, S); in a causal stack -inf above the diagonal."""
        buckets = relative_buckets(num_query, num_key, self.shape, self.bidirectional).to(self.weight.device)
        bias = F.embedding(buckets, self.weight).permute(2, 0, 1)[None]
        if self.bidirectional:
            return bias
        later = torch.ones(num_query, num_key, dtype=torch.bool, device=bias.device).triu(num_key - num_query + 1)
        return bias.masked_fill(later, -torch.inf)


def _linear(shape: Shape, inputs: int, outputs: int, std: float) -> nn.Linear:
    layer = nn.Linear(inputs, outputs, bias=False)
    if shape.t5:
        nn.init.normal_(layer.weight, std=std)
    return layer


def joined(heads_BHTE: Tensor) -> Tensor:
    """(B, T, H E)"""
    return heads_BHTE.transpose(1, 2).flatten(2)


class Packed(NamedTuple):
    """States of several parts, whose rows lie one behind another in the queries."""

    states: Sequence[Tensor]
    """(B, S, D)"""
    masks: Sequence[Tensor | None]
    """(B, 1, 1, S): -inf where padding is."""


Source: TypeAlias = Tensor | tuple[Tensor, Tensor] | Packed
"""What cross-attention reads: states (B, S, D), of one part or of several, or the keys and values (B, H, S, E) that a
layer has made of them."""


class Part(NamedTuple):
    """Sequences of like length among others."""

    batch: int
    length: int
    bias: Tensor | None
    """Of their attention; None: causal."""


class Attention(nn.Module):
    """Multi-head attention. `fused` projects to keys and values, and `q` to queries; where the latter start like the
    former, and the source is the own one, `fused` projects to all three.

    T5's queries start smaller, and Adafactor's steps go by the size of a weight.
    """

    def __init__(self, shape: Shape, cross: bool) -> None:
        super().__init__()
        self.shape = shape
        inner = shape.num_heads * shape.head_width
        query_std = (shape.width * shape.head_width) ** -0.5
        self.apart = cross or shape.t5
        self.fused = _linear(shape, shape.width, inner * (2 if self.apart else 3), shape.width**-0.5)
        if self.apart:
            self.q = _linear(shape, shape.width, inner, query_std)
        self.out = _linear(shape, inner, shape.width, inner**-0.5)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """(B, S, n H E) to n of (B, H, S, E); on a CPU one copy lays all of them out for the products."""
        heads = x.unflatten(-1, (-1, self.shape.num_heads, self.shape.head_width)).permute(2, 0, 3, 1, 4)
        return (heads.contiguous() if x.device.type == "cpu" else heads).unbind(0)

    def project(self, x: Tensor) -> Tensor:
        """(..., D) to queries, keys and values (..., 3 H E), in one product."""
        if self.apart:
            return F.linear(x, torch.cat([self.q.weight, self.fused.weight]))
        return self.fused(x)

    def merge(self, heads_BHTE: Tensor) -> Tensor:
        return self.out(joined(heads_BHTE))

    def scaled(self, query: Tensor) -> Tensor:
        """Divided by sqrt(E), but for T5."""
        return query if self.shape.t5 else query * self.shape.head_width**-0.5

    @property
    def rate(self) -> float:
        return self.shape.dropout if self.training and self.shape.t5 else 0.0

    def self_attention(self, x_BTD: Tensor, bias: Tensor | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The output, and the keys and values (B, H, T, E). Without bias: causal."""
        query, key, value = self.split(self.project(x_BTD))
        attended = attend(self.scaled(query), key, value, bias, self.rate, causal=bias is None)
        return self.merge(attended), (key, value)

    def packed_attention(self, x_MD: Tensor, parts: Sequence[Part]) -> Tensor:
        """`self_attention` within each of the parts, whose places lie one behind another in `x_MD`; zero behind them.

        In float32 on a CPU: the shapes seldom come again, and oneDNN compiles for every one that bfloat16 has not had.
        """
        sizes = [part.batch * part.length for part in parts]
        fused_M3 = self.project(x_MD)
        if x_MD.device.type == "cpu":
            fused_M3 = fused_M3.to(self.fused.weight.dtype)
        *each, rest = fused_M3.split([*sizes, x_MD.shape[0] - sum(sizes)])
        attended = []
        with in_float32():
            for part, part_M3 in zip(parts, each, strict=True):
                query, key, value = self.split(part_M3.unflatten(0, (part.batch, part.length)))
                heads = attend(self.scaled(query), key, value, part.bias, self.rate, causal=part.bias is None)
                attended.append(joined(heads).flatten(0, 1))
        attended.append(rest.new_zeros(rest.shape[0], self.out.in_features))
        return self.out(torch.cat(attended))

    def keys_values(self, source_BSD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, S, E) of a source's states, for `cross_attention`."""
        key, value = self.split(self.fused(source_BSD))
        return key, value

    def cross_attention(self, x_BTD: Tensor, source: Source, bias: Tensor | None) -> Tensor:
        """(B, T, D). States are better for a few queries, their keys and values for many or for several steps. The bias
        (B, 1, 1, S) is the same for all heads and queries. Several parts have masks of their own in its place."""
        if isinstance(source, Tensor):
            source = Packed([source], [bias])
        if isinstance(source, Packed):
            return self.out(self.absorbed(x_BTD, source))
        (query,) = self.split(self.q(x_BTD))
        return self.merge(attend(self.scaled(query), *source, bias, self.rate))

    def absorbed(self, x_BTD: Tensor, source: Packed) -> Tensor:
        """Cross-attention (B, T, H E) without keys and values: `query (W source) = (query W) source`, and the same for
        values, so that a few queries are projected and not the many places of the source (DeepSeek-V2's absorption,
        arXiv 2405.04434, section 2.1)."""
        num_heads, head_width = self.shape.num_heads, self.shape.head_width
        key_HED, value_HED = self.fused.weight.view(2, num_heads, head_width, -1)
        query_BTHE = self.scaled(self.q(x_BTD)).unflatten(-1, (num_heads, head_width))
        asked_BQD = torch.einsum("bthe,hed->bthd", query_BTHE, key_HED).flatten(1, 2)
        if len(source.states) == 1:
            read_BQD = self._mixed(asked_BQD, source.states[0], source.masks[0])
        else:
            read_BQD = self._mixed_apart(asked_BQD, source)
        read_BTHD = read_BQD.unflatten(1, (-1, num_heads))
        return torch.einsum("bthd,hed->bthe", read_BTHD, value_HED).flatten(2)

    def _mixed(self, asked_BQD: Tensor, source_BSD: Tensor, mask_B11S: Tensor | None) -> Tensor:
        """(B, Q, D) of the states, by how near they are to what is asked."""
        source_BSD = source_BSD.to(asked_BQD.dtype)
        scores_BQS = asked_BQD @ source_BSD.transpose(1, 2)
        if mask_B11S is not None:
            scores_BQS = scores_BQS + mask_B11S.flatten(1, 2)
        weights_BQS = dropout(scores_BQS.softmax(-1).to(source_BSD.dtype), self.rate, training=self.rate > 0.0)
        return weights_BQS @ source_BSD

    def _mixed_apart(self, asked_BQD: Tensor, source: Packed) -> Tensor:
        """`_mixed` of every part, in float32 on a CPU as in `packed_attention`."""
        if asked_BQD.device.type == "cpu":
            asked_BQD = asked_BQD.to(self.fused.weight.dtype)
        each = asked_BQD.split([states_BSD.shape[0] for states_BSD in source.states])
        with in_float32():
            return torch.cat(list(map(self._mixed, each, source.states, source.masks)))

    def beam_attention(
        self,
        x_BKD: Tensor,
        past: "KeysValues | None",
        parents_BK: Tensor | None,
        bias_HP: Tensor | None,
        history: "Shared | None" = None,
    ) -> tuple[Tensor, "KeysValues"]:
        """Self-attention of one new token a beam over its own past and, with it in one softmax, over a history that all
        beams of a user share; returns the output and the past with the new token."""
        qkv = self.project(x_BKD).unflatten(-1, (3, self.shape.num_heads, self.shape.head_width))
        query, key, value = qkv.unbind(2)
        query = self.scaled(query)
        keys, values = (key,), (value,)
        if past is not None:
            keys = (*(of_parents(old, parents_BK) for old in past.keys), key)
            values = (*(of_parents(old, parents_BK) for old in past.values), value)
        scores_PBKH = torch.stack([(query * old).sum(-1) for old in keys])
        if bias_HP is not None:
            scores_PBKH = scores_PBKH + bias_HP.T[:, None, None]
        if history is None:
            weights_PBKH = scores_PBKH.softmax(0).to(value.dtype)
            mixed_BKHE = _mix(weights_PBKH, values)
        else:
            scores_BHKS = query.transpose(1, 2) @ history.key.transpose(-1, -2)
            if history.mask_B11S is not None:
                scores_BHKS = scores_BHKS + history.mask_B11S
            both_BHKR = torch.cat([scores_BHKS, scores_PBKH.permute(1, 3, 2, 0).to(scores_BHKS.dtype)], dim=-1)
            shared_BHKS, own_BHKP = (
                both_BHKR.softmax(-1).to(value.dtype).split([scores_BHKS.shape[-1], len(keys)], dim=-1)
            )
            mixed_BKHE = (shared_BHKS @ history.value).transpose(1, 2) + _mix(own_BHKP.permute(3, 0, 2, 1), values)
        return self.out(mixed_BKHE.flatten(2)), KeysValues(keys, values)


def _mix(weights_PBKH: Tensor, values: "tuple[Tensor, ...]") -> Tensor:
    parts = [weight[..., None] * old for weight, old in zip(weights_PBKH, values, strict=True)]
    return sum(parts[1:], start=parts[0])


class Shared(NamedTuple):
    """Keys and values (B, H, S, E) of what all beams of a user have read; the mask is -inf where padding is."""

    key: Tensor
    value: Tensor
    mask_B11S: Tensor | None


def laid_out(key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """The same keys and values (B, H, S, E), in memory of their own as the products of every later step want them."""
    return key.transpose(2, 3).contiguous().transpose(2, 3), value.clone(memory_format=torch.contiguous_format)


class KeysValues(NamedTuple):
    """The cached keys and values (B, K, H, E) of the tokens of every beam, oldest first. Tuples: nothing is copied to
    append a token."""

    keys: tuple[Tensor, ...]
    values: tuple[Tensor, ...]


def of_parents(old_BKHE: Tensor, parents_BK: Tensor | None) -> Tensor:
    """Every beam's share of its parent. What all beams have in common (K = 1) stays one."""
    if parents_BK is None or old_BKHE.shape[1] == 1:
        return old_BKHE
    return old_BKHE[torch.arange(old_BKHE.shape[0], device=old_BKHE.device)[:, None], parents_BK]


class FeedForward(nn.Module):
    """Linear, ReLU, dropout, linear."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.rate = shape.dropout if shape.t5 else 0.0
        self.inner = _linear(shape, shape.width, shape.ff_width, shape.width**-0.5)
        self.out = _linear(shape, shape.ff_width, shape.width, shape.ff_width**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        hidden, factor = relu_dropout(self.inner(x), self.rate, self.training)
        return F.linear(hidden, self.out.weight * factor if factor != 1.0 else self.out.weight)
