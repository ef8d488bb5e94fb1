"""Legend: B users, S source tokens, T items of the long history, N items, L levels, K beams, V codes of a level, W
vocabulary, D width, G layers, A first codes, X similar codes, R items found."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from models.configs import Content, GlassConfig, TigerConfig
from models.glass import Glass
from models.hugging_face import to_hugging_face
from models.tiger import Tiger
from sid.decode import Recommendations, beam_search
from sid.errors import UserError
from sid.tokens import BOS, PAD
from sid.trie import Trie

SIZES = (6, 4, 3)
NUM_ITEMS = 16
MOST = 4
FEW_SIZES: dict[str, Any] = {"width": 16, "num_layers": 2, "num_heads": 2, "head_width": 8, "ff_width": 32}
GATES = ["vector", "scalar", "fixed", "sum"]
every_gate = pytest.mark.parametrize("gate", GATES)
LONG_LENGTHS = [0, 3, 9, 30]


def catalogue(sizes: tuple[int, ...] = SIZES) -> Content:
    """Items with distinct codes and random vectors; nobody has the last first code."""
    draw = torch.Generator().manual_seed(7)
    every_NL = torch.cartesian_prod(torch.arange(sizes[0] - 1), *(torch.arange(size) for size in sizes[1:]))
    codes_NL = every_NL[torch.randperm(len(every_NL), generator=draw)[:NUM_ITEMS]]
    return Content(codes_NL, torch.randn(NUM_ITEMS, 5, generator=draw).numpy())


def tiny(sizes: tuple[int, ...] = SIZES, **changes: Any) -> Glass:
    """A small model in double precision that finds up to four items, and whose gates open differently everywhere."""
    torch.manual_seed(0)
    config = GlassConfig(**(FEW_SIZES | {"retrieved": MOST, "dropout": 0.0} | changes))
    model = config.build(sizes, 20, catalogue(sizes)).double().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".gate." in name or name == "item.weight" or name.startswith("tier_token"):
                weight.normal_(std=0.5)
    assert isinstance(model, Glass)
    return model


def padded(rows: list[list[int]], behind: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [behind] * (longest - len(row)) for row in rows], dtype=torch.long).view(
        len(rows), longest
    )


class Users(NamedTuple):
    """What a model reads of some users."""

    tokens_BS: Tensor
    long_BT: Tensor

    def one(self, user: int) -> "Users":
        """A user without padding."""
        tokens_S, long_T = self.tokens_BS[user], self.long_BT[user]
        return Users(tokens_S[tokens_S != PAD][None], long_T[long_T >= 0][None])


def users(model: Tiger, long_lengths: list[int] = LONG_LENGTHS, seed: int = 0) -> Users:
    """Short histories of one to five items, and so many random items before them."""
    draw = np.random.default_rng(seed)
    codes_NL = catalogue(model.tokens.codebook_sizes).codes_NL
    tokens, long = [], []
    for user, length in enumerate(long_lengths):
        own = model.tokens.encode(codes_NL[draw.integers(0, NUM_ITEMS, 1 + user % 5)]).flatten().tolist()
        tokens.append([model.tokens.offsets[-1] + user % 3] * bool(model.tokens.num_user_tokens) + own)
        long.append(draw.integers(0, NUM_ITEMS, length).tolist())
    return Users(padded(tokens, PAD), padded(long, -1))


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
        counts_AX = torch.zeros(model.tier_NA.shape[1], model.tiers, dtype=torch.double)
        for item in long:
            for first, tier in enumerate(model.tier_NA[item].tolist()):
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
    return Answer(logits_LW, len(items), gates_G or [0.0] * len(decoder.layers))


def content_of(model: Tiger) -> Tensor:
    return catalogue(model.tokens.codebook_sizes).codes_NL


def same(one: Recommendations, other: Recommendations) -> bool:
    return torch.equal(one.items_BK, other.items_BK) and torch.equal(one.scores_BK, other.scores_BK)


def test_without_tier_and_search_it_is_tiger_bit_for_bit() -> None:
    sizes: dict[str, Any] = FEW_SIZES | {"num_user_tokens": 3}
    torch.manual_seed(5)
    glass = GlassConfig(tier=False, search=False, **sizes).build(SIZES, 20, catalogue()).eval()
    torch.manual_seed(5)
    tiger = TigerConfig(**sizes).build(SIZES, 20).eval()
    assert type(glass) is Tiger and not GlassConfig(tier=False, search=False).reads_long
    assert [*glass.state_dict()] == [*tiger.state_dict()]
    assert all(torch.equal(one, other) for one, other in zip(glass.parameters(), tiger.parameters(), strict=True))
    tokens_BS, codes_NL = users(tiger).tokens_BS, content_of(tiger)
    assert torch.equal(glass(tokens_BS, codes_NL[:4]), tiger(tokens_BS, codes_NL[:4]))
    tree = Trie.from_codes(codes_NL)
    assert same(*(beam_search(model, model.begin(tokens_BS), tree, 10) for model in (glass, tiger)))


@every_gate
@pytest.mark.parametrize("width", [0, 3])
def test_with_nothing_to_find_it_is_the_tiger_of_its_weights_bit_for_bit(gate: str, width: int) -> None:
    model = tiny(tier=False, gate=gate, num_user_tokens=3)
    tiger = TigerConfig(**(FEW_SIZES | {"num_user_tokens": 3})).build(SIZES, 20).double().eval()
    keys = tiger.load_state_dict(model.state_dict(), strict=False)
    assert not keys.missing_keys
    assert {key.split(".")[-2 if key == "item.weight" else 3] for key in keys.unexpected_keys} <= {
        "found",
        "gate",
        "item",
    }
    tokens_BS, codes_NL = users(model).tokens_BS, content_of(model)
    nothing_BT = torch.full((len(tokens_BS), width), -1)
    assert torch.equal(model(tokens_BS, nothing_BT, codes_NL[:4]), tiger(tokens_BS, codes_NL[:4]))
    tree = Trie.from_codes(codes_NL)
    for constrained in (False, True):
        ours = beam_search(model, model.begin(tokens_BS, nothing_BT), tree, 10, constrained)
        assert same(ours, beam_search(tiger, tiger.begin(tokens_BS), tree, 10, constrained))


@every_gate
def test_a_row_that_finds_nothing_is_tigers_beside_rows_that_find_something(gate: str) -> None:
    model = tiny(tier=False, gate=gate, neighbours=0)
    tiger = TigerConfig(**(FEW_SIZES | {"num_user_tokens": 0})).build(SIZES, 20).double().eval()
    tiger.load_state_dict(model.state_dict(), strict=False)
    tokens_BS, codes_NL = users(model).tokens_BS, content_of(model)
    code = int(codes_NL[0, 0])
    own, other = (codes_NL[:, 0] == code).nonzero()[0, 0], (codes_NL[:, 0] != code).nonzero()[0, 0]
    long_BT = torch.tensor([[other, other], [other, own], [-1, -1], [own, -1]])
    codes_BL = codes_NL[:1].expand(4, -1)
    ours_BLW, tigers_BLW = model(tokens_BS, long_BT, codes_BL), tiger(tokens_BS, codes_BL)
    assert torch.equal(ours_BLW[[0, 2]], tigers_BLW[[0, 2]])
    assert torch.equal(ours_BLW[:, 0], tigers_BLW[:, 0])
    assert ((ours_BLW - tigers_BLW).abs().amax(2)[[1, 3], 1:] > 1e-3).all()


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
@pytest.mark.parametrize("changes", [{"neighbours": 0, "tier": False}, {"few": 3, "num_user_tokens": 3}])
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


def test_padding_of_the_long_history_changes_nothing() -> None:
    model = tiny()
    tokens_BS, long_BT = users(model)
    codes_NL = content_of(model)
    wider_BT = torch.nn.functional.pad(long_BT, (4, 300), value=-1)
    assert torch.equal(model(tokens_BS, long_BT, codes_NL[:4]), model(tokens_BS, wider_BT, codes_NL[:4]))
    tree = Trie.from_codes(codes_NL)
    assert same(*(beam_search(model, model.begin(tokens_BS, x_BT), tree, 10) for x_BT in (long_BT, wider_BT)))


@torch.no_grad()
def test_rows_of_a_batch_do_not_influence_one_another() -> None:
    model = tiny()
    some, codes_NL = users(model), content_of(model)
    together_BLW, inside = model(*some, codes_NL[:4]), model.look_inside(*some, codes_NL[:4])
    assert inside.found_B is not None and inside.gate_GB is not None
    for user in range(4):
        alone = some.one(user), codes_NL[user : user + 1]
        torch.testing.assert_close(model(*alone[0], alone[1])[0], together_BLW[user])
        one = model.look_inside(*alone[0], alone[1])
        assert one.found_B is not None and one.gate_GB is not None
        assert torch.equal(one.found_B[0], inside.found_B[user])
        torch.testing.assert_close(one.gate_GB[:, 0], inside.gate_GB[:, user])


@every_gate
@pytest.mark.parametrize("tier", [True, False])
def test_gradients_reach_every_parameter(gate: str, tier: bool) -> None:
    model = tiny(gate=gate, tier=tier, dropout=0.1, num_user_tokens=3).train()
    some = users(model, [30, 20, 30])
    model.loss(*some, content_of(model)[some.long_BT[:, 0]]).backward()
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {"embedding", "encoder", "decoder", "item"} | ({"tier_token"} if tier else set())
    assert any(".found." in name for name, _ in model.named_parameters())
    assert any(".gate." in name for name, _ in model.named_parameters()) == (gate in ("vector", "scalar"))
    without = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert without == []


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


@pytest.mark.parametrize("num_tiers", [4, 7])
def test_tiers_are_those_of_the_cosines_to_the_mean_vectors_of_the_first_codes(num_tiers: int) -> None:
    codes_NL, vectors_ND = catalogue()
    edges = [-0.1, 0, 0.1] if num_tiers == 4 else [2 * tier / num_tiers - 1 for tier in range(1, num_tiers)]
    centred_ND = vectors_ND - vectors_ND.mean(0)
    tier_NA = tiny(num_tiers=num_tiers).tier_NA
    for code in range(SIZES[0] - 1):
        mean_D = centred_ND[codes_NL[:, 0] == code].mean(0)
        cosine_N = centred_ND @ mean_D / np.linalg.norm(mean_D) / np.linalg.norm(centred_ND, axis=1)
        assert tier_NA[:, code].tolist() == np.digitize(cosine_N, edges).tolist()


@torch.no_grad()
def test_the_tier_token_tells_what_the_long_history_holds_and_not_in_which_order() -> None:
    model = tiny(search=False)
    tokens_BS, codes_BL = users(model, [12]).tokens_BS, content_of(model)[:1]
    long_BT = torch.arange(12)[None]
    before_LW = model(tokens_BS, long_BT, codes_BL)[0]
    assert torch.equal(model(tokens_BS, long_BT.flip(1), codes_BL)[0], before_LW)
    assert torch.equal(model(tokens_BS, long_BT.repeat(1, 2), codes_BL)[0], before_LW)
    changed_LW = model(tokens_BS, long_BT + 4, codes_BL)[0]
    assert ((changed_LW - before_LW).abs().amax(1) > 1e-3).all()


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


@pytest.mark.parametrize("changes", [{}, {"tier": False}, {"search": False}])
def test_a_checkpoint_holds_nothing_of_the_catalogues_size(changes: dict[str, Any]) -> None:
    model = tiny(**changes)
    assert [*model.state_dict()] == [name for name, _ in model.named_parameters()]
    torch.manual_seed(1)
    other = GlassConfig(**(FEW_SIZES | {"retrieved": MOST} | changes)).build(SIZES, 20, catalogue()).double().eval()
    other.load_state_dict(model.state_dict())
    arguments = *users(model), content_of(model)[:4]
    assert torch.equal(other(*arguments), model(*arguments))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gate": "open"}, "model.gate=open: expected vector, scalar, fixed, sum"),
        ({"num_tiers": 0}, "model.num_tiers=0: expected at least 1"),
        ({"num_tiers": 256}, "model.num_tiers=256: expected at most 255"),
        ({"retrieved": 0}, "model.retrieved=0: expected at least 1"),
        ({"neighbours": -1}, "model.neighbours=-1: expected at least 0"),
        ({"few": -1}, "model.few=-1: expected at least 0"),
        ({"width": 0}, "model.width=0: expected at least 1"),
        ({"dropout": 1.0}, "model.dropout=1.0: expected at least 0 and below 1"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        GlassConfig(**changes).check()


def test_the_catalogue_is_asked_for_where_it_is_needed() -> None:
    GlassConfig().check()
    with pytest.raises(ValueError, match="GLASS needs the codes and vectors of the items"):
        GlassConfig(**FEW_SIZES).build(SIZES, 20)


def test_it_does_not_export_as_the_tiger_that_it_is_not() -> None:
    with pytest.raises(UserError, match="Glass has no counterpart in Hugging Face"):
        to_hugging_face(tiny())


def test_more_neighbours_than_there_are_codes_are_all_codes() -> None:
    model = tiny(neighbours=100)
    assert [sorted(near) for near in model.near_AX.tolist()] == [
        [other for other in range(SIZES[0]) if other != code] for code in range(SIZES[0])
    ]


def test_the_tables_follow_the_model_and_are_neither_averaged_nor_broadcast_nor_cast() -> None:
    model = tiny()
    assert not list(model.buffers())
    codes_NL, tier_NA = model.codes_NL.clone(), model.tier_NA.clone()
    averaged = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    for _ in range(3):
        averaged.update_parameters(model)
    assert torch.equal(averaged.module.codes_NL, codes_NL) and torch.equal(averaged.module.tier_NA, tier_NA)
    assert model.float().codes_NL.dtype == torch.long and model.tier_NA.dtype == torch.uint8
    moved = model.to("meta")
    assert all(table.is_meta for table in (moved.codes_NL, moved.tier_NA, moved.near_AX))


def test_a_normalised_tier_token_has_unit_size_whatever_the_history() -> None:
    model = tiny(tier_norm=True)
    token_BD = model.embed(*users(model))[0][:, 0] / model.tier_token[-1].weight
    torch.testing.assert_close(token_BD.square().mean(1), torch.ones(len(token_BD)).double(), atol=1e-3, rtol=0)
    assert not torch.allclose(token_BD[1], token_BD[2])
