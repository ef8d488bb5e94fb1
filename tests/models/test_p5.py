"""Legend: B users, S tokens, L levels."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import T5EncoderModel, T5ForConditionalGeneration

from models.configs import P5Config
from models.hugging_face import counterparts, t5_config
from models.p5 import AFTER, BEFORE, P5
from sid.decode import beam_search
from sid.errors import UserError
from sid.tokens import BOS, PAD
from sid.trie import Trie

SIZES = (5, 4, 2)
CODES_NL = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))
SMALL = {"width": 32, "num_layers": 1, "num_heads": 2, "head_width": 16, "ff_width": 64, "dropout": 0.0}


def built(weights: str = "", users: int = 7) -> P5:
    torch.manual_seed(0)
    model = P5Config(**SMALL, num_user_tokens=users, weights=weights).build(SIZES, 6)  # type: ignore[arg-type]
    return model.eval()


def histories(model: P5, count: int = 3) -> Tensor:
    """Histories of 1, 2, ... items."""
    draw = torch.Generator().manual_seed(1)
    tokens_BTL = model.tokens.encode(CODES_NL[torch.randint(0, len(CODES_NL), (count, count), generator=draw)])
    missing_BT = torch.arange(count) > torch.arange(count)[:, None]
    tokens_BS = tokens_BTL.masked_fill(missing_BT[..., None], PAD).flatten(1)
    if not model.tokens.num_user_tokens:
        return tokens_BS
    return torch.cat([model.tokens.user(torch.arange(count))[:, None], tokens_BS], dim=1)


@pytest.mark.parametrize("users", [0, 7])
def test_the_prompt_holds_words_user_and_items_and_what_belongs_together(users: int) -> None:
    model = built(users=users)
    tokens_BS = histories(model)
    text_BS, word_BS = model.prompt(tokens_BS)
    lead, words = min(users, 1), len(BEFORE) + len(AFTER)
    assert text_BS.shape == word_BS.shape == (3, words + tokens_BS.shape[1])
    assert text_BS[:, -9:].equal(tokens_BS[:, lead:])
    assert word_BS[0, -9:].tolist() == [2, 2, 2, 3, 3, 3, 4, 4, 4]
    assert (word_BS[0, :-9] == 1).sum() == lead
    if users:
        assert text_BS[:, 1].equal(tokens_BS[:, 0]) and word_BS[0, 1] == 1
    prompt = text_BS[:, :-9]
    assert (prompt[0] >= model.tokens.size).sum() == words


def as_hugging_face(model: P5) -> T5ForConditionalGeneration:
    """Hugging Face's T5 with the model's weights, but for whole words."""
    peer = T5ForConditionalGeneration(t5_config(model.encoder.bias.shape, len(model.embedding)))
    peer.load_state_dict({name: weight.detach().clone() for name, weight in counterparts(model).items()})
    return peer.eval()


def test_it_is_hugging_faces_t5_with_whole_words_added() -> None:
    model = built()
    tokens_BS, codes_BL = histories(model), CODES_NL[:3]
    text_BS, word_BS = model.prompt(tokens_BS)
    peer = as_hugging_face(model)
    answer = peer(
        inputs_embeds=peer.shared(text_BS) + model.whole_word[word_BS],
        attention_mask=(text_BS != PAD).long(),
        decoder_input_ids=torch.cat([torch.full((3, 1), BOS), model.tokens.encode(codes_BL)[:, :-1]], dim=1),
    )
    torch.testing.assert_close(model(tokens_BS, codes_BL), answer.logits, atol=1e-4, rtol=1e-4)


def test_a_score_is_the_likelihood_of_the_items_tokens() -> None:
    model = built()
    tokens_BS = histories(model)
    lists = beam_search(model, model.begin(tokens_BS), Trie.from_codes(CODES_NL), num_beams=len(CODES_NL))
    for row in range(3):
        own = tokens_BS[row : row + 1].expand(len(CODES_NL), -1)
        logp_NLW = model(own, CODES_NL).log_softmax(-1)
        expected_N = logp_NLW.gather(2, model.tokens.encode(CODES_NL)[..., None]).sum((1, 2))
        torch.testing.assert_close(lists.scores_BK[row], expected_N[lists.items_BK[row]], atol=1e-4, rtol=1e-4)
        assert sorted(lists.items_BK[row].tolist()) == list(range(len(CODES_NL)))


def test_padding_and_whole_words() -> None:
    model = built()
    tokens_BS = histories(model)
    alone = model(tokens_BS[:1, : 1 + 3], CODES_NL[:1])
    torch.testing.assert_close(model(tokens_BS, CODES_NL[:3])[:1], alone, atol=1e-5, rtol=1e-4)
    before = model(tokens_BS, CODES_NL[:3])
    with torch.no_grad():
        model.whole_word[2] += 1.0
    assert not torch.allclose(model(tokens_BS, CODES_NL[:3]), before)


def test_fifty_users_are_learnt_by_heart() -> None:
    model = built(users=50).train()
    draw = torch.Generator().manual_seed(2)
    tokens_BS = model.tokens.encode(CODES_NL[torch.randint(0, 40, (50, 3), generator=draw)]).flatten(1)
    tokens_BS = torch.cat([model.tokens.user(torch.arange(50))[:, None], tokens_BS], dim=1)
    codes_BL = CODES_NL[torch.randint(0, 40, (50,), generator=draw)]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        model.loss(tokens_BS, codes_BL).backward()
        optimizer.step()
    assert model.eval().look_inside(tokens_BS, codes_BL).right_BL.all(1).float().mean() > 0.9


def test_layers_of_a_trained_t5(tmp_path: Path) -> None:
    model = built()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    as_hugging_face(model).save_pretrained(tmp_path)
    started, trained = built(str(tmp_path)).state_dict(), model.state_dict()
    for name, weight in started.items():
        of_layers = name not in ("embedding", "whole_word")
        assert weight.equal(trained[name]) == of_layers, f"{name}: the vocabulary alone is another"
    with pytest.raises(UserError, match=r"model.weights=.* no T5 of these sizes.*\(64, 32\) there, \(16, 32\) here"):
        P5Config(**{**SMALL, "ff_width": 16}, weights=str(tmp_path)).build(SIZES, 6)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"block.1.* is in one of them alone"):
        P5Config(**{**SMALL, "num_layers": 2}, weights=str(tmp_path)).build(SIZES, 6)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no T5 of these sizes can be read there"):
        built(str(tmp_path / "nowhere"))


def test_a_damaged_t5_or_half_of_one_is_told(tmp_path: Path) -> None:
    peer = as_hugging_face(built())
    peer.save_pretrained(tmp_path / "truncated")
    file = tmp_path / "truncated" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    peer.save_pretrained(tmp_path / "unlike")
    config = json.loads((tmp_path / "unlike" / "config.json").read_text())
    (tmp_path / "unlike" / "config.json").write_text(json.dumps({**config, "d_ff": 48}))
    T5EncoderModel(peer.config).save_pretrained(tmp_path / "encoder")
    with pytest.raises(UserError, match="decoder.block.0.* is in one of them alone"):
        built(str(tmp_path / "encoder"))
    for name in ("truncated", "unlike"):
        with pytest.raises(UserError, match="no T5 of these sizes can be read there"):
            built(str(tmp_path / name))
