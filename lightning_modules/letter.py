"""Training of LETTER: an RQ-VAE with two more losses.

Legend: N items, D width, C collaborative width, B rows of a batch.
"""

from typing import TYPE_CHECKING

from torch import Tensor, nn

from lightning_modules.quantizer import QuantizerModule
from models.letter import alignment, code_groups, diversity
from sid.quantizers import Quantized

if TYPE_CHECKING:
    from lightning_modules.configs import LETTERConfig


class LETTERModule(QuantizerModule):
    """Adds alpha L_CF, between the sum of an item's codes and its collaborative vector, and beta L_Div of every level.

    Codes are grouped anew before every epoch, as in LETTER's code. Where collaborative vectors (N, C) are not as wide
    as codes (both are 32 in the paper), the sums are projected.

    Unlike in that code, squared errors are summed over a vector's numbers, where it takes means, so that the same
    weights say less beside them; diversity is summed over levels, not their mean; groups are of about equal size, where
    its differ up to fourfold; and the last level's codes are the nearest ones, where it can spread them (Sinkhorn).
    """

    def __init__(self, config: "LETTERConfig", vectors_ND: Tensor, collaborative_NC: Tensor) -> None:
        super().__init__(config, vectors_ND)
        self.config: LETTERConfig = config
        self.register_buffer("collaborative_NC", collaborative_NC.to(vectors_ND), persistent=False)
        self.collaborative_NC: Tensor
        width = collaborative_NC.shape[1]
        self.projection = nn.Linear(config.latent, width, bias=False) if width != config.latent else nn.Identity()

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        if self.plain:
            return
        codebooks = self.model.quantizer.codebooks
        self.groups = [code_groups(codebook, self.config.groups, self.config.seed) for codebook in codebooks]

    def regularisation(self, rows_B: Tensor, quantized: Quantized) -> Tensor:
        config = self.config
        aligned = alignment(self.projection(quantized.sum_BD), self.collaborative_NC[rows_B], config.temperature)
        levels = zip(self.model.quantizer.codebooks, self.groups, quantized.codes_BL.unbind(1), strict=True)
        diverse = sum(diversity(*level, config.temperature) for level in levels)
        self.log("train/alignment", aligned, on_step=False, on_epoch=True)
        self.log("train/diversity", diverse, on_step=False, on_epoch=True)
        return config.alpha * aligned + config.diversity * diverse
