"""Hugging Face's T5 with our weights: padded training batches, and `generate` under `prefix_allowed_tokens_fn`.

Equal to ours: weights, vocabulary, sizes, dropout, optimiser, precision, threads and allocator. Not equal: a batch is
256 random samples padded to its longest (ours: samples of like length); the beam search is the library's own.
"""

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import T5ForConditionalGeneration

from sid.table import SIDTable
from sid.tokens import BOS, PAD, TokenSpace


def loss(model: T5ForConditionalGeneration, tokens_BS: Tensor, labels_BL: Tensor) -> Tensor:
    """Mean cross-entropy of the target's tokens `labels_BL` after BOS."""
    return model(input_ids=tokens_BS, attention_mask=tokens_BS != PAD, labels=labels_BL).loss


class PrefixTable:
    """What `prefix_allowed_tokens_fn` looks up: the next tokens of every prefix, in a dictionary (as GENRE's trie)."""

    def __init__(self, table: SIDTable, tokens: TokenSpace) -> None:
        self.items = {tuple(row): item for item, row in enumerate(tokens.encode(table.codes_NL).tolist())}
        following: dict[tuple[int, ...], set[int]] = defaultdict(set)
        for row in self.items:
            for level, token in enumerate(row):
                following[row[:level]].add(token)
        self.following = {prefix: sorted(next_tokens) for prefix, next_tokens in following.items()}

    def __call__(self, batch_id: int, tokens: Tensor) -> list[int]:
        return self.following[tuple(tokens.tolist()[1:])]


class Lists(NamedTuple):
    """Top-K items and, when asked for, their scores."""

    items_BK: Tensor
    scores_BK: Tensor | None


@torch.inference_mode()
def beam_search(
    model: T5ForConditionalGeneration, prefixes: PrefixTable, tokens_BS: Tensor, num_beams: int, scores: bool = False
) -> Lists:
    """The `num_beams` best items of every user by `generate`.

    It masks after log-softmax, as ours does, and all sequences have one length, so no length penalty enters.
    """
    num_levels = len(next(iter(prefixes.items)))
    output = model.generate(
        input_ids=tokens_BS,
        attention_mask=tokens_BS != PAD,
        decoder_input_ids=torch.full((len(tokens_BS), 1), BOS),
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=num_levels,
        length_penalty=0.0,
        do_sample=False,
        prefix_allowed_tokens_fn=prefixes,
        return_dict_in_generate=True,
        output_scores=scores,
    )
    found = [prefixes.items[tuple(row[1:])] for row in output.sequences.tolist()]
    items_BK = torch.tensor(found).view(-1, num_beams)
    return Lists(items_BK, output.sequences_scores.view(-1, num_beams) if scores else None)
