"""Sounds: real small files of many containers and codecs, damaged, cut, with headers that lie; then described."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from random import Random
from typing import Any

from trust import mutate
from trust.fuzz import SilentChange, Target

RATE = 8_000
FORMS = (
    ("wav", "pcm_s16le"), ("wav", "pcm_u8"), ("wav", "pcm_f32le"), ("wav", "adpcm_ima_wav"), ("flac", "flac"), ("ogg", "libopus"),
    ("ogg", "libvorbis"), ("mp3", "libmp3lame"), ("adts", "aac"), ("mp4", "aac"), ("matroska", "pcm_s16le"), ("aiff", "pcm_s16be"),
    ("avi", "pcm_s16le"), ("asf", "wmav2"), ("au", "pcm_s16be"), ("caf", "pcm_s16le"), ("tta", "tta"), ("flv", "aac"),
)  # fmt: skip


def encoded(samples: Any, container: str, codec: str) -> bytes:
    """A file of mono samples [S]."""
    import av

    out = io.BytesIO()
    with av.open(out, "w", format=container) as file:
        rate = {"libopus": 16_000, "libmp3lame": 16_000, "aac": 16_000, "wmav2": 16_000, "libvorbis": 16_000}.get(
            codec, RATE
        )
        stream: Any = file.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = rate, 0
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            file.mux(packet)
    return out.getvalue()


def riff(rng: Random, data: bytes) -> bytes:
    """A WAV file by hand; its header says anything."""
    odd = (0, 1, 2, 3, 7, 8, 64, 255, 8000, 65_535)
    channels, bits, kind = rng.choice(odd), rng.choice(odd), rng.choice((1, 3, 0xFFFE, 0x55, 0x11, 2))
    rate = rng.choice((0, 1, 999, 8000, 384_000, 2**31, 2**32 - 1))
    claimed = rng.choice((0, len(data), 2**31, 2**32 - 1))
    form = struct.pack(
        "<IHHIIHH", 16, kind, channels, rate, rng.choice((0, rate, 2**32 - 1)), rng.choice((0, 1, 4)), bits
    )
    return b"RIFF" + struct.pack("<I", claimed) + b"WAVEfmt " + form + b"data" + struct.pack("<I", claimed) + data


class Audio(Target):
    name = "audio"
    about = "WAV, FLAC, Ogg, MP3, AAC, MP4, MKV, AIFF, AVI, ASF ...: bits flipped, cut, joined, headers that lie"

    def setup(self, folder: Path) -> None:
        import numpy as np

        self.path = folder / "sound"
        samples = (0.4 * np.sin(np.arange(RATE // 4) * 0.3)).astype(np.float32)
        self.seeds = []
        for container, codec in FORMS:
            try:
                self.seeds.append(encoded(samples, container, codec))
            except Exception:
                continue
        assert len(self.seeds) > 12

    def make(self, rng: Random) -> bytes:
        roll = rng.random()
        if roll < 0.15:
            return riff(rng, rng.randbytes(rng.choice((0, 100, 3000))))
        data = rng.choice(self.seeds)
        if roll < 0.25:
            return data[: rng.randrange(len(data))]
        if roll < 0.32:
            return data + rng.choice(self.seeds)
        if roll < 0.34:
            return rng.choice(
                (b"#EXTM3U\n/etc/passwd\n", b"ffconcat version 1.0\nfile /etc/passwd\n", b"<MPD/>", b"")
            ) + rng.randbytes(3)
        return mutate.damaged(
            rng, data, [b"moov", b"stsz\xff\xff\xff\xff", b"OggS", b"fLaC", b"data", b"LIST", b"mdat"]
        )

    def judge(self, case: bytes) -> None:
        import numpy as np

        from palate.errors import FeatureError
        from palate.features import acoustics, sound
        from palate.features.problem import Unusable

        self.path.write_bytes(case)
        try:
            samples = sound.decode(self.path, 16_000)
        except Unusable as error:
            raise FeatureError(f"sound: {error}") from None
        if (
            len(samples) > 16_000 * sound.MAX_SECONDS
            or not np.isfinite(samples).all()
            or np.abs(samples).max(initial=0) > 1
        ):
            raise SilentChange(f"samples out of bounds: {len(samples)}")
        if len(samples) and not np.isfinite(acoustics.describe(samples[:16_000], 16_000)).all():
            raise SilentChange("a description that is not finite")
