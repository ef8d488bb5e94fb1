"""What classic retrievers share: a history becomes one state, and items are scored by it. And for all, how places of
sequences are picked, and products that are ranked.

Legend: B users or windows, T items of a sequence, X targets, N items, U users, D width, A attributes of an item,
L levels, M places of several parts.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import in_float32
from models.objectives import Objective

INIT_STD = 0.02


Windows = tuple[Tensor, Tensor, Tensor]
"""Windows of like length: items (B, T), oldest first, -1 behind; users (B,); and whether an item is to be predicted
(B, T), never the first. A batch is a few of them, each read on its own, so that little is padded."""


class Known(NamedTuple):
    """What a classic retriever is built from."""

    num_items: int
    num_users: int
    max_items: int
    """The longest history."""
    counts_N: Tensor
    """(N,) int64, how often each item is among the events that training may know."""
    vectors_ND: Tensor | None = None
    """(N, D) float32 vectors of the stage embed, for models that read them."""
    attributes_NA: Tensor | None = None
    """(N, A) int64 attributes of every item, none twice, -1 behind, for models that read them."""
    codes_NL: Tensor | None = None
    """(N, L) int64 semantic IDs, without the digit that tells equal ones apart, for models that read them."""


class ItemReader(nn.Module):
    """A model with a state behind every item of a sequence, so that one pass serves all targets of a user."""

    def states(self, item_BT: Tensor, user_B: Tensor) -> Tensor:
        """(B, T, D), what is known of a user after each item (B, T), oldest first; -1 behind."""
        raise NotImplementedError

    def states_of(self, parts: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """The `states` of several parts of a batch."""
        return [self.states(*part) for part in parts]

    def loss_of(self, states_XD: Tensor, target_X: Tensor) -> Tensor:
        """Mean loss of targets by the states before them."""
        raise NotImplementedError

    def scores_of(self, states_BD: Tensor) -> Tensor:
        """(B, N) float32, how well each item follows a state."""
        raise NotImplementedError

    def window_loss(self, windows: Sequence[Windows]) -> Tensor:
        """Mean loss of the targets of all windows, each predicted from the items before it."""
        with in_float32():
            known = self.states_of([(item_BT[:, :-1], user_B) for item_BT, user_B, _ in windows])
        targets = [target_BT for _, _, target_BT in windows]
        states_XD = torch.cat(chosen(known, [target_BT[:, 1:] for target_BT in targets]))
        target_X = torch.cat(chosen([item_BT for item_BT, _, _ in windows], targets))
        return self.loss_of(states_XD, target_X)

    def scores(self, history_BT: Tensor, user_B: Tensor) -> Tensor:
        """(B, N), how well each item follows a history (B, T), oldest first; -1 behind."""
        if history_BT.shape[1] == 0:
            history_BT = F.pad(history_BT, (0, 1), value=-1)
        last_B = (history_BT >= 0).sum(1).clamp_min(1) - 1
        return self.scores_of(self.state_at(last_B, history_BT, user_B))

    def state_at(self, place_B: Tensor, item_BT: Tensor, user_B: Tensor) -> Tensor:
        """(B, D), those of `states` behind the items at `place_B`."""
        return at(self.states(item_BT, user_B), place_B)


class NextItem(ItemReader):
    """One whose scores are inner products with embeddings of the items.

    Args:
        known: the catalogue.
        width: of item embeddings.
        objective: what it is trained on.
        state_width: of states, where items that are answered have embeddings of their own (and a bias).
    """

    def __init__(self, known: Known, width: int, objective: Objective, state_width: int | None = None) -> None:
        super().__init__()
        self.objective, self.scale = objective, math.sqrt(width)
        self.items = nn.Parameter(torch.empty(known.num_items, width).normal_(std=INIT_STD))
        self.separate, self.bias = None, None
        if state_width is not None:
            self.separate = nn.Parameter(torch.empty(known.num_items, state_width).normal_(std=INIT_STD))
            self.bias = nn.Parameter(torch.zeros(known.num_items))

    def embed(self, items: Tensor) -> Tensor:
        """(..., D) embeddings of items (...); zero where there is no item (-1).

        They are learnt small, for inner products with states, and read sqrt(D) times as large (as in SASRec's code): at
        their own size a transformer hardly sees them beside what its layers add, and learns slowly.
        """
        return looked_up(self.items, items) * self.scale

    def loss_of(self, states_XD: Tensor, target_X: Tensor) -> Tensor:
        return self.objective(*self._answered(states_XD), target_X)

    def scores_of(self, states_BD: Tensor) -> Tensor:
        return products(*self._answered(states_BD))

    def _answered(self, states_XD: Tensor) -> tuple[Tensor, Tensor]:
        """States and answers (N, D) whose inner products are scores: a bias is one more dimension."""
        if self.separate is None or self.bias is None:
            return states_XD, self.items
        return F.pad(states_XD, (0, 1), value=1.0), torch.cat([self.separate, self.bias[:, None]], dim=1)


def looked_up(table: Tensor, number: Tensor) -> Tensor:
    """Rows (..., D) of a table (X, D) by number (...); zero for -1: no item here, or a user who is not known."""
    return F.embedding(number.clamp_min(0), table) * (number >= 0)[..., None]


def at_once(look_up: Callable[[Tensor], Tensor], numbers: Sequence[Tensor]) -> list[Tensor]:
    """`look_up` of each of several (B, T, ...), done once: the gradient of a look-up is as large as the table."""
    places = [number_BT.flatten(0, 1) for number_BT in numbers]
    found = look_up(torch.cat(places)).split([place_M.shape[0] for place_M in places])
    return [found_M.unflatten(0, number_BT.shape[:2]) for found_M, number_BT in zip(found, numbers, strict=True)]


def at(x_BTD: Tensor, place_B: Tensor) -> Tensor:
    """(B, D), one place of every row."""
    return x_BTD[torch.arange(place_B.shape[0], device=place_B.device), place_B]


def chosen(values: Sequence[Tensor], places: Sequence[Tensor]) -> list[Tensor]:
    """Of several (B, T, ...), those at the places (B, T) that are true."""
    return [value_BT[place_BT] for value_BT, place_BT in zip(values, places, strict=True)]


def before(values: Sequence[Tensor], places: Sequence[Tensor], nothing: int) -> Tensor:
    """(X, T, ...), of several (B, T, ...) what is before each place (B, T) that is true; `nothing` from there on."""
    longest = max(place_BT.shape[1] for place_BT in places)
    parts = []
    for value_BT, place_BT in zip(values, places, strict=True):
        row_X, place_X = place_BT.nonzero(as_tuple=True)
        earlier_XT = torch.arange(longest, device=place_X.device) < place_X[:, None]
        known_XT = value_BT.new_full((len(row_X), longest, *value_BT.shape[2:]), nothing)
        known_XT[earlier_XT] = value_BT[row_X][earlier_XT[:, : value_BT.shape[1]]]
        parts.append(known_XT)
    return torch.cat(parts)


def products(states: Tensor, answers_ND: Tensor) -> Tensor:
    """(..., N) inner products of states (..., D), in float32 also under autocast: bfloat16 would make equals of the
    best."""
    with torch.autocast(states.device.type, enabled=False):
        return exact(states) @ exact(answers_ND).T


def exact(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def recent(x_BTD: Tensor, length: int) -> Tensor:
    """(B, T, length, D): every item and those before it, oldest first; zero where there are none."""
    return F.pad(x_BTD, (0, 0, length - 1, 0)).unfold(1, length, 1).transpose(2, 3)


def padding_mask(item_BT: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, 1, 1, T): 0 where an item is, -inf where none is; a sequence without any sees its first place."""
    empty_BT = item_BT < 0
    empty_BT = empty_BT & (torch.arange(item_BT.shape[1], device=item_BT.device) > 0)
    return torch.zeros_like(item_BT, dtype=dtype).masked_fill(empty_BT, -torch.inf)[:, None, None]
