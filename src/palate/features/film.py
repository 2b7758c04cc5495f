"""Films from strangers: the pictures on screen at set moments, bounded before and while decoding.

A film is read twice. `survey` reads the packets of the picture track without decoding any: when each frame is shown
and which are key frames. `stills` then decodes only what leads up to the moments asked for. Nothing is sought, since
an index from a stranger may lie; reading is cheap beside decoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, groupby, islice
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from palate.features.container import MAX_BYTES, opened, reason
from palate.features.picture import BACKGROUND
from palate.features.problem import Unusable

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

Seconds = NDArray[np.float64]

MAX_SECONDS = 600.0
MAX_PIXELS = 16_000_000
BUDGET = 2_000_000_000
"""Pixels decoded of one film, 1,000 frames of 1080p; where exact moments cost more, key frames stand for them."""
SMALL = 65_536
"""Pixels that a smaller frame counts as: decoding has costs of its own."""
PACKETS = 250
"""Read for each second at most."""
CODECS = (
    "h264", "hevc", "av1", "vp8", "vp9", "mpeg4", "mpeg1video", "mpeg2video", "mjpeg", "gif", "theora", "prores",
    "dnxhd", "wmv1", "wmv2", "wmv3", "vc1", "flv1", "h263", "msmpeg4v2", "msmpeg4v3", "vp6", "vp6f", "dvvideo", "png",
    "rawvideo", "ffv1",
)  # fmt: skip
"""Decoders that a stranger's bytes may reach, by ffmpeg's codec names."""
TURNS = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}


@dataclass(frozen=True, slots=True)
class Limits:
    """max_bytes: of the file. max_pixels: of one frame, checked on the header and by the decoder. seconds: only this
    much of a film, from its start, is looked at.
    """

    max_bytes: int = MAX_BYTES
    max_pixels: int = MAX_PIXELS
    seconds: float = MAX_SECONDS


@dataclass(frozen=True, slots=True)
class Reel:
    """What is shown when, told from the packets of a picture track, in decoding order.

    times: [P], seconds after the first packet, whose own stamp is `zero`. runs: int64 [P], which run each packet
    belongs to: a key frame and all up to the next. end: seconds, when the last frame has been shown; 0 where a lone
    frame has no duration. pixels: of one frame by the header (the limit where it tells none), at least `SMALL`.
    """

    times: Seconds
    runs: NDArray[np.int64]
    zero: float
    end: float
    pixels: int

    def wanted(self, moments: Seconds) -> dict[int, list[int]]:
        """Run -> which of the moments (ascending) it is needed for."""
        firsts = np.unique(self.runs, return_index=True)[1]
        starts = np.maximum.accumulate(self.times[firsts])
        run = np.maximum(np.searchsorted(starts, moments, side="right") - 1, 0)
        return {int(r): np.flatnonzero(run == r).tolist() for r in np.unique(run)}

    def cost(self, moments: Seconds) -> int:
        """Pixels to decode for the exact frame at each moment."""
        until = {run: moments[chosen[-1]] for run, chosen in self.wanted(moments).items()}
        frames = sum(1 + int(((self.runs == run) & (self.times <= t)).sum()) for run, t in until.items())
        return frames * self.pixels


def survey(path: Path, limits: Limits | None = None) -> Reel | None:
    """The picture track of a film, nothing of it decoded; None where it has none (cover art is none).

    A file that breaks off counts as the part that is there. Raises Unusable as `container.opened`, and for a frame
    size over the limit, an unknown codec, and a track without a frame.
    """
    limits = limits or Limits()
    stamps, durations, keys = [], [], []
    with opened(path, limits.max_bytes) as container:
        track = _track(container, limits.max_pixels)
        if track is None:
            return None
        pixels = max(track.codec_context.width * track.codec_context.height or limits.max_pixels, SMALL)
        for stamp, packet in _packets(container, track, limits.seconds):
            stamps.append(stamp)
            durations.append(_seconds(packet.duration or 0, track))
            keys.append(packet.is_keyframe)
    if not stamps:
        raise Unusable("its picture track holds no frame")
    keys[0] = True
    times = np.array(stamps) - stamps[0]
    end = float(np.clip((times + np.array(durations)).max(), 0.0, limits.seconds))
    return Reel(times, np.cumsum(keys) - 1, stamps[0], end, pixels)


def stills(
    path: Path, reel: Reel, moments: Seconds, enough: int, limits: Limits | None = None
) -> Iterator[tuple[list[int], Image.Image]]:
    """(indices of moments, the upright RGB picture on screen then), each different frame once, in order.

    moments: ascending. A frame stays on screen until the next, the last one until the end; the first is there from
    the start. enough: pictures are made smaller as long as both sides keep this many pixels. Where exact frames
    would cost more than `BUDGET`, the key frame before each moment stands for it. Raises Unusable where most of the
    moments have no frame that can be decoded.
    """
    limits = limits or Limits()
    wanted = reel.wanted(moments)
    last = max(wanted)
    keys_only = reel.cost(moments) > BUDGET
    missing = len(moments)
    trouble: list[str] = []
    with opened(path, limits.max_bytes) as container:
        track = _track(container, limits.max_pixels)
        if track is None:
            raise Unusable("the file changed while it was read")
        decoder = track.codec_context
        # frames may not grow far beyond the header; with the packets counted, that bounds the work
        decoder.options = {"max_pixels": str(min(limits.max_pixels, 4 * reel.pixels))}
        decoder.thread_count = 1
        for run, packets in groupby(_numbered(_packets(container, track, limits.seconds)), key=itemgetter(0)):
            if run > last:
                break
            if run in wanted:
                fed = (packet for _, packet in islice(packets, 1 if keys_only else None))
                frames = _decoded(track, fed, reel.zero, trouble)
                for chosen, frame in _on_screen(frames, wanted[run], moments):
                    yield chosen, _picture(frame, track, enough)
                    missing -= len(chosen)
                decoder.flush_buffers()
    if 2 * missing > len(moments):
        why = f": {trouble[0]}" if trouble else ""
        raise Unusable(f"{missing} of {len(moments)} frames cannot be decoded{why}")


def _track(container: InputContainer, max_pixels: int) -> VideoStream | None:
    """The first picture track, all other streams left unread. Raises Unusable for what may not be decoded."""
    from av.stream import Discard, Disposition

    track = next((s for s in container.streams.video if not s.disposition & Disposition.attached_pic), None)
    if track is None:
        return None
    for other in container.streams:
        if other.index != track.index:
            other.discard = Discard.all
    codec = track.codec_context
    name = codec.codec.canonical_name if codec is not None else "unknown"
    if name not in CODECS:
        raise Unusable(f"its pictures are in the codec {name}; expected one of {', '.join(CODECS)}")
    if codec.width * codec.height > max_pixels:
        raise Unusable(f"{codec.width} x {codec.height} pixels a frame, more than the limit of {max_pixels}")
    return track


def _packets(
    container: InputContainer, track: VideoStream, seconds: float
) -> Iterator[tuple[float, Packet[VideoStream]]]:
    """(time stamp in seconds, packet) of the first `seconds`, up to where the file ends or breaks off."""
    from av.error import FFmpegError

    packets = container.demux(track)
    first = None
    for _ in range(int(PACKETS * (seconds + 4))):
        try:
            packet = next(packets, None)
        except (FFmpegError, IndexError):  # IndexError: PyAV at the end of a file in which a stream turned up late
            return
        if packet is None:
            return
        stamp = packet.pts if packet.pts is not None else packet.dts
        if not packet.size or stamp is None:
            continue
        at = _seconds(stamp, track)
        first = at if first is None else first
        if at - first > seconds:
            return
        yield at, packet


def _numbered(packets: Iterable[tuple[float, Packet[VideoStream]]]) -> Iterator[tuple[int, Packet[VideoStream]]]:
    """(run, packet), numbered as in `Reel.runs`."""
    run = -1
    for _, packet in packets:
        run += packet.is_keyframe or run < 0
        yield run, packet


def _decoded(
    track: VideoStream, packets: Iterable[Packet[VideoStream]], zero: float, trouble: list[str]
) -> Iterator[tuple[float, VideoFrame]]:
    """(seconds after `zero`, frame) of one run, to its very end; packets that cannot be decoded are noted."""
    from av.error import FFmpegError

    at = 0.0
    for packet in chain(packets, [None]):
        try:
            frames = track.codec_context.decode(packet)
        except FFmpegError as error:
            trouble.append(reason(error))
            continue
        for frame in frames:
            stamp = frame.pts if frame.pts is not None else frame.dts
            at = at if stamp is None else _seconds(stamp, track) - zero
            yield at, frame


def _on_screen(
    frames: Iterable[tuple[float, VideoFrame]], chosen: list[int], moments: Seconds
) -> Iterator[tuple[list[int], VideoFrame]]:
    """(moments, the frame on screen then): the last one shown before or at the moment."""
    held = None
    for at, frame in frames:
        now = [n for n in chosen if moments[n] < at]
        if held is not None and now:
            yield now, held
            chosen = chosen[len(now) :]
            if not chosen:
                return
        held = frame
    if held is not None:
        yield chosen, held


def _picture(frame: VideoFrame, track: VideoStream, enough: int) -> Image.Image:
    """A frame as an upright RGB picture of square pixels, transparency on white."""
    stretch = min(max(float(track.sample_aspect_ratio or 1), 0.25), 4.0)
    scale = min(1.0, enough / min(frame.width * stretch, frame.height))
    width, height = (max(1, round(side * scale)) for side in (frame.width * stretch, frame.height))
    clear = any(part.is_alpha for part in frame.format.components)
    try:
        small = frame.reformat(width, height, "rgba" if clear else "rgb24", interpolation="BICUBIC")
        image = Image.fromarray(small.to_ndarray())
    except Exception as error:  # libswscale refuses odd sizes and formats in its own ways
        raise Unusable(f"its frames cannot be made RGB: {reason(error)}") from None
    if clear:
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*BACKGROUND, 255)), image).convert("RGB")
    turn = TURNS.get(round(frame.rotation / 90) % 4)
    return image if turn is None else image.transpose(turn)


def _seconds(stamp: int, track: VideoStream) -> float:
    return float(stamp * (track.time_base or 0))
