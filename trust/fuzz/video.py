"""Films: real small ones of many containers and codecs, damaged, cut, with headers that lie; surveyed, then stills taken."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from random import Random
from typing import Any

from trust import mutate
from trust.fuzz import SilentChange, Target

FORMS = (
    ("mp4", "libx264"), ("mp4", "mpeg4"), ("matroska", "libvpx"), ("webm", "libvpx-vp9"), ("avi", "mjpeg"), ("avi", "mpeg4"),
    ("mpegts", "mpeg2video"), ("mpeg", "mpeg1video"), ("flv", "flv1"), ("ogg", "libtheora"), ("gif", "gif"), ("mov", "prores"),
    ("matroska", "ffv1"), ("asf", "wmv2"), ("mov", "png"), ("avi", "rawvideo"), ("mp4", "libx265"), ("matroska", "libaom-av1"),
)  # fmt: skip
PIXELS = {"mjpeg": "yuvj420p", "gif": "rgb8", "prores": "yuv422p10le", "png": "rgb24"}


def film(path: Path, container: str, codec: str) -> bytes:
    """Six frames of 32 x 24 pixels."""
    import av
    import numpy as np

    with av.open(str(path), "w", format=container) as file:
        track: Any = file.add_stream(codec, rate=25)
        track.width, track.height, track.pix_fmt = 32, 24, PIXELS.get(codec, "yuv420p")
        track.gop_size = 3
        track.codec_context.time_base = Fraction(1, 25)
        for n in range(6):
            frame = av.VideoFrame.from_ndarray(np.full((24, 32, 3), 40 * n, np.uint8), format="rgb24")
            frame.pts = n
            file.mux(track.encode(frame))
        file.mux(track.encode(None))
    return path.read_bytes()


class Video(Target):
    name = "video"
    about = (
        "MP4, MKV, WebM, AVI, MPEG, FLV, Ogg, GIF, MOV ... of 14 codecs: bits flipped, cut, joined, headers that lie"
    )

    def setup(self, folder: Path) -> None:
        self.path = folder / "film"
        self.seeds = []
        for container, codec in FORMS:
            try:
                self.seeds.append(film(self.path, container, codec))
            except Exception:
                continue
        assert len(self.seeds) > 10

    def make(self, rng: Random) -> bytes:
        data = rng.choice(self.seeds)
        roll = rng.random()
        if roll < 0.1:
            return data[: rng.randrange(len(data))]
        if roll < 0.17:
            return data + rng.choice(self.seeds)
        if roll < 0.19:
            return rng.choice(
                (b"#EXTM3U\nfile:///etc/passwd\n", b"ffconcat version 1.0\nfile x\n", b"")
            ) + rng.randbytes(3)
        words = [
            b"moov",
            b"stsz",
            b"stts\xff\xff",
            b"stss",
            b"elst",
            b"\x1a\x45\xdf\xa3",
            b"idx1",
            b"movi",
            b"avcC",
            b"\0\0\1\xb3",
        ]
        return mutate.damaged(rng, data, words)

    def judge(self, case: bytes) -> None:
        import numpy as np

        from palate.errors import FeatureError
        from palate.features import film as films
        from palate.features.problem import Unusable

        self.path.write_bytes(case)
        try:
            reel = films.survey(self.path)
            if reel is None:
                return
            moments = np.linspace(0, reel.end, 4)
            seen = 0
            for chosen, image in films.stills(self.path, reel, moments, 16):
                seen += len(chosen)
                if image.mode != "RGB" or image.width * image.height > 4 * films.MAX_PIXELS:
                    raise SilentChange(f"expected an RGB picture within bounds, got {image.mode} {image.size}")
        except Unusable as error:
            raise FeatureError(f"film: {error}") from None
        if 2 * seen < len(moments):
            raise SilentChange(f"{seen} of {len(moments)} moments have a picture and no problem was told")
