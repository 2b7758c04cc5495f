"""Sound from strangers: any container and codec as mono float32 samples, bounded before and while decoding."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from math import ceil, gcd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from palate.features.container import MAX_BYTES, opened, reason
from palate.features.problem import Unusable
from palate.schema import Floats

if TYPE_CHECKING:
    from av.audio.frame import AudioFrame
    from av.container import InputContainer

MAX_SECONDS = 60.0
MAX_CHANNELS = 64
PLANES = 8
"""Channels a planar frame has room for; PyAV reads further ones from where there are none, and the process dies."""
RATES = (1_000, 384_000)
"""Sample rates that are believed, in Hz; others are a damaged or hostile header."""
MAX_PARTS, SLACK = 1_000, 1_000
"""Packets and frames a second of sound, together, and how many more in all: real ones last 2.5 ms or longer,
and a file of one-sample frames, or of empty packets, would take hours.
"""
WINDOW = ("kaiser", 8.0)
"""Of the resampling filter: about 80 dB below the sound outside its band."""


class NoSound(Unusable):
    """The file holds no sound track (a silent film, say). A track of zeros is sound."""


def decode(
    source: bytes | Path,
    rate: int,
    seconds: float = MAX_SECONDS,
    start: float = 0.0,
    max_bytes: int = MAX_BYTES,
) -> Floats:
    """The first sound track of a sound or film file: mono float32 [S] in [-1, 1] at `rate` Hz.

    From second `start` of the track on, at most `seconds`: S <= round(seconds * rate), less where the track
    ends earlier, 0 where it ends before `start`. A path is read piece by piece and only as far as needed, so
    the length of the file costs neither memory nor time; what lies before `start` is decoded and dropped,
    which is exact for every format. Channels are averaged; samples beyond full scale are clipped, as a player
    does. Packets that cannot be decoded are left out as long as they are the smaller half.

    Raises Unusable with the reason: missing, empty or too large a file, no sound or film, samples that are not
    finite, a header out of bounds, mostly damaged; NoSound where there is no sound track.
    """
    if rate < 1 or seconds <= 0 or start < 0:
        raise ValueError(f"expected rate >= 1, seconds > 0 and start >= 0, got {rate}, {seconds}, {start}")
    with opened(source, max_bytes) as container:
        parts = list(_mono(container, start, seconds))
    runs = groupby(parts, key=lambda part: part[0])  # the rate may change on the way
    pieces = [_resampled(_clean([samples for _, samples in run]), found, rate) for found, run in runs]
    whole: Floats = np.concatenate(pieces) if pieces else np.zeros(0, np.float32)
    return np.clip(whole[: round(seconds * rate)], -1.0, 1.0)


def _mono(container: InputContainer, start: float, seconds: float) -> Iterator[tuple[int, Floats]]:
    """(sample rate, mono float32 samples) of each frame between `start` and `start + seconds`."""
    at, end = 0.0, start + seconds
    for frame in _frames(container, SLACK + ceil(end * MAX_PARTS)):
        rate = int(frame.sample_rate)
        if not RATES[0] <= rate <= RATES[1]:
            raise Unusable(f"a sample rate of {rate} Hz; expected {RATES[0]} to {RATES[1]}")
        first, at = at, at + frame.samples / rate
        if at > start:
            low, high = max(0, round((start - first) * rate)), round((end - first) * rate)
            yield rate, _averaged(frame)[low:high]
        if at >= end:
            return


def _frames(container: InputContainer, most: int) -> Iterator[AudioFrame]:
    """Decoded frames of the first sound track, in order; Unusable after `most` packets and frames."""
    from av.error import FFmpegError
    from av.stream import Discard

    if not container.streams.audio:
        raise NoSound("there is no sound track in it")
    stream = container.streams.audio[0]
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all  # so that the pictures of a film are not even read
    good = bad = 0
    trouble = ""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (FFmpegError, IndexError) as error:  # it breaks off; IndexError: PyAV, of a stream that turned up late
            packet, bad, trouble = None, bad + 1, reason(error)
        if packet is None:
            break
        most -= 1
        if most < 0:
            raise Unusable(f"its parts are too short: more than {MAX_PARTS} packets and frames a second")
        try:
            frames: list[Any] = packet.decode()
        except FFmpegError as error:
            bad, trouble = bad + 1, reason(error)
            continue
        good += bool(frames)
        most -= len(frames)
        yield from frames
    if bad >= max(good, 1):
        raise Unusable(f"{bad} of {bad + good} parts cannot be decoded: {trouble}")


def _averaged(frame: AudioFrame) -> Floats:
    """Mean over the channels of a frame, float32 [samples], full scale 1, whatever the sample format.

    ffmpeg's own downmix is not used: it scales integer and float samples differently.
    """
    channels = frame.layout.nb_channels
    if not 1 <= channels <= MAX_CHANNELS:
        raise Unusable(f"{channels} channels; expected 1 to {MAX_CHANNELS}")
    if frame.format.is_planar and channels > PLANES:
        raise Unusable(f"{channels} channels, each by itself; expected at most {PLANES} of that kind")
    try:
        raw = frame.to_ndarray()
    except ValueError as error:
        raise Unusable(f"cannot be decoded: {reason(error)}") from None
    raw = raw if frame.format.is_planar else raw.reshape(-1, channels).T
    with np.errstate(over="ignore", invalid="ignore"):  # hostile floats; what is not finite is found later
        mean = raw.mean(axis=0, dtype=np.float64)
        if raw.dtype.kind == "u":
            mean = mean / 128.0 - 1.0
        elif raw.dtype.kind == "i":
            mean /= 2.0 ** (8 * raw.dtype.itemsize - 1)
        samples: Floats = mean.astype(np.float32)
    return samples


def _clean(parts: list[Floats]) -> Floats:
    """Parts as one, clipped to [-1, 1]. Raises Unusable where samples are not finite."""
    whole: Floats = np.concatenate(parts)
    if not np.isfinite(whole).all():
        raise Unusable("it holds samples that are not finite (NaN or infinity)")
    return np.clip(whole, -1.0, 1.0)


def _resampled(samples: Floats, found: int, wanted: int) -> Floats:
    """float32 samples at `found` Hz as samples at `wanted` Hz (polyphase filter, no delay)."""
    if found == wanted or not len(samples):
        return samples
    from scipy.signal import resample_poly

    common = gcd(found, wanted)
    return np.asarray(resample_poly(samples, wanted // common, found // common, window=WINDOW), dtype=np.float32)
