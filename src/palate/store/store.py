"""Store: what a running service remembers of people, in SQLite or PostgreSQL."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from palate.errors import DataError, PalateWarning, RequestError
from palate.store import connect, rows, tables
from palate.store.records import (
    Feedback,
    Forgotten,
    Kind,
    Role,
    Session,
    StoredEvent,
    Turn,
    check_id,
    check_json,
    check_turn,
)
from palate.store.tables import events, forgotten, meta, sessions, turns

SCRUB_SECONDS = 5.0
"""How long `forget` waits for readers of an SQLite file, so that its log can be emptied too."""


class Store:
    """Events, feedback and conversations. Safe under many threads, and under several processes on one store.

    Every method is one transaction: it happens wholly or not at all, and what has returned survives a crash.
    Raises RequestError for what a caller got wrong, DataError where the database cannot be used.
    """

    def __init__(self, engine: Engine, where: str) -> None:
        self.engine, self.where = engine, where
        self._turn = Lock()
        """Writers of this process to an SQLite file queue here rather than poll its lock."""
        self._lite = engine.dialect.name == connect.SQLITE
        try:
            with self._writing() as db:
                self._salt = tables.prepare(db, where).encode()
        except BaseException:
            engine.dispose()
            raise

    @classmethod
    def open(cls, where: str | Path | None = None, create: bool = True) -> Self:
        """Open a store: an SQLite file's path or URL, or `postgresql://user@host/name`.

        where: None is $PALATE_STORE, else palate.db in the platform's folder for a user's data. create: whether a
        missing SQLite file is made. Raises DataError where it cannot be opened or a newer Palate wrote it.
        """
        url = connect.location(where)
        return cls(connect.connect(url, create), connect.shown(url))

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- events -------------------------------------------------------------------------------------

    def add_events(self, new: Sequence[StoredEvent]) -> int:
        """Keep events, all or none; how many there were.

        An event in a session is its person's; one in a nobody's session with a user makes that session theirs.
        RequestError where a session is unknown or somebody else's.
        """
        now = time.time()
        with self._writing() as db:
            owners = {e.session: rows.owner_of(db, e.session, e.user) for e in new if e.session is not None}
            values = [
                {
                    "user_id": e.user if e.session is None else owners[e.session],
                    "session_id": e.session,
                    "item_id": e.item,
                    "kind": e.kind,
                    "rating": e.rating,
                    "timestamp": now if e.timestamp is None else e.timestamp,
                    "context": dict(e.context),
                }
                for e in new
            ]
            if values:
                db.execute(insert(events), values)
        return len(values)

    def events(
        self, user: str | None = None, kinds: Sequence[Kind] | None = None, session: str | None = None
    ) -> list[StoredEvent]:
        """A person's events (or a session's), oldest first, ties in order of storing."""
        wanted = rows.whose(user, session)
        if kinds is not None:
            wanted = wanted & events.c.kind.in_(kinds)
        query = select(events).where(wanted).order_by(events.c.timestamp, events.c.id)
        with self._reading() as db:
            return [rows.event_of(row) for row in db.execute(query)]

    def feedback(self, user: str | None = None, session: str | None = None) -> Feedback:
        """What a person (or someone in a session) likes, dislikes and has seen; the latest word on an item counts."""
        latest: dict[str, str] = {}
        for event in self.events(user, ("like", "dislike", "seen"), session):
            latest.pop(event.item, None)
            latest[event.item] = event.kind
        liked, disliked, seen = (
            tuple(i for i, k in latest.items() if k == kind) for kind in ("like", "dislike", "seen")
        )
        return Feedback(liked, disliked, seen)

    # --- conversations ------------------------------------------------------------------------------

    def new_session(self, user: str | None, model: str, state: Mapping[str, Any] | None = None) -> str:
        """Begin a conversation; its id, which cannot be guessed. user: None for someone unknown."""
        if user is not None:
            check_id(user, "user")
        check_id(model, "model")
        now, name = time.time(), secrets.token_urlsafe(24)
        values = {"id": name, "user_id": user, "model": model, "created": now, "updated": now}
        with self._writing() as db:
            db.execute(insert(sessions).values(state=check_json(dict(state or {}), "state"), **values))
        return name

    def session(self, session_id: str) -> Session:
        """A conversation. RequestError where there is none of that id."""
        with self._reading() as db:
            return rows.session_of(db, session_id)

    def save_turn(
        self, session_id: str, role: Role, text: str, items: Sequence[Any] = (), state: Mapping[str, Any] | None = None
    ) -> int:
        """Keep a message and, with it or not at all, the conversation's new state (None: as it was).

        items: plain data, one an item named. Returns the message's number, from 1. RequestError where the session is
        unknown, as after its person was forgotten.
        """
        check_turn(role, text, items)
        now = time.time()
        values: dict[str, Any] = {"updated": now}
        if state is not None:
            values["state"] = check_json(dict(state), "state")
        with self._writing() as db:
            # the update comes first: it makes two writers of one session take turns in PostgreSQL too
            if not db.execute(update(sessions).where(sessions.c.id == session_id).values(**values)).rowcount:
                raise rows.unknown(session_id)
            last = db.scalar(select(func.max(turns.c.number)).where(turns.c.session_id == session_id))
            number = int(last or 0) + 1
            new = {"session_id": session_id, "number": number, "role": role, "text": text, "created": now}
            db.execute(insert(turns).values(items=list(items), **new))
        return number

    def save_state(self, session_id: str, state: Mapping[str, Any]) -> None:
        """Keep a conversation's new state, as after feedback without a message. RequestError as `save_turn`."""
        values = {"updated": time.time(), "state": check_json(dict(state), "state")}
        with self._writing() as db:
            if not db.execute(update(sessions).where(sessions.c.id == session_id).values(**values)).rowcount:
                raise rows.unknown(session_id)

    def turns(self, session_id: str) -> list[Turn]:
        """The messages of a conversation, oldest first. RequestError where there is none of that id."""
        with self._reading() as db:
            rows.session_of(db, session_id)
            return rows.turns_of(db, session_id)

    # --- a person's rights --------------------------------------------------------------------------

    def export(self, user: str) -> dict[str, Any]:
        """Everything held of a person, as plain data for JSON; times in seconds since 1970."""
        check_id(user, "user")
        with self._reading() as db:
            said = db.execute(select(events).where(events.c.user_id == user).order_by(events.c.timestamp, events.c.id))
            own = db.execute(select(sessions).where(sessions.c.user_id == user).order_by(sessions.c.created))
            return {
                "user": user,
                "forgotten": self._is_forgotten(db, user),
                "events": [{**rows.plain(row), "id": row.id} for row in said],
                "sessions": [
                    {
                        **rows.plain(row),
                        "turns": [
                            {"number": t.number, "role": t.role, "text": t.text, "items": t.items, "created": t.created}
                            for t in rows.turns_of(db, row.id)
                        ],
                    }
                    for row in own
                ],
            }

    def forget(self, user: str) -> Forgotten:
        """Remove a person: events, conversations and their messages. What remains is a salted hash of the id.

        It says that the person was forgotten (`was_forgotten`); someone who holds the database can check a guess
        against it. In SQLite the deleted bytes are overwritten, in the log too; PostgreSQL reuses the space when it
        is vacuumed, and its backups and archived logs keep what they have.
        """
        check_id(user, "user")
        with self._writing() as db:
            db.execute(select(meta).with_for_update())  # one at a time: two could both miss the hash, and both add it
            own = select(sessions.c.id).where(sessions.c.user_id == user)
            db.execute(own.with_for_update())  # what is being written to these waits, and then finds them gone
            said = db.execute(delete(events).where(events.c.user_id == user)).rowcount
            spoken = db.execute(delete(turns).where(turns.c.session_id.in_(own))).rowcount
            held = db.execute(delete(sessions).where(sessions.c.user_id == user)).rowcount
            if not self._is_forgotten(db, user):
                db.execute(insert(forgotten).values(digest=self._digest(user), created=time.time()))
        if self._lite:
            self._scrub()
        return Forgotten(said, held, spoken)

    def was_forgotten(self, user: str) -> bool:
        """Whether the person asked to be forgotten: what a data set holds from before is not to be used."""
        with self._reading() as db:
            return self._is_forgotten(db, user)

    def _is_forgotten(self, db: Connection, user: str) -> bool:
        return db.scalar(select(forgotten.c.digest).where(forgotten.c.digest == self._digest(user))) is not None

    def _digest(self, user: str) -> str:
        return hmac.new(self._salt, user.encode(errors="replace"), hashlib.sha256).hexdigest()

    def _scrub(self) -> None:
        """Leave no byte of what was deleted in the file or its log.

        SQLite overwrites what it deletes, but copies remain where it moved rows between pages; a file written anew
        has none. The log holds pages as they were, until it is emptied.
        """
        with self._turn, closing(self.engine.raw_connection()) as db:  # both work outside of any transaction only
            sql = db.cursor()
            sql.execute("VACUUM")
            sql.execute(f"PRAGMA busy_timeout = {int(1000 * SCRUB_SECONDS)}")
            [busy, *_] = sql.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            sql.execute(f"PRAGMA busy_timeout = {int(1000 * connect.WAIT)}")
        if busy:
            warnings.warn(
                f"the person is gone from {self.where}, but the log beside it is being read and keeps old pages until "
                "its readers end; forget them again later",
                PalateWarning,
                stacklevel=3,
            )

    # --- transactions -------------------------------------------------------------------------------

    @contextmanager
    def _writing(self) -> Iterator[Connection]:
        if not self._lite:
            with self._transaction(writes=True) as db:
                yield db
            return
        with self._turn, self._transaction(writes=True) as db:
            yield db

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._transaction(writes=False) as db:
            yield db

    @contextmanager
    def _transaction(self, writes: bool) -> Iterator[Connection]:
        """One transaction: kept at the end, undone on any error; the database's own errors become DataError."""
        try:
            options: dict[str, Any] = {"writes": writes}
            if not self._lite and not writes:
                options["isolation_level"] = "REPEATABLE READ"  # all queries of one reading see one moment
            with self.engine.connect().execution_options(**options) as db, db.begin():
                yield db
        except IntegrityError:
            raise RequestError("the person or the session was removed meanwhile; begin a session anew") from None
        except SQLAlchemyError as error:
            cause = " ".join(str(getattr(error, "orig", None) or error).split())
            raise DataError(f"the store {self.where} cannot be used: {cause}") from error
