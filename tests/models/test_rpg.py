"""Legend: B users, T items of a history, N items, X targets, L levels, K codes of a level, D width."""

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_modules.configs import OptimizerConfig
from lightning_modules.optimizers import build_optimizer
from models.classic_configs import RPGConfig
from models.rpg import RPG
from tests.models.tiny_rivals import ITEMS, LONGEST, built, histories, known

TINY = RPGConfig(width=32, num_layers=1, num_heads=2, head_width=16, ff_width=64, dropout=0.0, temperature=0.1)


def model_with_heads() -> RPG:
    """One whose heads are no copies any more."""
    model: RPG = built(TINY)
    with torch.no_grad():
        model.heads.normal_(std=0.3)
        model.head_biases.normal_(std=0.3)
    return model.eval()


def slow_logp(model: RPG, state_D: Tensor) -> list[Tensor]:
    """Of every level, (K,) log-likelihoods of its codes."""
    codes_LKD = model.codes.view(model.levels, -1, state_D.shape[0])
    answers = []
    for level in range(model.levels):
        raised_D = state_D + F.silu(state_D @ model.heads[level] + model.head_biases[32 * level : 32 * level + 32])
        cosines = [F.cosine_similarity(raised_D, code_D, dim=0) for code_D in codes_LKD[level]]
        there = len(known().codes_NL[:, level].unique())  # type: ignore[index]
        answers.append((torch.stack(cosines)[:there] / model.temperature).log_softmax(0))
    return answers


def test_an_item_is_read_as_the_mean_of_its_codes() -> None:
    model, codes_NL = model_with_heads(), known().codes_NL
    assert codes_NL is not None
    codes_LKD = model.codes.view(model.levels, -1, 32)
    for item in (0, 7, ITEMS - 1):
        mean_D = sum(codes_LKD[level, code] for level, code in enumerate(codes_NL[item].tolist())) / model.levels
        torch.testing.assert_close(model.embed(torch.tensor([item]))[0], mean_D * (model.levels * 32) ** 0.5)
    assert (model.embed(torch.tensor([-1])) == 0).all()


def test_scores_are_mean_log_likelihoods_of_the_codes() -> None:
    model, codes_NL = model_with_heads(), known().codes_NL
    assert codes_NL is not None
    item_BT, user_B = histories()
    scores_BN = model.scores(item_BT, user_B)
    for row, length in enumerate((item_BT >= 0).sum(1)):
        logp = slow_logp(model, model.states(item_BT, user_B)[row, length - 1])
        for item in range(ITEMS):
            likelihoods = [logp[level][code] for level, code in enumerate(codes_NL[item].tolist())]
            torch.testing.assert_close(scores_BN[row, item], torch.stack(likelihoods).mean(), atol=1e-5, rtol=1e-4)


def test_the_loss_is_that_of_every_code_of_every_target() -> None:
    model, codes_NL = model_with_heads(), known().codes_NL
    assert codes_NL is not None
    item_BT, user_B = histories()
    target_BT = (item_BT >= 0) & (torch.arange(LONGEST) >= 1)
    states_BTD = model.states(item_BT, user_B)
    losses = [
        -logp_K[codes_NL[item_BT[row, place], level]]
        for row, place in target_BT.nonzero().tolist()
        for level, logp_K in enumerate(slow_logp(model, states_BTD[row, place - 1]))
    ]
    loss = model.window_loss([(item_BT, user_B, target_BT)])
    torch.testing.assert_close(loss, torch.stack(losses).mean(), atol=1e-5, rtol=1e-4)
    loss.backward()
    assert all(value.grad is not None and value.grad.isfinite().all() for value in model.parameters())


def test_a_head_is_at_first_the_state_itself() -> None:
    model: RPG = built(TINY).eval()
    states_XD = torch.randn(3, 32, generator=torch.Generator().manual_seed(5))
    for level, logits_XK in enumerate(model.code_logits(states_XD)):
        codes_KD = model.codes.view(model.levels, -1, 32)[level]
        cosines_XK = F.cosine_similarity(states_XD[:, None], codes_KD, dim=2)
        there_K = logits_XK[0].isfinite()
        torch.testing.assert_close(logits_XK[:, there_K], cosines_XK[:, there_K] / 0.1, atol=1e-5, rtol=1e-4)


def test_levels_compete_among_their_own_codes_alone() -> None:
    """The levels of the catalogue have 5, 8 and 7 codes; or every second one of twice as many."""
    codes_NL = known().codes_NL
    assert codes_NL is not None
    for gap in (1, 2):
        model = TINY.build(known()._replace(codes_NL=codes_NL * gap)).eval()
        logp_LK = model.code_logits(torch.randn(1, 32)).log_softmax(2)[:, 0]
        assert [logp_K.isfinite().nonzero()[:, 0].tolist() for logp_K in logp_LK] == [
            list(range(0, size * gap, gap)) for size in (5, 8, 7)
        ]
        torch.testing.assert_close(logp_LK.exp().sum(1), torch.ones(3))


def test_nobody_is_answered_with_nothing() -> None:
    empty_B = torch.zeros(0, dtype=torch.long)
    assert model_with_heads().scores(empty_B[:, None].expand(0, 4), empty_B).shape == (0, ITEMS)


def test_biases_of_heads_do_not_decay() -> None:
    decaying, free = build_optimizer(OptimizerConfig(), built(TINY).parameters()).param_groups
    sizes = {tuple(p.shape) for p in free["params"]}
    assert (3 * 32,) in sizes and all(p.ndim >= 2 for p in decaying["params"])


def test_the_loss_is_about_the_same_in_bfloat16() -> None:
    model = model_with_heads()
    item_BT, user_B = histories()
    windows = [(item_BT, user_B, (item_BT >= 0) & (torch.arange(LONGEST) >= 1))]
    loss = model.window_loss(windows)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model.window_loss(windows)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, loss, atol=0, rtol=1e-2)


def test_items_of_equal_codes_are_the_same_to_it() -> None:
    codes_NL = known().codes_NL
    assert codes_NL is not None
    twins = known()._replace(codes_NL=torch.cat([codes_NL[:-1], codes_NL[:1]]))
    model = TINY.build(twins).eval()
    scores_BN = model.scores(*histories())
    assert torch.equal(scores_BN[:, 0], scores_BN[:, -1])
    assert (scores_BN[:, 0] != scores_BN[:, 1]).all()
