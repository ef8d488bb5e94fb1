"""P5 (Geng et al. 2022, arXiv 2203.13366): recommendation as text to text, on T5.

A history becomes a prompt, `user <u> has purchased predict next item <items>`, and the answer is the item's name. Items
are named by numbers without a meaning (`tokenizer=random`), a few tokens each, as T5's text tokenizer cuts a number;
every token of one item has that item's whole-word embedding. Without weights it starts at random.

The T5 is TIGER's, which computes what Hugging Face's does; its test compares them.

Legend: B users, S source tokens, D width.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Shape
from models.hugging_face import counterparts
from models.tiger import Tiger
from sid.errors import UserError
from sid.tokens import PAD, TokenSpace

BEFORE, AFTER = ("user", "has", "purchased"), ("predict", "next", "item")
"""Words of the prompt; the user comes after the first."""


class P5(Tiger):
    """Softmax over the whole vocabulary, the prompt's words with it.

    Args:
        shape: of either stack.
        tokens: users and codes.
        max_items: the longest history.
        weights: folder or hub name of a T5 whose layers to start from; "" for random ones.
    """

    def __init__(self, shape: Shape, tokens: TokenSpace, max_items: int, weights: str = "") -> None:
        super().__init__(shape, tokens, num_words=len(BEFORE) + len(AFTER))
        if weights:
            start_from(self, weights)
        self.whole_word = nn.Parameter(torch.empty(2 + max_items, shape.width).normal_())
        """Of the prompt, of the user and of every item, oldest first."""

    def prompt(self, tokens_BS: Tensor) -> tuple[Tensor, Tensor]:
        """The whole text's tokens (B, S'), PAD where a row is shorter, and which word each belongs to (B, S')."""
        lead, levels = min(self.tokens.num_user_tokens, 1), self.tokens.num_levels
        words = torch.arange(self.tokens.size, self.tokens.size + len(BEFORE) + len(AFTER), device=tokens_BS.device)
        before_B, after_B = (part.expand(tokens_BS.shape[0], -1) for part in words.split([len(BEFORE), len(AFTER)]))
        user_BS, items_BS = tokens_BS[:, :lead], tokens_BS[:, lead:]
        item_S = 2 + torch.arange(items_BS.shape[1], device=tokens_BS.device) // levels
        text_BS = torch.cat([before_B[:, :1], user_BS, before_B[:, 1:], after_B, items_BS], dim=1)
        fixed = torch.zeros(text_BS.shape[1] - items_BS.shape[1], dtype=torch.long, device=tokens_BS.device)
        fixed[1 : 1 + lead] = 1
        return text_BS, torch.cat([fixed, item_S]).expand_as(text_BS)

    def embed(self, tokens_BS: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's input (B, S', D) for the whole text, and which of it is padding (B, S')."""
        text_BS, word_BS = self.prompt(tokens_BS)
        return F.embedding(text_BS, self.embedding) + F.embedding(word_BS, self.whole_word), text_BS == PAD


def start_from(model: Tiger, weights: str) -> None:
    """Copies the layers of a trained T5, not its vocabulary. Raises UserError where there is none of these sizes."""
    from safetensors import SafetensorError
    from transformers import T5ForConditionalGeneration

    ours = of_layers(counterparts(model))
    try:
        trained, loading = T5ForConditionalGeneration.from_pretrained(weights, output_loading_info=True)
        theirs = of_layers(trained.state_dict())
        if lacking := sorted((ours.keys() ^ theirs.keys()) | of_layers(dict.fromkeys(loading["missing_keys"])).keys()):
            raise ValueError(f"{lacking[0]} is in one of them alone")
        if unlike := [name for name, weight in ours.items() if weight.shape != theirs[name].shape]:
            there, here = (tuple(layers[unlike[0]].shape) for layers in (theirs, ours))
            raise ValueError(f"{unlike[0]} is {there} there, {here} here")
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        problem = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"model.weights={weights}: no T5 of these sizes can be read there ({problem})") from error
    with torch.no_grad():
        for name, weight in ours.items():
            weight.copy_(theirs[name])


def of_layers(weights: dict[str, Any]) -> dict[str, Any]:
    """Those of Hugging Face's names that belong to layers."""
    return {name: weight for name, weight in weights.items() if ".block." in name or "layer_norm" in name}
