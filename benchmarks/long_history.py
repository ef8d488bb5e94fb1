"""What a long history costs: GLASS beside TIGER of the same sizes, at 100, 1,000 and 10,000 items a history.

    python -m benchmarks.long_history [--rounds 3] [--lengths 100 1000 10000]

Made-up items and histories (the cost does not depend on what they are), the last 50 items as the short history, the
sizes of GLASS' paper, fp32, one thread, CPU time. Both models take turns within a round; ratios are taken there.

Legend: B users, T items of a long history, N items, L levels.
"""

import argparse
import resource
from functools import partial

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.measure import Work, interleave, ratio, timed, tune_process
from models.configs import Content, GlassConfig, TigerConfig
from sid.decode import beam_search
from sid.table import SIDTable

SIZES, ITEMS, SHORT, USERS, BEAMS = (64, 128, 128), 10_000, 50, 32, 20


def made_up() -> tuple[SIDTable, Content]:
    """Random codes and vectors."""
    generator = torch.Generator().manual_seed(0)
    codes_NL = torch.stack([torch.randint(0, size, (ITEMS,), generator=generator) for size in SIZES], dim=1)
    table = SIDTable.resolve(codes_NL, SIZES)
    return table, Content(table.codes_NL, np.random.default_rng(0).normal(size=(ITEMS, 64)).astype(np.float32))


def train(model: torch.nn.Module, inputs: tuple[Tensor, ...], codes_BL: Tensor) -> Work:
    """One forward and backward pass."""
    model.train()

    def step() -> int:
        model.loss(*inputs, codes_BL).backward()  # type: ignore[operator]
        model.zero_grad()
        return USERS

    return timed(step)


@torch.inference_mode()
def decode(model: torch.nn.Module, inputs: tuple[Tensor, ...], table: SIDTable) -> Work:
    """The lists of all users."""
    model.eval()
    return timed(lambda: len(beam_search(model, model.begin(*inputs), table.trie, BEAMS).items_BK))  # type: ignore[operator, arg-type]


def main() -> None:
    tune_process()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lengths", type=int, nargs="+", default=[100, 1000, 10_000])
    options = parser.parse_args()
    console = Console()
    table, content = made_up()
    torch.manual_seed(0)
    tiger = TigerConfig(width=96, head_width=32, num_user_tokens=0).build(table.codebook_sizes, SHORT)
    glass = GlassConfig().build(table.codebook_sizes, SHORT, content)
    codes_BL = table.codes_NL[torch.randint(0, ITEMS, (USERS,))]
    tokens_BS = glass.tokens.encode(table.codes_NL[torch.randint(0, ITEMS, (USERS, SHORT))]).flatten(1)
    contenders = {}
    for name, model, inputs in [
        ("TIGER", tiger, (tokens_BS,)),
        *((f"{T:,}", glass, (tokens_BS, torch.randint(0, ITEMS, (USERS, T)))) for T in options.lengths),
    ]:
        contenders[f"train {name}"] = partial(train, model, inputs, codes_BL)
        contenders[f"decode {name}"] = partial(decode, model, inputs, table)
    with console.status("") as status:
        rates = interleave(contenders, options.rounds, status.update)
    result = Table("history", "training, ms a sample", "× TIGER", f"decoding {BEAMS} beams, ms a user", "× TIGER")
    for name in ("TIGER", *(f"{T:,}" for T in options.lengths)):
        cells = []
        for part in ("train", "decode"):
            slower = ratio(rates[f"{part} TIGER"], rates[f"{part} {name}"])
            cells += [f"{1e3 / np.median(rates[f'{part} {name}']):.2f}", f"{slower.median:.2f}"]
        result.add_row(name if name == "TIGER" else f"GLASS, {name}", *cells)
    console.print(result)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    console.print(f"GEMM {np.median(rates['GEMM']):.0f} GFLOP a CPU-second; peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
