"""GLASS (arXiv 2602.05663): TIGER over the short history, and a long one that no layer reads item by item.

Two additions, each with a switch. SID-Tier: how alike the long history is to every first code, as one more token for
the encoder; it helps the first code. Semantic hard search: once the first code is known, the items of the long history
with that code are read by a second cross-attention in every decoder layer, behind a gate; it helps the other codes.
Without both it is TIGER, parameter for parameter. It may copy codes from both histories (`models.copying`), which the
paper's does not.
Legend: B users, S source tokens, T items of the long history, L levels, X decoder positions (L in training, K beams in
decoding), K beams, R items found for a first code, Y those who read what one first code has found (B users in training,
B K beams in decoding), M items, C codes of all levels, W vocabulary, D width, A first codes; P and Z as in
`models.long_history`.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Attention, Shape, Source
from models.copying import Copying
from models.inside import Inside
from models.long_history import (
    Buckets,
    buckets,
    nearest_codes,
    prototypes,
    retrieve,
    tier_counters,
    tier_edges,
    tier_shares,
)
from models.tiger import Tiger, TigerState
from models.transformer import Decoder, DecoderLayer
from sid.tokens import PAD, TokenSpace


class Found(NamedTuple):
    """What every decoder layer reads besides the source."""

    items_YRD: Tensor
    """Of all positions of a user in training, of every beam in decoding."""
    mask_Y11R: Tensor
    """-inf for padding; 0 all over where nothing was found."""
    open_BX: Tensor
    """Whether a position reads anything that was found; where not, the gate is closed exactly."""
    gates: list[Tensor] | None
    """Collects the mean gate (B, X) of every layer, for those who want to know."""


class FusedLayer(DecoderLayer):
    """A decoder layer whose second cross-attention reads what was found, mixed in by a gate (GLASS, section 3.3)."""

    def __init__(self, shape: Shape, gate: str) -> None:
        super().__init__(shape)
        self.kind = gate
        self.found = Attention(shape, cross=True)
        if gate in ("vector", "scalar"):
            self.gate = nn.Linear(2 * shape.width, shape.width if gate == "vector" else 1)

    def read(self, x: Tensor, source: Source, mask_B11S: Tensor | None, aside: Found | None) -> Tensor:
        short_BXD = super().read(x, source, mask_B11S, None)
        if aside is None:
            return short_BXD
        asking = x if len(x) == len(aside.items_YRD) else x.flatten(0, 1)[:, None]
        found_BXD = self.found.cross_attention(asking, aside.items_YRD, aside.mask_Y11R).view_as(x)
        gate = aside.open_BX[..., None].to(short_BXD.dtype)
        if self.kind == "fixed":
            gate = gate * 0.5
        elif self.kind != "sum":
            gate = gate * self.gate(torch.cat([short_BXD, found_BXD], dim=-1)).sigmoid()
        if aside.gates is not None:
            aside.gates.append(gate.mean(-1))
        kept_BXD = short_BXD if self.kind == "sum" else (1 - gate) * short_BXD
        return kept_BXD + gate * found_BXD


class GlassState(NamedTuple):
    """What decoding keeps: TIGER's state; the long history by first code, and what `item` makes of codes; the items
    that every beam's first code has found, -1 behind them, which travel with it."""

    tiger: TigerState
    buckets: Buckets | None
    coded_CD: Tensor | None
    found_BKR: Tensor | None


class Glass(Tiger):
    """See the module.

    Args:
        shape: sizes of encoder and decoder.
        tokens: the vocabulary.
        codes_NL: codes of all items.
        vectors_ND: content vectors of all items; may be a mapped file.
        tiers: tiers of the SID-Tier token; 0: no such token.
        tier_norm: normalise the token's input and output.
        most: items that the search brings back (R); 0: no search.
        gate: vector, scalar, fixed (0.5) or sum.
        neighbours: how many similar codes help out where a code has too few items of its own; 0: none.
        few: how many items a code needs to do without its neighbours.
        copying: what codes of either history have more; None: nothing.
    """

    codes_NL: Tensor
    counters_PNZ: Tensor
    near_AX: Tensor

    def __init__(
        self,
        shape: Shape,
        tokens: TokenSpace,
        codes_NL: Tensor,
        vectors_ND: Any,
        tiers: int,
        tier_norm: bool,
        most: int,
        gate: str,
        neighbours: int,
        few: int,
        copying: Copying | None = None,
    ) -> None:
        most *= tokens.num_levels > 1  # what the first code brings back is for the codes behind it
        decoder = Decoder(shape, lambda s: FusedLayer(s, gate)) if most else None
        super().__init__(shape, tokens, decoder, copying=copying)
        if most or copying is not None:
            self.codes_NL = codes_NL
        self.tiers, self.most, self.few = tiers, most, few
        num_codes = tokens.codebook_sizes[0]
        if tiers or most:
            prototypes_AD, mean_D = prototypes(codes_NL[:, 0], vectors_ND, num_codes)
        if tiers:
            self.counters_PNZ = tier_counters(vectors_ND, prototypes_AD, mean_D, tier_edges(tiers))
            middle, inner = nn.Linear(num_codes * tiers, shape.width), nn.Linear(shape.width, shape.width)
            layers = [middle, nn.ReLU(), nn.Dropout(shape.dropout), inner]
            if tier_norm:
                before = nn.LayerNorm(num_codes * tiers, elementwise_affine=False)
                layers = [before, *layers, nn.RMSNorm(shape.width)]
            self.tier_token = nn.Sequential(*layers)
        if most:
            self.near_AX = nearest_codes(prototypes_AD, min(neighbours, num_codes - 1))
            inputs = tokens.num_levels * shape.width
            self.item = nn.Linear(inputs, shape.width, bias=False)
            nn.init.normal_(self.item.weight, std=inputs**-0.5)

    @property
    def gated_layers(self) -> int:
        return len(self.decoder.layers) if self.most else 0

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Glass":
        """Moves the catalogue's tables with the model. They are no buffers: those are broadcast."""
        for name in ("codes_NL", "counters_PNZ", "near_AX"):
            if hasattr(self, name):
                setattr(self, name, fn(getattr(self, name)))
        return super()._apply(fn, recurse)

    def embed(self, tokens_BS: Tensor, long_BT: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """As TIGER's, with the SID-Tier token in front."""
        x_BSD, padding_BS = super().embed(tokens_BS)
        if not self.tiers:
            return x_BSD, padding_BS
        shares_BAN = tier_shares(long_BT, self.counters_PNZ, self.tiers, self.tokens.codebook_sizes[0])
        with torch.autocast(x_BSD.device.type, enabled=False):  # a few products; its norm has no mixed precision
            token_B1D = self.tier_token(shares_BAN.flatten(1).to(self.embedding.dtype))[:, None].to(x_BSD.dtype)
        return torch.cat([token_B1D, x_BSD], dim=1), F.pad(padding_BS, (1, 0))

    def history(self, tokens_BS: Tensor, long_BT: Tensor) -> Tensor:  # type: ignore[override]
        """As TIGER's, with the items of the long history in front."""
        long_BTL = self.tokens.encode(self.codes_NL[long_BT.clamp_min(0)])
        return torch.cat([long_BTL.masked_fill(long_BT[..., None] < 0, PAD), super().history(tokens_BS)], dim=1)

    def _coded(self) -> Tensor:
        """(C, D), what the codes of all levels add to an item that was found: `item` of its code embeddings side by
        side is a sum over levels, so the few codes are projected and not the many items. Embeddings are read without
        gradient (GLASS): the search is to use them, not to shape them."""
        weight_DLD = self.item.weight.unflatten(1, (self.tokens.num_levels, -1))
        codes = [self.embedding.detach()[self.tokens.level(level)] for level in range(self.tokens.num_levels)]
        with torch.autocast(self.embedding.device.type, enabled=False):
            return torch.cat([F.linear(codes_VD, weight_DLD[:, level]) for level, codes_VD in enumerate(codes)])

    def forward(  # type: ignore[override]
        self, tokens_BS: Tensor, long_BT: Tensor, codes_BL: Tensor, asides: Sequence[Found] | None = None
    ) -> Tensor:
        """Logits (B, L, W), as TIGER's; what the first code finds is read from the second position on.

        Args:
            tokens_BS: user token and short history; PAD where a row is shorter.
            long_BT: items before the short history, oldest first; -1 for padding.
            codes_BL: codes of the target item.
            asides: what `told` gives for the same arguments, where it is there already.
        """
        return self.decode([tokens_BS, long_BT], codes_BL, asides or self.told(long_BT, codes_BL)[0])

    def told(
        self, long_BT: Tensor, codes_BL: Tensor, gates: list[Tensor] | None = None
    ) -> tuple[list[Found] | None, Tensor | None, Tensor | None]:
        """What the targets' first codes bring back, for every layer; how many items that is (B,); and how many of them
        have the code itself (B,)."""
        if not self.most:
            return None, None, None
        items_BR = retrieve(self._by_code(long_BT), codes_BL[:, :1], self.most, self.near_AX, self.few)[:, 0]
        own_BR = (self.codes_NL[items_BR, 0] == codes_BL[:, :1]) & (items_BR >= 0)
        later_L = torch.arange(codes_BL.shape[1], device=codes_BL.device) > 0
        open_BL = (items_BR >= 0).any(1, keepdim=True) & later_L
        return self._asides(items_BR, self._coded(), open_BL, gates), (items_BR >= 0).sum(1), own_BR.sum(1)

    def _asides(
        self, items_YR: Tensor, coded_CD: Tensor, open_BX: Tensor, gates: list[Tensor] | None = None
    ) -> list[Found]:
        """For every layer, what was found."""
        rows_ML = self.tokens.encode(self.codes_NL[items_YR.clamp_min(0).flatten()]) - self.tokens.offsets[0]
        items_YRD = F.embedding_bag(rows_ML, coded_CD, mode="sum").unflatten(0, items_YR.shape)
        hidden_YR = (items_YR < 0) & (items_YR >= 0).any(1, keepdim=True)
        mask_YR = torch.zeros_like(hidden_YR, dtype=torch.float32).masked_fill_(hidden_YR, -torch.inf)
        return [Found(items_YRD, mask_YR[:, None, None], open_BX, gates)] * len(self.decoder.layers)

    def asides(self, prefixes: Sequence[tuple[Tensor, ...]]) -> list[Found] | None:
        """What the targets' first codes bring back, of all rows of several parts."""
        if not self.most:
            return None
        width = max(long_BT.shape[1] for _, long_BT, _ in prefixes)
        long_BT = torch.cat([F.pad(long_BT, (0, width - long_BT.shape[1]), value=-1) for _, long_BT, _ in prefixes])
        return self.told(long_BT, torch.cat([codes_BL for *_, codes_BL in prefixes]))[0]

    def _by_code(self, long_BT: Tensor) -> Buckets:
        return buckets(long_BT, self.codes_NL[:, 0], self.tokens.codebook_sizes[0])

    def loss(self, tokens_BS: Tensor, long_BT: Tensor, codes_BL: Tensor) -> Tensor:  # type: ignore[override]
        """Mean cross-entropy (natural log) of the target's tokens."""
        return self.token_loss(self(tokens_BS, long_BT, codes_BL), codes_BL)

    def look_inside(self, tokens_BS: Tensor, long_BT: Tensor, codes_BL: Tensor) -> Inside:  # type: ignore[override]
        """Which codes the model gets right when told those before, and how far each layer opened its gate."""
        gates: list[Tensor] = []
        asides, found_B, own_B = self.told(long_BT, codes_BL, gates)
        logits_BLW = self(tokens_BS, long_BT, codes_BL, asides)
        loss, right_BL = self.token_loss(logits_BLW, codes_BL), self.right(logits_BLW, codes_BL)
        mean_GB = torch.stack([gate_BX[:, 1:].float().mean(1) for gate_BX in gates]) if gates else None
        return Inside(loss, right_BL, found_B, own_B, mean_GB)

    def begin(self, tokens_BS: Tensor, long_BT: Tensor) -> GlassState:  # type: ignore[override]
        """Encodes every history once, for `sid.decode.beam_search`."""
        tiger = self.read(tokens_BS, long_BT)
        if not self.most:
            return GlassState(tiger, None, None, None)
        return GlassState(tiger, self._by_code(long_BT), self._coded(), None)

    def next_logp(  # type: ignore[override]
        self, state: GlassState, level: int, codes_BK: Tensor | None, parents_BK: Tensor | None
    ) -> tuple[Tensor, GlassState]:
        """Log-probabilities (B, K, V) of the codes of `level` (see `sid.decode.Generator`)."""
        found_BKR, asides = state.found_BKR, None
        if state.buckets is not None and codes_BK is not None and level == 1:
            found_BKR = retrieve(state.buckets, codes_BK, self.most, self.near_AX, self.few)
            found_BKR = found_BKR[..., : int((found_BKR >= 0).flatten(0, 1).any(0).sum())]
        elif found_BKR is not None and parents_BK is not None:
            found_BKR = found_BKR.gather(1, parents_BK[..., None].expand(-1, -1, found_BKR.shape[2]))
        if found_BKR is not None and state.coded_CD is not None and found_BKR.shape[2]:
            asides = self._asides(found_BKR.flatten(0, 1), state.coded_CD, (found_BKR >= 0).any(2))
        logp_BKV, tiger = self.continue_with(state.tiger, level, codes_BK, parents_BK, asides)
        return logp_BKV, state._replace(tiger=tiger, found_BKR=found_BKR)
