"""Legend: N items, L levels."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sid.errors import UserError
from sid.table import SIDTable, letters

CODES = torch.tensor([[1, 0], [0, 2], [1, 2]])


@pytest.fixture
def table() -> SIDTable:
    return SIDTable(CODES, (2, 3), catalog="abc")


def test_a_saved_table_comes_back(table: SIDTable, tmp_path: Path) -> None:
    table.save(tmp_path)
    again = SIDTable.load(tmp_path)
    assert torch.equal(again.codes_NL, table.codes_NL) and again.codes_NL.dtype == torch.long
    assert (again.codebook_sizes, again.catalog) == ((2, 3), "abc")
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".json", ".safetensors"]  # nothing pickled


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 3)), min_size=1, max_size=20))
def test_lookup_goes_both_ways_after_resolving_collisions(codes: list[tuple[int, int]]) -> None:
    table = SIDTable.resolve(torch.tensor(codes), (3, 4))
    largest_group = max(codes.count(c) for c in codes)
    assert table.codebook_sizes == (3, 4, largest_group)
    assert (table.num_items, table.num_levels) == (len(codes), 3)
    assert torch.equal(table.contents_NL, torch.tensor(codes)) and table.digit
    assert torch.equal(table.items_of(table.codes_NL), torch.arange(len(codes)))
    for item, code in enumerate(codes):
        earlier = codes[:item].count(code)
        assert table.codes_NL[item, 2] == earlier
        assert table.items_of(torch.tensor([*code, largest_group])) == -1


def test_a_table_without_collisions_still_gets_the_extra_level() -> None:
    table = SIDTable.resolve(CODES, (2, 3))
    assert table.codebook_sizes == (2, 3, 1)
    assert table.codes_NL[:, 2].tolist() == [0, 0, 0]


def test_the_extra_level_is_left_out_only_where_no_items_share_their_codes() -> None:
    bare = SIDTable.resolve(CODES, (2, 3), catalog="abc", always=False)
    assert torch.equal(bare.codes_NL, CODES) and torch.equal(bare.contents_NL, CODES)
    assert (bare.codebook_sizes, bare.catalog, bare.digit) == ((2, 3), "abc", False)
    shared = SIDTable.resolve(CODES[[0, 1, 2, 0]], (2, 3), always=False)
    assert shared.digit and shared.codes_NL[:, 2].tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize("always", [True, False])
def test_a_saved_table_knows_its_digit_and_one_of_older_code_has_one(always: bool, tmp_path: Path) -> None:
    SIDTable.resolve(CODES, (2, 3), always=always).save(tmp_path)
    assert SIDTable.load(tmp_path).digit == always
    header = json.loads((tmp_path / "sids.json").read_text())
    del header["digit"]
    (tmp_path / "sids.json").write_text(json.dumps(header))
    assert SIDTable.load(tmp_path).digit


def test_shared_codes_are_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match="2 items share the codes of another item; append a digit with SIDTable.res"):
        SIDTable(torch.tensor([[1, 1], [1, 1], [0, 0], [1, 1]]), (2, 2))


def test_a_table_without_items_is_refused() -> None:
    with pytest.raises(UserError, match="at least one item"):
        SIDTable(torch.zeros(0, 2, dtype=torch.int64), (2, 2))


def test_levels_are_named_in_letters_however_many_there_are() -> None:
    assert [letters(level) for level in (0, 25, 26, 51, 52, 701, 702)] == ["a", "z", "aa", "az", "ba", "zz", "aaa"]


@pytest.mark.parametrize("code", [3, -1])
def test_a_code_outside_its_codebook_is_named(code: int) -> None:
    with pytest.raises(UserError, match=f"item 1 has code {code} at level 1, whose codebook holds 0..2"):
        SIDTable(torch.tensor([[1, 0], [0, code]]), (2, 3))


def test_codes_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(UserError, match=r"shape \(3, 2\), but there are 3 codebook sizes: \[2, 3, 4\]"):
        SIDTable(CODES, (2, 3, 4))


def test_another_catalogue_is_refused(table: SIDTable) -> None:
    table.require_catalog("abc", 3)
    table.require_catalog("", 3)
    with pytest.raises(UserError, match="3 items of catalogue abc, but the catalogue is xyz with 3 items"):
        table.require_catalog("xyz", 3)
    with pytest.raises(UserError, match="3 items of catalogue abc, but the catalogue is abc with 4 items"):
        table.require_catalog("abc", 4)


def test_other_codes_than_the_header_describes_are_refused(table: SIDTable, tmp_path: Path) -> None:
    SIDTable(CODES.flip(0), (2, 3)).save(tmp_path)
    other = (tmp_path / "sids.safetensors").read_bytes()
    table.save(tmp_path)
    (tmp_path / "sids.safetensors").write_bytes(other)
    with pytest.raises(UserError, match="does not hold the codes that sids.json describes"):
        SIDTable.load(tmp_path)


@pytest.mark.parametrize("name", ["sids.safetensors", "sids.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "empty"])
def test_a_damaged_file_is_a_users_error(name: str, damage: str, table: SIDTable, tmp_path: Path) -> None:
    table.save(tmp_path)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).unlink()
    if damage != "missing":
        (tmp_path / name).write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    with pytest.raises(UserError, match="holds no readable SID table"):
        SIDTable.load(tmp_path)


@pytest.mark.parametrize("key", ["codebook_sizes", "catalog", "sha256"])
def test_a_header_without_one_of_its_entries_is_a_users_error(key: str, table: SIDTable, tmp_path: Path) -> None:
    table.save(tmp_path)
    header = json.loads((tmp_path / "sids.json").read_text())
    del header[key]
    (tmp_path / "sids.json").write_text(json.dumps(header))
    with pytest.raises(UserError):
        SIDTable.load(tmp_path)


def test_the_export_can_be_read_and_puts_kin_together(table: SIDTable, tmp_path: Path) -> None:
    table.export(tmp_path / "sids.tsv", ["x", "y", "z"], ["Comb", "Soap", "Brush"])
    assert (tmp_path / "sids.tsv").read_text().splitlines() == [
        "item\traw_id\tsemantic_id\ttitle",
        "1\ty\t<a_0><b_2>\tSoap",
        "0\tx\t<a_1><b_0>\tComb",
        "2\tz\t<a_1><b_2>\tBrush",
    ]
