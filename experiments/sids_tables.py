"""Tables of semantic IDs in words and drawings, for the terminal, their page and the report of a run.

Array names end in their shape: N items, L levels.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from datamodules.catalog import Catalog
from experiments import figures, sids_figures
from experiments.figures import Panel
from experiments.grid import Grid
from experiments.page import count, number, share

if TYPE_CHECKING:
    from sid.table import SIDTable

MOST_CODES = 4
"""First codes that are compared with categories in a table: more are hardly ever shared."""
OF = ["semantic IDs"]
LEVEL_HEADS = ["codes", "in use", "perplexity", "prefixes", "largest"]
LEVEL_HEADS += ["10 nearest", "chance", "variance left", "chance"]
LEVELS_NOTE = (
    "Perplexity: codes effectively in use, at best all. Prefixes: different first codes; largest: the most items with "
    "the same. 10 nearest: how many of the 10 items nearest to an item by vector share its first codes, asked of up to "
    "4,096 items, and by chance. Variance left: share of the vectors' variance that is left by the best sum of one "
    "vector for every code, and by chance."
)
CATEGORIES_NOTE = (
    "At each depth of the category tree that half of the items reach; a path that ends earlier counts with its end. "
    "Adjusted: mutual information of first codes and category, 0 for chance and 1 "
    "for one and the same; NMI: not adjusted, so small groups raise it by themselves. Purity: items in the commonest "
    "category of their group, and with the categories shuffled."
)


@dataclass(frozen=True)
class Diagnosed:
    """A table of semantic IDs and what was measured of it."""

    label: str
    """What tells it from another one."""
    table: "SIDTable"
    figures: Mapping[str, Any]
    """Of the tokenize stage; what is missing is not shown."""
    catalog: Catalog

    def value(self, name: str, level: int) -> float | None:
        values = self.figures.get(name, [])
        return values[level] if level < len(values) else None

    @property
    def depths(self) -> list[tuple[int, int]]:
        """(depth in the category tree, categories there) of what was measured."""
        return [(depth["depth"], depth["labels"]) for depth in self.figures.get("categories", [])]


def levels(tables: Sequence[Diagnosed]) -> Grid:
    """A row for every level, and every table."""
    several = len(tables) > 1
    rows = []
    for level in range(max(one.table.num_levels for one in tables)):
        for one in (one for one in tables if level < one.table.num_levels):
            name = "digit" if level == one.table.num_contents else f"{level + 1}"
            rows.append([name, *_label(one, tables), *_level_cells(one, level)])
    facts = " ".join(fact for one in tables for fact in _collisions(one, tables))
    notes = [note for note in (facts, LEVELS_NOTE) if note]
    return Grid("", ["level", *OF * several, *LEVEL_HEADS], without_repeats(rows, 1), 1 + several, notes)


def without_repeats(rows: Sequence[list[str]], left: int) -> list[list[str]]:
    """The rows; what their first `left` cells say again is empty."""
    found = []
    for before, row in zip([[""] * left, *rows], rows, strict=False):
        same = next((place for place in range(left) if row[place] != before[place]), left)
        found.append(["" if place < same else words for place, words in enumerate(row)])
    return found


def _label(one: Diagnosed, tables: Sequence[Diagnosed]) -> list[str]:
    return [one.label] if len(tables) > 1 else []


def _level_cells(one: Diagnosed, level: int) -> list[str]:
    histograms = one.figures.get("items_per_prefix", [])
    held = histograms[level] if level < len(histograms) else []
    perplexity = one.value("perplexity", level)
    measured = ("neighbourhood", "neighbourhood_chance", "reconstruction", "reconstruction_chance")
    return [
        count(one.table.codebook_sizes[level]),
        share(one.value("usage", level)),
        "–" if perplexity is None else f"{perplexity:.1f}",
        count(sum(prefixes for _, prefixes in held) if held else None),
        count(max(items for items, _ in held) if held else None),
        *(_rare(one.value(name, level)) for name in measured),
    ]


def _rare(value: float | None) -> str:
    return "<0.01%" if value and value < 5e-5 else share(value)


def _collisions(one: Diagnosed, tables: Sequence[Diagnosed]) -> list[str]:
    """How many items share their codes, in a sentence; none where it was not counted."""
    if "collision_rate" not in one.figures:
        return []
    of = f"{one.label}: collision rate" if len(tables) > 1 else "Collision rate"
    words = f"{of} {share(one.figures['collision_rate'])}"
    if not one.table.digit:
        return [f"{words}, and no extra digit."]
    words += " before the extra digit"
    if "collision_rate_resolved" in one.figures:
        words += f", {share(one.figures['collision_rate_resolved'])} after"
    if "largest_group" in one.figures:
        words += f"; at most {count(one.figures['largest_group'])} items share their codes before it"
    return [f"{words}."]


def known(tables: Sequence[Diagnosed]) -> list[Grid]:
    """What up to 4 first codes know of the categories; tables of one catalogue together, of another on their own."""
    grids = []
    for catalog, depths in dict.fromkeys((one.table.catalog, tuple(one.depths)) for one in tables if one.depths):
        group = [one for one in tables if (one.table.catalog, tuple(one.depths)) == (catalog, depths)]
        several = len(group) > 1
        rows = [
            [
                f"{labels:,}",
                f"{level + 1}",
                *_label(one, group),
                *_category_cells(one.figures["categories"][place], level),
            ]
            for place, (_, labels) in enumerate(depths)
            for level in range(MOST_CODES)
            for one in group
            if level < one.table.num_contents
        ]
        of = "" if len(group) == len(tables) else group[0].label
        title = figures.titled("What the first codes know of the categories", of)
        heads = ["categories", "first codes", *OF * several, "adjusted", "NMI", "purity", "chance"]
        grids.append(Grid(title, heads, without_repeats(rows, 2), 2 + several, [CATEGORIES_NOTE]))
    return grids


def _category_cells(depth: Mapping[str, Any], level: int) -> list[str]:
    scores = [number(depth[name][level]) for name in ("adjusted", "nmi")]
    return [*scores, *(share(depth[name][level]) for name in ("purity", "purity_chance"))]


def drawings(tables: Sequence[Diagnosed]) -> list[Panel]:
    """Use of the codebooks, items per prefix, neighbours, and what is left of the vectors."""
    found = []
    for one in tables:
        usage, perplexity = (one.figures.get(name, []) for name in ("usage", "perplexity"))
        found += figures.codebooks(usage, perplexity, one.table.codebook_sizes, *_label(one, tables))
    for one in tables:
        found += figures.prefixes(one.figures.get("items_per_prefix", []), *_label(one, tables))
    return [
        *found,
        *sids_figures.neighbours({one.label: _pair(one, "neighbourhood") for one in tables}),
        *sids_figures.left({one.label: _pair(one, "reconstruction") for one in tables}),
    ]


def _pair(one: Diagnosed, name: str) -> tuple[list[float | None], list[float | None]]:
    return one.figures.get(name, []), one.figures.get(f"{name}_chance", [])


def mosaics(tables: Sequence[Diagnosed]) -> list[Panel]:
    """What the codes know of the categories, and TIGER's Figure 4."""
    found = []
    for one in tables:
        found += sids_figures.categories(one.figures.get("categories", []), *_label(one, tables))
    pictures = []
    for one in tables:
        category_N, finer_N = item_categories(one.catalog)
        of = "".join(_label(one, tables))
        pictures.append(figures.categories(category_N, finer_N, one.table.contents_NL.numpy(), of=of))
    longest = max(map(len, pictures))
    return [*found, *(panels[place] for place in range(longest) for panels in pictures if place < len(panels))]


def section(tables: Sequence[Diagnosed], more: Sequence[Panel] = ()) -> dict[str, Any]:
    """What `codes.html.j2` shows; `more`: drawings beside ours."""
    return {
        "levels": levels(tables),
        "drawings": [*drawings(tables), *more],
        "categories": known(tables),
        "mosaics": mosaics(tables),
    }


def alike(tables: Sequence[Diagnosed]) -> list[str]:
    """How much two tables of one catalogue agree on which items belong together, in a sentence."""
    if len(tables) < 2 or len({one.table.catalog for one in tables}) > 1:
        return []
    from sid.diagnostics import prefixes, rand_index

    shared = min(MOST_CODES, *(one.table.num_contents for one in tables))
    ours, theirs = (prefixes(one.table.codes_NL[:, :shared]).unbind(1) for one in tables)
    found = [number(rand_index(*pair)) for pair in zip(ours, theirs, strict=True)]
    words = [f"{value} by {_first(codes)}" for codes, value in enumerate(found, 1)]
    scale = "adjusted Rand index: 0 for chance, 1 for the same pairs of items"
    return [f"How much the two agree on which items belong together: {', '.join(words)} ({scale})."]


def _first(codes: int) -> str:
    return f"the first {codes} codes" if codes > 1 else "the first code"


def item_categories(catalog: Catalog) -> tuple[list[str], list[str]]:
    """Category of every item, and the part of its path that comes next (the category where there is none)."""
    category_N = catalog.items["category"].to_pylist()
    paths = catalog.items["categories"].to_pylist()
    return category_N, [
        path[path.index(category) + 1] if path and category in path[:-1] else category
        for path, category in zip(paths, category_N, strict=True)
    ]
