"""Rows of the tables, found and turned into what the store hands out."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, Connection, select, update

from palate.errors import RequestError
from palate.store.records import Session, StoredEvent, Turn
from palate.store.tables import events, sessions, turns


def whose(user: str | None, session: str | None) -> ColumnElement[bool]:
    """Events of a user, of a session, or of a user in a session."""
    if user is None and session is None:
        raise RequestError("whose events? Name a user or a session")
    said = events.c.user_id == user if user is not None else events.c.session_id == session
    return said & (events.c.session_id == session) if session is not None else said


def owner_of(db: Connection, session_id: str, user: str | None) -> str | None:
    """Whose events those of a session are; a nobody's session becomes the user's, with what was said in it."""
    owner = session_of(db, session_id).user
    if user is None or owner == user:
        return owner
    if owner is not None:
        raise RequestError(f"the session {session_id!r:.80} is another user's; begin one for {user!r:.80}")
    db.execute(update(sessions).where(sessions.c.id == session_id).values(user_id=user))
    db.execute(update(events).where(events.c.session_id == session_id).values(user_id=user))
    return user


def plain(row: Any) -> dict[str, Any]:
    """A row's values by the names that people see."""
    names = {"user_id": "user", "item_id": "item", "session_id": "session"}
    return {names.get(name, name): value for name, value in row._mapping.items()}


def event_of(row: Any) -> StoredEvent:
    """A row of the events."""
    return StoredEvent(**{name: value for name, value in plain(row).items() if name != "id"})


def session_of(db: Connection, session_id: str) -> Session:
    """The session of that id. RequestError where there is none."""
    row = db.execute(select(sessions).where(sessions.c.id == session_id)).one_or_none()
    if row is None:
        raise unknown(session_id)
    return Session(**plain(row))


def turns_of(db: Connection, session_id: str) -> list[Turn]:
    """A session's messages, oldest first."""
    rows = db.execute(select(turns).where(turns.c.session_id == session_id).order_by(turns.c.number))
    return [Turn(r.number, r.role, r.text, tuple(r.items), r.created) for r in rows]


def unknown(session_id: str) -> RequestError:
    """What is raised where no session has an id."""
    return RequestError(f"no session has the id {session_id!r:.80}; begin one first")
