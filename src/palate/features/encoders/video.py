"""Video encoder: films to vectors in the order of time, frames through an image encoder and the sound beside them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from palate.config import EncoderConfig
from palate.features import sound
from palate.features.container import MAX_BYTES
from palate.features.encoders import Encoded
from palate.features.encoders.audio import AudioEncoder
from palate.features.encoders.image import VisionEncoder, VisionOptions
from palate.features.files import file_identity
from palate.features.film import MAX_PIXELS, MAX_SECONDS, Limits, Reel, stills, survey
from palate.features.prefetch import default_workers, prefetch
from palate.features.problem import Unusable
from palate.schema import Floats, Item


class VideoOptions(VisionOptions):
    """tokens: the film is cut in that many equal stretches, each a vector, in the order of time. fps: frames looked
    at a second. frames: at most so many of one film (but one a stretch), spread evenly. max_seconds: only the first
    so many count. sound: false leaves the sound out. sound_source: weights of the audio encoder (None: statistics).
    max_bytes, max_pixels (of one frame): a larger file costs that item's film.
    """

    tokens: int = Field(4, ge=1, le=64)
    fps: float = Field(1.0, gt=0, le=60)
    frames: int = Field(32, ge=1, le=1024)
    max_seconds: float = Field(MAX_SECONDS, gt=0, le=7200)
    sound: bool = True
    sound_source: str | None = None
    max_bytes: int = Field(MAX_BYTES, ge=1)
    max_pixels: int = Field(MAX_PIXELS, ge=1)


@dataclass(frozen=True, slots=True)
class Watched:
    """A film made ready for the networks. pictures: each different frame once. shares: float32 [T, n], how much each
    of the n counts in each of the T stretches. sounds: one a stretch, None where there is none.
    """

    pictures: list[Any]
    shares: Floats
    sounds: list[Any]


class VideoEncoder(VisionEncoder):
    """Films in `item.media[modality]`, a vector for each of `tokens` stretches of equal length.

    A stretch is [mean of its frames' image vectors | vector of its sound | 1 if it has a picture | 1 if it has sound],
    zero where it has none; without the option sound, [image | 1 if it has a picture]. The source names the image
    encoder's weights. Frames are those on screen at even moments, so neither frame rate nor codec matters; a film
    shorter than its stretches shows the same frame in several. Threads decode ahead of the batched forward pass.
    """

    name = "video"
    chunk = 32
    Options = VideoOptions
    options: VideoOptions

    @cached_property
    def audio(self) -> AudioEncoder | None:
        """What hears the sound track."""
        o = self.options
        config = EncoderConfig(source=o.sound_source, options={"dtype": o.dtype, "device": o.device})
        return AudioEncoder(config) if o.sound else None

    @property
    def tokens(self) -> int:
        return self.options.tokens

    @property
    def width(self) -> int:
        return self.tokens * (self.picture_width + 1 + (self.audio.width + 1 if self.audio else 0))

    def identity(self, item: Item) -> bytes | None:
        path = item.media.get(self.modality)
        return None if path is None else file_identity(path, self.options.max_bytes)

    def _facts(self) -> Mapping[str, str]:
        return {"sound": self.audio.fingerprint} if self.audio else {}

    def encode(self, items: Sequence[Item]) -> Encoded:
        vectors = np.zeros((len(items), self.width), dtype=np.float32)
        present = np.zeros(len(items), dtype=bool)
        problems = []
        ready: list[tuple[int, Watched]] = []
        for row, watched in enumerate(self._watched(items)):
            if isinstance(watched, Unusable):
                problems.append(self.problem(items[row], str(watched)))
            else:
                ready.append((row, watched))
            enough = sum(max(1, len(film.pictures)) for _, film in ready) >= self.batch
            if ready and (enough or row + 1 == len(items)):
                rows = [r for r, _ in ready]
                vectors[rows] = self._vectors([film for _, film in ready])
                present[rows] = True
                ready = []
        return Encoded(vectors, present, problems)

    def _vectors(self, films: Sequence[Watched]) -> Floats:
        """float32 [n, width]."""
        pictures = [p for film in films for p in film.pictures]
        parts = [self.backend.forward(pictures[n : n + self.batch]) for n in range(0, len(pictures), self.batch)]
        seen = np.concatenate([np.zeros((0, self.picture_width), np.float32), *parts])
        images = np.split(seen, np.cumsum([len(film.pictures) for film in films])[:-1])
        shares = [film.shares for film in films]
        columns = [
            np.concatenate([share @ image for share, image in zip(shares, images, strict=True)]),
            np.concatenate([share.any(axis=1, keepdims=True) for share in shares]),
        ]
        if self.audio:
            sounds = [s for film in films for s in film.sounds]
            there = np.array([s is not None for s in sounds])
            heard = np.zeros((len(sounds), self.audio.width), dtype=np.float32)
            if there.any():
                heard[there] = self.audio.backend.forward([s for s in sounds if s is not None])
            columns = [columns[0], heard, columns[1], there[:, None]]
        return np.concatenate(columns, axis=1).astype(np.float32).reshape(len(films), -1)

    def _watched(self, items: Sequence[Item]) -> Iterator[Watched | Unusable]:
        """Each film ready for the networks, or the Unusable that says why not."""
        o = self.options
        _ = self.backend, self.audio and self.audio.backend  # both load before the threads start

        def work(item: Item) -> Watched | Unusable:
            try:
                return self._watch(item.media[self.modality])
            except Unusable as reason:
                return reason

        workers = o.workers or default_workers()
        return prefetch(work, items, workers, ahead=workers)

    def _watch(self, path: Path) -> Watched:
        o = self.options
        limits = Limits(o.max_bytes, o.max_pixels, o.max_seconds)
        reel = survey(path, limits)
        rate = self.audio.rate if self.audio else 1
        samples = self._samples(path, rate)
        if reel is None and not len(samples):
            raise Unusable("there is no picture track in it" + (" and no sound" if o.sound else ""))
        length = max(reel.end if reel else 0.0, len(samples) / rate)
        pictures, shares = self._pictures(path, reel, length, limits)
        edges = np.rint(np.linspace(0.0, length, o.tokens + 1) * rate).astype(int)
        parts = [samples[a:b] for a, b in pairwise(edges)]
        sounds = [self.audio.backend.prepare(part) if self.audio and len(part) else None for part in parts]
        return Watched(pictures, shares, sounds)

    def _samples(self, path: Path, rate: int) -> Floats:
        """Mono samples of the sound track; none where there is none or it is left out."""
        o = self.options
        if not o.sound:
            return np.zeros(0, np.float32)
        try:
            return sound.decode(path, rate, o.max_seconds, max_bytes=o.max_bytes)
        except sound.NoSound:
            return np.zeros(0, np.float32)
        except Unusable as reason:
            raise Unusable(f"its sound track: {reason}; the option sound: false takes the pictures alone") from None

    def _pictures(self, path: Path, reel: Reel | None, length: float, limits: Limits) -> tuple[list[Any], Floats]:
        """Prepared frames [n] and their shares [T, n] in the stretches."""
        o = self.options
        if reel is None:
            return [], np.zeros((o.tokens, 0), np.float32)
        each = max(1, min(ceil(length * o.fps / o.tokens), o.frames // o.tokens))
        count = o.tokens * each
        moments = (np.arange(count) + 0.5) * length / count
        pictures, shares = [], []
        for chosen, picture in stills(path, reel, moments, 2 * self.backend.side, limits):
            pictures.append(self.backend.prepare(picture))
            shares.append(np.bincount(np.asarray(chosen) // each, minlength=o.tokens))
        table = np.array(shares, dtype=np.float32).T  # [T, n]
        return pictures, table / np.maximum(table.sum(axis=1, keepdims=True), 1.0)
