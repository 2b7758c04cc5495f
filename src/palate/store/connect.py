"""From a URL or a path to an engine: SQLite set up to survive a crash and to wipe what is deleted, or PostgreSQL."""

from __future__ import annotations

import json
import os
import sqlite3
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError

from palate.errors import DataError

WAIT = 30.0
"""Seconds that a transaction waits for another one to end."""
SQLITE, POSTGRES = "sqlite", "postgresql"
_dumps = partial(json.dumps, ensure_ascii=False, allow_nan=False)


def default_path() -> Path:
    """Where the store lies that nobody named: palate.db in the platform's folder for a user's data."""
    from platformdirs import user_data_dir

    return Path(user_data_dir("palate", appauthor=False)) / "palate.db"


def location(where: str | Path | None) -> URL:
    """The URL of a store: None is $PALATE_STORE, else `default_path`; text without `://` is an SQLite file.

    Raises DataError for a URL that is none, and for a database that Palate does not speak to.
    """
    chosen = where or os.environ.get("PALATE_STORE") or default_path()
    if "://" not in str(chosen):
        return URL.create(SQLITE, database=str(Path(chosen).expanduser()))
    try:
        url = make_url(str(chosen))
    except (ArgumentError, ValueError):
        raise DataError(
            f"expected a store's URL such as postgresql://user@host/name, got one of {len(str(chosen))} characters "
            "that is none; a password's special characters are written as %40 and the like"
        ) from None
    kind = url.get_backend_name()
    if kind == SQLITE:
        if not url.database or url.database == ":memory:":
            raise DataError(f"expected a file for the SQLite store, got {str(chosen)!r}; write sqlite:///palate.db")
        return url.set(drivername=SQLITE)
    if kind == POSTGRES or kind == "postgres":
        return url.set(drivername="postgresql+psycopg")
    raise DataError(
        f"expected a store in SQLite or PostgreSQL, got {kind!r}; write a file's path, sqlite:///palate.db or "
        "postgresql://user@host/name"
    )


def shown(url: URL) -> str:
    """A URL as people may see it: a file's path, or the address without the password."""
    return str(url.database) if url.get_backend_name() == SQLITE else url.render_as_string(hide_password=True)


def connect(url: URL, create: bool) -> Engine:
    """An engine for a URL of `location`. Nothing is opened yet, but a missing SQLite file is made (or refused).

    Raises DataError where the file is missing and may not be made, or the driver is not installed.
    """
    if url.get_backend_name() == SQLITE:
        _file(Path(str(url.database)), create)
        engine = create_engine(
            url, json_serializer=_dumps, hide_parameters=True, max_overflow=-1, connect_args={"timeout": WAIT}
        )
        event.listen(engine, "connect", _set_up)
        event.listen(engine, "begin", _begin)
        return engine
    try:
        return create_engine(url, json_serializer=_dumps, hide_parameters=True, pool_pre_ping=True, max_overflow=27)
    except ModuleNotFoundError as error:
        raise DataError(
            f"a PostgreSQL store needs the package {error.name!r}; install it with: pip install 'palate[postgres]'"
        ) from None


def _file(path: Path, create: bool) -> None:
    """The file exists after this; what it holds is personal, so others on the machine may not read a new one."""
    if path.exists():
        return
    if not create:
        raise DataError(f"expected a store at {path}, found none; name it with --store, or set PALATE_STORE")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    except OSError as error:
        raise DataError(f"the store {path} cannot be made: {error.strerror or error}; name another file") from None


def _set_up(connection: sqlite3.Connection, record: Any) -> None:
    """Each new SQLite connection. Transactions are opened by `_begin`, not by the driver's guess."""
    connection.isolation_level = None
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON", "secure_delete = ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin(connection: Connection) -> None:
    """A writer takes the lock at once: one that reads first and writes later could find the file changed."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
