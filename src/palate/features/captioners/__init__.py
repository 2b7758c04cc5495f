"""Captioners: an item's medium to a line of text. One file each; a new file in this folder is found by itself.

Where encoders give vectors that become soft tokens, captioners give words, which any base reads untuned.

    class Shouting(Captioner):
        name = "shouting"
        medium = "audio"
        def identity(self, item): ...     bytes that stand for the medium, None where the item has none
        def caption(self, items): ...     Captioned(texts, problems)
"""

from __future__ import annotations

import unicodedata
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

from palate import registry
from palate.config import CaptionConfig
from palate.errors import ConfigError
from palate.features.prefetch import default_workers, prefetch
from palate.features.problem import Problem, Unusable
from palate.features.sourced import NoOptions, Sourced
from palate.schema import Item

PACKAGE = "palate.features.captioners"
MAX_CHARS = 500
"""A caption is cut to this many characters."""

__all__ = ["Captioned", "Captioner", "NoOptions", "Problem", "Unusable", "build", "one_line"]


class Captioned(NamedTuple):
    """texts: one an item; "" where the captioner has nothing to say, None where the medium is unusable.
    problems: why it is.
    """

    texts: list[str | None]
    problems: list[Problem]


class Captioner(Sourced):
    """Turns one medium of items into text under one `fingerprint`.

    name: what `captioner:` in a config names. medium: the key of `Item.media` it reads where the config names
    none. example: where there is no default source, one that a config could name.
    """

    kind = "captioner"
    medium: ClassVar[str] = "image"
    example: ClassVar[str] = ""

    def __init__(self, config: CaptionConfig | None = None, field: str = "caption"):
        config = config or CaptionConfig()
        self.field = field
        if self.example and not config.source:
            raise ConfigError(
                f"captions.{field}.source: expected a model for the captioner {self.name!r}, which has no default; "
                f"for example {self.example} or path:DIR"
            )
        super().__init__(config.medium or self.medium, config.source, config.options, f"captions.{field}.options")

    @abstractmethod
    def caption(self, items: Sequence[Item]) -> Captioned:
        """Texts of items that have an identity. A bad medium: None, and a Problem."""

    def in_batches(
        self,
        items: Sequence[Item],
        prepare: Callable[[Item], Any],
        write: Callable[[list[Any]], list[str]],
        batch: int,
        workers: int = 0,
    ) -> Captioned:
        """`caption` of a network: media prepared in threads, two batches ahead, and written on in batches.

        prepare: reads one item's medium, or raises Unusable; write: one text for each of what it gave.
        workers: threads (0: one per core).
        """
        texts: list[str | None] = [None] * len(items)
        problems = []

        def work(item: Item) -> Any:
            try:
                return prepare(item)
            except Unusable as reason:
                return reason

        ready: list[tuple[int, Any]] = []
        for row, prepared in enumerate(prefetch(work, items, workers or default_workers(), ahead=2 * batch)):
            if isinstance(prepared, Unusable):
                problems.append(self.problem(items[row], str(prepared)))
            else:
                ready.append((row, prepared))
            if ready and (len(ready) == batch or row + 1 == len(items)):
                for (n, _), text in zip(ready, write([p for _, p in ready]), strict=True):
                    texts[n] = text
                ready = []
        return Captioned(texts, problems)


def build(config: Mapping[str, CaptionConfig]) -> dict[str, Captioner]:
    """Text field -> captioner, in the config's order. Weights load when first used.

    Raises ConfigError for a captioner or option that does not exist.
    """
    found: dict[str, Captioner] = {}
    for field, chosen in config.items():
        cls = registry.plugin(PACKAGE, Captioner, chosen.captioner)  # type: ignore[type-abstract]
        found[field] = cls(chosen, field)
    return found


def one_line(text: str, limit: int = MAX_CHARS) -> str:
    """`text` as one clean line: runs of blanks become a space; control, invisible and undecodable characters go."""
    words = " ".join(text[: 4 * limit].replace("\ufffd", "").split())
    return " ".join("".join(c for c in words if unicodedata.category(c)[0] != "C").split())[:limit].strip()
