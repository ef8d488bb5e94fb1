"""Decoder-only retrievers: one causal pass over a user's sequence predicts every item of it.

Two forms over the same input. Flat: one token a code, one stack over all of them. Item: a trunk over items (the input
of an item is a projection of the sum of its code embeddings) and a small depth decoder over the codes of the next item,
which starts from the trunk's state, as in the RQ-Transformer (Lee et al. 2022, arXiv 2203.01941). Positions are learnt;
each level has a softmax over its own codes. Either form may copy codes from the history (`models.copying`).

Legend: B users or windows, S tokens, T items of a sequence, X targets, L levels, K beams, V codes of a level, M
places of several parts, D width.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Shape, causal_mask
from models.copying import Beginnings, Copying
from models.inside import Inside
from models.next_item import at, at_once, before, chosen, products
from models.transformer import CausalStack, CausalState, rounded
from sid.tokens import BOS, PAD, TokenSpace

INIT_STD = 0.02


Windows = tuple[Tensor, Tensor]
"""Windows of like length: tokens (B, S), the user token (if any) and the items, oldest first, PAD behind; and whether
an item is to be predicted from those before it (B, T). A batch is a few of them, each read on its own, so that little
is padded."""


Split = tuple[Tensor, Tensor]
"""What opens every sequence (B, 1), and the tokens of the items (B, T, L)."""


class Reading(NamedTuple):
    """What decoding keeps between two levels."""

    first_B1D: Tensor
    """The state that predicts the first code."""
    length_B: Tensor
    """Positions that every history takes, BOS or user token included."""
    stack: CausalState
    user_BD: Tensor | None = None
    """The trunk's state behind the history, in the item form."""
    items_BTL: Tensor | None = None
    """The tokens of the history, in the item form."""
    past: Beginnings | None = None
    """What codes may be copied from, by a model that copies."""


class Causal(nn.Module):
    """What both forms share: embeddings, one softmax a level, the loss over windows, decoding.

    Args:
        tokens: the vocabulary.
        width: D.
        max_items: the longest history.
        num_positions: learnt positions.
        tied: the output weights are the embeddings.
        item_dropout: share of history items that training hides.
        smoothing: label smoothing in training.
        copying: what codes of the history have more; None: nothing.
    """

    def __init__(
        self,
        tokens: TokenSpace,
        width: int,
        max_items: int,
        num_positions: int,
        tied: bool,
        item_dropout: float,
        smoothing: float,
        copying: Copying | None,
    ) -> None:
        super().__init__()
        self.tokens, self.max_items = tokens, max_items
        self.item_dropout, self.smoothing = item_dropout, smoothing
        self.gated_layers = 0
        self.embedding = nn.Parameter(torch.empty(tokens.size, width).normal_(std=INIT_STD))
        self.position = nn.Parameter(torch.empty(num_positions, width).normal_(std=INIT_STD))
        codes = tokens.offsets[-1]
        self.output = None if tied else nn.Parameter(torch.empty(codes, width).normal_(std=(3 * width) ** -0.5))
        self.copying = copying

    def logits(self, states: Tensor, level: int) -> Tensor:
        """Scores (..., V) of the codes of `level`; where codes are ranked and not learnt, not rounded."""
        weight = (self.embedding if self.output is None else self.output)[self.tokens.level(level)]
        return F.linear(states, weight) if self.training else products(states, weight)

    def split(self, tokens_BS: Tensor, targets: int) -> Split:
        """The token that opens every sequence (B, 1), user or BOS, and the items' tokens (B, T, L).

        Raises ValueError for more than `max_items` items and `targets` (0 or 1) behind them.
        """
        if self.tokens.num_user_tokens:
            start_B1, tokens_BS = tokens_BS[:, :1], tokens_BS[:, 1:]
        else:
            start_B1 = tokens_BS.new_full((tokens_BS.shape[0], 1), BOS)
        levels = self.tokens.num_levels
        # Not `unflatten`: a program exported with it behind a user token takes no single row.
        items_BTL = tokens_BS.reshape(tokens_BS.shape[0], tokens_BS.shape[1] // levels, levels)
        items = items_BTL.shape[1] - targets
        if items > self.max_items:
            raise ValueError(
                f"a history of {items} items, and the model was built for {self.max_items}; cut the oldest"
            )
        return start_B1, items_BTL

    def kept(self, items_BTL: Tensor) -> Tensor | None:
        """(B, T), which items training lets the later ones see; None for all."""
        if not (self.training and self.item_dropout):
            return None
        return torch.rand(items_BTL.shape[:2], device=items_BTL.device) >= self.item_dropout

    def states_before(self, parts: Sequence[Split]) -> list[Tensor]:
        """(B, T, ...) for each part, what is known before each item is read. Nothing else tells of its codes, but for
        `copying`, which reads the items before it again."""
        raise NotImplementedError

    def depth_states(self, states: Tensor, tokens_XL: Tensor) -> Tensor:
        """States (X, L, D), one before each code of items (X, L), from what is known before those."""
        raise NotImplementedError

    def before_targets(self, windows: Sequence[Windows]) -> tuple[Tensor, Tensor]:
        """What is known before each target (X, ...), and its tokens (X, L)."""
        parts = [self.split(tokens_BS, targets=1) for tokens_BS, _ in windows]
        targets = [target_BT for _, target_BT in windows]
        known, tokens = self.states_before(parts), [items_BTL for _, items_BTL in parts]
        return torch.cat(chosen(known, targets)), torch.cat(chosen(tokens, targets))

    def window_loss(self, windows: Sequence[Windows]) -> Tensor:
        """Mean cross-entropy (natural log) of the codes of the targets of all windows."""
        return self.mean_loss(*self.target_logits(windows))

    def target_logits(self, windows: Sequence[Windows]) -> tuple[list[Tensor], Tensor]:
        """Scores (X, V) of the codes of every level, each told the codes before it, and the targets' codes (X, L)."""
        known, tokens_XL = self.before_targets(windows)
        return self.code_logits(windows, known, tokens_XL), self.tokens.decode(tokens_XL)

    def code_logits(self, windows: Sequence[Windows], known: Tensor, tokens_XL: Tensor) -> list[Tensor]:
        """Scores (X, V) of the codes of every level, float32, from what `before_targets` gives for the windows."""
        states = self.depth_states(rounded(known), rounded(tokens_XL)).unbind(1)
        logits = [self.logits(states_XD, level)[: known.shape[0]].float() for level, states_XD in enumerate(states)]
        if self.copying is None:
            return logits
        items = [self.split(tokens_BS, targets=1)[1] for tokens_BS, _ in windows]
        past = self.copying.beginnings(before(items, [target_BT for _, target_BT in windows], nothing=PAD))
        added = self.copying.taught(past, self.tokens.decode(tokens_XL))
        return [logits_XV + added_XV for logits_XV, added_XV in zip(logits, added, strict=True)]

    def past(self, items_BTL: Tensor) -> Beginnings | None:
        """What the codes behind histories of such tokens may be copied from, by a model that copies."""
        return None if self.copying is None else self.copying.beginnings(items_BTL)

    def mean_loss(self, logits: list[Tensor], codes_XL: Tensor) -> Tensor:
        """Mean cross-entropy (natural log) of the codes (X, L), smoothed in training."""
        smoothing = self.smoothing if self.training else 0.0
        levels = zip(logits, codes_XL.unbind(1), strict=True)
        return torch.stack([F.cross_entropy(*level, label_smoothing=smoothing) for level in levels]).mean()

    def loss(self, tokens_BS: Tensor, codes_BL: Tensor) -> Tensor:
        """As `window_loss`, where the one target of every row comes behind its history (B, S)."""
        return self.window_loss([self._behind(tokens_BS, codes_BL)])

    def look_inside(self, tokens_BS: Tensor, codes_BL: Tensor) -> Inside:
        """Which codes the model gets right when it is told those before."""
        logits, _ = self.target_logits([self._behind(tokens_BS, codes_BL)])
        right_BL = torch.stack([logits_BV.argmax(1) for logits_BV in logits], dim=1) == codes_BL
        return Inside(self.mean_loss(logits, codes_BL), right_BL, None, None, None)

    def _behind(self, tokens_BS: Tensor, codes_BL: Tensor) -> tuple[Tensor, Tensor]:
        """The histories with their targets behind, and where those stand (B, T)."""
        lead, levels = min(self.tokens.num_user_tokens, 1), self.tokens.num_levels
        length_B1 = lead + (tokens_BS[:, lead:] != PAD).sum(1, keepdim=True)
        place_BL = length_B1 + torch.arange(levels, device=tokens_BS.device)
        whole_BS = F.pad(tokens_BS, (0, levels), value=PAD).scatter(1, place_BL, self.tokens.encode(codes_BL))
        item_T = torch.arange((whole_BS.shape[1] - lead) // levels, device=tokens_BS.device)
        return whole_BS, item_T == (length_B1 - lead) // levels

    def begin(self, tokens_BS: Tensor) -> Reading:
        """Reads every history (B, S) once, for `sid.decode.beam_search`."""
        raise NotImplementedError

    def step(self, tokens_BK: Tensor, level: int, parents_BK: Tensor, state: Reading) -> tuple[Tensor, CausalState]:
        """The states (B, K, D) that predict `level`, from the tokens of the level before."""
        raise NotImplementedError

    def next_logp(
        self, state: Reading, level: int, codes_BK: Tensor | None, parents_BK: Tensor | None
    ) -> tuple[Tensor, Reading]:
        """Log-probabilities (B, K, V) of the codes of `level` (see `sid.decode.Generator`)."""
        if codes_BK is None or parents_BK is None:
            states_BKD = state.first_B1D
        else:
            states_BKD, stack = self.step(codes_BK + self.tokens.offsets[level - 1], level, parents_BK, state)
            past = state.past and state.past.written(level - 1, codes_BK, parents_BK)
            state = state._replace(stack=stack, past=past)
        logits_BKV = self.logits(states_BKD, level)
        if self.copying is not None and state.past is not None:
            logits_BKV = logits_BKV + self.copying.added(level, state.past)
        return logits_BKV.log_softmax(-1, dtype=torch.float32), state


class FlatCausal(Causal):
    """One stack over the codes of all items."""

    def __init__(
        self,
        shape: Shape,
        tokens: TokenSpace,
        max_items: int,
        tied: bool,
        item_dropout: float,
        smoothing: float,
        copying: Copying | None,
    ) -> None:
        positions = 1 + (max_items + 1) * tokens.num_levels
        super().__init__(tokens, shape.width, max_items, positions, tied, item_dropout, smoothing, copying)
        self.stack = CausalStack(shape)

    def _embed(self, tokens_BS: Tensor) -> Tensor:
        return F.embedding(tokens_BS, self.embedding) + self.position[: tokens_BS.shape[1]]

    def states_before(self, parts: Sequence[Split]) -> list[Tensor]:
        """(B, T, L, D) for each part, a state before each code: the stack reads these as it goes."""
        return [self._states_before(*part) for part in parts]

    def _states_before(self, start_B1: Tensor, items_BTL: Tensor) -> Tensor:
        tokens_BS = torch.cat([start_B1, items_BTL.flatten(1)], dim=1)[:, :-1]
        kept_BT = self.kept(items_BTL)
        if kept_BT is None:
            return self.stack(self._embed(tokens_BS)).unflatten(1, items_BTL.shape[1:])
        states_BSD = self.stack(self._embed(tokens_BS), self._hide(kept_BT))
        states_BTLD = states_BSD.unflatten(1, items_BTL.shape[1:]).clone()
        states_BTLD[:, :, 0] = states_BSD.gather(
            1, self._readers(kept_BT)[..., None].expand(-1, -1, states_BSD.shape[2])
        )
        return states_BTLD

    def depth_states(self, states: Tensor, tokens_XL: Tensor) -> Tensor:
        return states

    def _readers(self, kept_BT: Tensor) -> Tensor:
        """(B, T), the token whose state predicts an item's first code: the last of the nearest item that is kept."""
        item_T = torch.arange(kept_BT.shape[1], device=kept_BT.device)
        nearest_BT = torch.where(kept_BT, item_T, -1).cummax(1).values
        return (F.pad(nearest_BT[:, :-1], (1, 0), value=-1) + 1) * self.tokens.num_levels

    def _hide(self, kept_BT: Tensor) -> Tensor:
        """(B, 1, S, S): the causal mask, with hidden items seen by their own codes alone."""
        levels = self.tokens.num_levels
        kept_BS = F.pad(kept_BT.repeat_interleave(levels, dim=1), (1, 0), value=True)[:, :-1]
        item_S = (torch.arange(kept_BS.shape[1], device=kept_BT.device) - 1).div(levels, rounding_mode="floor")
        seen_BSS = kept_BS[:, None] | (item_S == item_S[:, None])
        mask_SS = causal_mask(kept_BS.shape[1], kept_BT.device)
        return mask_SS.masked_fill(~seen_BSS, -torch.inf)[:, None]

    def begin(self, tokens_BS: Tensor) -> Reading:
        start_B1, items_BTL = self.split(tokens_BS, targets=0)
        tokens_BS = torch.cat([start_B1, items_BTL.flatten(1)], dim=1)
        padding_BS = tokens_BS == PAD
        padding_BS[:, 0] = False  # what opens a sequence is a token, also of a user who is not known
        length_B = (~padding_BS).sum(1)
        mask_B11S = torch.zeros_like(tokens_BS, dtype=self.embedding.dtype).masked_fill(padding_BS, -torch.inf)
        states_BSD, stack = self.stack.begin(self._embed(tokens_BS), mask_B11S[:, None, None])
        first_B1D = at(states_BSD, length_B - 1)[:, None]
        return Reading(first_B1D, length_B, stack, past=self.past(items_BTL))

    def step(self, tokens_BK: Tensor, level: int, parents_BK: Tensor, state: Reading) -> tuple[Tensor, CausalState]:
        position_B1D = self.position[state.length_B + level - 1][:, None]
        return self.stack.step(F.embedding(tokens_BK, self.embedding) + position_B1D, parents_BK, state.stack)


class ItemCausal(Causal):
    """A trunk over items and a depth decoder over the codes of the next one; no beam attends to the history.

    The depth decoder has code embeddings of its own (`written`), as it asks of a code what continues a prefix and the
    trunk what a user wants.
    """

    def __init__(
        self,
        trunk: Shape,
        depth: Shape,
        tokens: TokenSpace,
        max_items: int,
        tied: bool,
        item_dropout: float,
        smoothing: float,
        copying: Copying | None,
    ) -> None:
        super().__init__(tokens, trunk.width, max_items, 1 + max_items, tied, item_dropout, smoothing, copying)
        self.written = nn.Parameter(torch.empty(tokens.offsets[-1], trunk.width).normal_(std=INIT_STD))
        self.level = nn.Parameter(torch.empty(tokens.num_levels, trunk.width).normal_(std=INIT_STD))
        self.item = nn.Linear(trunk.width, trunk.width, bias=False)
        self.trunk, self.depth = CausalStack(trunk), CausalStack(depth)

    def item_inputs(self, items_ML: Tensor) -> Tensor:
        """(M, D), what the trunk is told of items."""
        inputs_MD: Tensor = self.item(F.embedding(items_ML, self.embedding).sum(1))
        return inputs_MD

    def user_states(self, parts: Sequence[Split]) -> list[Tensor]:
        """(B, 1 + T, D) for each part: what is known of a user before the first item, and after each."""
        # Learnt small, and read at about the size of what the layers add: as in `models.next_item.NextItem.embed`.
        scale = math.sqrt(self.embedding.shape[1])
        items = at_once(
            lambda items_ML: self.item_inputs(rounded(items_ML))[: items_ML.shape[0]] * scale,
            [items_BTL for _, items_BTL in parts],
        )
        inputs = []
        for (start_B1, items_BTL), items_BTD in zip(parts, items, strict=True):
            kept_BT = self.kept(items_BTL)
            if kept_BT is not None:
                items_BTD = items_BTD * kept_BT[..., None]
            inputs_BSD = torch.cat([F.embedding(start_B1, self.embedding), items_BTD], dim=1)
            inputs.append(inputs_BSD + self.position[: inputs_BSD.shape[1]])
        return self.trunk.packed(inputs)

    def states_before(self, parts: Sequence[Split]) -> list[Tensor]:
        """(B, T, D) states of the trunk."""
        return self.user_states([(start_B1, items_BTL[:, :-1]) for start_B1, items_BTL in parts])

    def depth_states(self, states: Tensor, tokens_XL: Tensor) -> Tensor:
        codes_XLD = F.embedding(tokens_XL[:, :-1], self.written)
        return self.depth(torch.cat([states[:, None], codes_XLD], dim=1) + self.level)

    def begin(self, tokens_BS: Tensor) -> Reading:
        start_B1, items_BTL = self.split(tokens_BS, targets=0)
        length_B = 1 + (items_BTL[..., 0] != PAD).sum(1)
        (states_BSD,) = self.user_states([(start_B1, items_BTL)])
        user_B1D = at(states_BSD, length_B - 1)[:, None]
        first_B1D, stack = self.depth.step(user_B1D + self.level[0], None, self.depth.empty())
        return Reading(first_B1D, length_B, stack, user_B1D[:, 0], items_BTL, self.past(items_BTL))

    def step(self, tokens_BK: Tensor, level: int, parents_BK: Tensor, state: Reading) -> tuple[Tensor, CausalState]:
        return self.depth.step(F.embedding(tokens_BK, self.written) + self.level[level], parents_BK, state.stack)
