"""Your own data: a table of interactions and a table of items, Parquet or CSV.

    from datamodules.table import TableConfig

    catalog = TableConfig(interactions="clicks.csv", items="products.parquet").build()

where clicks.csv has the columns user, item and time and products.parquet item and title. Other names, and the optional
brand, price, category and text, are settings:

    TableConfig("clicks.csv", "products.parquet", user_column="customer_id", time_column="ts", category_column="path")
"""

import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from datamodules.catalog import TOO_LATE, Catalog, CatalogConfig, build_catalog, engine, path_of
from datamodules.table_files import collect, read
from sid.errors import UserError, require

if TYPE_CHECKING:
    import daft

EXAMPLES = 5


@dataclass
class TableConfig(CatalogConfig):
    """Two tables of your own. An empty column name means: there is no such column.

    Ids may be integers or strings. Times may be integers or floats (unix seconds, or any number that rises), dates,
    timestamps, or in CSV ISO text such as 2014-05-01 or 2014-05-01T12:30:00Z (without a zone: UTC). Rows need not be
    sorted; rows of one user with equal times keep the order of the file.

    Attributes:
        interactions: Parquet or CSV file, one event a row.
        items: Parquet or CSV file, one item a row. It must hold every item of the interactions.
        category_column: text such as "Shoes > Boots" (root first), or in Parquet a list of strings.
        category_level: which level of that path, from 0, entropy and purity count.
        rating_column: if named, only events with at least `min_rating` there count.
        min_count: fewest interactions of each user and each item (k-core); 1 keeps everything.
    """

    revision: ClassVar[int] = 1

    interactions: str = field(metadata={"hashed": False})
    items: str = field(metadata={"hashed": False})
    user_column: str = "user"
    item_column: str = "item"
    time_column: str = "time"
    title_column: str = "title"
    brand_column: str = ""
    price_column: str = ""
    category_column: str = ""
    text_column: str = ""
    category_separator: str = ">"
    category_level: int = 0
    rating_column: str = ""
    min_rating: float = 0.0
    min_count: int = 5

    def raw_files(self) -> list[Path]:
        """Both tables.

        Raises:
            UserError: a file is missing or neither Parquet nor CSV.
        """
        for setting in ("interactions", "items"):
            path = path_of(getattr(self, setting))
            if not path.is_file():
                raise UserError(f"There is no file {path.absolute()} ({setting}=). Set {setting} to your table.")
            if path.suffix.lower() not in (".parquet", ".csv"):
                raise UserError(f"{path} ({setting}=) ends in {path.suffix!r}; expected .parquet or .csv.")
        return [path_of(self.interactions), path_of(self.items)]

    def build(self) -> Catalog:
        """Read, check and prepare both tables.

        Raises:
            UserError: a missing column, a missing or unreadable value (with column and row), an item that is listed
                twice or not at all, or nothing left after the k-core.
        """
        require(self.min_count >= 1, "data.min_count", self.min_count, "at least 1")
        require(self.category_level >= 0, "data.category_level", self.category_level, "at least 0")
        rated = self.rating_column or not self.min_rating
        require(bool(rated), "data.min_rating", self.min_rating, "0 where data.rating_column names no column")
        interactions, items = self.raw_files()
        events = self._events(interactions)
        descriptions = self._items(items)
        strangers = events.join(descriptions, on="item", how="anti").select("item").distinct().sort("item")
        if count := strangers.count_rows():
            shown = ", ".join(map(repr, strangers.limit(EXAMPLES).to_pydict()["item"]))
            raise UserError(
                f"{items} lacks {count} items that occur in column {self.item_column!r} of {interactions}, such as "
                f"{shown}. Add their rows, or remove their interactions."
            )
        catalog = build_catalog(events, descriptions.exclude("row"), self.min_count)
        categories = catalog.items["category"].unique().to_pylist()
        if self.category_column and len(categories) == 1 and catalog.num_items > 1:
            warnings.warn(
                f"all {catalog.num_items} items have the category {categories[0]!r}: category_level="
                f"{self.category_level} of column {self.category_column!r} tells none apart; set another level.",
                stacklevel=2,
            )
        return catalog

    def _events(self, path: Path) -> "daft.DataFrame":
        from daft import col

        columns = {"user": self.user_column, "item": self.item_column, "time": self.time_column}
        if self.rating_column:
            columns["rating"] = self.rating_column
        frame = read(path, columns)
        frame = _as_id(_as_id(frame, path, "user", self.user_column), path, "item", self.item_column)
        frame = _as_seconds(frame, path, self.time_column)
        if self.rating_column:
            frame = _as_number(frame, path, "rating", self.rating_column)
            empty = col("rating").is_null() | col("rating").is_nan()
            _require(frame, path, empty, "rating", self.rating_column, "has no value")
            frame = frame.where(col("rating") >= self.min_rating).exclude("rating")
        return frame.collect()

    def _items(self, path: Path) -> "daft.DataFrame":
        from daft import col, element

        texts = {"title": self.title_column, "brand": self.brand_column, "text": self.text_column}
        others = {"item": self.item_column, "price": self.price_column, "categories": self.category_column}
        columns = {name: column for name, column in (others | texts).items() if column}
        frame = _as_id(read(path, columns), path, "item", self.item_column)
        twice = frame.groupby("item").agg(col("row").count().alias("count"), col("row").max().alias("row"))
        twice = twice.where(col("count") > 1).sort("row").limit(1).to_pylist()
        if twice:
            raise UserError(
                f"{path}, column {self.item_column!r}, row {twice[0]['row'] + 1}: item {twice[0]['item']!r} is listed "
                f"{twice[0]['count']} times. Keep one row an item."
            )
        for name in columns.keys() - {"item"}:
            dtype = frame.schema()[name].dtype
            plain = dtype.is_string() or dtype.is_numeric() or dtype.is_decimal128() or dtype.is_null()
            worded = dtype.is_boolean() or dtype.is_date() or dtype.is_timestamp() or dtype.is_time()
            fits = {"price": plain, "categories": plain or worded or dtype.is_list()}
            if not fits.get(name, plain or worded):
                expected = {"price": "numbers", "categories": "text or lists of strings"}.get(name, "text")
                raise UserError(f"{path}, column {columns[name]!r}: values are {dtype}; expected {expected}.")
        if self.price_column:
            frame = _as_number(frame, path, "price", self.price_column)
        if self.category_column:
            types, path_of_item = engine().DataType, col("categories")
            if frame.schema()["categories"].dtype.is_list():
                path_of_item = path_of_item.cast(types.list(types.string()))
            else:
                path_of_item = path_of_item.cast(types.string()).split(self.category_separator)
            levels = path_of_item.list_map(element().strip()).list_filter(element() != "")
            frame = frame.with_column("categories", levels)
            frame = frame.with_column("category", col("categories").get(self.category_level))
        for name in texts.keys() & columns.keys():
            text = col(name).cast(engine().DataType.string())
            frame = frame.with_column(name, engine().functions.when(text.strip() != "", text))
        return collect(frame, path)


def _as_id(frame: "daft.DataFrame", path: Path, name: str, column: str) -> "daft.DataFrame":
    from daft import col

    dtype = frame.schema()[name].dtype
    if not (dtype.is_string() or dtype.is_integer()):
        raise UserError(
            f"{path}, column {column!r}: ids are {dtype}; expected integers or strings. Convert the column "
            "(pandas turns integers with gaps into floats: drop the empty rows and use astype('int64'))."
        )
    frame = frame.with_column(name, col(name).cast(engine().DataType.string()))
    _require(frame, path, col(name).is_null() | (col(name) == ""), name, column, "has no value")
    return frame


def _as_seconds(frame: "daft.DataFrame", path: Path, column: str) -> "daft.DataFrame":
    from daft import col

    types, time = engine().DataType, col("time")
    dtype = frame.schema()["time"].dtype
    numeric = dtype.is_integer() or dtype.is_float32() or dtype.is_float64()
    if not (numeric or dtype.is_string() or dtype.is_date() or dtype.is_timestamp()):
        raise UserError(f"{path}, column {column!r}: times are {dtype}; expected numbers, dates or timestamps.")
    _require(frame, path, time.is_null() | (time.cast(types.string()) == ""), "time", column, "has no value")
    if dtype.is_string():
        frame = _parsed(frame, path, column)
    elif not numeric:
        frame = frame.with_column("time", _epoch(time.cast(types.timestamp("us"))))
    seconds = time.cast(types.float64())
    _require(frame, path, seconds.is_nan() | seconds.is_inf(), "time", column, "is not finite")
    _require(frame, path, seconds.abs() >= TOO_LATE, "time", column, "is too large for 64 bits")
    whole = frame.schema()["time"].dtype.is_integer()
    return frame.with_column("time", time.cast(types.int64() if whole else types.float64()))


def _parsed(frame: "daft.DataFrame", path: Path, column: str) -> "daft.DataFrame":
    """Seconds from text; whole numbers where all are, as floats would not tell large ones apart."""
    from daft import col

    types, time = engine().DataType, col("time")
    number, whole = time.try_cast(types.float64()), time.try_cast(types.int64())
    first = frame.sort("row").limit(1).select(number).to_pydict()["time"]
    if first and first[0] is not None:
        expected = "a number like the first row"
        parsed = number if frame.where(whole.is_null()).count_rows() else whole
    else:
        parsed, expected = _epoch(time.try_cast(types.timestamp("us"))), "a date such as 2014-05-01T12:30:00"
    frame = frame.with_column("seconds", parsed)
    _require(frame, path, col("seconds").is_null(), "time", column, f"is not {expected}")
    return frame.with_column("time", col("seconds")).exclude("seconds")


def _epoch(timestamp: "daft.Expression") -> "daft.Expression":
    return timestamp.cast(engine().DataType.int64()) / 1e6


def _as_number(frame: "daft.DataFrame", path: Path, name: str, column: str) -> "daft.DataFrame":
    from daft import col

    types = engine().DataType
    number = col(name).try_cast(types.float64())
    given = col(name).cast(types.string()).strip() != ""
    _require(frame, path, number.is_null() & given, name, column, "is not a number")
    return frame.with_column(name, number)


def _require(frame: "daft.DataFrame", path: Path, wrong: "daft.Expression", name: str, column: str, fault: str) -> None:
    """Raise for the first row where `wrong` holds."""
    from daft import col

    rows = collect(frame.where(wrong).select(name, "row").sort("row").limit(1), path).to_pylist()
    if rows:
        value = "" if fault == "has no value" else f" {rows[0][name]!r}"
        count = frame.where(wrong).agg(col("row").count()).to_pydict()["row"][0]
        more = f" ({count - 1} more rows like it)" if count > 1 else ""
        raise UserError(
            f"{path}, column {column!r}, row {rows[0]['row'] + 1} (the header is not counted):{value} {fault}{more}. "
            "Repair or remove the row."
        )
