"""Export targets, one file each: what a serving engine takes of a bundle."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from palate.registry import plugin, plugins
from palate.schema import Dtype


@dataclass(frozen=True)
class Options:
    """What an export may be told.

    dtype: of the weights; None is as the base's files have it. base: another place of the same base. layers: the first
    this many alone. merge: for engines that take LoRA apart, add it into the weights all the same. converter: of a
    GGUF, the path of llama.cpp's convert_hf_to_gguf.py; None fetches a pinned one. outtype: of a GGUF, how the
    converter stores weights.
    """

    dtype: Dtype | None = None
    base: str | None = None
    layers: int | None = None
    merge: bool = False
    converter: Path | None = None
    outtype: str = "auto"


@dataclass(frozen=True)
class Export:
    """What a target says of the files it wrote.

    model: where the weights are, and how they are held. lost: what of the bundle is not in them. use: lines of Markdown
    on how to run it. more: further facts for palate-export.json.
    """

    model: dict[str, Any]
    lost: tuple[str, ...]
    use: str
    more: dict[str, Any] = field(default_factory=dict)


class Target(ABC):
    """One kind of folder. `name` is what --to calls it, `takes` the options beside dtype, base and layers it reads."""

    name: ClassVar[str]
    takes: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def write(self, bundle: Path, folder: Path, options: Options) -> Export:
        """Write the bundle's model into the empty `folder`."""


def target(name: str) -> Target:
    """The target of that name. Raises ConfigError that lists the choices."""
    made: Target = plugin(__name__, Target, name)()  # type: ignore[type-abstract]
    return made


def names() -> list[str]:
    """What --to may name."""
    return list(plugins(__name__, Target))  # type: ignore[type-abstract]
