"""P5 (Geng et al. 2022, arXiv 2203.13366): recommendation as text to text, on Hugging Face's T5.

A history becomes a prompt, `user <u> has purchased predict next item <items>`, and the answer is the item's name. Items
are named by numbers without a meaning (`tokenizer=random`), a few tokens each, as T5's text tokenizer cuts a number;
every token of one item has that item's whole-word embedding. Without weights it starts at random.

Legend: B users, S source tokens, L levels, K beams, V codes of a level, W vocabulary, D width.
"""

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import Shape
from models.hugging_face import t5_config
from models.inside import Inside
from sid.errors import UserError
from sid.tokens import BOS, PAD, TokenSpace

if TYPE_CHECKING:
    from transformers import T5ForConditionalGeneration

BEFORE, AFTER = ("user", "has", "purchased"), ("predict", "next", "item")
"""Words of the prompt; the user comes after the first."""


class Asked(NamedTuple):
    """What decoding keeps between two levels."""

    source_BSD: Tensor
    mask_BS: Tensor
    written_BKl: Tensor
    """Tokens so far, BOS first."""


class P5(nn.Module):
    """Softmax over the whole vocabulary. Beams copy their user's source: Hugging Face's decoder has no other way.

    Args:
        shape: of either stack.
        tokens: users and codes.
        max_items: the longest history.
        weights: folder or hub name of a T5 whose layers to start from; "" for random ones.
    """

    def __init__(self, shape: Shape, tokens: TokenSpace, max_items: int, weights: str = "") -> None:
        from transformers import T5ForConditionalGeneration

        super().__init__()
        self.tokens, self.max_items, self.gated_layers = tokens, max_items, 0
        self.t5 = T5ForConditionalGeneration(t5_config(shape, tokens.size + len(BEFORE) + len(AFTER)))
        if weights:
            start_from(self.t5, weights)
        self.whole_word = nn.Parameter(torch.empty(2 + max_items, shape.width).normal_())
        """Of the prompt, of the user and of every item, oldest first."""

    def prompt(self, tokens_BS: Tensor) -> tuple[Tensor, Tensor]:
        """The whole text's tokens (B, S'), PAD where a row is shorter, and which word each belongs to (B, S')."""
        lead, levels = min(self.tokens.num_user_tokens, 1), self.tokens.num_levels
        words = torch.arange(self.tokens.size, self.tokens.size + len(BEFORE) + len(AFTER), device=tokens_BS.device)
        before_B, after_B = (part.expand(len(tokens_BS), -1) for part in words.split([len(BEFORE), len(AFTER)]))
        user_BS, items_BS = tokens_BS[:, :lead], tokens_BS[:, lead:]
        item_S = 2 + torch.arange(items_BS.shape[1], device=tokens_BS.device) // levels
        text_BS = torch.cat([before_B[:, :1], user_BS, before_B[:, 1:], after_B, items_BS], dim=1)
        fixed = torch.zeros(text_BS.shape[1] - items_BS.shape[1], dtype=torch.long, device=tokens_BS.device)
        fixed[1 : 1 + lead] = 1
        return text_BS, torch.cat([fixed, item_S]).expand_as(text_BS)

    def encode(self, tokens_BS: Tensor) -> tuple[Tensor, Tensor]:
        """The encoder's output (B, S, D) and what of it is text (B, S)."""
        text_BS, word_BS = self.prompt(tokens_BS)
        embedded_BSD = self.t5.shared(text_BS) + F.embedding(word_BS, self.whole_word)
        mask_BS = (text_BS != PAD).long()
        encoded = self.t5.encoder(inputs_embeds=embedded_BSD, attention_mask=mask_BS)
        return encoded.last_hidden_state, mask_BS

    def write(self, source_BSD: Tensor, mask_BS: Tensor, written_BL: Tensor) -> Tensor:
        """Logits (B, L, W) behind every token that is written."""
        answer = self.t5(
            encoder_outputs=(source_BSD,), attention_mask=mask_BS, decoder_input_ids=written_BL, use_cache=False
        )
        return answer.logits

    def forward(self, tokens_BS: Tensor, codes_BL: Tensor) -> Tensor:
        """Logits (B, L, W) of the target's tokens, each given those before it.

        Args:
            tokens_BS: user token (if any) and history; PAD behind.
            codes_BL: codes of the target item.
        """
        return self.write(*self.encode(tokens_BS), F.pad(self.tokens.encode(codes_BL)[:, :-1], (1, 0), value=BOS))

    def loss(self, tokens_BS: Tensor, codes_BL: Tensor) -> Tensor:
        """Mean cross-entropy (natural log) of the target's tokens."""
        return self.token_loss(self(tokens_BS, codes_BL), codes_BL)

    def token_loss(self, logits_BLW: Tensor, codes_BL: Tensor) -> Tensor:
        return F.cross_entropy(logits_BLW.flatten(0, 1).float(), self.tokens.encode(codes_BL).flatten())

    def look_inside(self, tokens_BS: Tensor, codes_BL: Tensor) -> Inside:
        """Which codes the model gets right when it is told those before."""
        logits_BLW = self(tokens_BS, codes_BL)
        best_BL = [logits_BLW[:, level, self.tokens.level(level)].argmax(1) for level in range(codes_BL.shape[1])]
        right_BL = torch.stack(best_BL, dim=1) == codes_BL
        return Inside(self.token_loss(logits_BLW, codes_BL), right_BL, None, None, None)

    def begin(self, tokens_BS: Tensor) -> Asked:
        """Encodes every prompt once, for `sid.decode.beam_search`."""
        source_BSD, mask_BS = self.encode(tokens_BS)
        return Asked(source_BSD, mask_BS, torch.full((len(tokens_BS), 1, 1), BOS, device=tokens_BS.device))

    def next_logp(
        self, state: Asked, level: int, codes_BK: Tensor | None, parents_BK: Tensor | None
    ) -> tuple[Tensor, Asked]:
        """Log-probabilities (B, K, V) of the codes of `level` (see `sid.decode.Generator`)."""
        written_BKl = state.written_BKl
        if codes_BK is not None and parents_BK is not None:
            own_BKl = written_BKl.gather(1, parents_BK[..., None].expand(-1, -1, written_BKl.shape[2]))
            token_BK1 = (codes_BK + self.tokens.offsets[level - 1])[..., None]
            written_BKl = torch.cat([own_BKl, token_BK1], dim=2)
        beams = written_BKl.shape[1]
        source, mask = (part.repeat_interleave(beams, dim=0) for part in (state.source_BSD, state.mask_BS))
        logits = self.write(source, mask, written_BKl.flatten(0, 1))[:, -1].unflatten(0, (-1, beams))
        logp_BKW = logits.log_softmax(-1, dtype=torch.float32)
        return logp_BKW[..., self.tokens.level(level)], state._replace(written_BKl=written_BKl)


def start_from(t5: "T5ForConditionalGeneration", weights: str) -> None:
    """Copies the layers of a trained T5, not its vocabulary. Raises UserError where there is none of these sizes."""
    from transformers import T5ForConditionalGeneration

    try:
        trained = T5ForConditionalGeneration.from_pretrained(weights).state_dict()
        layers = {name: value for name, value in trained.items() if ".block." in name or "layer_norm" in name}
        found = t5.load_state_dict(layers, strict=False)
        if lacking := [name for name in found.missing_keys if ".block." in name] + found.unexpected_keys:
            raise OSError(f"{lacking[0]} is in one of them alone")
    except (OSError, RuntimeError) as error:
        problem = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"model.weights={weights}: no T5 of these sizes can be read there ({problem})") from error
