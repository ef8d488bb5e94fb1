"""RQ-VAE: an autoencoder whose bottleneck is a sum of codes (TIGER, section 3.1).

Legend: B vectors, D input width, L levels.
"""

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from sid.quantizers import Quantized, ResidualQuantizer


class Losses(NamedTuple):
    """`total` is what is minimised; it and its two parts are means over the batch of squared norms."""

    total: Tensor
    reconstruction: Tensor
    quantization: Tensor
    quantized: Quantized


def _mlp(widths: list[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class RQVAE(nn.Module):
    """Encoder MLP, residual quantizer, mirrored decoder MLP. The paper: input 768, hidden 512-256-128, latent 32."""

    def __init__(
        self,
        width: int,
        hidden: list[int],
        latent: int,
        codebook_sizes: tuple[int, ...],
        commitment: float,
        gradient: str = "straight_through",
        ema: float = 0.0,
    ) -> None:
        super().__init__()
        widths = [width, *hidden, latent]
        self.encoder, self.decoder = _mlp(widths), _mlp(widths[::-1])
        self.quantizer = ResidualQuantizer(latent, codebook_sizes, commitment, gradient, ema)

    def without_codes(self, vectors_BD: Tensor) -> Tensor:
        """The squared error of what encoder and decoder alone make of the vectors, mean over the batch."""
        return (self.decoder(self.encoder(vectors_BD)) - vectors_BD).square().sum(1).mean()

    def forward(self, vectors_BD: Tensor) -> Losses:
        quantized = self.quantizer(self.encoder(vectors_BD))
        reconstruction = (self.decoder(quantized.sum_BD) - vectors_BD).square().sum(1).mean()
        return Losses(reconstruction + quantized.loss, reconstruction, quantized.loss, quantized)

    @torch.no_grad()
    def codes(self, vectors_BD: Tensor) -> Tensor:
        """(B, L) int64."""
        return self.quantizer(self.encoder(vectors_BD)).codes_BL

    @torch.no_grad()
    def last_distances(self, vectors_BD: Tensor, codes_BL: Tensor) -> Tensor:
        """(B, K) squared distances, in the latent space, of the last level's codes to what the codes before leave."""
        return self.quantizer.last_distances(self.encoder(vectors_BD), codes_BL)
