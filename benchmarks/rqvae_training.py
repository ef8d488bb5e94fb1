"""Training of an RQ-VAE: samples a CPU-second of ours beside the common ways to do it.

    python -m benchmarks.rqvae_training [--items 12000] [--width 384] [--batch 1024] [--steps 50] [--rounds 5]

One thread, made-up vectors, the default sizes (512-256-128-32, 3 x 256), AdamW. Contenders, in turns:

- ours: batches are row numbers into a table that stays where the model is;
- ours over a DataLoader: the same model and steps, batches collated from single items by torch's DataLoader;
- ResidualVQ: the same autoencoder around vector-quantize-pytorch's quantizer (its defaults: EMA codebooks);
- ResidualVQ over a DataLoader.
"""

import argparse
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, islice

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.measure import Work, interleave, ratio, timed, tune_process
from lightning_modules.configs import RQVAEConfig
from lightning_modules.quantizer import IndexDraws
from models.rqvae import RQVAE

Loss = Callable[[Tensor], Tensor]


def ours(config: RQVAEConfig, width: int) -> tuple[nn.Module, Loss]:
    model = RQVAE(width, config.hidden, config.latent, tuple(config.codebook_sizes), config.commitment)
    return model, lambda vectors_BD: model(vectors_BD).total


def library(config: RQVAEConfig, width: int) -> tuple[nn.Module, Loss]:
    from vector_quantize_pytorch import ResidualVQ

    model = RQVAE(width, config.hidden, config.latent, tuple(config.codebook_sizes), config.commitment)
    quantizer = ResidualVQ(
        dim=config.latent,
        num_quantizers=len(config.codebook_sizes),
        codebook_size=config.codebook_sizes[0],
        commitment_weight=config.commitment,
    )

    def loss(vectors_BD: Tensor) -> Tensor:
        sum_BD, _, commitment_L = quantizer(model.encoder(vectors_BD))
        return (model.decoder(sum_BD) - vectors_BD).square().sum(1).mean() + commitment_L.sum()

    return nn.ModuleList([model.encoder, model.decoder, quantizer]), loss


def drawn(vectors_ND: Tensor, batch_size: int) -> Iterator[Tensor]:
    for epoch in cycle(range(1000)):
        yield from (vectors_ND[batch.rows_B] for batch in IndexDraws(len(vectors_ND), batch_size, epoch))


def collated(vectors_ND: Tensor, batch_size: int) -> Iterator[Tensor]:
    loader = DataLoader(TensorDataset(vectors_ND), batch_size, shuffle=True)
    while True:
        yield from (vectors_BD for (vectors_BD,) in loader)


def train(model: nn.Module, loss: Loss, batches: Iterator[Tensor], steps: int, learning_rate: float) -> Work:
    """`steps` steps of AdamW."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, fused=True)

    def work() -> int:
        samples = 0
        for vectors_BD in islice(batches, steps):
            optimizer.zero_grad()
            loss(vectors_BD).backward()
            optimizer.step()
            samples += len(vectors_BD)
        return samples

    return timed(work)


def main() -> None:
    tune_process()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("items", 12_000), ("width", 384), ("batch", 1024), ("steps", 50), ("rounds", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    torch.manual_seed(0)
    vectors_ND = nn.functional.normalize(torch.randn(options.items, options.width), dim=1)
    config = RQVAEConfig()
    contenders: dict[str, Callable[[], Work]] = {}
    for name, build in (("ours", ours), ("ResidualVQ", library)):
        for place, batches in (("", drawn), (" over a DataLoader", collated)):
            source = batches(vectors_ND, options.batch)
            built = build(config, options.width)
            contenders[name + place] = partial(train, *built, source, options.steps, config.learning_rate)
    with Console().status("") as status:
        rates = interleave(contenders, options.rounds, status.update)
    table = Table("", "samples a CPU-second", "ours against it, least and greatest of a round")
    for name in contenders:
        faster = ratio(rates["ours"], rates[name])
        spread = f"{faster.median:.2f} ({faster.low:.2f}-{faster.high:.2f})"
        table.add_row(name, f"{np.median(rates[name]):,.0f}", spread)
    Console().print(table)
    Console().print(f"GEMM {np.median(rates['GEMM']):.0f} GFLOP a CPU-second")


if __name__ == "__main__":
    main()
