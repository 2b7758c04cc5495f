"""What encoders and captioners share: weights from a source, options, and a fingerprint of all that counts."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from palate.config import Config
from palate.features.prefetch import default_workers, prefetch
from palate.features.problem import Problem, Unusable
from palate.schema import Item


class NoOptions(Config):
    """Options of a plug-in that has none."""


class Sourced(ABC):
    """A plug-in that reads one medium of items with the weights of one source.

    kind, name: what it is and what a config calls it. version: raise it when the code changes the results.
    default_source: model source where the config names none (None: needs no weights). modality: the key of
    `Item.media` it reads. neutral: options that do not change the results, such as batch size; they stay out
    of the fingerprint.
    """

    kind: ClassVar[str]
    name: ClassVar[str]
    version: ClassVar[int] = 1
    default_source: ClassVar[str | None] = None
    Options: ClassVar[type[Config]] = NoOptions
    neutral: ClassVar[frozenset[str]] = frozenset({"batch", "workers", "device", "max_bytes", "max_pixels"})

    def __init__(self, modality: str, source: str | None, options: Mapping[str, Any], where: str):
        """where: the config key of the options, for errors. Raises ConfigError for a wrong option."""
        self.modality = modality
        self.source = source or self.default_source
        self.options = self.Options.parse(dict(options), where)

    @abstractmethod
    def identity(self, item: Item) -> bytes | None:
        """Bytes that stand for what is read (a content hash), None where the item has no such medium.

        Raises Unusable where it has one that cannot be read.
        """

    @cached_property
    def weights(self) -> Path | None:
        """The file or folder of the source, fetched on first use; None where no weights are needed."""
        from palate import sources

        return None if self.source is None else sources.fetch(self.source)

    @cached_property
    def fingerprint(self) -> str:
        """Identifies plug-in, code version, weights, options and what else the results depend on."""
        from palate import sources

        facts = {
            self.kind: self.name,
            "version": self.version,
            "weights": None if self.weights is None else sources.digest(self.weights),
            "options": {k: v for k, v in self.options.model_dump(mode="json").items() if k not in self.neutral},
            **self._facts(),
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return f"{self.name}-{digest[:24]}"

    def _facts(self) -> Mapping[str, str]:
        """More that the results depend on."""
        return {}

    def problem(self, item: Item, reason: str) -> Problem:
        return Problem(item.item_id, self.modality, str(item.media.get(self.modality, "")), reason)


def content_keys(plugin: Sourced, items: Sequence[Item]) -> tuple[list[bytes | None], list[Problem]]:
    """sha256 of fingerprint and content for each item (None: no usable medium), hashed in threads."""
    prefix = plugin.fingerprint.encode()

    def identify(item: Item) -> bytes | Unusable | None:
        try:
            return plugin.identity(item)
        except Unusable as reason:
            return reason

    keys: list[bytes | None] = []
    problems = []
    found = prefetch(identify, items, default_workers(), ahead=256)
    for item, identity in zip(items, found, strict=True):
        if isinstance(identity, Unusable):
            problems.append(plugin.problem(item, str(identity)))
            identity = None
        keys.append(None if identity is None else hashlib.sha256(prefix + b"\0" + identity).digest())
    return keys, problems
