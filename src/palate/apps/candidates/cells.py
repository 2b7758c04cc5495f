"""Cells of a candidate file: ids, histories and contexts as people and programs write them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from palate.schema import Event

_MISSING = object()


def text(value: Any) -> str:
    """A cell as an id: numbers lose a trailing .0, None is empty."""
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()


def _listed(value: Any) -> list[Any]:
    """A list cell: native, a JSON list, or ids separated by `|` or spaces. Raises ValueError."""
    if value is None:
        return []
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                value = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"not a JSON list: {error}") from None
        else:
            return [p.strip() for p in text.split("|")] if "|" in text else text.split()
    if isinstance(value, int) and not isinstance(value, bool):
        return [value]
    if not isinstance(value, list):
        raise ValueError(f"expected a list of item ids, got {type(value).__name__}")
    return value


def parse_ids(value: Any) -> tuple[str, ...]:
    """Item ids of a candidates cell. Raises ValueError where it is not a list of ids."""
    ids = _listed(value)
    for one in ids:
        if isinstance(one, dict | list | bool):
            raise ValueError(f"expected item ids, got {one!r}")
    return tuple(map(text, ids))


def parse_history(value: Any) -> tuple[Event, ...]:
    """Events of a history cell, oldest first. Raises ValueError where it is not a list of ids or events."""
    events = []
    for one in _listed(value):
        if isinstance(one, str):
            events.append(Event(one.strip()))
        elif isinstance(one, dict):
            extra = set(one) - {"item_id", "timestamp", "rating", "context", "review"}
            if "item_id" not in one or extra:
                raise ValueError(f"expected item_id, timestamp and rating in a history entry, got {sorted(one)}")
            events.append(
                Event(
                    text(one["item_id"]),
                    _float(one.get("timestamp"), "timestamp"),
                    _float(one.get("rating"), "rating"),
                    parse_context(one.get("context")),
                    str(one.get("review") or ""),
                )
            )
        elif isinstance(one, list | bool):
            raise ValueError(f"expected item ids in the history, got {one!r}")
        else:
            events.append(Event(text(one)))
    return tuple(events)


def _float(value: Any, what: str) -> float | None:
    if value is None or value == "":
        return None
    try:
        parsed = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"expected a number as {what}, got {str(value)[:40]!r}") from None
    if not math.isfinite(parsed):
        raise ValueError(f"expected a finite {what}, got {value!r}")
    return parsed


def parse_context(value: Any) -> dict[str, str]:
    """A context cell: a mapping, or JSON text of one. Raises ValueError otherwise."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return {}
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            value = _MISSING
    if isinstance(value, list) and all(isinstance(p, tuple) and len(p) == 2 for p in value):
        value = dict(value)  # how pyarrow hands over a map column
    if not isinstance(value, Mapping):
        raise ValueError('expected a mapping such as {"time": "evening"}')
    return {str(k): text(v) for k, v in value.items() if v is not None}
