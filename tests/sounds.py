"""What the tests of sound share: tones, and files of any container and codec around them."""

from __future__ import annotations

import io
import struct

import av
import numpy as np

from palate.schema import Floats


def tone(hertz: float, seconds: float = 1.0, rate: int = 16_000, level: float = 0.5) -> Floats:
    """A sine, float32 [seconds * rate]."""
    return (level * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def noise(seconds: float = 1.0, rate: int = 16_000, level: float = 0.1, seed: int = 0) -> Floats:
    return (level * np.random.default_rng(seed).standard_normal(round(seconds * rate))).astype(np.float32)


def encoded(samples: Floats, rate: int = 16_000, container: str = "wav", codec: str = "pcm_s16le") -> bytes:
    """A file of `samples` [S] or, channels first, [C, S]."""
    channels = np.atleast_2d(samples).astype(np.float32)
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[len(channels)]
    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        stream = file.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(channels), format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    return out.getvalue()


def riff(data: bytes, rate: int = 8_000, bits: int = 8, channels: int = 1, claimed: int | None = None) -> bytes:
    """A WAV file by hand; its header claims `claimed` bytes of samples. 32 bits are floats."""
    size = len(data) if claimed is None else claimed
    width = bits // 8 * channels
    form = struct.pack("<IHHIIHH", 16, 3 if bits == 32 else 1, channels, rate, rate * width, width, bits)
    return (
        b"RIFF"
        + struct.pack("<I", min(36 + size, 2**32 - 1))
        + b"WAVEfmt "
        + form
        + b"data"
        + (struct.pack("<I", size) + data)
    )
