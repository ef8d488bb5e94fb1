"""What the search of GLASS finds and the gates let through, against a slow twin.

Legend: B users, S source tokens, T items of the long history, N items, L levels, K beams, V codes of a level, W
vocabulary, D width, G layers, A first codes, X similar codes, R items found."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from models.configs import Content
from models.glass import Glass
from models.tiger import Tiger
from sid.decode import beam_search
from sid.tokens import BOS
from sid.trie import Trie
from tests.models.tiny_copying import slow_added
from tests.models.tiny_glass import (
    LONG_LENGTHS,
    MOST,
    NUM_ITEMS,
    SIZES,
    Users,
    catalogue,
    content_of,
    every_gate,
    tiers_of,
    tiny,
    users,
)


def nearest(content: Content, num_codes: int, count: int) -> list[list[int]]:
    """The slow twin: the codes whose items' mean vectors point in the most similar direction, from the catalogue's
    middle; codes without items come last."""
    centred_ND = content.vectors_ND.astype(np.float64) - content.vectors_ND.astype(np.float64).mean(0)
    first_N = content.codes_NL[:, 0].numpy()
    mean_AD = np.stack([centred_ND[first_N == code].sum(0) for code in range(num_codes)])
    unit_AD = mean_AD / np.maximum(np.linalg.norm(mean_AD, axis=1, keepdims=True), 1e-12)
    near, used = [], set(first_N.tolist())
    for code in range(num_codes):
        cosine = unit_AD @ unit_AD[code]
        others = sorted(set(range(num_codes)) - {code}, key=lambda other: (other not in used, -cosine[other]))
        near.append(others[:count])
    return near


class Answer(NamedTuple):
    """What the slow twin says of one user and one item."""

    logits_LW: Tensor
    found: int
    gates_G: list[float]


def slow(model: Glass, user: Users, codes_L: Tensor, neighbours: int = 2, few: int = 1) -> Answer:
    """The slow twin of the teacher-forced model: one user, one item; what is found is a list without padding, and each
    position reads it or does not."""
    first_N = model.codes_NL[:, 0].tolist()
    long, code = user.long_BT[0].tolist(), int(codes_L[0])
    items = [item for item in reversed(long) if first_N[item] == code]
    if len(items) < few:
        near = nearest(catalogue(model.tokens.codebook_sizes), model.tokens.codebook_sizes[0], neighbours)[code]
        items += [item for other in near for item in reversed(long) if first_N[item] == other]
    items = items[:MOST]
    x_1SD = model.embedding[user.tokens_BS]
    if model.tiers:
        tier_NA = tiers_of(model)
        counts_AX = torch.zeros(tier_NA.shape[1], model.tiers, dtype=torch.double)
        for item in long:
            for first, tier in enumerate(tier_NA[item].tolist()):
                counts_AX[first, tier] += 1 / len(long)
        middle, inner = model.tier_token[0], model.tier_token[-1]
        x_1SD = torch.cat([inner(middle(counts_AX.flatten()).relu())[None, None], x_1SD], dim=1)
    source_1SD = model.encoder(x_1SD, None)
    before_L = [BOS, *model.tokens.encode(codes_L)[:-1].tolist()]
    decoder: Any = model.decoder
    x_1LD, bias = model.embedding[before_L][None], decoder.bias(len(before_L), len(before_L))
    gates_G = []
    for layer in decoder.layers:
        x_1LD = x_1LD + layer.attention.self_attention(layer.attention_norm(x_1LD), bias)[0]
        normed_1LD = layer.cross_norm(x_1LD)
        read_1LD = layer.cross.cross_attention(normed_1LD, layer.cross.keys_values(source_1SD), None).clone()
        if items and model.most:
            codes_RL = model.tokens.encode(model.codes_NL[items])
            memory_1RD = torch.stack([model.item(model.embedding.detach()[codes].flatten()) for codes in codes_RL])[
                None
            ]
            found_1LD = layer.found.cross_attention(normed_1LD, layer.found.keys_values(memory_1RD), None)
            opened = []
            for level in range(1, len(before_L)):
                z_short, z_found = read_1LD[0, level].clone(), found_1LD[0, level]
                gate = torch.tensor([1.0 if layer.kind == "sum" else 0.5], dtype=torch.double)
                if layer.kind in ("vector", "scalar"):
                    gate = layer.gate(torch.cat([z_short, z_found])).sigmoid()
                read_1LD[0, level] = (layer.kind == "sum" or 1 - gate) * z_short + gate * z_found
                opened.append(gate.mean().item())
            gates_G.append(float(np.mean(opened)))
        x_1LD = x_1LD + read_1LD
        x_1LD = x_1LD + layer.feed_forward(layer.feed_forward_norm(x_1LD))
    logits_LW = decoder.norm(x_1LD)[0] * model.embedding.shape[1] ** -0.5 @ model.embedding.T
    if model.copying is not None:
        short = model.tokens.decode(user.tokens_BS[:, bool(model.tokens.num_user_tokens) :].view(-1, len(codes_L)))
        known = [*model.codes_NL[long].tolist(), *short.tolist()]
        for level, size in enumerate(model.tokens.codebook_sizes):
            added_V = slow_added(size, model.codes_NL.tolist(), known, codes_L[:level].tolist())
            logits_LW[level, model.tokens.level(level)] += torch.tensor(added_V)
    return Answer(logits_LW, len(items), gates_G or [0.0] * len(decoder.layers))


@every_gate
@torch.no_grad()
def test_the_first_codes_logits_never_depend_on_the_search_and_all_others_do(gate: str) -> None:
    model = tiny(gate=gate)
    tokens_BS, long_BT = users(model)
    codes_BL = content_of(model)[long_BT.clamp_min(0)[:, 0]]
    before_BLW = model(tokens_BS, long_BT, codes_BL)
    first_BV = model.next_logp(model.begin(tokens_BS, long_BT), 0, None, None)[0]
    for name, weight in model.named_parameters():
        if name == "item.weight" or ".found." in name or ".gate." in name:
            weight.normal_()
    after_BLW = model(tokens_BS, long_BT, codes_BL)
    assert torch.equal(before_BLW[:, 0], after_BLW[:, 0])
    assert torch.equal(model.next_logp(model.begin(tokens_BS, long_BT), 0, None, None)[0], first_BV)
    changed_BL = (before_BLW - after_BLW).abs().amax(2)[:, 1:] > 1e-3
    assert changed_BL.all(1).tolist() == [length > 0 for length in LONG_LENGTHS]


def slow_scores(logits_NLW: Tensor, codes_NL: Tensor, model: Tiger, constrained: bool) -> Tensor:
    """The log-likelihood of every item; constrained, a softmax runs over the codes alone that some item has after the
    same prefix."""
    items = [tuple(codes) for codes in codes_NL.tolist()]
    scores = []
    for logits_LW, codes in zip(logits_NLW, items, strict=True):
        score = torch.zeros((), dtype=torch.double)
        for level, code in enumerate(codes):
            logits_V = logits_LW[level, model.tokens.level(level)]
            allowed = sorted({c[level] for c in items if c[:level] == codes[:level]})
            over_W = logits_V[allowed] if constrained else logits_LW[level]
            score += logits_V[code] - over_W.logsumexp(0)
        scores.append(score)
    return torch.stack(scores)


@every_gate
@pytest.mark.parametrize(
    "changes",
    [{"neighbours": 0, "tier": False}, {"few": 3, "num_user_tokens": 3}, {"copies": True, "num_user_tokens": 3}],
)
@torch.no_grad()
def test_a_beam_search_scores_items_as_the_slow_twin_and_so_does_teacher_forcing(
    gate: str, changes: dict[str, Any]
) -> None:
    """At every width: beams that are cut and re-ordered keep what they have found."""
    model = tiny(gate=gate, **changes)
    known = {name: changes[name] for name in ("neighbours", "few") if name in changes}
    some, codes_NL = users(model), content_of(model)
    tree = Trie.from_codes(codes_NL)
    lists = {(w, c): beam_search(model, model.begin(*some), tree, w, c) for w in (3, 25) for c in (False, True)}
    for user in range(len(some.tokens_BS)):
        alone = some.one(user)
        slow_NLW = torch.stack([slow(model, alone, codes_L, **known).logits_LW for codes_L in codes_NL])
        forced_NLW = model(*(x[user].expand(NUM_ITEMS, -1) for x in some), codes_NL)
        torch.testing.assert_close(forced_NLW, slow_NLW, atol=1e-6, rtol=1e-6)
        for (width, constrained), found in lists.items():
            scores_N = slow_scores(slow_NLW, codes_NL, model, constrained)
            items_K = found.items_BK[user, : min(width, NUM_ITEMS)]
            ours_K = found.scores_BK[user, : len(items_K)].double()
            torch.testing.assert_close(ours_K, scores_N[items_K], atol=1e-4, rtol=1e-4)
            if width > NUM_ITEMS:
                best = scores_N.sort(descending=True)
                assert (best.values.diff() > -1e-4).any() or torch.equal(items_K, best.indices)
                assert (found.items_BK[user, NUM_ITEMS:] == -1).all()


@every_gate
@torch.no_grad()
def test_every_beam_reads_what_its_own_first_code_has_found_after_parents_permute(gate: str) -> None:
    sizes = (5, 3, 3, 2)
    model = tiny(sizes, gate=gate, neighbours=0)
    some = users(model, [25, 3])
    _, state = model.next_logp(model.begin(*some), 0, None, None)
    written: list[list[list[int]]] = [[[]], [[]]]  # by user and beam
    steps = [  # the codes that are written next, and the beams they follow
        ([[3, 0, 2, 1], [0, 4, 1, 3]], [[0, 0, 0, 0], [0, 0, 0, 0]]),
        ([[0, 1, 2, 0, 1], [2, 2, 0, 1, 0]], [[2, 0, 0, 3, 1], [3, 1, 1, 0, 2]]),
        ([[1, 0, 0], [0, 1, 1]], [[4, 3, 0], [1, 0, 1]]),
    ]
    for level, (codes, parents) in enumerate(steps, start=1):
        written = [
            [[*written[user][parent], code] for code, parent in zip(codes[user], parents[user], strict=True)]
            for user in range(2)
        ]
        logp_BKV, state = model.next_logp(state, level, torch.tensor(codes), torch.tensor(parents))
        found = []
        for user in range(2):
            for beam, prefix in enumerate(written[user]):
                answer = slow(model, some.one(user), torch.tensor([*prefix, *[0] * (4 - level)]), neighbours=0)
                expected_V = answer.logits_LW[level].log_softmax(0)[model.tokens.level(level)].float()
                torch.testing.assert_close(logp_BKV[user, beam], expected_V, atol=1e-5, rtol=1e-5)
                found.append(answer.found)
        assert min(found) == 0 and len(set(found)) > 1


@torch.no_grad()
def test_no_users_get_no_logits_and_beams_in_bfloat16_have_nearly_the_same_scores() -> None:
    model = tiny(neighbours=0).float()
    some, codes_NL = users(model), content_of(model)
    assert model(*(x[:0] for x in some), codes_NL[:0]).shape == (0, 3, model.tokens.size)
    tree = Trie.from_codes(codes_NL)
    exact, best = beam_search(model, model.begin(*some), tree, NUM_ITEMS), []
    with torch.autocast("cpu", torch.bfloat16):
        half = beam_search(model, model.begin(*some), tree, NUM_ITEMS)
    for lists in (exact, half):
        best.append(torch.empty_like(lists.scores_BK).scatter_(1, lists.items_BK, lists.scores_BK))
    torch.testing.assert_close(*best, atol=0.1, rtol=0.05)
    assert not torch.equal(*best)


@every_gate
@pytest.mark.parametrize("lengths", [[0, 0, 0], [0, 30, 0]])
@pytest.mark.parametrize("half", [False, True])
def test_loss_and_gradients_are_finite_where_rows_find_nothing(gate: str, lengths: list[int], half: bool) -> None:
    model = tiny(gate=gate, neighbours=0).float().train()
    some = users(model, lengths)
    codes_BL = content_of(model)[some.long_BT[:, :1].clamp_min(0).sum(1)]
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        loss = model.loss(*some, codes_BL)
        inside = model.look_inside(*some, codes_BL)
    loss.backward()
    assert loss.isfinite()
    gradients = {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    found = [name for name in gradients if ".found." in name or ".gate." in name]
    assert all(gradients[name].any() == (sum(lengths) > 0) for name in found)
    assert inside.found_B is not None and inside.gate_GB is not None
    assert ((inside.gate_GB > 0).all(0)).tolist() == (inside.found_B > 0).tolist() == [n > 0 for n in lengths]


@every_gate
def test_gradients_equal_those_of_the_slow_twin_which_reads_what_was_found_without_gradient_for_the_codes(
    gate: str,
) -> None:
    model = tiny(gate=gate)
    user = users(model).one(3)
    codes_L = content_of(model)[user.long_BT[0, 0]]
    targets_L = model.tokens.encode(codes_L)
    slow_loss = -slow(model, user, codes_L).logits_LW.log_softmax(1)[[0, 1, 2], targets_L].mean()
    expected = torch.autograd.grad(slow_loss, [*model.parameters()])
    # In single precision the loss is rounded, its gradient hardly.
    ours = torch.autograd.grad(model.loss(*user, codes_L[None]), [*model.parameters()])
    for (name, _), one, other in zip(model.named_parameters(), ours, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4, msg=name)


@every_gate
@torch.no_grad()
def test_a_look_inside_shows_what_the_slow_twin_sees(gate: str) -> None:
    model = tiny(gate=gate)
    some = users(model)
    codes_BL = content_of(model)[[3, 0, 11, 14]]
    some.long_BT[1] = torch.tensor([0] + [-1] * 29)  # item 0 is an item
    codes_BL[0] = torch.tensor([model(*some, codes_BL)[0, 0, model.tokens.level(0)].argmax(), 0, 0])
    inside = model.look_inside(*some, codes_BL)
    assert inside.found_B is not None and inside.gate_GB is not None
    assert inside.gate_GB.shape == (2, 4) and model.gated_layers == 2
    assert inside.right_BL[0, 0]
    for user, codes_L in enumerate(codes_BL):
        answer = slow(model, some.one(user), codes_L)
        assert inside.found_B[user] == answer.found
        assert inside.gate_GB[:, user].tolist() == pytest.approx(answer.gates_G, abs=1e-5)
        for level, code in enumerate(codes_L.tolist()):
            logits_V = answer.logits_LW[level, model.tokens.level(level)]
            assert inside.right_BL[user, level] == (logits_V.argmax() == code)
    assert inside.found_B[:2].tolist() == [0, 1] and (inside.found_B[2:] > 0).any()


def test_without_search_there_is_nothing_to_see_of_it() -> None:
    model = tiny(search=False)
    inside = model.look_inside(*users(model), content_of(model)[:4])
    assert inside.right_BL.shape == (4, 3)
    assert inside.found_B is None and inside.gate_GB is None and model.gated_layers == 0


def test_more_neighbours_than_there_are_codes_are_all_codes() -> None:
    model = tiny(neighbours=100)
    assert [sorted(near) for near in model.near_AX.tolist()] == [
        [other for other in range(SIZES[0]) if other != code] for code in range(SIZES[0])
    ]
