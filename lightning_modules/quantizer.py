"""Training of an RQ-VAE on a table of item vectors that stays on the device.

Legend: N items, D width, B rows of a batch, L levels.
"""

from collections.abc import Iterator
from typing import Any

import lightning
import torch
from torch import Tensor

from datamodules.batch import IndexBatch
from lightning_modules.configs import RQVAEConfig
from lightning_modules.finite import require_finite
from models.rqvae import RQVAE
from sid.collisions import collision_rate
from sid.quantizers import Quantized, usage


class IndexDraws:
    """One epoch of row numbers in random order, a batch at a time: no dataset, no workers."""

    def __init__(self, num_rows: int, batch_size: int, seed: int) -> None:
        self.num_rows, self.batch_size, self.seed = num_rows, batch_size, seed

    def __len__(self) -> int:
        return -(-self.num_rows // self.batch_size)

    def __iter__(self) -> Iterator[IndexBatch]:
        generator = torch.Generator().manual_seed(self.seed)
        return map(IndexBatch, torch.randperm(self.num_rows, generator=generator).split(self.batch_size))


class QuantizerModule(lightning.LightningModule):
    """AdamW on reconstruction + quantization loss, after `plain_epochs` of reconstruction alone, at whose end k-means
    sets the codes. What an encoder gives that has not learnt hardly differs from item to item, and one step moves it by
    more than codes lie apart there: of codes that are set then hardly one of a level is left, and it is the moving of
    dead codes that makes the others.

    Every epoch draws its randomness from the seed and its own number, so a resumed run equals an unbroken one. Use
    with `Trainer(reload_dataloaders_every_n_epochs=1)`.
    """

    def __init__(self, config: RQVAEConfig, vectors_ND: Tensor) -> None:
        super().__init__()
        self.config = config
        sizes = tuple(config.codebook_sizes)
        self.model = RQVAE(
            vectors_ND.shape[1],
            config.hidden,
            config.latent,
            sizes,
            config.commitment,
            config.gradient,
            config.codebook_ema,
        )
        self.register_buffer("vectors_ND", vectors_ND, persistent=False)
        self.vectors_ND: Tensor

    @property
    def _epoch_seed(self) -> int:
        return self.config.seed * 1_000_003 + self.current_epoch

    @property
    def plain(self) -> bool:
        """Whether encoder and decoder still learn without codes."""
        return self.current_epoch < self.config.plain_epochs

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == self.config.plain_epochs:
            with torch.no_grad():
                self.model.quantizer.initialise(self.model.encoder(self.vectors_ND), self.config.seed)
        torch.manual_seed(self._epoch_seed)

    def training_step(self, batch: IndexBatch) -> Tensor:
        vectors_BD = self.vectors_ND[batch.rows_B]
        if self.plain:
            loss = reconstruction = self.model.without_codes(vectors_BD)
        else:
            losses = self.model(vectors_BD)
            loss = losses.total + self.regularisation(batch.rows_B, losses.quantized)
            self.model.quantizer.follow(losses.quantized)
            reconstruction = losses.reconstruction
        self.log("train/loss", loss, on_step=False, on_epoch=True, prog_bar=True)
        self.log("train/reconstruction", reconstruction, on_step=False, on_epoch=True)
        return loss

    def regularisation(self, rows_B: Tensor, quantized: Quantized) -> Tensor | float:
        """What a kind of RQ-VAE adds to the loss of a batch: its items' rows, and what became of them."""
        return 0.0

    def on_train_epoch_end(self) -> None:
        require_finite(self)

    def on_train_batch_end(self, *_: Any) -> None:
        """Logs usage and collisions; moves dead codes, except in the last tenth, where every code shall settle."""
        epoch, last = self.current_epoch + 1 - self.config.plain_epochs, self.config.epochs
        look = epoch == last or epoch % self.config.look_every == 0
        if self.plain or not self.trainer.is_last_batch or not look:
            return
        for name, value in self.figures(self.codes()).items():
            self.log(name, value, on_step=False, on_epoch=True, prog_bar=name == "collision_rate")
        if self.config.revive and epoch < 0.9 * last:
            with torch.no_grad():
                latent_ND = self.model.encoder(self.vectors_ND)
            moved = self.model.quantizer.revive(latent_ND, torch.default_generator)
            self.log("revived", float(moved), on_step=False, on_epoch=True)

    def codes(self) -> Tensor:
        """(N, L) int64 codes of the whole table, before collisions are resolved."""
        return self.model.codes(self.vectors_ND)

    def figures(self, codes_NL: Tensor) -> dict[str, float]:
        """Usage and perplexity of every level, and the collision rate."""
        used = usage(codes_NL, tuple(self.config.codebook_sizes))
        named = {"collision_rate": collision_rate(codes_NL)}
        for level in range(len(self.config.codebook_sizes)):
            named[f"usage/level{level + 1}"] = float(used.share_L[level])
            named[f"perplexity/level{level + 1}"] = float(used.perplexity_L[level])
        return named

    def train_dataloader(self) -> IndexDraws:
        return IndexDraws(len(self.vectors_ND), self.config.batch_size, self._epoch_seed)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(
            self.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay, fused=True
        )
