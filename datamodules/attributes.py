"""What items have in common by their descriptions: categories of every level and brands, as numbers.

Legend: N items, A attributes of an item.
"""

from collections import Counter
from itertools import chain

import numpy as np
import pyarrow as pa


def attributes(items: pa.Table, least: int = 2) -> tuple[np.ndarray, list[str]]:
    """(N, A) int64 attributes of every item, -1 behind, and their names by number.

    An attribute is a category of the item's path or its brand that at least `least` items have, but not all of them.
    """
    paths, brands = items["categories"].to_pylist(), items["brand"].to_pylist()
    named = [
        [*dict.fromkeys(path or []), *([f"brand: {brand}"] if brand else [])]
        for path, brand in zip(paths, brands, strict=True)
    ]
    count = Counter(chain.from_iterable(named))
    kept = sorted(name for name, items_of_it in count.items() if least <= items_of_it < len(named))
    number = {name: place for place, name in enumerate(kept)}
    numbered = [[number[name] for name in own if name in number] for own in named]
    value_NA = np.full((len(named), max(1, *map(len, numbered))), -1, np.int64)
    for item, own in enumerate(numbered):
        value_NA[item, : len(own)] = own
    return value_NA, list(number)
