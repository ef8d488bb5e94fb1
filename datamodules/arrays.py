"""Arrays in files that are larger than the memory."""

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

UNABLE = {errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}
"""What a file system answers that cannot take room in advance."""


def mapped(path: Path, dtype: DTypeLike, shape: tuple[int, ...]) -> "np.memmap[Any, Any]":
    """A new .npy file of zeros, to be filled through the memory. Raises OSError where the disk has no room for it.

    Through a map a full disk would end the process without a word, so the room is taken first.
    """
    array = np.lib.format.open_memmap(path, "w+", dtype, shape)
    if hasattr(os, "posix_fallocate"):
        try:
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in UNABLE:
                raise
    return array
