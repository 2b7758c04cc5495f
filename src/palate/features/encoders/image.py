"""Image encoder: pictures to vectors, pooled or a grid of patches; EfficientNet-Lite0 by default, any vision model
by source.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from palate.config import Config
from palate.features.device import pick
from palate.features.encoders import ContentEncoder, Encoded
from palate.features.files import file_identity, read_bounded
from palate.features.picture import MAX_BYTES, MAX_PIXELS, decode, decoding
from palate.features.prefetch import default_workers, prefetch
from palate.features.problem import Unusable
from palate.schema import Floats, Item

if TYPE_CHECKING:
    from palate.features.encoders._vision import Backend

WIDTH = 1280


class VisionOptions(Config):
    """backend: "auto" tells it from the source's files. pooling: "mean" averages the last hidden state
    instead of the model's own image vector. batch: pictures a forward pass (0: 8 on a CPU, whose caches a
    larger one spills, 64 on a GPU). workers: decoding threads (0: one per core).
    """

    backend: Literal["auto", "efficientnet-lite0", "transformers", "timm", "sentence-transformers"] = "auto"
    pooling: Literal["auto", "mean"] = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch: int = Field(0, ge=0)
    workers: int = Field(0, ge=0)
    device: str = "auto"


class ImageOptions(VisionOptions):
    """grid: 1 is one vector a picture; g above 1 gives g x g patches in reading order, each a token of its own:
    the last feature map, averaged to that many cells (`pooling` has no part in it). max_bytes and max_pixels: a
    larger file costs that item's picture.
    """

    # came later: left out of the fingerprint at its default, so that fingerprints of before still hold
    grid: int = Field(1, ge=1, le=32, exclude_if=lambda grid: grid == 1)
    max_bytes: int = Field(MAX_BYTES, ge=1)
    max_pixels: int = Field(MAX_PIXELS, ge=1)


class VisionEncoder(ContentEncoder):
    """What encoders of pictures and of films share: the network that sees."""

    default_source = "efficientnet-lite0"
    Options = VisionOptions
    options: VisionOptions

    @cached_property
    def backend(self) -> Backend:
        from palate.features.encoders import _vision

        assert self.weights is not None  # there is a default source
        o = self.options
        return _vision.load(self.weights, o.backend, o.dtype, pick(o.device), o.pooling)

    @cached_property
    def batch(self) -> int:
        return self.options.batch or (8 if pick(self.options.device) == "cpu" else 64)

    @property
    def unloaded(self) -> bool:
        """The network is the default one, whose width is known, and not yet in memory."""
        return self.source == self.default_source and "backend" not in self.__dict__

    @property
    def picture_width(self) -> int:
        """Length of one picture's pooled vector."""
        return WIDTH if self.unloaded else self.backend.width


class ImageEncoder(VisionEncoder):
    """Vectors of `item.media[modality]`. Threads decode ahead of the batched forward pass."""

    name = "image"
    Options = ImageOptions
    options: ImageOptions

    @property
    def tokens(self) -> int:
        return self.options.grid**2

    @property
    def width(self) -> int:
        if self.options.grid == 1:
            return self.picture_width
        return self.tokens * (WIDTH if self.unloaded else self.backend.patch_width)

    def identity(self, item: Item) -> bytes | None:
        path = item.media.get(self.modality)
        return None if path is None else file_identity(path, self.options.max_bytes)

    def encode(self, items: Sequence[Item]) -> Encoded:
        vectors = np.zeros((len(items), self.width), dtype=np.float32)
        present = np.zeros(len(items), dtype=bool)
        problems = []
        ready: list[tuple[int, Any]] = []
        with decoding():
            for row, prepared in enumerate(self._prepared(items)):
                if isinstance(prepared, Unusable):
                    problems.append(self.problem(items[row], str(prepared)))
                else:
                    ready.append((row, prepared))
                if ready and (len(ready) == self.batch or row + 1 == len(items)):
                    rows = [r for r, _ in ready]
                    vectors[rows] = self._forward([p for _, p in ready])
                    present[rows] = True
                    ready = []
        return Encoded(vectors, present, problems)

    def _forward(self, batch: list[Any]) -> Floats:
        """float32 [n, width]."""
        grid = self.options.grid
        return self.backend.forward(batch) if grid == 1 else self.backend.patches(batch, grid).reshape(len(batch), -1)

    def _prepared(self, items: Sequence[Item]) -> Iterator[Any]:
        """What the backend batches for each item, or the Unusable that says why not; two batches ahead."""
        backend, options = self.backend, self.options

        def work(item: Item) -> Any:
            try:
                data = read_bounded(item.media[self.modality], options.max_bytes)
                return backend.prepare(decode(data, options.max_pixels, enough=2 * backend.side))
            except Unusable as reason:
                return reason

        return prefetch(work, items, options.workers or default_workers(), ahead=2 * self.batch)
