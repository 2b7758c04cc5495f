"""What the tests of films share: short real films of plain colours and a tone, in any container and codec."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.stream import Disposition

from palate.schema import Floats

RED, GREEN, BLUE, YELLOW = (220, 30, 30), (30, 200, 30), (30, 30, 220), (220, 220, 30)
COLOURS = (RED, GREEN, BLUE, YELLOW)
Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Shot:
    """How a film is written. codec None: no picture track. still: seconds each picture lasts; fps: frames a second.
    times: own time stamps in seconds, one a picture, instead. turn: degrees counter-clockwise that a player turns it;
    stretch: times its width, by the shape of its pixels. cover: the picture is cover art.
    """

    codec: str | None = "libx264"
    pixels: str = "yuv420p"
    size: tuple[int, int] = (96, 64)
    fps: int = 8
    still: float = 1.0
    gop: int = 12
    times: Sequence[float] | None = None
    turn: int = 0
    stretch: int = 1
    cover: bool = False
    audio: str = "aac"
    rate: int = 16_000


def film(path: Path, pictures: Iterable[object], sound: Floats | None = None, shot: Shot | None = None) -> Path:
    """Write a film of plain colours, or of arrays uint8 [H, W, 3]; `sound`: mono samples at `shot.rate`."""
    shot = shot or Shot()
    with av.open(str(path), "w") as file:
        video = audio = None
        if shot.codec is not None:
            video = file.add_stream(shot.codec, rate=shot.fps)
            (video.width, video.height), video.pix_fmt, video.gop_size = shot.size, shot.pixels, shot.gop
            video.codec_context.time_base = Fraction(1, 100 if shot.times else shot.fps)
            video.codec_context.sample_aspect_ratio = Fraction(shot.stretch)
            if shot.cover:
                video.disposition = Disposition.attached_pic
            if shot.turn:
                video.set_display_rotation(shot.turn)
        if sound is not None:
            audio = file.add_stream(shot.audio, rate=shot.rate, layout="mono")
        if video is not None:
            for number, (at, picture) in enumerate(_frames(pictures, shot)):
                array = _array(picture, shot)
                frame = av.VideoFrame.from_ndarray(array, format="rgba" if array.shape[2] == 4 else "rgb24")
                frame.time_base = Fraction(1, 100 if shot.times else shot.fps)
                frame.pts = round(at / frame.time_base) if shot.times else number
                file.mux(video.encode(frame))
            file.mux(video.encode(None))
        if audio is not None and sound is not None:
            heard = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
            heard.sample_rate, heard.pts = shot.rate, 0
            file.mux([*audio.encode(heard), *audio.encode(None)])
    return path


def _frames(pictures: Iterable[object], shot: Shot) -> Iterable[tuple[float, object]]:
    if shot.times:
        yield from zip(shot.times, pictures, strict=True)
        return
    for number, picture in enumerate(p for p in pictures for _ in range(max(1, round(shot.still * shot.fps)))):
        yield number / shot.fps, picture


def _array(picture: object, shot: Shot) -> np.ndarray:
    if isinstance(picture, np.ndarray):
        return picture
    return np.full((shot.size[1], shot.size[0], 3), picture, dtype=np.uint8)
