"""Palate: a multimodal recommender that lives inside a language model you own.

Names are loaded on first use, so that `import palate` stays quick and imports no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palate.data import Dataset, import_dataset
    from palate.errors import PalateError
    from palate.recommender import Recommender
    from palate.schema import Event, Item, Request, Scores

__version__ = "0.1.0"

_HOME = {
    "Dataset": "palate.data",
    "import_dataset": "palate.data",
    "PalateError": "palate.errors",
    "Recommender": "palate.recommender",
    "Event": "palate.schema",
    "Item": "palate.schema",
    "Request": "palate.schema",
    "Scores": "palate.schema",
}

__all__ = ["Dataset", "Event", "Item", "PalateError", "Recommender", "Request", "Scores", "import_dataset"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module 'palate' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
