"""Legend: N items, L levels."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sid.collisions import collision_digit, collision_rate, groups

tables = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=20)


def test_rate_and_digits_of_six_items() -> None:
    codes_NL = torch.tensor([[1, 1], [0, 2], [1, 1], [1, 1], [0, 2], [2, 0]])
    assert collision_digit(codes_NL).tolist() == [0, 0, 1, 2, 1, 0]
    assert collision_rate(codes_NL) == 1 - 3 / 6


def test_codes_of_32_bits_are_grouped_as_those_of_64() -> None:
    codes_NL = torch.tensor([[0, 0], [32768, 0], [65535, 131071]])
    assert groups(codes_NL.int()).tolist() == groups(codes_NL).tolist() == [0, 1, 2]


@settings(max_examples=50, deadline=None)
@given(tables)
def test_the_digit_counts_the_earlier_items_with_the_same_codes(codes: list[tuple[int, int]]) -> None:
    digits = collision_digit(torch.tensor(codes)).tolist()
    assert digits == [codes[:item].count(codes[item]) for item in range(len(codes))]


@settings(max_examples=50, deadline=None)
@given(tables)
def test_with_the_digit_nothing_collides(codes: list[tuple[int, int]]) -> None:
    codes_NL = torch.tensor(codes)
    assert collision_rate(codes_NL) == 1 - len(set(codes)) / len(codes)
    resolved = torch.cat([codes_NL, collision_digit(codes_NL)[:, None]], dim=1)
    assert collision_rate(resolved) == 0


@settings(max_examples=50, deadline=None)
@given(tables, st.integers(1, 70))
def test_groups_are_numbered_as_sorted_rows_however_many_levels_there_are(
    codes: list[tuple[int, int]], repeats: int
) -> None:
    codes_NL = torch.tensor(codes).repeat(1, repeats)
    assert groups(codes_NL).equal(codes_NL.unique(dim=0, return_inverse=True)[1])


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=20))
def test_some_items_come_behind_the_others_of_their_codes(items: list[tuple[int, bool]]) -> None:
    codes_NL, last_N = torch.tensor([[code] for code, _ in items]), torch.tensor([last for _, last in items])
    digits = collision_digit(codes_NL, last_N).tolist()
    for place, (code, last) in enumerate(items):
        before = [n for n, (other, behind) in enumerate(items) if other == code and (behind, n) < (last, place)]
        assert digits[place] == len(before)
