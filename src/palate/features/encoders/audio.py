"""Audio encoder: sound to vectors; acoustic statistics by default, any audio model of transformers by source."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from palate.config import Config
from palate.features import acoustics
from palate.features.container import MAX_BYTES
from palate.features.device import pick
from palate.features.encoders import ContentEncoder, Encoded
from palate.features.files import file_identity
from palate.features.prefetch import default_workers, prefetch
from palate.features.problem import Unusable
from palate.features.sound import MAX_SECONDS, decode
from palate.schema import Floats, Item

if TYPE_CHECKING:
    from palate.features.encoders._audition import Backend


class AudioOptions(Config):
    """tokens: the clip is cut in that many equal stretches, each a vector, in the order of time. max_seconds:
    only the first so many seconds count; what comes later is not even read. pooling: "mean" averages the last
    hidden state instead of the model's own audio vector. batch: clips a forward pass (0: 4 on a CPU, 32 on a
    GPU). workers: decoding threads (0: one per core). max_bytes: a larger file costs that item's sound.
    """

    tokens: int = Field(1, ge=1, le=64)
    max_seconds: float = Field(MAX_SECONDS, gt=0, le=3600)
    pooling: Literal["auto", "mean"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch: int = Field(0, ge=0)
    workers: int = Field(0, ge=0)
    device: str = "auto"
    max_bytes: int = Field(MAX_BYTES, ge=1)


class AudioEncoder(ContentEncoder):
    """Vectors of the sound in `item.media[modality]`. Threads decode ahead of the batched forward pass.

    Without a source: `palate.features.acoustics`, 207 wide, no weights. With one: CLAP, Whisper, AST, wav2vec
    2.0, HuBERT and their like (`_audition.py`). A film is heard too: its first sound track.
    """

    name = "audio"
    Options = AudioOptions
    options: AudioOptions

    @cached_property
    def backend(self) -> Backend:
        from palate.features.encoders import _audition

        o = self.options
        return _audition.load(self.weights, o.dtype, pick(o.device) if self.source else "cpu", o.pooling)

    @cached_property
    def batch(self) -> int:
        return self.options.batch or (4 if self.source is None or pick(self.options.device) == "cpu" else 32)

    @property
    def tokens(self) -> int:
        return self.options.tokens

    @property
    def width(self) -> int:
        return self.tokens * (acoustics.WIDTH if self.source is None else self.backend.width)

    @property
    def rate(self) -> int:
        """Samples a second that the backend hears."""
        return acoustics.RATE if self.source is None else self.backend.rate

    def identity(self, item: Item) -> bytes | None:
        path = item.media.get(self.modality)
        return None if path is None else file_identity(path, self.options.max_bytes)

    def encode(self, items: Sequence[Item]) -> Encoded:
        vectors = np.zeros((len(items), self.width), dtype=np.float32)
        present = np.zeros(len(items), dtype=bool)
        problems = []
        ready: list[tuple[int, list[Any]]] = []
        for row, prepared in enumerate(self._prepared(items)):
            if isinstance(prepared, Unusable):
                problems.append(self.problem(items[row], str(prepared)))
            else:
                ready.append((row, prepared))
            if ready and (len(ready) == self.batch or row + 1 == len(items)):
                rows = [r for r, _ in ready]
                made = self.backend.forward([stretch for _, clip in ready for stretch in clip])
                vectors[rows] = made.reshape(len(rows), self.width)
                present[rows] = True
                ready = []
        return Encoded(vectors, present, problems)

    def describe(self, clips: Sequence[Floats]) -> Floats:
        """Vectors float32 [n, width] of clips of mono samples [S] at `self.rate` Hz, such as a film's sound."""
        stretches = [s for clip in clips for s in self._stretches(clip)]
        return self.backend.forward(stretches).reshape(len(clips), self.width)

    def _stretches(self, samples: Floats) -> list[Any]:
        """What the backend batches, for each of the clip's equal stretches."""
        return [self.backend.prepare(part) for part in np.array_split(samples, self.tokens)]

    def _prepared(self, items: Sequence[Item]) -> Iterator[Any]:
        """The prepared stretches of each item, or the Unusable that says why not; two batches ahead."""
        o, rate = self.options, self.rate  # `rate` loads the network before the threads start

        def work(item: Item) -> Any:
            try:
                samples = decode(item.media[self.modality], rate, o.max_seconds, max_bytes=o.max_bytes)
                if not len(samples):
                    raise Unusable("its sound track has no samples")
                return self._stretches(samples)
            except Unusable as reason:
                return reason

        return prefetch(work, items, o.workers or default_workers(), ahead=2 * self.batch)
