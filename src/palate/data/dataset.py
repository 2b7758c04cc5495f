"""Dataset: a data set folder, opened and checked."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa

from palate.data import columns as col
from palate.data import events, histories, knowledge, media, records, tables
from palate.data.catalog import Catalog
from palate.data.fingerprint import Hasher, combine
from palate.data.histories import Histories
from palate.data.records import Records
from palate.data.rejects import REJECTS_FILE, RejectLog
from palate.data.spec import DatasetSpec, ItemsSpec, Show
from palate.errors import DataError
from palate.schema import Wording

log = logging.getLogger(__name__)


class Users(Mapping[str, Mapping[str, str]]):
    """User id -> profile fields that hold something, in file order."""

    def __init__(self, table: Records, fields: tuple[str, ...]) -> None:
        self.records = table
        self.fields = fields

    def __getitem__(self, user_id: str) -> Mapping[str, str]:
        return self.records.row(self.records.index[user_id], self.fields)

    def __iter__(self) -> Iterator[str]:
        return iter(self.records.ids)

    def __len__(self) -> int:
        return len(self.records)

    def __contains__(self, user_id: object) -> bool:
        return user_id in self.records.index

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of ids and profile fields, in file order."""
        hasher = Hasher("users")
        hasher.names("id", self.records.ids)
        for name in self.fields:
            hasher.strings(f"profile {name}", [self.records.columns[name]])
        return hasher.digest()


@dataclass(frozen=True)
class Tables:
    """The three cleaned tables of a data set."""

    catalog: Catalog
    histories: Histories
    users: Users


@dataclass(frozen=True)
class Dataset:
    """A data set folder in memory: items and users as Arrow tables, events as numeric arrays.

    rejects: what opening it left out (empty for a folder that `palate data import` wrote).
    """

    folder: Path
    spec: DatasetSpec
    catalog: Catalog
    histories: Histories
    users: Users
    rejects: RejectLog

    @classmethod
    def open(cls, folder: str | Path, *, max_rejects: float | None = None, strict: bool = True) -> Self:
        """Open a folder with a dataset.yaml. Bad rows are left out and listed in its rejects.jsonl.

        max_rejects: see `rejects.RejectLog`; strict=False lifts the limit (to report on a broken folder).
        Raises DataError for a missing table or column, TooManyRejects, ConfigError for a wrong dataset.yaml.
        """
        folder = Path(folder).expanduser()
        spec = DatasetSpec.of(folder)
        limit = max_rejects if strict else 2**62
        with tempfile.TemporaryDirectory(prefix="palate-") as scratch:
            found = Path(scratch) / REJECTS_FILE
            with RejectLog(found, limit, folder / REJECTS_FILE) as rejects:
                try:
                    parts = _load(folder, spec, rejects)
                finally:
                    rejects.close()
                    _keep(found, folder)
        rejects.path = folder / REJECTS_FILE if rejects.reasons else None
        if not rejects.reasons and not events.is_clean(folder / spec.interactions.path):
            with suppress(OSError):  # a list of rows that have been mended; the one an import wrote stays
                (folder / REJECTS_FILE).unlink(missing_ok=True)
        if rejects.total or rejects.media:
            log.warning(
                "%s: %d bad rows and %d bad media left out, see %s",
                folder, rejects.total, rejects.media, REJECTS_FILE,
            )  # fmt: skip
        return cls(folder, spec, parts.catalog, parts.histories, parts.users, rejects)

    def with_fields(self, fields: Mapping[str, Mapping[str, str]]) -> Self:
        """The data set with further text fields on its items, such as captions: field -> item id -> text.

        Prompts write them beside the title of history items and candidates, after the fields of `show`. The
        fingerprint stays that of the data set itself. Raises DataError where a field is already there or an
        item is not.
        """
        if not fields:
            return self
        shown = {"history": (*self.show.history, *fields), "candidate": (*self.show.candidate, *fields)}
        spec = self.spec.model_copy(update={"show": self.show.model_copy(update=shown)})
        return replace(self, spec=spec, catalog=self.catalog.with_fields(fields))

    def before(self, time: float) -> Self:
        """The data set as it was at a moment (seconds since 1970): its events before that, all users and items."""
        return replace(self, histories=self.histories.before(time))

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def language(self) -> str:
        return self.spec.language

    @property
    def wording(self) -> Wording:
        return self.spec.wording.wording()

    @property
    def show(self) -> Show:
        """Fields that a prompt writes beside the title."""
        return self.spec.show

    @cached_property
    def fingerprint(self) -> str:
        """sha256 of the cleaned tables: the same for any file format and any folder."""
        return combine(
            items=self.catalog.fingerprint,
            interactions=self.histories.fingerprint,
            users=self.users.fingerprint,
        )


def _keep(found: Path, folder: Path) -> None:
    """Put the list of rejects beside dataset.yaml; a folder that may not be written keeps the log line
    alone."""
    if not found.is_file():
        return
    try:
        (folder / REJECTS_FILE).write_bytes(found.read_bytes())
    except OSError as error:
        log.warning("%s cannot be written to %s: %s", REJECTS_FILE, folder, error)


def _load(folder: Path, spec: DatasetSpec, rejects: RejectLog) -> Tables:
    catalog = load_catalog(tables.source(folder, spec.items), spec.items, folder, rejects)
    users = Users(Records((), {}, np.empty(0, dtype=np.int64), 0), ())
    if spec.users is not None:
        users = load_users(tables.source(folder, spec.users), spec, rejects)
    if spec.knowledge is not None:
        catalog = knowledge.join(
            catalog, knowledge.sources(folder, spec.knowledge), spec.knowledge, rejects, spec.items.id
        )
    check_show(spec, catalog)
    path = folder / spec.interactions.path
    source = tables.source(folder, spec.interactions)
    clean = histories.from_clean(path, spec.interactions, catalog.records.index, list(users))
    if clean is None:
        table = events.collect(source, spec.interactions, catalog.records.index, rejects)
        clean = histories.from_events(table, catalog.item_ids, spec.interactions, list(users))
    return Tables(catalog, clean, users)


def load_catalog(source: tables.TableSource, spec: ItemsSpec, folder: Path, rejects: RejectLog) -> Catalog:
    """The item table as a Catalog; media paths are checked against `folder`."""
    media_columns = list(spec.media.values())
    wanted = None if spec.text is None else list(dict.fromkeys([*spec.text, *media_columns]))
    table = records.load(source, spec.id, wanted, rejects, title=spec.title)
    return catalog_of(table, spec, folder, rejects)


def catalog_of(table: Records, spec: ItemsSpec, folder: Path, rejects: RejectLog) -> Catalog:
    """A Catalog of cleaned rows; refused and missing media are emptied and recorded. DataError where no
    item is left."""
    if not len(table):
        raise DataError(f"{table.file}: expected at least one good item, found none of {table.total:,} rows")
    where = media.MediaFolder(folder)
    columns = dict(table.columns)
    for name in spec.media.values():
        if name not in columns:
            raise DataError(
                f"{table.file}: expected a media column {name!r}, found {', '.join(columns)}; "
                "name it under `media` in dataset.yaml"
            )
        cells = col.ids(columns[name])
        columns[name] = media.usable(cells, where, name, table.file, table.lines, rejects)
    text = spec.text
    if text is None:
        text = tuple(c for c in columns if c != spec.title and c not in spec.media.values())
    table = Records(table.ids, columns, table.lines, table.total, table.file)
    return Catalog(table, spec.title, text, spec.media, folder)


def load_users(source: tables.TableSource, spec: DatasetSpec, rejects: RejectLog) -> Users:
    """The user table as a mapping to profiles."""
    if spec.users is None:
        raise DataError("expected a user table in dataset.yaml, found none")
    table = records.load(source, spec.users.id, spec.users.profile, rejects)
    return Users(table, tuple(table.columns) if spec.users.profile is None else spec.users.profile)


def check_show(spec: DatasetSpec, catalog: Catalog) -> None:
    """Fields named under `show` are text fields of the items."""
    from palate.errors import did_you_mean

    for part in ("history", "candidate"):
        for name in getattr(spec.show, part):
            if name not in catalog.text_fields:
                raise DataError(
                    f"dataset.yaml: show.{part} names {name!r}, which is no text field of the items; "
                    f"{did_you_mean(name, catalog.text_fields)}"
                )


def media_arrays(catalog: Catalog) -> list[pa.Array]:
    """The media columns of a catalogue."""
    return [catalog.records.columns[c] for c in catalog.media_columns.values()]
