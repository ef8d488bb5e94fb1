import pyarrow as pa

from datamodules.attributes import attributes


def table(paths: list[list[str]], brands: list[str | None]) -> pa.Table:
    return pa.table({"categories": pa.array(paths, pa.list_(pa.string())), "brand": pa.array(brands, pa.string())})


def test_categories_and_brands_that_some_items_share() -> None:
    items = table(
        [["Beauty", "Hair"], ["Beauty", "Hair", "Oil"], ["Beauty", "Skin"], ["Beauty"]], ["A", "A", "B", None]
    )
    value_NA, names = attributes(items)
    found = [sorted(names[value] for value in own if value >= 0) for own in value_NA.tolist()]
    # Beauty is no news of any item, and what a single item has relates it to none.
    assert found == [["Hair", "brand: A"], ["Hair", "brand: A"], [], []]
    assert (value_NA[:, 1:][value_NA[:, :-1] < 0] < 0).all()


def test_items_without_any_description() -> None:
    value_NA, names = attributes(table([[], []], [None, None]))
    assert value_NA.tolist() == [[-1], [-1]]
    assert names == []
