"""Values computed from a model and kept for as long as its weights and tables stay the same."""

from __future__ import annotations

import uuid
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor

from palate.model import Model

T = TypeVar("T")


class ModelCache(Generic[T]):
    """One value a model; forgotten when a trained weight or a feature table changes.

    Tensors are compared by identity and by torch's own count of in-place changes. The frozen base is not
    watched, nor which of the adapters on a shared base is in force: each is a model of its own.
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
    return tuple(t._version for t in tensors)


class Stamps:
    """A name for the state a model is in: the same for as long as its weights, tables and adapter are the same."""

    def __init__(self) -> None:
        self._names: ModelCache[bytes] = ModelCache()

    def of(self, model: Model) -> bytes:
        """16 bytes; a fresh name whenever the state has changed or cannot be watched."""
        return self._names.get(model) or self._names.put(model, uuid.uuid4().bytes)
