"""Legend: N items, D width, L levels."""

from pathlib import Path
from typing import Any

import lightning
import pytest
import torch
from torch import Tensor

from lightning_modules.configs import RQVAEConfig
from lightning_modules.quantizer import IndexDraws, QuantizerModule
from sid.collisions import collision_rate
from sid.quantizers import usage


def clusters(num_items: int = 120, width: int = 8) -> Tensor:
    """(N, D) vectors around six means."""
    draw = torch.Generator().manual_seed(0)
    means_CD = 3 * torch.randn(6, width, generator=draw)
    return means_CD[torch.arange(num_items) % 6] + 0.3 * torch.randn(num_items, width, generator=draw)


def config(**changes: Any) -> RQVAEConfig:
    sizes = {"codebook_sizes": [6, 4], "hidden": [16], "latent": 4, "batch_size": 32, "epochs": 30, "look_every": 5}
    sizes["plain_epochs"] = 0
    return RQVAEConfig(**(sizes | changes))


def build(sizes: RQVAEConfig, vectors_ND: torch.Tensor) -> QuantizerModule:
    torch.manual_seed(sizes.seed)
    return QuantizerModule(sizes, vectors_ND)


class Logged(lightning.Callback):
    """Keeps every epoch's figures."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.epochs.append({name: float(value) for name, value in trainer.callback_metrics.items()})


def fit(module: QuantizerModule, tmp_path: Path, epochs: int | None = None) -> list[dict[str, float]]:
    logged = Logged()
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=module.config.epochs if epochs is None else epochs,
        callbacks=[logged],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(module)
    return logged.epochs


def test_an_epoch_draws_every_row_once() -> None:
    batches = [batch.rows_B for batch in IndexDraws(10, 4, 0)]
    assert [len(rows_B) for rows_B in batches] == [4, 4, 2] and len(IndexDraws(10, 4, 0)) == 3
    assert sorted(torch.cat(batches).tolist()) == list(range(10))


def test_training_lowers_the_reconstruction_error_and_keeps_every_code_in_use(tmp_path: Path) -> None:
    module = build(config(learning_rate=1e-2), clusters())
    epochs = fit(module, tmp_path)
    assert epochs[-1]["train/reconstruction"] < 0.3 * epochs[0]["train/reconstruction"]
    figures = module.figures(module.codes())
    assert figures["usage/level1"] == figures["usage/level2"] == 1
    assert figures["perplexity/level1"] > 4


def test_figures_are_those_of_the_code_table() -> None:
    module = build(config(), clusters())
    codes_NL = module.codes()
    assert codes_NL.shape == (120, 2) and codes_NL.dtype == torch.long
    used = usage(codes_NL, (6, 4))
    assert module.figures(codes_NL) == {
        "collision_rate": collision_rate(codes_NL),
        "usage/level1": used.share_L[0].item(),
        "usage/level2": used.share_L[1].item(),
        "perplexity/level1": used.perplexity_L[0].item(),
        "perplexity/level2": used.perplexity_L[1].item(),
    }


def test_the_codes_are_looked_at_every_few_epochs_and_at_the_end(tmp_path: Path) -> None:
    epochs = fit(build(config(epochs=8, look_every=3), clusters()), tmp_path)
    first = next(number for number, figures in enumerate(epochs, start=1) if "collision_rate" in figures)
    assert first == 3
    assert {"usage/level1", "perplexity/level2", "collision_rate", "revived", "train/loss"} <= set(epochs[-1])


def test_training_starts_from_kmeans_centres(tmp_path: Path) -> None:
    vectors_ND = clusters()
    module = build(config(learning_rate=0.0, weight_decay=0.0, look_every=100), vectors_ND)
    before = module.model(vectors_ND).quantization.item()
    fit(module, tmp_path, epochs=1)
    with torch.no_grad():
        latent_ND = module.model.encoder(vectors_ND)
    assert module.model(vectors_ND).quantization.item() < 0.2 * before
    first = module.model.quantizer.codebooks[0]
    # With a rate of 0 the centres are still there: each is the mean of its items.
    codes_N = module.codes()[:, 0]
    for code in range(6):
        torch.testing.assert_close(first[code].detach(), latent_ND[codes_N == code].mean(0), atol=1e-4, rtol=1e-3)


def test_codes_that_are_set_once_the_encoder_has_learnt_outlive_the_next_steps(tmp_path: Path) -> None:
    """Unit vectors, as text encoders give them, tell items apart by little: an encoder that has not learnt gives nearly
    the same for all, and its first steps leave one code of a level."""
    torch.manual_seed(0)
    vectors_ND = torch.nn.functional.normalize(torch.ones(400, 64) + 0.5 * torch.randn(400, 64), dim=1)
    perplexity = {}
    for plain in (0, 40):
        sizes = {"codebook_sizes": [16, 16], "hidden": [64, 32], "latent": 8, "revive": False, "epochs": 2}
        module = build(config(**sizes, plain_epochs=plain), vectors_ND)
        epochs = fit(module, tmp_path, plain + 2)
        assert len(epochs) == plain + 2 and all("train/reconstruction" in figures for figures in epochs)
        perplexity[plain] = module.figures(module.codes())["perplexity/level1"]
    assert perplexity[0] < 4 and perplexity[40] > 12


def test_before_there_are_codes_they_do_not_move(tmp_path: Path) -> None:
    module = build(config(plain_epochs=3, codebook_ema=0.9), clusters())
    before = [codebook.clone() for codebook in module.model.quantizer.codebooks]
    epochs = fit(module, tmp_path, 3)
    assert all(map(torch.equal, before, module.model.quantizer.codebooks))
    assert not any("collision_rate" in figures for figures in epochs)
    assert epochs[2]["train/loss"] == epochs[2]["train/reconstruction"] < epochs[0]["train/loss"]


def test_dead_codes_are_moved_at_a_look_and_left_alone_in_the_last_tenth(tmp_path: Path) -> None:
    class Killer(lightning.Callback):
        """Puts one code out of reach before an epoch."""

        def __init__(self, epoch: int) -> None:
            self.epoch = epoch

        def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: Any) -> None:
            if trainer.current_epoch == self.epoch:
                pl_module.model.quantizer.codebooks[0].data[3] = 1e3

    def used_after(epoch: int) -> float:
        module = build(config(epochs=10, look_every=1, learning_rate=1e-4), clusters())
        trainer = lightning.Trainer(
            accelerator="cpu",
            max_epochs=10,
            callbacks=[Killer(epoch)],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=tmp_path,
        )
        trainer.fit(module)
        return module.figures(module.codes())["usage/level1"]

    assert used_after(4) == 1
    assert used_after(9) == pytest.approx(5 / 6)


def test_the_same_seed_gives_the_same_codes(tmp_path: Path) -> None:
    codes = []
    for seed in (1, 1, 2):
        module = build(config(seed=seed, epochs=3), clusters())
        fit(module, tmp_path)
        codes.append(module.codes())
    assert torch.equal(codes[0], codes[1])
    assert not torch.equal(codes[0], codes[2])
