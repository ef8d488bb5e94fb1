"""Legend: B users, K beams, S tokens, L levels, N items."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from datamodules.batch import SequenceBatch, WindowBatch
from lightning_modules.configs import OptimizerConfig
from lightning_modules.generative import GenerativeModule, training_loss
from models.configs import CausalConfig, TigerConfig
from sid.decode import beam_search
from sid.errors import UserError
from sid.trie import Trie

SIZES = (8, 8, 2)
CODES_NL = torch.cartesian_prod(*(torch.arange(size) for size in SIZES))
TRIE = Trie.from_codes(CODES_NL)


def module_of(seed: int = 0, dropout: float = 0.0, **optimizer: Any) -> GenerativeModule:
    torch.manual_seed(seed)
    sizes = TigerConfig(
        width=32, num_layers=1, num_heads=2, head_width=16, ff_width=64, dropout=dropout, num_user_tokens=50
    )
    return GenerativeModule(sizes.build(SIZES, 20), OptimizerConfig(**optimizer), seed=seed)


def fifty_examples(module: GenerativeModule) -> SequenceBatch:
    """Fifty users with three random items each, and a random next one."""
    draw = torch.Generator().manual_seed(0)
    history_BT = torch.randint(0, len(CODES_NL), (50, 3), generator=draw)
    target_B = torch.randint(0, len(CODES_NL), (50,), generator=draw)
    user_B = torch.arange(50)
    tokens = module.model.tokens
    tokens_BS = torch.cat([tokens.user(user_B)[:, None], tokens.encode(CODES_NL[history_BT]).flatten(1)], dim=1)
    return SequenceBatch(tokens_BS, CODES_NL[target_B], history_BT, target_B, user_B)


def causal_of(**optimizer: Any) -> GenerativeModule:
    torch.manual_seed(0)
    sizes = CausalConfig(
        width=32,
        num_layers=1,
        depth_layers=1,
        num_heads=2,
        head_width=16,
        ff_width=64,
        dropout=0.0,
        depth_dropout=0.0,
        num_user_tokens=50,
    )
    return GenerativeModule(sizes.build(SIZES, 5), OptimizerConfig(**optimizer), seed=0)


def windows_of(module: GenerativeModule, first: int) -> WindowBatch:
    """Twenty windows of six random items, of which those from `first` on are targets."""
    items_BT = torch.randint(0, len(CODES_NL), (20, 6), generator=torch.Generator().manual_seed(first))
    tokens = module.model.tokens
    tokens_BS = tokens.encode(CODES_NL[items_BT]).flatten(1)
    tokens_BS = torch.cat([tokens.user(torch.arange(20))[:, None], tokens_BS], dim=1)
    return WindowBatch(tokens_BS, (torch.arange(6) >= first).expand(20, 6), items_BT, torch.arange(20))


def loader(*batches: SequenceBatch | WindowBatch) -> DataLoader[Any]:
    return DataLoader(list(batches), batch_size=None)


def in_parts(*batches: SequenceBatch | WindowBatch) -> DataLoader[Any]:
    """As batches come in training, each of a single part."""
    return DataLoader([[batch] for batch in batches], batch_size=None)


def trainer(tmp_path: Path, **more: Any) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        **more,
    )


def test_it_learns_fifty_examples_by_heart(tmp_path: Path) -> None:
    module = module_of(learning_rate=1e-2, weight_decay=0.0, warmup_steps=10)
    batch = fifty_examples(module)
    trainer(tmp_path, max_epochs=120).fit(module, in_parts(batch))
    module.eval()
    with torch.no_grad():
        assert module.model.loss(batch.tokens_BS, batch.codes_BL) < 0.1
        found = module.recommend(batch, TRIE, 1)
    assert (found.items_BK[:, 0] == batch.target_B).double().mean() > 0.9


@pytest.mark.parametrize("constrained", [False, True])
def test_recommend_is_the_beam_search_of_its_model(constrained: bool) -> None:
    module = module_of().eval()
    batch = fifty_examples(module)
    with torch.no_grad():
        ours = module.recommend(batch, TRIE, 5, constrained)
        expected = beam_search(module.model, module.model.begin(batch.tokens_BS), TRIE, 5, constrained)
    assert torch.equal(ours.items_BK, expected.items_BK) and torch.equal(ours.scores_BK, expected.scores_BK)
    assert ours.codes_BKL is not None and torch.equal(CODES_NL[ours.items_BK], ours.codes_BKL)


@pytest.mark.parametrize("stage", ["val", "test"])
def test_the_logged_loss_is_the_mean_over_users_of_uneven_batches(stage: str, tmp_path: Path) -> None:
    module = module_of()
    whole = fifty_examples(module)
    rows = (slice(0, 45), slice(45, 50))
    parts = [SequenceBatch(*(t if t is None else t[part] for t in whole)) for part in rows]
    run = trainer(tmp_path)
    (logged,) = (run.validate if stage == "val" else run.test)(module, loader(*parts), verbose=False)
    with torch.no_grad():
        expected = module.eval().model.loss(whole.tokens_BS, whole.codes_BL).item()
    assert logged == {f"{stage}/loss": pytest.approx(expected, rel=1e-5)}


def test_a_training_step_on_windows_gives_the_loss_of_all_their_targets(monkeypatch: pytest.MonkeyPatch) -> None:
    module = causal_of()
    monkeypatch.setattr(module, "log", lambda *_, **__: None)  # there is no trainer
    windows = windows_of(module, first=2)
    loss = module.training_step([windows])
    assert torch.equal(loss, module.model.window_loss([(windows.tokens_BS, windows.target_BT)])) and loss.requires_grad
    examples = fifty_examples(module)
    assert torch.equal(module.training_step([examples]), module.model.loss(examples.tokens_BS, examples.codes_BL))


def test_prefixes_in_uneven_parts_have_the_loss_and_the_number_of_all_their_targets() -> None:
    module = module_of()
    whole = fifty_examples(module)
    uneven = [SequenceBatch(*(t if t is None else t[rows] for t in whole)) for rows in (slice(0, 45), slice(45, 50))]
    (loss, targets), (expected, _) = training_loss(module.model, uneven), training_loss(module.model, [whole])
    assert targets == 50 and loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_logged_training_loss_is_the_mean_over_the_targets_of_uneven_windows(tmp_path: Path) -> None:
    module = causal_of(learning_rate=0.0)
    few, many = windows_of(module, first=5), windows_of(module, first=1)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(module, in_parts(few, many))
    with torch.no_grad():
        loss_of_few, loss_of_many = (
            module.model.window_loss([(windows.tokens_BS, windows.target_BT)]).item() for windows in (few, many)
        )
    expected = (loss_of_few * 20 * 1 + loss_of_many * 20 * 5) / (20 * 6)
    assert float(run.callback_metrics["train/loss"]) == pytest.approx(expected, rel=1e-6)
    assert expected != pytest.approx((loss_of_few + loss_of_many) / 2, rel=1e-6)


def test_it_learns_windows_by_heart(tmp_path: Path) -> None:
    module = causal_of(learning_rate=1e-2, weight_decay=0.0, warmup_steps=10)
    windows = windows_of(module, first=1)
    trainer(tmp_path, max_epochs=100).fit(module, in_parts(windows))
    module.eval()
    last_B = TRIE.find(module.model.tokens.decode(windows.tokens_BS[:, -3:]))
    with torch.no_grad():
        assert module.model.window_loss([(windows.tokens_BS, windows.target_BT)]) < 0.1
        users = fifty_examples(module)._replace(tokens_BS=windows.tokens_BS[:, :-3])
        for constrained in (False, True):
            found = module.recommend(users, TRIE, 2, constrained)
            assert (found.items_BK[:, 0] == last_B).double().mean() > 0.9


def test_weight_decay_is_for_matrices_alone(tmp_path: Path) -> None:
    module = module_of(weight_decay=0.3)
    run = trainer(tmp_path, max_epochs=1)
    run.fit(module, in_parts(fifty_examples(module)))
    matrices, vectors = run.optimizers[0].param_groups
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.3, 0.0)
    assert all(p.ndim == 2 for p in matrices["params"]) and all(p.ndim == 1 for p in vectors["params"])
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(module.parameters()))


@pytest.mark.parametrize(
    ("schedule", "factors"),
    # 8 steps, 2 of warm-up: step 3 has sqrt(2 / 4); step 4 of the cosine is at 2 / 6 of its way: (1 + cos 60°) / 2.
    [
        ("inverse_sqrt", {0: 0.5, 1: 1.0, 3: 0.5**0.5}),
        ("constant", {0: 0.5, 1: 1.0, 7: 1.0}),
        ("cosine", {0: 0.5, 1: 1.0, 4: 0.75}),
    ],
)
def test_the_rate_follows_the_schedule_step_by_step(schedule: str, factors: dict[int, float], tmp_path: Path) -> None:
    class Rates(lightning.Callback):
        def __init__(self) -> None:
            self.rates: list[float] = []

        def on_train_batch_start(self, trainer: Any, *_: Any) -> None:
            self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    module, rates = module_of(schedule=schedule, learning_rate=0.1, warmup_steps=2), Rates()
    batch = fifty_examples(module)
    trainer(tmp_path, max_epochs=4, callbacks=[rates]).fit(module, in_parts(batch, batch))
    assert len(rates.rates) == 8
    for step, factor in factors.items():
        assert rates.rates[step] == pytest.approx(0.1 * factor)


def test_an_unknown_schedule_is_refused_by_name() -> None:
    with pytest.raises(UserError, match="optimizer.schedule=linear: expected inverse_sqrt, constant, cosine"):
        module_of(schedule="linear")


def weights(module: GenerativeModule) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def test_an_epoch_draws_its_dropout_from_the_seed_and_its_number(tmp_path: Path) -> None:
    """Random numbers that others use up between two epochs change nothing."""

    class Disturbance(lightning.Callback):
        def on_train_epoch_end(self, *_: Any) -> None:
            torch.rand(123)

    results = []
    for seed, callbacks in ((0, []), (0, [Disturbance()]), (1, [])):
        module = module_of(dropout=0.3)
        module.seed = seed  # the same initial weights, another dropout
        trainer(tmp_path, max_epochs=3, callbacks=callbacks).fit(module, in_parts(fifty_examples(module)))
        results.append(weights(module))
    assert all(torch.equal(a, b) for a, b in zip(results[0], results[1], strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(results[0], results[2], strict=True))


def test_two_epochs_draw_different_dropout(tmp_path: Path) -> None:
    module = module_of(dropout=0.3, learning_rate=0.0)
    losses = []

    class Losses(lightning.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            losses.append(float(trainer.callback_metrics["train/loss"]))

    trainer(tmp_path, max_epochs=2, callbacks=[Losses()]).fit(module, in_parts(fifty_examples(module)))
    assert losses[0] != losses[1]
