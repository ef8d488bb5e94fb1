import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datamodules.arrays import mapped


def test_a_mapped_array_is_an_ordinary_file_of_zeros(tmp_path: Path) -> None:
    array = mapped(tmp_path / "x.npy", np.float32, (5, 3))
    assert not np.load(tmp_path / "x.npy").any()
    array[2] = 7
    array.flush()
    assert np.load(tmp_path / "x.npy").tolist() == [[0] * 3, [0] * 3, [7] * 3, [0] * 3, [0] * 3]


def test_a_full_disk_is_told_before_the_first_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def full(descriptor: int, offset: int, length: int) -> Any:
        asked.append((offset, length))
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        mapped(tmp_path / "x.npy", np.float32, (1000, 3))
    assert asked == [(0, (tmp_path / "x.npy").stat().st_size)] and asked[0][1] > 12_000


def test_a_file_system_that_takes_no_room_in_advance_is_written_to_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unable(descriptor: int, offset: int, length: int) -> Any:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unable, raising=False)
    assert mapped(tmp_path / "x.npy", np.int8, (2, 3)).tolist() == [[0] * 3] * 2
