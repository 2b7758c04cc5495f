"""Sound and film files from strangers, opened by PyAV (ffmpeg's libraries) so that they reach nothing else."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from palate.features.files import open_bounded
from palate.features.problem import Unusable

if TYPE_CHECKING:
    from av.container import InputContainer

MAX_BYTES = 2_000_000_000
DEMUXERS = (
    "wav", "w64", "aiff", "au", "caf", "flac", "mp3", "aac", "ac3", "amr", "ape", "wv", "tta", "ogg",
    "mov", "matroska", "avi", "asf", "flv", "mpeg", "mpegts", "gif",
)  # fmt: skip
"""What is opened: containers that hold their own sound and pictures. ffmpeg's others include playlists (hls,
dash, concat, imf), which open files and addresses that the content names, descriptions of devices, tones and
filters (lavfi), subtitles, and some three hundred formats of old games and cameras, each a parser that a
stranger could aim at.
"""
NAMES = "WAV, FLAC, MP3, AAC, OGG, AIFF, CAF, MP4/M4A/MOV, Matroska/WebM, AVI, ASF/WMA, FLV, MPEG ..."
MAX_ALLOCATION = 2**27
"""Bytes that ffmpeg may ask for at once. Without it, an MP4 file of 3 KB that claims 60 million frames takes 4 GB."""
REREAD, SLACK = 8, 64_000_000
"""How many times its own length, and bytes more, may be read of a file: an index that points to and fro ends."""


class _Bounded:
    """What ffmpeg sees of a file: bytes, and no name, so that the content alone tells the format."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.left = REREAD * file.seek(0, io.SEEK_END) + SLACK
        file.seek(0)

    def read(self, size: int) -> bytes:
        self.left -= size
        return self.file.read(size) if self.left >= 0 else b""  # the end; an error here would be printed by PyAV

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        try:
            return self.file.seek(offset, whence)
        except (OSError, ValueError):
            return -1  # a damaged index points before the start; raised here, it would be printed by PyAV

    def tell(self) -> int:
        return self.file.tell()


@contextmanager
def opened(source: bytes | Path, max_bytes: int = MAX_BYTES) -> Iterator[InputContainer]:
    """A sound or film file, open for decoding; its streams are known and nothing of them is decoded yet.

    source: the file's bytes, or its path; a path is read piece by piece. The format is told by the content.
    Raises Unusable where the file is missing, empty, too large, or no sound or film of a known format
    (`DEMUXERS`), and for every error of ffmpeg inside the `with` block.
    """
    if isinstance(source, Path):
        with open_bounded(source, max_bytes) as file, _container(file) as container:
            yield container
        return
    if not source:
        raise Unusable("the file is empty (0 bytes)")
    if len(source) > max_bytes:
        raise Unusable(f"{len(source)} bytes, more than the limit of {max_bytes}")
    with _container(io.BytesIO(source)) as container:
        yield container


@contextmanager
def _container(file: BinaryIO) -> Iterator[InputContainer]:
    import av

    _bound_memory()
    start = file.read(12)
    bounded = _Bounded(file)
    try:
        container = av.open(
            bounded,
            "r",
            container_options={
                "format_whitelist": ",".join(DEMUXERS),
                "protocol_whitelist": "none",  # no second file, whoever asks for it
                "codec_whitelist": "none",  # ffmpeg would decode to learn the streams; headers must do
            },
            metadata_errors="replace",
        )
    except av.error.FFmpegError:
        raise Unusable(f"not sound or film that can be opened ({NAMES}); it starts with {start!r}") from None
    except Exception as error:  # PyAV's own checks of what a hostile file promises
        raise Unusable(f"cannot be opened: {reason(error)}") from None
    try:
        with container:
            yield container
    except av.error.FFmpegError as error:
        raise Unusable(f"cannot be decoded: {reason(error)}") from None
    if bounded.left < 0:
        raise Unusable("cannot be decoded: its parts point to and fro without end")


@cache
def _bound_memory() -> None:
    """Set `MAX_ALLOCATION` in the libavutil of PyAV's wheel; PyAV has no call for it, and other builds keep 2 GB."""
    import ctypes

    import av

    home = Path(av.__file__).parent
    for folder in (home.parent / "av.libs", home / ".dylibs"):
        for path in folder.glob("*avutil*"):
            ctypes.CDLL(str(path)).av_max_alloc(ctypes.c_size_t(MAX_ALLOCATION))


def reason(error: Exception) -> str:
    """One line of an error of ffmpeg or PyAV."""
    text = getattr(error, "strerror", None) or str(error)
    return " ".join(str(text).split())[:200] or type(error).__name__
