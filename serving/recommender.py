"""From item ids to recommended items: what the command line, the service and the export stand on.

Legend: B histories, T items of a history, L levels, K items or beams, N items.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from torch import Tensor

from datamodules.batch import SequenceBatch, token_sequence
from serving.bundle import Bundle
from sid.decode import Recommendations, recommended, top_items, without
from sid.errors import UserError
from sid.sampling import Sampler, Tempered
from sid.trie import Trie

COOLEST, WARMEST = 0.01, 100.0
DEVICES = ("cpu", "cuda")
MOST_WORDS = 10
"""Of a search for items; the others are ignored."""


class Question(NamedTuple):
    """How to answer; the same for all histories of a call."""

    k: int = 10
    beams: int = 0
    """Beams of a generative model, at least k; 0: as many as in the test."""
    temperature: float = 0.0
    """0: the likeliest items; above: items are drawn, the more evenly the higher it is. Draws go by codes alone where
    the model has codes: what Sidlight thinks of whole items besides has no part in them."""
    first_temperature: float = 0.0
    """The temperature of the first code, for lists of several kinds of item; 0: as `temperature`. Where that is 0, the
    other codes are drawn at 1."""
    seed: int = 0
    """Of the draws: the same for the same history, whoever is asked about beside it."""
    fresh: bool = False
    """Leave out items of the history. A generative model writes `max_items` more for it; if it has written more of the
    history than that, a list is shorter."""


class Answer(NamedTuple):
    lists: Recommendations
    """k items a history, -1 where there are no more."""
    beams: list[Tensor]
    """The codes (B, K, l) of all beams after each level l, best first; empty for a classic model."""


@dataclass
class Recommender:
    """Answers for batches of histories, on one device."""

    bundle: Bundle
    device: str = "cpu"

    def __post_init__(self) -> None:
        if self.device not in DEVICES or (self.device == "cuda" and not torch.cuda.is_available()):
            here = "cpu or cuda" if torch.cuda.is_available() else "cpu: this torch sees no CUDA device"
            raise UserError(f"device={self.device}: expected {here}")
        self.bundle.model.to(self.device)

    @classmethod
    def load(cls, folder: Path, device: str = "cpu") -> "Recommender":
        """From an exported bundle. Raises UserError where it is not whole."""
        return cls(Bundle.load(folder), device)

    @property
    def num_items(self) -> int:
        return int(self.bundle.items.num_rows)

    @cached_property
    def _number(self) -> dict[str, int]:
        return {raw: number for number, raw in enumerate(self.bundle.items["item"].to_pylist())}

    @cached_property
    def _user_number(self) -> dict[str, int]:
        return {} if self.bundle.users is None else {u: i for i, u in enumerate(self.bundle.users.to_pylist())}

    @cached_property
    def _candidates(self) -> Tensor:
        candidate_N = np.asarray(self.bundle.items["candidate"].fill_null(True))
        return torch.from_numpy(np.flatnonzero(candidate_N)).to(self.device)

    @cached_property
    def _trie(self) -> Trie:
        table = self.bundle.table
        assert table is not None
        some = len(self._candidates) < self.num_items
        trie = Trie.from_codes(table.codes_NL, self._candidates.cpu()) if some else table.trie
        return trie.to(self.device)

    @cached_property
    def _codes(self) -> Tensor:
        """(N, L); item numbers for a classic model, which does not read them."""
        table = self.bundle.table
        return torch.arange(self.num_items)[:, None] if table is None else table.codes_NL.to(self.device)

    def numbers(self, raw_ids: Sequence[str]) -> tuple[list[int], list[str]]:
        """Numbers of the items with these ids, in order, and the ids that no item has."""
        known = [self._number[raw] for raw in raw_ids if raw in self._number]
        return known, [raw for raw in raw_ids if raw not in self._number]

    def user_numbers(self, raw_ids: Sequence[str | None]) -> list[int]:
        """-1 for a user that is not known."""
        return [self._user_number.get(raw, -1) if raw is not None else -1 for raw in raw_ids]

    def shown(self, item: int) -> dict[str, Any]:
        """An item in words: id, title, category and, where it has one, semantic ID."""
        row = {name: self.bundle.items[name][item].as_py() for name in ("item", "title", "category")}
        table = self.bundle.table
        codes_NL = self.bundle.inputs.get("codes_NL") if table is None else table.codes_NL
        return row if codes_NL is None else {**row, "codes": codes_NL[item].tolist()}

    def find(self, words: str, most: int) -> list[int]:
        """Items with this id, or with all these words in their title, whatever the case; none without a word."""
        if words in self._number:
            return [self._number[words]]
        if not words.split():
            return []
        found = pa.chunked_array([pa.repeat(True, self.num_items)])
        for word in words.split()[:MOST_WORDS]:
            found = pc.and_(found, pc.match_substring(self.bundle.items["title"], word, ignore_case=True))
        return [int(item) for item in np.flatnonzero(found)[:most]]

    def under(self, codes: Sequence[int]) -> dict[str, Any] | None:
        """How many items have semantic IDs that begin so, and the title of one; None where there are none."""
        items_X = self._trie.below(codes)
        if not len(items_X):
            return None
        return {"codes": list(codes), "items": len(items_X), "example": self.shown(int(items_X[0]))["title"]}

    def batch(self, histories: Sequence[Sequence[int]], users: Sequence[int] = ()) -> SequenceBatch:
        """What a model reads of histories of item numbers, oldest first; without target.

        Args:
            users: their numbers, -1 for one that is not known; none given: all are not known.

        Raises:
            UserError: there is no history, one is empty, or a number in it is no item's.
        """
        if not len(histories):
            raise UserError("there is no history to answer")
        if not all(0 <= item < self.num_items for history in histories for item in history):
            raise UserError(f"a history holds a number that is no item's: expected 0 to {self.num_items - 1}")
        if not all(histories):
            raise UserError("a history is empty: there is nothing to go by; recommend what is popular to new users")
        card, zero_B = self.bundle.card, torch.zeros(len(histories), dtype=torch.long, device=self.device)
        user_B = torch.tensor(users, device=self.device) if users else zero_B - 1
        recent = [history[-card.max_items :] for history in histories]
        history_BT = padded(recent).to(self.device)
        long_BT = None
        if card.long_items:
            end = -card.max_items
            long_BT = padded([history[end - card.long_items : end] for history in histories]).to(self.device)
        model: Any = self.bundle.model
        tokens_BS = history_BT
        if self.bundle.table is not None:
            tokens_BS = token_sequence(history_BT, user_B, self._codes, model.tokens)
        no_code_BL = zero_B[:, None].expand(-1, self._codes.shape[1])
        return SequenceBatch(tokens_BS, no_code_BL, history_BT, zero_B - 1, user_B, long_BT)

    @torch.inference_mode()
    def answer(self, histories: Sequence[Sequence[int]], question: Question, users: Sequence[int] = ()) -> Answer:
        """The items recommended after each of the histories (item numbers, oldest first).

        Raises:
            UserError: as for `batch`, or the question asks for what cannot be given.
        """
        batch, wanted = self.batch(histories, users), self.wanted(question)
        seen_BT = padded(histories).to(self.device) if question.fresh else None
        draws = question.temperature > 0 or question.first_temperature > 0
        sampler = Sampler([seed_of(history, question.seed) for history in histories]) if draws else None
        trace: list[Tensor] = []
        model: Any = self.bundle.model
        if self.bundle.table is None:
            scores_BN = model.scores(batch.history_BT, batch.user_B)
            if sampler is not None:
                scores_BN = scores_BN * (getattr(model, "averaged", 1) / question.temperature)
            if seen_BT is not None:
                scores_BN = ruled_out(scores_BN, seen_BT)
            lists = top_items(scores_BN, self._candidates, wanted, sampler)
        else:
            constrained, asked = self.bundle.card.constrained, model
            if sampler is not None:
                asked, constrained = Tempered(model, self._temperatures(question)), True
            state = model.begin(*batch.inputs)
            lists = recommended(asked, state, self._trie, wanted, constrained, trace, sampler)
        if seen_BT is not None:
            lists = without(lists, seen_BT)
        return Answer(lists.part(slice(None), slice(question.k)), trace)

    def wanted(self, question: Question) -> int:
        """Items to find for every history. Raises UserError where the question asks for what cannot be given."""
        if not 1 <= question.k <= self.num_items:
            raise UserError(f"k={question.k}: expected 1 to {self.num_items}, the items of the catalogue")
        for name in ("temperature", "first_temperature"):
            value = getattr(question, name)
            if not (value == 0 or COOLEST <= value <= WARMEST):
                raise UserError(f"{name}={value}: expected 0, or {COOLEST:g} to {WARMEST:g}")
        if not 0 <= question.seed < 2**63:
            raise UserError(f"seed={question.seed}: expected 0 to 2^63 - 1")
        if self.bundle.table is None:
            if question.beams or question.first_temperature:
                raise UserError(f"{self.bundle.card.name} scores all items at once: it has no beams and no first code")
            return question.k
        wanted = question.beams or max(question.k, self.bundle.card.num_beams)
        if wanted < question.k:
            raise UserError(f"beams={wanted}: expected at least k={question.k}")
        return min(wanted + (self.bundle.card.max_items if question.fresh else 0), self.num_items)

    def _temperatures(self, question: Question) -> list[float]:
        rest = question.temperature or 1.0
        return [question.first_temperature or rest, *[rest] * (self._trie.num_levels - 1)]


def padded(histories: Sequence[Sequence[int]]) -> Tensor:
    """(B, T) int64, -1 behind; T is at least 1."""
    width = max(1, *map(len, histories)) if histories else 1
    return torch.tensor([[*history, *[-1] * (width - len(history))] for history in histories])


def ruled_out(scores_BN: Tensor, seen_BT: Tensor) -> Tensor:
    """The scores, -inf for the items (B, T) of every row; -1 is none."""
    place_BT = torch.where(seen_BT < 0, scores_BN.shape[1], seen_BT)
    return F.pad(scores_BN, (0, 1)).scatter(1, place_BT, -torch.inf)[:, :-1]


def seed_of(history: Sequence[int], seed: int) -> int:
    """A seed for the draws of a history."""
    digest = hashlib.sha256(np.array([seed, *history], np.int64).tobytes()).digest()
    return int.from_bytes(digest[:7], "little")
