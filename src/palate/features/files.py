"""Files from strangers: regular files only, bounded in bytes before they are opened."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from palate.features.problem import Unusable


@contextmanager
def open_bounded(path: Path, max_bytes: int) -> Iterator[BufferedReader]:
    """A regular file, open for reading. Raises Unusable where it is missing, empty, not a file, over
    `max_bytes`, or fails while it is read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Unusable("expected a file, found a folder or a device")
        if status.st_size > max_bytes:
            raise Unusable(f"{status.st_size} bytes, more than the limit of {max_bytes}")
        if not status.st_size:
            raise Unusable("the file is empty (0 bytes)")
        with path.open("rb") as file:
            yield file
    except FileNotFoundError:
        raise Unusable("there is no such file") from None
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror or error}") from None


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """A regular file's bytes. Raises Unusable as `open_bounded`."""
    with open_bounded(path, max_bytes) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise Unusable(f"more than the limit of {max_bytes} bytes")
    return data


def file_identity(path: Path, max_bytes: int) -> bytes:
    """sha256 of a bounded file's content, 32 bytes, in little memory. Raises Unusable as `open_bounded`."""
    with open_bounded(path, max_bytes) as file:
        return hashlib.file_digest(file, "sha256").digest()
