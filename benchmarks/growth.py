"""What a larger catalogue costs: building its trie, keeping it, and a beam search under it.

    python -m benchmarks.growth [--items 12000 1000000 35000000] [--rounds 3]

Made-up catalogues of different random codes in 4 codebooks of 256, the same for all, so that nothing but the trie and
which items the histories hold differs: TIGER at the paper's size and the causal retriever at its default, which copies
nothing, random weights, 20 items of history, 50 beams masked after the softmax, fp32, one thread, CPU time. Catalogues
take turns in a round; ratios are taken there.

Legend: B users, T items of a history, N items, X items of histories, L levels, S tokens.
"""

import argparse
import resource
from functools import partial
from itertools import chain

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.measure import Work, interleave, machine, ratio, timed, tune_process
from datamodules.batch import token_sequence
from models.configs import CausalConfig, TigerConfig
from sid.decode import beam_search
from sid.trie import Trie

LEVELS, SIZE, HISTORY, USERS, BEAMS = 4, 256, 20, 64, 50


def different_codes(num_items: int) -> Tensor:
    """(N, L) int16, no two alike, in random order. Raises ValueError for more than can be drawn so."""
    generator = np.random.default_rng(0)
    drawn = np.unique(generator.integers(0, SIZE**LEVELS, int(num_items * 1.02) + 100))
    codes_N = torch.from_numpy(generator.permutation(drawn)[:num_items])
    if len(codes_N) < num_items:
        raise ValueError(f"{num_items:,} items: no more than {len(codes_N):,} different codes were drawn")
    return torch.stack([(codes_N // SIZE**level % SIZE).short() for level in range(LEVELS)], dim=1)


def size(trie: Trie) -> int:
    """Bytes of a trie's arrays."""
    return sum(part.nbytes for part in chain(trie.codes, trie.first_child, [trie.leaf_item]))


@torch.inference_mode()
def decode(model: torch.nn.Module, tokens_BS: Tensor, trie: Trie) -> Work:
    """A beam search for all users, timed."""
    return timed(lambda: len(beam_search(model, model.begin(tokens_BS), trie, BEAMS).items_BK))  # type: ignore[operator, arg-type]


def main() -> None:
    tune_process()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, nargs="+", default=[12_000, 1_000_000, 35_000_000])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    console = Console(width=120)
    torch.manual_seed(0)
    sizes = (SIZE,) * LEVELS
    configs = {"TIGER": TigerConfig(), "causal": CausalConfig()}
    models = {name: config.build(sizes, HISTORY).eval() for name, config in configs.items()}
    built, tries, contenders = {}, {}, {}
    with console.status("") as status:
        for items in options.items:
            status.update(f"the trie of {items:,} items")
            codes_NL = different_codes(items)

            def build(codes_NL: Tensor = codes_NL, items: int = items) -> int:
                tries[items] = Trie.from_codes(codes_NL)
                return items

            built[items] = timed(build)
            seen_XL = codes_NL[torch.randint(0, items, (USERS * HISTORY,))].long()
            place_BT = torch.arange(USERS * HISTORY).view(USERS, HISTORY)
            for name, model in models.items():
                tokens_BS = token_sequence(place_BT, torch.arange(USERS), seen_XL, model.tokens)
                contenders[f"{name} {items}"] = partial(decode, model, tokens_BS, tries[items])
        rates = interleave(contenders, options.rounds, status.update)
    shown = Table("items", "build, CPU-s", "µs an item", "bytes an item", "widest node by level", title="growth")
    for name in models:
        shown.add_column(f"{name}, users a CPU-s")
        shown.add_column("latency ×")
    for items in options.items:
        spent, trie = built[items].cpu_seconds, tries[items]
        cells = [f"{spent:.2f}", f"{1e6 * spent / items:.2f}", f"{size(trie) / items:.1f}", str(trie.branching)]
        for name in models:
            mine, least = rates[f"{name} {items}"], rates[f"{name} {options.items[0]}"]
            found = ratio(least, mine)
            cells += [f"{np.median(mine):.1f}", f"{found.median:.2f} ({found.low:.2f}-{found.high:.2f})"]
        shown.add_row(f"{items:,}", *cells)
    console.print(machine(), shown)
    console.print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GiB")


if __name__ == "__main__":
    main()
