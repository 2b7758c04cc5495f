"""Encoders: items to vectors. One file each; a new file in this folder is found by itself.

A content encoder reads one item's own medium (a picture, its text), so its vectors are cached by content
and it works for items added after training. A collaborative encoder is fitted on train interactions.

    class Loudness(ContentEncoder):
        name = "loudness"
        width = 2
        def identity(self, item): ...     bytes that stand for the medium, None where the item has none
        def encode(self, items): ...      Encoded(vectors, present, problems)
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import ClassVar, NamedTuple, Self

import numpy as np

from palate import registry
from palate.config import Config, EncoderConfig
from palate.errors import FeatureError
from palate.features.problem import Problem, Unusable
from palate.schema import Bools, Floats, Interactions, Item

PACKAGE = "palate.features.encoders"

__all__ = [
    "CollaborativeEncoder",
    "ContentEncoder",
    "Encoded",
    "Encoder",
    "NoOptions",
    "Problem",
    "Unusable",
    "build",
]


class Encoded(NamedTuple):
    """vectors float32 [n, F], zero where present (bool [n]) is False; problems: what could not be used."""

    vectors: Floats
    present: Bools
    problems: list[Problem]


class NoOptions(Config):
    """Options of an encoder that has none."""


class Encoder(ABC):
    """Turns items into vectors of `width` floats under one `fingerprint`.

    name: what `encoder:` in a config names. modality: the key of the feature table and of `Item.media`; the
    config's key, by default the encoder's name. version: raise it when the code changes the vectors.
    default_source: model source where the config names none (None: needs no weights).
    neutral: options that do not change the vectors, such as batch size; they stay out of the fingerprint.
    """

    name: ClassVar[str]
    version: ClassVar[int] = 1
    default_source: ClassVar[str | None] = None
    Options: ClassVar[type[Config]] = NoOptions
    neutral: ClassVar[frozenset[str]] = frozenset({"batch", "workers", "device", "max_bytes", "max_pixels"})

    def __init__(self, config: EncoderConfig | None = None, modality: str | None = None):
        config = config or EncoderConfig()
        self.modality = modality or self.name
        self.source = config.source or self.default_source
        self.options = self.Options.parse(dict(config.options), f"features.{self.modality}.options")

    @property
    @abstractmethod
    def width(self) -> int:
        """Length of a vector, all its tokens together."""

    @property
    def tokens(self) -> int:
        """How many vectors of equal width a row is made of (see `schema.Features`)."""
        return 1

    @abstractmethod
    def identity(self, item: Item) -> bytes | None:
        """Bytes that stand for what is encoded (a content hash), None where the item has no such medium.

        Raises Unusable where it has one that cannot be read.
        """

    @abstractmethod
    def encode(self, items: Sequence[Item]) -> Encoded:
        """Vectors of items that have an identity. A bad medium: that row is not present, and a Problem."""

    @cached_property
    def weights(self) -> Path | None:
        """The file or folder of the source, fetched on first use; None where the encoder needs no weights."""
        from palate import sources

        return None if self.source is None else sources.fetch(self.source)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies encoder, code version, weights and options (and, if collaborative, the interactions)."""
        from palate import sources

        facts = {
            "encoder": self.name,
            "version": self.version,
            "weights": None if self.weights is None else sources.digest(self.weights),
            "options": {k: v for k, v in self.options.model_dump(mode="json").items() if k not in self.neutral},
            **self._facts(),
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:24]}"

    def _facts(self) -> Mapping[str, str]:
        """More that the vectors depend on."""
        return {}

    def problem(self, item: Item, reason: str) -> Problem:
        return Problem(item.item_id, self.modality, str(item.media.get(self.modality, "")), reason)


class ContentEncoder(Encoder):
    """Encodes each item by itself, from its own content."""


class CollaborativeEncoder(Encoder):
    """Encodes items from who chose them. `fit` takes the train split and nothing else."""

    interactions: Interactions | None = None

    def fit(self, interactions: Interactions) -> Self:
        """Remember the train interactions; the work itself may wait for `encode`."""
        self.interactions = interactions
        self.__dict__.pop("fingerprint", None)
        return self

    @property
    def fitted(self) -> Interactions:
        """The interactions. Raises FeatureError before `fit`."""
        if self.interactions is None:
            raise FeatureError(
                f"encoder {self.name!r} learns from interactions: pass the train split, or leave out "
                f"the modality {self.modality!r}"
            )
        return self.interactions

    def _facts(self) -> Mapping[str, str]:
        return {"interactions": interactions_hash(self.fitted)}


def interactions_hash(interactions: Interactions) -> str:
    """sha256 of who chose what in which order (users' names, timestamps and ratings do not count)."""
    digest = hashlib.sha256(json.dumps(interactions.item_ids).encode())
    for array in (interactions.indptr, interactions.items):
        digest.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
    return digest.hexdigest()


def build(config: Mapping[str, EncoderConfig]) -> dict[str, Encoder]:
    """Modality -> encoder, in the config's order. Weights load when first used.

    Raises ConfigError for an encoder or option that does not exist.
    """
    found: dict[str, Encoder] = {}
    for modality, chosen in config.items():
        cls = registry.plugin(PACKAGE, Encoder, chosen.encoder or modality)  # type: ignore[type-abstract]
        found[modality] = cls(chosen, modality)
    return found
