"""Options of the RQ-VAE and LETTER, trained. Legend: N items, D width, C collaborative width."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from torch import Tensor

from experiments.config import hashed
from experiments.tokenize import tokenize, train
from lightning_modules.configs import LETTERConfig, RQVAEConfig, VQVAEConfig
from lightning_modules.quantizer import QuantizerModule
from models.rqvae import RQVAE
from sid import tokenizers
from sid.collisions import collision_rate, shares_codes
from sid.errors import UserError
from sid.quantizers import ResidualQuantizer
from sid.tokenizers import Context, LastLevel, assign

Train = Callable[[Any, int], None]
GROUPS = 6
SMALL: dict[str, Any] = {
    "codebook_sizes": [6, 4],
    "hidden": [16],
    "latent": 4,
    "batch_size": 32,
    "plain_epochs": 3,
    "look_every": 2,
}


def planted(num_items: int = 120) -> tuple[Tensor, Tensor]:
    """(N, D) vectors of clusters, in which the users' groups are faint, and (N, C) those groups; some without."""
    draw = torch.Generator().manual_seed(0)
    group_N = torch.randint(0, GROUPS, (num_items,), generator=draw)
    clusters_ND = 2 * torch.randn(GROUPS, 4, generator=draw)[torch.arange(num_items) % GROUPS]
    users_ND = 0.7 * torch.randn(GROUPS, 4, generator=draw)[group_N]
    vectors_ND = torch.cat([clusters_ND, users_ND], dim=1) + 0.1 * torch.randn(num_items, 8, generator=draw)
    collaborative_NC = torch.eye(GROUPS)[group_N]
    collaborative_NC[::20] = 0
    return vectors_ND, collaborative_NC


def in_folder(folder: Path, stop_before: int | None = None) -> Train:
    """Training as in the pipeline, a checkpoint every epoch; or one that stops before an epoch, as a kill would."""

    def training(module: Any, epochs: int) -> None:
        module.stop_before = stop_before
        folder.mkdir(exist_ok=True)
        train(module, epochs, folder, "cpu")

    return training


def plain(module: Any, epochs: int) -> None:
    """Training that leaves no files."""
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        reload_dataloaders_every_n_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module)


def fitted(config: RQVAEConfig, training: Train = plain) -> RQVAE:
    vectors_ND, collaborative_NC = planted()
    model: Any = config.fit(vectors_ND, Context(training, lambda: collaborative_NC))
    return model


OPTIONS = [
    RQVAEConfig(**SMALL, epochs=6, codebook_ema=0.9),
    RQVAEConfig(**SMALL, epochs=6, gradient="rotation"),
    LETTERConfig(**SMALL, epochs=6, alpha=0.5, diversity=0.1, groups=2),
]


@pytest.mark.parametrize("config", OPTIONS, ids=["ema", "rotation", "letter"])
def test_a_resumed_training_equals_an_unbroken_one(
    config: RQVAEConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(Exception): ...

    def begin_epoch(module: Any) -> None:
        if module.current_epoch == module.stop_before:
            raise Stop
        begin(module)

    kind = type(config.module(planted()[0], Context(plain, lambda: planted()[1])))
    begin = kind.on_train_epoch_start
    monkeypatch.setattr(kind, "on_train_epoch_start", begin_epoch)
    unbroken = fitted(config, in_folder(tmp_path / "unbroken")).state_dict()
    with pytest.raises(Stop):
        fitted(config, in_folder(tmp_path / "broken", stop_before=3))
    resumed = fitted(config, in_folder(tmp_path / "broken")).state_dict()
    assert unbroken.keys() == resumed.keys()
    assert [name for name in unbroken if not torch.equal(unbroken[name], resumed[name])] == []
    assert any("count_K" in name for name in unbroken) == bool(config.codebook_ema)


@pytest.mark.parametrize("changes", [{"codebook_ema": 0.9}, {"gradient": "rotation"}, {"revive": False}])
def test_with_every_option_training_lowers_the_reconstruction_error(changes: dict[str, Any]) -> None:
    vectors_ND, _ = planted()
    config = RQVAEConfig(**SMALL, epochs=20, learning_rate=1e-2, **changes)
    before = QuantizerModule(config, vectors_ND).model(vectors_ND).reconstruction
    assert fitted(config)(vectors_ND).reconstruction < 0.6 * before


@pytest.mark.parametrize(("revive", "times"), [(False, 0), (True, 2)])
def test_dead_codes_are_moved_only_if_they_shall_be(revive: bool, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Tensor] = []
    monkeypatch.setattr(ResidualQuantizer, "revive", lambda _, vectors_ND, generator: calls.append(vectors_ND) or 0)
    fitted(RQVAEConfig(**SMALL, epochs=6, revive=revive))
    assert len(calls) == times


CONTRACT = {"rqvae": RQVAEConfig(**SMALL, epochs=2)} | dict(zip(("ema", "rotation", "letter"), OPTIONS, strict=True))


@pytest.mark.parametrize("name", CONTRACT)
def test_what_every_tokenizer_promises_those_with_a_network_promise_too(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(CONTRACT[name], codebook_sizes=[6, 1, 4], epochs=2)
    vectors_ND, _ = planted()
    model = fitted(config)
    assert isinstance(model, LastLevel)
    codes_NL = model.codes(vectors_ND)
    assert codes_NL.dtype == torch.int64 and codes_NL.shape == (120, 3)
    assert (codes_NL >= 0).all() and (codes_NL < torch.tensor([6, 1, 4])).all()
    assert torch.equal(fitted(config).codes(vectors_ND), codes_NL), "the same seed, the same codes"
    assert torch.equal(model.codes(vectors_ND.repeat(2, 1)), codes_NL.repeat(2, 1)), "duplicates"
    distance_NK = model.last_distances(vectors_ND, codes_NL)
    assert torch.equal(distance_NK.argmin(1), codes_NL[:, 2])
    np.save(tmp_path / "vectors.npy", vectors_ND.numpy())
    monkeypatch.setattr(tokenizers, "CHUNK", 7)
    assert torch.equal(assign(model, np.load(tmp_path / "vectors.npy", mmap_mode="r")), codes_NL)


@pytest.mark.parametrize("name", CONTRACT)
def test_first_codes_find_planted_clusters(name: str) -> None:
    first_N = fitted(replace(CONTRACT[name], codebook_sizes=[12, 4])).codes(planted()[0])[:, 0]
    cluster_N = torch.arange(120) % GROUPS
    found = sum(int(cluster_N[first_N == code].bincount().max()) for code in first_N.unique()) / 120
    assert found > 0.8, (found, "random codes: about a third")


def test_letter_gives_items_of_the_same_users_the_same_first_code_more_often() -> None:
    vectors_ND, collaborative_NC = planted()
    known_N = collaborative_NC.any(1)
    alike_MM = (collaborative_NC @ collaborative_NC.T)[known_N][:, known_N].bool().fill_diagonal_(False)

    def agreement(config: RQVAEConfig) -> float:
        first_M = fitted(config).codes(vectors_ND)[known_N, 0]
        return float((first_M[:, None] == first_M)[alike_MM].float().mean())

    rqvae = agreement(RQVAEConfig(**SMALL, epochs=20, learning_rate=1e-2))
    letter = agreement(LETTERConfig(**SMALL, epochs=20, learning_rate=1e-2, alpha=30.0))
    assert rqvae < 0.3 < 0.5 < letter, (rqvae, letter)


def test_reassigned_items_share_fewer_codes_and_the_others_keep_theirs(tmp_path: Path) -> None:
    vectors_ND = planted()[0].numpy()

    def codes(reassign: bool) -> Tensor:
        config = RQVAEConfig(**SMALL | {"codebook_sizes": [6, 16]}, epochs=2, sample=60, reassign=reassign)
        return tokenize(
            config, vectors_ND, np.arange(len(vectors_ND)), lambda rows: torch.zeros(len(rows), 1), tmp_path, "cpu"
        )

    plain_NL, new_NL = codes(False), codes(True)
    assert collision_rate(new_NL) < 0.7 * collision_rate(plain_NL)
    alone_N = ~shares_codes(plain_NL)
    assert torch.equal(new_NL[alone_N], plain_NL[alone_N]) and torch.equal(new_NL[:, 0], plain_NL[:, 0])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (RQVAEConfig(codebook_ema=1.0), "tokenizer.codebook_ema=1.0: expected at least 0 and below 1"),
        (RQVAEConfig(gradient="gumbel"), "tokenizer.gradient=gumbel: expected straight_through or rotation"),
        (RQVAEConfig(commitment=-0.1), "tokenizer.commitment=-0.1: expected a number of at least 0"),
        (RQVAEConfig(commitment=float("nan")), "tokenizer.commitment=nan: expected a number of at least 0"),
        (VQVAEConfig([8, 8]), "tokenizer.codebook_sizes=[8, 8]: expected one size"),
        (LETTERConfig(alpha=-1.0), "tokenizer.alpha=-1.0: expected a number of at least 0"),
        (LETTERConfig(diversity=float("nan")), "tokenizer.diversity=nan: expected a number of at least 0"),
        (LETTERConfig(temperature=0.0), "tokenizer.temperature=0.0: expected a number above 0"),
        (LETTERConfig(groups=0), "tokenizer.groups=0: expected at least 1"),
        (LETTERConfig(codebook_ema=0.9), "tokenizer.codebook_ema=0.9: expected 0, or tokenizer.diversity=0: codebooks"),
    ],
)
def test_a_wrong_option_is_named(config: Any, message: str) -> None:
    with pytest.raises(UserError) as error:
        config.check()
    assert str(error.value).startswith(message)


def test_options_are_off_by_default_and_then_no_part_of_a_stages_name() -> None:
    config = RQVAEConfig()
    assert (config.codebook_ema, config.gradient, config.revive, config.reassign) == (
        0,
        "straight_through",
        True,
        False,
    )
    off = hashed(config)
    options = ({"codebook_ema": 0.9}, {"gradient": "rotation"}, {"revive": False}, {"reassign": True})
    for option in (*options, {"plain_epochs": 30}):
        assert hashed(RQVAEConfig(**option)) == {**off, **option} != off  # type: ignore[arg-type]
    assert not any("averages" in name for name in RQVAE(4, [4], 2, (2,), 0.25).state_dict())
