"""The item form of the decoder-only retriever, told more of an item than its codes, and trained on whole items besides.

An item of the history is the sum of three: its code embeddings, as in `models.causal`; a projection of its content
vector, which the codes keep only roughly; and an embedding of its own, for who chose what. The same vectors answer a
softmax over all items from the trunk's states, an additional loss. There, what is in the history already has a logit of
its own to add, one number for all items and users: whether things come again is a habit of the data, which states of
items that are told from each other by likeness cannot know. With `alike` the nearest neighbours of the history's items
have more too, a share of their cosines that is learnt for each place from the end; content is evened out then, which
tells better what is alike. What is written is semantic IDs, as everywhere; which beams go on, and in what order their
items end, is decided by both: the likelihood of the codes, and the best of the whole items below them (`worth`).

Legend: B users or windows, S tokens, T items of a history, X targets, P pairs of a target and an item, N items, L
levels, M places of several parts, or items of histories, K neighbours, D width, E width of content.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Shape
from models.causal import INIT_STD, ItemCausal, Reading, Windows
from models.configs import Content
from models.copying import Copying
from models.item_softmax import Additions, item_logits, item_softmax
from models.neighbours import Near, evened_out, nearest_items
from models.next_item import before, looked_up
from sid.tokens import PAD, TokenSpace
from sid.trie import Trie
from sid.vectors import centred


class Sidlight(ItemCausal):
    """See the module.

    Args:
        trunk, depth, tokens, max_items, tied, item_dropout, smoothing, copying: as in `ItemCausal`.
        content: codes and content vectors of all items.
        item_loss: weight of the loss over whole items, in training alone.
        temperature: of its softmax over cosines.
        judge: weight of these cosines, over the temperature, beside the log-likelihood of the codes in a beam's score.
        repeats: learn, from the loss over whole items, what those of the history have more or less than others.
        alike: learn the same of so many neighbours of each item of the history, by content that is `evened_out`.
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
        content: Content,
        item_loss: float,
        temperature: float,
        judge: float,
        repeats: bool,
        alike: int,
    ) -> None:
        super().__init__(trunk, depth, tokens, max_items, tied, item_dropout, smoothing, copying)
        assert content.vectors_ND is not None
        self.item_loss, self.temperature, self.judge = item_loss, temperature, judge
        self.trie = Trie.from_codes(content.codes_NL)
        centred_NE, self.new_N = centred(content.vectors_ND), content.new_N
        if alike and item_loss:
            self.vectors_NE = as_small_as_embeddings(evened_out(centred_NE, self.new_N), self.new_N)
        else:
            self.vectors_NE = as_small_as_embeddings(centred_NE)
        self.again = nn.Parameter(torch.zeros(1)) if repeats and item_loss else None
        """The cosine that an item of the history has more."""
        self.alike = alike
        self.likeness = nn.Parameter(torch.zeros(max_items)) if alike and item_loss else None
        """How much of its cosine with the last item of the history, the last but one, ... an item has more."""
        self.lists: dict[bool, Near] = {}
        """`neighbours`, until the model is moved."""
        self.items = nn.Parameter(torch.empty(len(content.codes_NL), trunk.width).normal_(std=INIT_STD))
        self.content = nn.Linear(self.vectors_NE.shape[1], trunk.width, bias=False)
        nn.init.normal_(self.content.weight, std=1 / math.sqrt(self.vectors_NE.shape[1]))
        self.kept_ND: Tensor | None = None
        """`unit_items` for `worth`, until weights are trained, loaded or moved."""

    def train(self, mode: bool = True) -> "Sidlight":
        self.kept_ND = None
        return super().train(mode)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Sidlight":
        """Moves the catalogue's tables with the model. They are no buffers: those are broadcast."""
        self.vectors_NE, self.trie, self.kept_ND, self.lists = fn(self.vectors_NE), self.trie.each(fn), None, {}
        self.new_N = None if self.new_N is None else fn(self.new_N)
        return super()._apply(fn, recurse)

    def _load_from_state_dict(self, *args: Any) -> None:
        self.kept_ND = None
        super()._load_from_state_dict(*args)

    def numbers(self, tokens: Tensor) -> Tensor:
        """(...) item numbers of tokens (..., L); -1 for PAD."""
        return self.trie.find(self.tokens.decode(tokens)).masked_fill(tokens[..., 0] == PAD, -1)

    def item_inputs(self, items_ML: Tensor) -> Tensor:
        item_M = self.numbers(items_ML)
        own_MD = looked_up(self.own_items(), item_M) + self.content(looked_up(self.vectors_NE, item_M))
        return super().item_inputs(items_ML) + own_MD

    def window_loss(self, windows: Sequence[Windows]) -> Tensor:
        """Mean cross-entropy (natural log) of the codes of all targets; in training the loss over whole items is added,
        `item_loss` times."""
        states_XD, tokens_XL = self.before_targets(windows)
        codes_XL = self.tokens.decode(tokens_XL)
        loss = self.mean_loss(self.code_logits(windows, states_XD, tokens_XL), codes_XL)
        if not (self.training and self.item_loss):
            return loss
        asked_XD, more = self.asked(states_XD, self.histories(windows), self.neighbours(known=True))
        answers = self.answers(self.trie.find(codes_XL), more)
        return loss + self.item_loss * item_softmax(asked_XD, *answers)

    def answers(self, target_X: Tensor, more: Additions | None) -> tuple[Tensor, Tensor, Additions | None]:
        """What the softmax over whole items is over, its targets and additions: items that are new are not in it, as
        what is told apart from every target is learnt too."""
        items_ND = self.unit_items()
        if self.new_N is None:
            return items_ND, target_X, more
        place_N = (~self.new_N).cumsum(0) - 1
        kept = None if more is None else more._replace(item_P=place_N[more.item_P])
        return items_ND[~self.new_N], place_N[target_X], kept

    def histories(self, windows: Sequence[Windows]) -> Tensor:
        """(X, T), the items before each target of the windows; -1 from there on."""
        items = [self.numbers(self.split(tokens_BS, targets=1)[1]) for tokens_BS, _ in windows]
        return before(items, [target_BT for _, target_BT in windows], nothing=-1)

    def unit_items(self) -> Tensor:
        """(N, D), all items at unit length; of one that is new, its content alone."""
        return F.normalize(self.own_items() + self.content(self.vectors_NE), dim=1)

    def own_items(self) -> Tensor:
        """(N, D), what is learnt of every item alone: nothing of one that is new."""
        return self.items if self.new_N is None else self.items.masked_fill(self.new_N[:, None], 0.0)

    def neighbours(self, known: bool = False) -> Near | None:
        """The `alike` items that are most like each; with `known`, none that training must know nothing of. Found where
        the model is when first asked for, as that takes a while (`nearest_items`) and not all who build one ask."""
        if self.likeness is None:
            return None
        without = self.new_N if known else None
        if (key := without is None) not in self.lists:
            device = self.vectors_NE.device.type
            with torch.inference_mode(False), torch.no_grad(), torch.autocast(device, enabled=False):
                self.lists[key] = nearest_items(self.vectors_NE, self.alike, without)
        return self.lists[key]

    def asked(self, states_XD: Tensor, history_XT: Tensor, near: Near | None) -> tuple[Tensor, Additions | None]:
        """What makes the logits of whole items: vectors (X, D) whose inner products with `unit_items` are cosines over
        the temperature, and what items of the history (-1: none) and their neighbours have more, `again` and `likeness`
        over the temperature."""
        asked_XD = F.normalize(states_XD, dim=1).to(self.items.dtype) / self.temperature
        if self.again is None and near is None:
            return asked_XD, None
        sorted_XT, place_XT = history_XT.sort(dim=1, stable=True)
        row_M, column_M = (sorted_XT >= 0).nonzero(as_tuple=True)
        item_M = sorted_XT[row_M, column_M]
        items, more = [], []
        if self.again is not None:
            first_XT = sorted_XT != F.pad(sorted_XT[:, :-1], (1, 0), value=-1)
            items.append(item_M[:, None])
            more.append((self.again.float() * first_XT[row_M, column_M])[:, None])
        if near is not None and self.likeness is not None:
            back_M = (history_XT >= 0).sum(1)[row_M] - 1 - place_XT[row_M, column_M]
            items.append(near.items_NK[item_M])
            more.append(self.likeness.float()[back_M, None] * near.cosines_NK[item_M])
        item_MK, more_MK = torch.cat(items, dim=1), torch.cat(more, dim=1) / self.temperature
        row_MK = row_M[:, None].expand_as(item_MK)
        return asked_XD, Additions(row_MK.flatten(), item_MK.flatten(), more_MK.flatten())

    @torch.no_grad()
    def worth(self, state: Reading) -> Tensor:
        """(B, N) float32, `judge` times the logits of whole items: what leads the beams, beside the likelihood of their
        codes. What normalises the logits is the same for all items of a user."""
        assert state.user_BD is not None and state.items_BTL is not None
        with torch.autocast(state.user_BD.device.type, enabled=False):
            items_ND = self.unit_items() if self.training or self.kept_ND is None else self.kept_ND
            self.kept_ND = None if self.training else items_ND
            asked_BD, more = self.asked(state.user_BD.float(), self.numbers(state.items_BTL), self.neighbours())
            return self.judge * item_logits(asked_BD, items_ND, more)


def as_small_as_embeddings(centred_NE: Tensor, new_N: Tensor | None = None) -> Tensor:
    """(N, E) the vectors; those that are not new have the spread that embeddings have at first."""
    known_NE = centred_NE if new_N is None else centred_NE[~new_N]
    return centred_NE * (INIT_STD / known_NE.std().clamp_min(1e-6))
