"""The facade people import: `Recommender.load(...)`, then score, recommend, explain, chat.

Loaded on first use: the filters and the shelf beside it need no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from palate.recommender.core import Recommendation, Recommender
    from palate.recommender.explanation import Contribution, Explanation, Part

_HOME = {
    "Contribution": "palate.recommender.explanation",
    "Explanation": "palate.recommender.explanation",
    "Part": "palate.recommender.explanation",
    "Recommendation": "palate.recommender.core",
    "Recommender": "palate.recommender.core",
}

__all__ = ["Contribution", "Explanation", "Part", "Recommendation", "Recommender"]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
