"""The tables, and how their layout grows: one version number, one step from each version to the next."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sql
from sqlalchemy import Column, Connection, ForeignKey, Table

from palate.errors import DataError

VERSION = 1
STEPS: Mapping[int, Callable[[Connection], None]] = {}
"""Version -> what makes a store of that version one of the next; runs inside the transaction that opens it."""
LOCK = 7_305_286
"""Of PostgreSQL's advisory locks, the one under which tables are made: two processes may open at once."""

metadata = sql.MetaData()
ID = sql.String(256)
BIG = sql.BigInteger().with_variant(sql.Integer, "sqlite")
"""SQLite numbers rows by itself only where the type is called INTEGER."""

meta = Table("palate_meta", metadata, Column("name", sql.String(32), primary_key=True), Column("value", sql.Text))

sessions = Table(
    "palate_sessions",
    metadata,
    Column("id", sql.String(64), primary_key=True),
    Column("user_id", ID, index=True),
    Column("model", sql.String(256), nullable=False),
    Column("created", sql.Float(53), nullable=False),
    Column("updated", sql.Float(53), nullable=False),
    Column("state", sql.JSON, nullable=False),
)

turns = Table(
    "palate_turns",
    metadata,
    Column("session_id", ForeignKey(sessions.c.id, ondelete="CASCADE"), primary_key=True),
    Column("number", sql.Integer, primary_key=True, autoincrement=False),
    Column("role", sql.String(16), nullable=False),
    Column("text", sql.Text, nullable=False),
    Column("items", sql.JSON, nullable=False),
    Column("created", sql.Float(53), nullable=False),
)

events = Table(
    "palate_events",
    metadata,
    Column("id", BIG, primary_key=True, autoincrement=True),
    Column("user_id", ID),
    Column("session_id", ForeignKey(sessions.c.id, ondelete="SET NULL"), index=True),
    Column("item_id", ID, nullable=False),
    Column("kind", sql.String(16), nullable=False),
    Column("rating", sql.Float(53)),
    Column("timestamp", sql.Float(53), nullable=False),
    Column("context", sql.JSON, nullable=False),
    sql.Index("palate_events_by_user", "user_id", "timestamp", "id"),
)

forgotten = Table(
    "palate_forgotten",
    metadata,
    Column("digest", sql.String(64), primary_key=True),
    Column("created", sql.Float(53), nullable=False),
)


def prepare(connection: Connection, where: str) -> str:
    """Make the tables that are missing, or take those of an older version on; the store's salt.

    Runs in the caller's transaction. Raises DataError where a newer Palate wrote the store.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(sql.text("SELECT pg_advisory_xact_lock(:key)"), {"key": LOCK})
    held: dict[str, Any] = {}
    if sql.inspect(connection).has_table(meta.name):
        held = {row.name: row.value for row in connection.execute(sql.select(meta))}
    found = int(held.get("version", VERSION))
    if found > VERSION:
        raise DataError(
            f"the store {where} has layout {found}, written by a newer Palate; this one knows layouts up to {VERSION}: "
            "update Palate, or name another store"
        )
    for version in range(found, VERSION):
        STEPS[version](connection)
    metadata.create_all(connection)
    salt = str(held.get("salt") or secrets.token_hex(32))
    for name, value in (("version", str(VERSION)), ("salt", salt)):
        if name not in held:
            connection.execute(sql.insert(meta).values(name=name, value=value))
        elif held[name] != value:
            connection.execute(sql.update(meta).where(meta.c.name == name).values(value=value))
    return salt
