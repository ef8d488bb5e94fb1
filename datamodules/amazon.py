"""Amazon reviews 2014 (McAuley et al., 2015), the 5-core files of all its categories.

Preparation is that of S3-Rec (Zhou et al., 2020), used by TIGER and its successors: ratings above 0, each user's
reviews by time (file order breaks ties), 5-core, ids by first appearance. It gives the counts in OFFICIAL.
"""

import ast
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datamodules.catalog import ITEM_SCHEMA, Catalog, CatalogConfig, build_catalog, data_folder, engine
from datamodules.download import fetch
from sid.errors import UserError, require

OFFICIAL = {
    "Beauty": {"users": 22_363, "items": 12_101, "interactions": 198_502},
    "Sports_and_Outdoors": {"users": 35_598, "items": 18_357, "interactions": 296_337},
    "Toys_and_Games": {"users": 19_412, "items": 11_924, "interactions": 167_597},
}
CATEGORIES = (
    *OFFICIAL,
    "Amazon_Instant_Video",
    "Apps_for_Android",
    "Automotive",
    "Baby",
    "Books",
    "CDs_and_Vinyl",
    "Cell_Phones_and_Accessories",
    "Clothing_Shoes_and_Jewelry",
    "Digital_Music",
    "Electronics",
    "Grocery_and_Gourmet_Food",
    "Health_and_Personal_Care",
    "Home_and_Kitchen",
    "Kindle_Store",
    "Movies_and_TV",
    "Musical_Instruments",
    "Office_Products",
    "Patio_Lawn_and_Garden",
    "Pet_Supplies",
    "Tools_and_Home_Improvement",
    "Video_Games",
)
"""As in the files' names."""
ADDRESS = "http://snap.stanford.edu/data/amazon/productGraph/categoryFiles/"
BLOCK_BYTES = 1 << 24
REVIEW_SCHEMA = pa.schema(
    [
        ("reviewerID", pa.string()),
        ("asin", pa.string()),
        ("overall", pa.float64()),
        ("unixReviewTime", pa.int64()),
    ]
)


@dataclass
class AmazonConfig(CatalogConfig):
    """One category of Amazon reviews 2014.

    Attributes:
        name: one of CATEGORIES, such as Beauty.
        data_dir: the files lie in, or are downloaded to, `<data_dir>/amazon_2014`; empty: the environment's DATA_DIR,
            else `data`.
        min_count: fewest interactions of each user and each item.
    """

    name: str = "Beauty"
    data_dir: str = field(default="", metadata={"hashed": False})
    min_count: int = 5

    @property
    def official(self) -> dict[str, float]:
        """The counts of the categories that papers use, of whose events they keep the 5-core."""
        return dict(OFFICIAL.get(self.name, {})) if self.min_count == 5 else {}

    def raw_files(self) -> list[Path]:
        """Reviews and metadata, downloaded from the official address if absent.

        Raises:
            UserError: unknown name, or a file is absent and cannot be downloaded.
        """
        if self.name not in CATEGORIES:
            raise UserError(f"There is no Amazon category {self.name!r}; choose one of {', '.join(CATEGORIES)}.")
        folder = data_folder(self.data_dir) / "amazon_2014"
        files = [folder / f"reviews_{self.name}_5.json.gz", folder / f"meta_{self.name}.json.gz"]
        try:
            return [fetch(ADDRESS + file.name, file, file.name) for file in files]
        except UserError as error:
            raise UserError(
                f"Amazon {self.name} needs {files[0].name} and {files[1].name} in {folder.absolute()}, and the "
                f"download failed: {error} You can fetch both by hand from {ADDRESS}, or set DATA_DIR to the folder "
                "that holds amazon_2014."
            ) from error

    def build(self) -> Catalog:
        """Read both files and prepare them.

        Raises:
            UserError: a damaged or incomplete file (with the line), or nothing left after the k-core.
        """
        require(self.min_count >= 1, "data.min_count", self.min_count, "at least 1")
        reviews_file, meta_file = self.raw_files()
        daft = engine()
        reviews = read_reviews(reviews_file)
        known = set(reviews["asin"].unique().to_pylist())
        items = daft.from_arrow(read_meta(meta_file, known))
        events = (
            daft.from_arrow(reviews.append_column("row", pa.array(np.arange(reviews.num_rows))))
            .where((daft.col("overall") > 0) & ~daft.col("overall").is_nan())
            .select(
                daft.col("reviewerID").alias("user"),
                daft.col("asin").alias("item"),
                daft.col("unixReviewTime").alias("time"),
                daft.col("row"),
            )
        )
        return build_catalog(events, items, self.min_count)


def read_reviews(path: Path) -> pa.Table:
    """The columns of REVIEW_SCHEMA in file order, none null.

    Raises:
        UserError: truncated or not gzip, a line that is not JSON, a missing or mistyped key (with the line number).
    """
    import pyarrow.json

    try:
        with pa.input_stream(str(path), compression="gzip") as stream:
            table = pyarrow.json.read_json(
                stream,
                pyarrow.json.ReadOptions(block_size=BLOCK_BYTES),
                pyarrow.json.ParseOptions(explicit_schema=REVIEW_SCHEMA, unexpected_field_behavior="ignore"),
            )
        fault = "a null value" if any(column.null_count for column in table.columns) else ""
        table.validate(full=True)
    except (pa.ArrowInvalid, OSError) as error:
        fault = str(error)
    if fault:
        _raise_first_bad_review(path)
        raise UserError(f"{path}: {fault}. Delete the file to download it again.")
    return table


def read_meta(path: Path, known: set[str]) -> pa.Table:
    """Descriptions (columns of ITEM_SCHEMA) of the items in `known`; the last line of an item counts, as in S3-Rec.

    `categories` is the first path, `category` its level below the root. HTML entities stay as they are.

    Raises:
        UserError: truncated or not gzip, a line that is no Python literal, no asin, a value of the wrong type.
    """
    rows: dict[str, dict[str, Any]] = {}
    for number, line in _lines(path):
        try:
            entry = ast.literal_eval(line.decode("utf-8"))
        except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
            raise _line_error(path, number, line, f"expected a Python dict literal ({error})") from error
        asin = entry.get("asin") if isinstance(entry, dict) else None
        if not isinstance(asin, str) or not asin:
            raise _line_error(path, number, line, "expected a dict with a string asin")
        if asin in known:
            rows[asin] = _describe(path, number, line, entry)
    if known and not rows:
        raise UserError(f"{path} describes none of the {len(known)} reviewed items. Delete it to download it again.")
    return pa.Table.from_pylist(list(rows.values()), schema=ITEM_SCHEMA)


def _describe(path: Path, number: int, line: bytes, entry: dict[str, Any]) -> dict[str, Any]:
    categories = entry.get("categories") or [[]]
    texts = [entry.get("title"), entry.get("brand")]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise _line_error(path, number, line, "title and brand must be strings")
    if not isinstance(categories, list) or not all(isinstance(p, list) for p in categories):
        raise _line_error(path, number, line, "categories must be a list of paths")
    if not all(isinstance(level, str) for level in categories[0]):
        raise _line_error(path, number, line, "categories must hold strings")
    price = entry.get("price")
    if price is not None and not isinstance(price, int | float):
        raise _line_error(path, number, line, "price must be a number")
    try:
        "".join([entry["asin"], *filter(None, texts), *categories[0]]).encode()
        price = None if price is None else float(price)
    except (UnicodeEncodeError, OverflowError) as error:
        raise _line_error(path, number, line, f"a value that cannot be stored ({error})") from error
    return {
        "item": entry["asin"],
        "title": texts[0],
        "brand": texts[1],
        "price": price,
        "categories": categories[0],
        "category": categories[0][1] if len(categories[0]) > 1 else None,
    }


def _raise_first_bad_review(path: Path) -> None:
    kinds: dict[str, type | tuple[type, ...]] = {
        "reviewerID": str,
        "asin": str,
        "overall": (int, float),
        "unixReviewTime": int,
    }
    for number, line in _lines(path):
        try:
            review = json.loads(line)
        except ValueError as error:
            raise _line_error(path, number, line, f"expected one JSON object ({error})") from error
        for key, kind in kinds.items():
            if not isinstance(review, dict) or not isinstance(review.get(key), kind):
                names = kind.__name__ if isinstance(kind, type) else "number"
                raise _line_error(path, number, line, f"expected {key} ({names})")


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a gzip file that are not blank, counted from 1, with a progress bar."""
    from rich.console import Console
    from rich.progress import open as open_with_bar

    console = Console(stderr=True)
    number = 0
    try:
        with (
            open_with_bar(
                path, "rb", description=path.name, console=console, disable=not console.is_terminal, transient=True
            ) as raw,
            gzip.open(raw) as lines,
        ):
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(
            f"{path} is damaged after line {number} ({error}). Delete the file to download it again."
        ) from error


def _line_error(path: Path, number: int, line: bytes, expected: str) -> UserError:
    shown = line[:80].decode("utf-8", "replace").strip()
    return UserError(f"{path}, line {number}: {expected}, found: {shown}. Repair the line, or download the file again.")
