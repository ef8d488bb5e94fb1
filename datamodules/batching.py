"""Which examples share a batch, which items they go without, and how a batch is cut so that little of it is padding.

Legend: E examples, B rows of a batch, T items of a row, G lengths that occur in a batch.
"""

from typing import NamedTuple

import numpy as np

from sid.errors import UserError

PART_COST = {"windows": 200, "prefixes": 20}
"""Items that a CPU reads in about the time that one part more takes: in Sidlight; for TIGER the best of 20 to 200."""


def like_batches(length_E: np.ndarray, batch_size: int, generator: np.random.Generator) -> list[np.ndarray]:
    """One pass over all examples in batches of `batch_size` (one may be smaller) of like length, in random order.

    Examples are shuffled, sorted by length (the shuffle decides among equals), cut, and the batches shuffled: padding
    appears only where a batch straddles two lengths.
    """
    shuffled_E = generator.permutation(len(length_E))
    sorted_E = shuffled_E[np.argsort(length_E[shuffled_E], kind="stable")]
    batches = np.split(sorted_E, range(batch_size, len(sorted_E), batch_size))
    return [batches[i] for i in generator.permutation(len(batches)) if len(batches[i])]


def random_batches(
    num_examples: int, total_cost: int, batch_size: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """One pass over all examples in random batches of equally many (or one less), about `batch_size` of the cost each.

    Batches of like length need less padding, but they are no random sample: of windows, steps that see short histories
    alone, then long ones alone, end in worse models (experiments/LOG.md, 2026-11-23); of prefixes perhaps (2026-11-30).
    """
    num_batches = min(-(-total_cost // batch_size), num_examples)
    return np.array_split(generator.permutation(num_examples), num_batches) if num_batches else []


class ItemDropout(NamedTuple):
    """Hides items of histories, each with the same chance, but never the newest one."""

    share: float
    seed: int
    epoch: int

    def kept(self, rows_B: np.ndarray, length_B: np.ndarray) -> np.ndarray:
        """(B, T) whether an item stays; false behind a history. The same for the same rows, seed and epoch."""
        generator = np.random.default_rng([self.seed, self.epoch, int(rows_B[0])])
        index_T, length_B1 = np.arange(length_B.max()), length_B[:, None]
        stays_BT = generator.random((len(rows_B), len(index_T))) >= self.share
        return (stays_BT | (index_T == length_B1 - 1)) & (index_T < length_B1)


def cut_by_length(rows_B: np.ndarray, length_B: np.ndarray, part_cost: float) -> list[np.ndarray]:
    """The rows in parts, shorter ones first, so that places, padding included, and `part_cost` a part are fewest.

    Of all ways to cut the sorted lengths, the best that ends behind each of them is found from those before it.
    """
    order_B = np.argsort(length_B, kind="stable")
    lengths_G, count_G = np.unique(length_B, return_counts=True)
    upto_G = np.cumsum(count_G)
    best, cut = np.zeros(len(lengths_G) + 1), np.zeros(len(lengths_G) + 1, dtype=int)
    for end, length in enumerate(lengths_G, 1):
        places = (upto_G[end - 1] - np.concatenate([[0], upto_G[: end - 1]])) * length
        costs = best[:end] + places + part_cost
        cut[end] = costs.argmin()
        best[end] = costs[cut[end]]
    parts, end = [], len(lengths_G)
    while end:
        begin = cut[end]
        parts.append(order_B[upto_G[begin - 1] if begin else 0 : upto_G[end - 1]])
        end = begin
    return [rows_B[part] for part in reversed(parts)]


def evaluation_batches(length_E: np.ndarray, batch_size: int, rank: int, world_size: int) -> list[np.ndarray]:
    """This rank's examples, longest first; every example once over all ranks, and equally many batches on every rank.

    Raises UserError when there are fewer examples than ranks.
    """
    if len(length_E) < world_size:
        raise UserError(f"{len(length_E)} examples cannot be evaluated by {world_size} processes; use fewer")
    order_E = np.argsort(-length_E, kind="stable")
    smallest_share, largest_share = len(order_E) // world_size, -(-len(order_E) // world_size)
    num_batches = min(-(-largest_share // batch_size), smallest_share)
    return np.array_split(order_E[rank::world_size], num_batches)
