"""Hugging Face's T5 with our weights: padded training batches, and `generate` under `prefix_allowed_tokens_fn`.

Equal to ours: weights, vocabulary, sizes, dropout, optimiser, precision, threads and allocator. Not equal: a batch is
256 random samples padded to its longest (ours: samples of like length); the beam search is the library's own.
"""

from collections import defaultdict

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

    def allowed(self, tokens_XL: Tensor, width: int) -> Tensor:
        """(X, L, width) bool: what may follow the first 0, 1, ... tokens of each item."""
        allowed_XLW = torch.zeros(*tokens_XL.shape, width, dtype=torch.bool)
        for x, row in enumerate(tokens_XL.tolist()):
            for level in range(len(row)):
                allowed_XLW[x, level, self.following[tuple(row[:level])]] = True
        return allowed_XLW


@torch.inference_mode()
def beam_search(
    model: T5ForConditionalGeneration,
    prefixes: PrefixTable,
    tokens_BS: Tensor,
    num_beams: int,
    constrained: bool = False,
) -> Tensor:
    """The `num_beams` best items (B, K) of every user by `generate`.

    It masks after log-softmax, as ours does, or normalises anew over the codes that are left (`constrained`). All
    sequences have one length, so no length penalty enters.
    """
    num_levels = len(next(iter(prefixes.items)))
    written_XT = model.generate(
        input_ids=tokens_BS,
        attention_mask=tokens_BS != PAD,
        decoder_input_ids=torch.full((len(tokens_BS), 1), BOS),
        num_beams=num_beams,
        num_return_sequences=num_beams,
        max_new_tokens=num_levels,
        length_penalty=0.0,
        do_sample=False,
        prefix_allowed_tokens_fn=prefixes,
        renormalize_logits=constrained,
    )
    return torch.tensor([prefixes.items[tuple(row[1:])] for row in written_XT.tolist()]).view(-1, num_beams)
