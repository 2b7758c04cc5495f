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

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple, Self

from palate import registry
from palate.config import EncoderConfig
from palate.errors import FeatureError
from palate.features.problem import Problem, Unusable
from palate.features.sourced import NoOptions, Sourced
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


class Encoder(Sourced):
    """Turns items into vectors of `width` floats under one `fingerprint`.

    name: what `encoder:` in a config names. modality: the key of the feature table and of `Item.media`; the
    config's key, by default the encoder's name. chunk: items encoded between two writes of the cache: what a kill
    can cost, and how often progress shows.
    """

    kind = "encoder"
    chunk: ClassVar[int] = 512

    def __init__(self, config: EncoderConfig | None = None, modality: str | None = None):
        config = config or EncoderConfig()
        modality = modality or self.name
        super().__init__(modality, config.source, config.options, f"features.{modality}.options")

    @property
    @abstractmethod
    def width(self) -> int:
        """Length of a vector, all its tokens together."""

    @property
    def tokens(self) -> int:
        """How many vectors of equal width a row is made of (see `schema.Features`)."""
        return 1

    @abstractmethod
    def encode(self, items: Sequence[Item]) -> Encoded:
        """Vectors of items that have an identity. A bad medium: that row is not present, and a Problem."""


class ContentEncoder(Encoder):
    """Encodes each item by itself, from its own content."""


class CollaborativeEncoder(Encoder):
    """Encodes items from who chose them. `fit` takes the train split and nothing else.

    What its vectors mean lies in their products: another fit may come out rotated (`features.align` turns it back).
    """

    parts: ClassVar[int] = 1
    """A vector is so many parts of equal width; one rotation of all parts alike leaves its meaning as it is."""
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
        return {"interactions": self.fitted.digest}


def build(config: Mapping[str, EncoderConfig]) -> dict[str, Encoder]:
    """Modality -> encoder, in the config's order. Weights load when first used.

    Raises ConfigError for an encoder or option that does not exist.
    """
    found: dict[str, Encoder] = {}
    for modality, chosen in config.items():
        cls = registry.plugin(PACKAGE, Encoder, chosen.encoder or modality)  # type: ignore[type-abstract]
        found[modality] = cls(chosen, modality)
    return found
