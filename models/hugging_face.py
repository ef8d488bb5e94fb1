"""A trained Tiger as a Hugging Face `T5ForConditionalGeneration` and back: the same weights, the same outputs."""

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.attention import Shape
from models.tiger import Tiger
from sid.errors import UserError
from sid.tokens import BOS, PAD, TokenSpace

if TYPE_CHECKING:
    from transformers import T5Config, T5ForConditionalGeneration

_BLOCK_PARTS = {"attention": "SelfAttention", "cross": "EncDecAttention"}


def t5_config(shape: Shape, vocab_size: int) -> "T5Config":
    """Hugging Face's config of an encoder and a decoder of this shape, whose vocabulary is that of `sid.tokens`."""
    from transformers import T5Config

    return T5Config(
        vocab_size=vocab_size,
        d_model=shape.width,
        d_kv=shape.head_width,
        d_ff=shape.ff_width,
        num_layers=shape.num_layers,
        num_decoder_layers=shape.num_layers,
        num_heads=shape.num_heads,
        relative_attention_num_buckets=shape.num_buckets,
        relative_attention_max_distance=shape.max_distance,
        dropout_rate=shape.dropout,
        feed_forward_proj="relu",
        tie_word_embeddings=True,
        pad_token_id=PAD,
        decoder_start_token_id=BOS,
        eos_token_id=None,
    )


def to_hugging_face(model: Tiger) -> "T5ForConditionalGeneration":
    """Copies the weights. Give it `decoder_input_ids` that start with BOS, and `attention_mask = tokens != PAD`. Its
    config also holds `codebook_sizes` and `num_user_tokens`.

    Raises UserError for another model, or one that copies: Hugging Face has none like it.
    """
    if type(model) is not Tiger:
        raise UserError(f"{type(model).__name__} has no counterpart in Hugging Face; only a TIGER exports")
    if model.copying is not None:
        raise UserError("a TIGER that copies (model.copies) has no counterpart in Hugging Face; train it without")
    from transformers import T5ForConditionalGeneration

    config = t5_config(model.encoder.bias.shape, model.tokens.size)
    config.codebook_sizes, config.num_user_tokens = list(model.tokens.codebook_sizes), model.tokens.num_user_tokens
    peer = T5ForConditionalGeneration(config)
    peer.load_state_dict({name: weight.detach().clone() for name, weight in counterparts(model).items()})
    return peer.train(model.training)


def from_hugging_face(folder: Path) -> Tiger:
    """The TIGER that `save_hugging_face` has written, in evaluation mode.

    Raises UserError where the folder holds no such T5.
    """
    from safetensors import SafetensorError
    from transformers import T5Config, T5ForConditionalGeneration

    if not (folder / "config.json").exists():
        raise UserError(f"{folder} holds no config.json; name a folder that experiments.export has written")
    try:
        config = T5Config.from_pretrained(folder)
        tokens = TokenSpace(tuple(config.codebook_sizes), config.num_user_tokens)
        peer, loading = T5ForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
        if lacking := sorted(loading["missing_keys"]):
            raise ValueError(f"weights are missing: {', '.join(lacking)}")
        sizes = (config.d_model, config.num_layers, config.num_heads, config.d_kv, config.d_ff, config.dropout_rate)
        shape = Shape(*sizes, config.relative_attention_num_buckets, config.relative_attention_max_distance)
        model, theirs = Tiger(shape, tokens), peer.state_dict()
        with torch.no_grad():
            for name, weight in counterparts(model).items():
                weight.copy_(theirs[name])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{folder} holds no whole T5 of ours ({reason}). Export the run again.") from error
    return model.eval()


def save_hugging_face(model: Tiger, folder: Path) -> None:
    """Config in JSON and weights in safetensors, for `T5ForConditionalGeneration.from_pretrained`."""
    to_hugging_face(model).save_pretrained(folder)


def counterparts(model: Tiger) -> dict[str, Tensor]:
    """Hugging Face's name -> our weight, or the part of one that it is; nothing is copied."""
    weights: dict[str, Tensor] = {"shared.weight": model.embedding, "lm_head.weight": model.embedding}
    for stack in ("encoder", "decoder"):
        ours = getattr(model, stack)
        weights[f"{stack}.embed_tokens.weight"] = model.embedding
        weights[f"{stack}.final_layer_norm.weight"] = ours.norm.weight
        first = f"{stack}.block.0.layer.0.SelfAttention"
        weights[f"{first}.relative_attention_bias.weight"] = ours.bias.weight
        for i, layer in enumerate(ours.layers):
            parts = ["attention", "cross"] if stack == "decoder" else ["attention"]
            for j, part in enumerate(parts):
                prefix = f"{stack}.block.{i}.layer.{j}"
                attention = getattr(layer, part)
                query, out = attention.q.weight, attention.out.weight
                for name, weight in zip("qkvo", [query, *attention.fused.weight.chunk(2), out], strict=True):
                    weights[f"{prefix}.{_BLOCK_PARTS[part]}.{name}.weight"] = weight
                weights[f"{prefix}.layer_norm.weight"] = getattr(layer, f"{part}_norm").weight
            prefix = f"{stack}.block.{i}.layer.{len(parts)}"
            weights[f"{prefix}.DenseReluDense.wi.weight"] = layer.feed_forward.inner.weight
            weights[f"{prefix}.DenseReluDense.wo.weight"] = layer.feed_forward.out.weight
            weights[f"{prefix}.layer_norm.weight"] = layer.feed_forward_norm.weight
    return weights
