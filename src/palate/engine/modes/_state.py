"""Values computed from a model and kept for as long as its weights and tables stay the same."""

from __future__ import annotations

from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor

from palate.model import Model

T = TypeVar("T")


class ModelCache(Generic[T]):
    """One value a model; forgotten when a trained weight, a feature table or the active adapter changes.

    Tensors are compared by identity and by torch's own count of in-place changes. The frozen base is not
    watched.
    """

    def __init__(self) -> None:
        self._kept: WeakKeyDictionary[Model, tuple[list[Tensor], tuple[Any, ...], T]] = WeakKeyDictionary()

    def get(self, model: Model) -> T | None:
        """The value kept for this model, or None where there is none or it is out of date."""
        if model not in self._kept:
            return None
        tensors, marks, value = self._kept[model]
        now = _watched(model)
        same = len(now) == len(tensors) and all(a is b for a, b in zip(now, tensors, strict=True))
        if same and marks == _marks(model, now) is not None:
            return value
        del self._kept[model]
        return None

    def put(self, model: Model, value: T) -> T:
        """Keep `value` for this model and return it."""
        now = _watched(model)
        marks = _marks(model, now)
        if marks is not None:
            self._kept[model] = (now, marks, value)
        return value


def _watched(model: Model) -> list[Tensor]:
    tensors: list[Tensor] = [p for p in model.parameters() if p.requires_grad]
    if model.soft is not None:
        tensors += [*model.soft.parameters(), *model.soft.buffers()]
    return tensors


def _marks(model: Model, tensors: list[Tensor]) -> tuple[Any, ...] | None:
    """Change counts; None where a tensor has none (it was made in inference mode), so nothing may be kept."""
    if any(t.is_inference() for t in tensors):
        return None
    adapters = tuple(getattr(model.lm, "active_adapters", ())) if hasattr(model.lm, "peft_config") else ()
    return (adapters, tuple(t._version for t in tensors))
