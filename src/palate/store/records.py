"""What goes into a store and comes out of it: frozen, bounded, and without a thread to the database."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from palate.errors import RequestError
from palate.schema import Event

Kind = Literal["interaction", "like", "dislike", "seen"]
Role = Literal["user", "assistant"]
KINDS: tuple[Kind, ...] = get_args(Kind)
ROLES: tuple[Role, ...] = get_args(Role)
MAX_ID = 256
"""Characters of a user's, an item's or a model's name."""
MAX_TEXT = 64 << 10
"""Bytes of a turn's text, and of an event's context."""
MAX_JSON = 1 << 20
"""Bytes of a session's state, and of the items of a turn."""
AHEAD = 86_400.0
"""Seconds that a client's clock may be ahead."""


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """One thing a person did or said about an item. At least one of `user` and `session` is known.

    rating: None where none was given. timestamp: seconds since 1970; None becomes the time of storing.
    Raises RequestError where a value is not what the store keeps.
    """

    user: str | None
    item: str
    kind: Kind = "interaction"
    rating: float | None = None
    timestamp: float | None = None
    context: Mapping[str, str] = field(default_factory=dict)
    session: str | None = None

    def __post_init__(self) -> None:
        if self.user is None and self.session is None:
            raise RequestError("an event belongs to a user or a session, this one has neither; name one of them")
        if self.user is not None:
            check_id(self.user, "user")
        if self.session is not None:
            check_id(self.session, "session")
        check_id(self.item, "item")
        if self.kind not in KINDS:
            raise RequestError(f"kind: expected one of {', '.join(KINDS)}, got {self.kind!r}")
        if self.rating is not None and not _finite(self.rating):
            raise RequestError(f"rating: expected a finite number, got {self.rating!r}; leave it out if there is none")
        if self.timestamp is not None:
            _check_time(self.timestamp)
        for name, value in self.context.items():
            check_text(name, "context"), check_text(value, f"context {name!r}")
        check_json(dict(self.context), "context", MAX_TEXT)

    def as_event(self) -> Event:
        """As part of a history."""
        return Event(self.item, self.timestamp, self.rating, dict(self.context))


@dataclass(frozen=True, slots=True)
class Feedback:
    """Item ids by the latest word on each, in the order in which that word was said."""

    liked: tuple[str, ...] = ()
    disliked: tuple[str, ...] = ()
    seen: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation. created, updated: seconds since 1970. state: what `Chat` needs to go on."""

    id: str
    user: str | None
    model: str
    created: float
    updated: float
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a conversation, numbered from 1. items: those it names, as given to `Store.save_turn`."""

    number: int
    role: Role
    text: str
    items: tuple[Any, ...]
    created: float


@dataclass(frozen=True, slots=True)
class Forgotten:
    """How many rows went when a person was forgotten."""

    events: int
    sessions: int
    turns: int

    def __bool__(self) -> bool:
        return bool(self.events or self.sessions or self.turns)


def check_id(value: Any, what: str) -> str:
    """An id: text of 1 to MAX_ID characters. RequestError where it is none."""
    if not isinstance(value, str) or not value.strip():
        raise RequestError(f"{what}: expected an id as text, got {value!r:.80}")
    if len(value) > MAX_ID:
        raise RequestError(f"{what}: expected an id of at most {MAX_ID} characters, got {len(value):,}")
    return check_text(value, what)


def check_text(value: Any, what: str) -> str:
    """Text that any database keeps: at most MAX_TEXT bytes, no NUL, no half of a character. RequestError else."""
    if not isinstance(value, str):
        raise RequestError(f"{what}: expected text, got {value!r:.80}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise RequestError(f"{what}: expected text, got half of a character (a lone surrogate)") from None
    if "\0" in value:
        raise RequestError(f"{what}: expected text, got a NUL character in it; leave it out")
    if size > MAX_TEXT:
        raise RequestError(f"{what}: expected at most {MAX_TEXT >> 10} KiB of text, got {size:,} bytes")
    return value


def check_json(value: Any, what: str, most: int = MAX_JSON) -> Any:
    """Plain data as JSON has it, at most `most` bytes. RequestError where it is not."""
    try:
        size = len(json.dumps(value, ensure_ascii=False, allow_nan=False).encode())
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"{what}: expected plain data that JSON can hold, got {error}") from None
    if size > most:
        raise RequestError(f"{what}: expected at most {most >> 10:,} KiB as JSON, got {size:,} bytes")
    return value


def check_turn(role: str, text: str, items: Sequence[Any]) -> None:
    """RequestError where a turn cannot be kept."""
    if role not in ROLES:
        raise RequestError(f"role: expected {' or '.join(ROLES)}, got {role!r}")
    check_text(text, "text")
    check_json(list(items), "items")


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _check_time(value: Any) -> None:
    if not _finite(value):
        raise RequestError(f"timestamp: expected seconds since 1970, got {value!r}")
    if value > time.time() + AHEAD:
        raise RequestError(f"timestamp: expected seconds since 1970, got {value!r}, which is in the future; "
                           "are these milliseconds?")  # fmt: skip
