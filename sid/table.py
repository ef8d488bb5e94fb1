"""The artifact between the two trained stages: which codes every item of a catalogue has.

Legend: N items, L levels (the collision digit, where there is one, is the last of them).
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from sid.collisions import collision_digit, groups
from sid.errors import UserError
from sid.trie import Trie

FILES = _CODES, _HEADER = "sids.safetensors", "sids.json"
"""What `SIDTable.save` writes."""


@dataclass(frozen=True)
class SIDTable:
    """Distinct codes of N items, with the codebook size of every level (levels may differ).

    Raises UserError when there is no item, two share their codes, or a code lies outside its codebook.
    """

    codes_NL: Tensor
    """(N, L) int64, row i is item i."""
    codebook_sizes: tuple[int, ...]
    catalog: str = ""
    """Hash of the catalogue whose items these are; '' when it has none."""
    digit: bool = False
    """Whether the last level only tells items of equal codes apart."""

    def __post_init__(self) -> None:
        if self.codes_NL.ndim != 2 or self.codes_NL.shape[1] != len(self.codebook_sizes):
            raise UserError(
                f"codes have shape {tuple(self.codes_NL.shape)}, but there are {len(self.codebook_sizes)} codebook "
                f"sizes: {list(self.codebook_sizes)}; expected (items, {len(self.codebook_sizes)})"
            )
        if not self.num_items:
            raise UserError("a table of semantic IDs needs at least one item")
        for level, size in enumerate(self.codebook_sizes):
            code_N = self.codes_NL[:, level]
            wrong_N = (code_N < 0) | (code_N >= size)
            if wrong_N.any():
                item = int(wrong_N.nonzero()[0])
                raise UserError(
                    f"item {item} has code {code_N[item]} at level {level}, whose codebook holds 0..{size - 1}"
                )
        shared = self.num_items - int(groups(self.codes_NL).max()) - 1
        if shared:
            raise UserError(f"{shared} items share the codes of another item; append a digit with SIDTable.resolve")

    @classmethod
    def resolve(
        cls,
        codes_NL: Tensor,
        codebook_sizes: tuple[int, ...],
        catalog: str = "",
        last_N: Tensor | None = None,
        always: bool = True,
    ) -> "SIDTable":
        """A table from codes that may collide: one more level holds the index among the items with the same codes, of
        which those of `last_N`, (N,) bool, come last. Its size is the largest group.

        Args:
            always: the level is there even where no items share their codes, so that L does not depend on chance.
        """
        digit_N = collision_digit(codes_NL, last_N)
        if not (always or digit_N.any()):
            return cls(codes_NL, codebook_sizes, catalog)
        codes_NL = torch.cat([codes_NL, digit_N[:, None]], dim=1)  # frees the codes of a caller that keeps none
        return cls(codes_NL, (*codebook_sizes, int(digit_N.max()) + 1), catalog, digit=True)

    @classmethod
    def of_numbers(cls, num_items: int) -> "SIDTable":
        """Every item's number as its only code: what a model without semantic IDs is asked for."""
        return cls(torch.arange(num_items)[:, None], (num_items,))

    @property
    def num_items(self) -> int:
        return len(self.codes_NL)

    @property
    def num_levels(self) -> int:
        return len(self.codebook_sizes)

    @property
    def num_contents(self) -> int:
        """Levels that say something about the item: all but the collision digit."""
        return self.num_levels - self.digit

    @property
    def contents_NL(self) -> Tensor:
        """The codes of these levels, (N, `num_contents`)."""
        return self.codes_NL[:, : self.num_contents]

    @cached_property
    def trie(self) -> Trie:
        return Trie.from_codes(self.codes_NL)

    def items_of(self, codes: Tensor) -> Tensor:
        """Items (...) with the given codes (..., L); -1 where no item has them."""
        return self.trie.find(codes)

    def require_catalog(self, catalog: str, num_items: int) -> None:
        """Raises UserError unless this table was made for the given catalogue."""
        if self.num_items != num_items or (self.catalog and catalog and self.catalog != catalog):
            raise UserError(
                f"this SID table holds {self.num_items} items of catalogue {self.catalog or '(unnamed)'}, but the "
                f"catalogue is {catalog or '(unnamed)'} with {num_items} items; run the tokenize stage on it"
            )

    def save(self, folder: Path) -> None:
        """Writes sids.safetensors and sids.json into `folder`."""
        from safetensors.torch import save_file

        codes_NL = self.codes_NL.int().contiguous()
        save_file({"codes": codes_NL}, folder / _CODES)
        header = {
            "codebook_sizes": list(self.codebook_sizes),
            "num_items": self.num_items,
            "catalog": self.catalog,
            "digit": self.digit,
            "sha256": hashlib.sha256(codes_NL.numpy().data).hexdigest(),
        }
        (folder / _HEADER).write_text(json.dumps(header, indent=1) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "SIDTable":
        """Reads a saved table. Raises UserError when a file is missing or the codes are not those the header names."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            header = json.loads((folder / _HEADER).read_text())
            sizes, catalog, digest = tuple(header["codebook_sizes"]), header["catalog"], header["sha256"]
            digit = header.get("digit", True)  # older tables all have one
            codes_NL = load_file(folder / _CODES)["codes"]
        except (OSError, ValueError, TypeError, KeyError, SafetensorError) as error:
            raise UserError(f"{folder} holds no readable SID table ({_CODES}, {_HEADER}): {error}") from error
        if hashlib.sha256(codes_NL.numpy().data).hexdigest() != digest:
            raise UserError(f"{folder / _CODES} does not hold the codes that {_HEADER} describes; make it again")
        return cls(codes_NL.long(), sizes, catalog, digit)

    def words(self, codes_L: Tensor) -> str:
        """One semantic ID for people: `<a_12><b_7><c_201><d_0>`."""
        return "".join(f"<{letters(level)}_{code}>" for level, code in enumerate(codes_L.tolist()))

    def export(self, path: Path, raw_ids: list[str], titles: list[str]) -> None:
        """A tab-separated file for people: item, raw id, semantic ID, title; sorted by code."""
        order_N = self.trie.leaf_item.tolist()
        rows = (f"{i}\t{raw_ids[i]}\t{self.words(self.codes_NL[i])}\t{' '.join(titles[i].split())}\n" for i in order_N)
        path.write_text("item\traw_id\tsemantic_id\ttitle\n" + "".join(rows))


def letters(level: int) -> str:
    """The name of a level: a, b, ..., z, aa, ab, ..."""
    above, last = divmod(level, 26)
    return (letters(above - 1) if above else "") + chr(ord("a") + last)
