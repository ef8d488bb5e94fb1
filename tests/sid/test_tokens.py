"""Legend: L levels, W vocabulary."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sid.tokens import BOS, PAD, TokenSpace

spaces = st.builds(
    TokenSpace, st.lists(st.integers(1, 9), min_size=1, max_size=5).map(tuple), st.integers(min_value=1, max_value=12)
)


def test_the_layout_of_two_levels_and_five_users() -> None:
    space = TokenSpace((3, 4), num_user_tokens=5)
    assert (PAD, BOS) == (0, 1)
    assert space.encode(torch.tensor([[0, 0], [2, 3]])).tolist() == [[2, 5], [4, 8]]  # 2 + code, 2 + 3 + code
    assert space.offsets == (2, 5, 9)
    assert space.size == 2 + 3 + 4 + 5
    assert [space.level(0), space.level(1)] == [slice(2, 5), slice(5, 9)]


@settings(max_examples=50, deadline=None)
@given(spaces)
def test_every_token_id_has_exactly_one_meaning(space: TokenSpace) -> None:
    meanings = [PAD, BOS]
    for level, size in enumerate(space.codebook_sizes):
        codes = torch.zeros(size, space.num_levels, dtype=torch.long)
        codes[:, level] = torch.arange(size)
        tokens = space.encode(codes)[:, level].tolist()
        assert tokens == list(range(space.size))[space.level(level)]
        meanings += tokens
    meanings += range(space.offsets[-1], space.offsets[-1] + space.num_user_tokens)
    assert sorted(meanings) == list(range(space.size))


@settings(max_examples=50, deadline=None)
@given(spaces, st.integers(0, 10**6), st.sampled_from([(), (3,), (2, 3)]))
def test_decode_is_the_inverse_of_encode(space: TokenSpace, seed: int, shape: tuple[int, ...]) -> None:
    draw = torch.Generator().manual_seed(seed)
    codes = torch.stack([torch.randint(0, size, shape, generator=draw) for size in space.codebook_sizes], dim=-1)
    tokens = space.encode(codes)
    assert tokens.shape == codes.shape
    assert torch.equal(space.decode(tokens), codes)


@settings(max_examples=50, deadline=None)
@given(spaces, st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=20))
def test_user_tokens_equal_knuths_hash_and_stay_in_their_range(space: TokenSpace, users: list[int]) -> None:
    tokens = space.user(torch.tensor(users, dtype=torch.int32)).tolist()
    assert tokens == [space.offsets[-1] + (u * 2654435761) % 2**32 % space.num_user_tokens for u in users]
    assert all(space.offsets[-1] <= token < space.size for token in tokens)


def test_users_spread_evenly_over_their_tokens() -> None:
    space = TokenSpace((4,), num_user_tokens=100)
    count = torch.bincount(space.user(torch.arange(10_000)) - space.offsets[-1], minlength=100)
    assert count.min() > 80 and count.max() < 120  # 10,000 users over 100 tokens: 100 each
