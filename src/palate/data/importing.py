"""Import: any known layout into a clean data set folder, written whole or not at all."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from palate.data import dataset as ds
from palate.data import enrich, events, knowledge, media, records
from palate.data.catalog import Catalog
from palate.data.dataset import Dataset, Users
from palate.data.readers import Layout, Reader
from palate.data.rejects import REJECTS_FILE, RejectLog
from palate.data.spec import SPEC_FILE, DatasetSpec
from palate.data.tables import TableSource
from palate.errors import DataError, did_you_mean
from palate.registry import plugin, plugins

KNOWN = {"ml-100k": "recbole"}
"""Data sets that are fetched by name -> the reader of their layout."""
READERS = "palate.data.readers"
ITEMS, INTERACTIONS, USERS = "items.parquet", "interactions.parquet", "users.parquet"


def import_dataset(
    name_or_path: str | Path,
    out: str | Path,
    media: str | Path | None = None,
    reader: str | None = None,
    max_rejects: float | None = None,
    language: str | None = None,
) -> Dataset:
    """Import a data set into the folder `out` and open it.

    name_or_path: a known name (`ml-100k`, fetched once) or a folder. media: a folder with an item table
    (item_id, text fields, media paths) and media files, merged into the items by id. reader: a plug-in
    name; None tries all. max_rejects: rows a table may lose, as a number or as a share below 1; None is 1%,
    at least 100 rows, at most half of the table. language: of the texts, written to dataset.yaml; a layout that
    has them in several gives these; None is what the layout says, or English.

    Rows stream through; in memory stay the item and user tables and 40 bytes an event. An existing data set
    at `out` is replaced at the end, and kept where anything fails. Raises DataError (unknown layout,
    missing column, wrong encoding, `out` is something else), TooManyRejects (the rejected rows are then in
    `OUT.rejects.jsonl`).
    """
    out = Path(out).expanduser()
    origin, reader_name = _origin(name_or_path, reader)
    found = find_reader(origin, reader_name)
    found.language = language or found.language
    layout = found.read(origin)
    if language is not None:
        layout = replace(layout, spec=layout.spec.model_copy(update={"language": language}))
    _check_out(out, origin)
    with _fresh(out) as work:
        with RejectLog(work / REJECTS_FILE, max_rejects, _left(out)) as rejects:
            _write(layout, work, None if media is None else Path(media).expanduser(), rejects)
        if str(name_or_path) in KNOWN:
            _rename(work, str(name_or_path))
    return Dataset.open(out)


def _origin(name_or_path: str | Path, reader: str | None) -> tuple[Path, str | None]:
    """The folder to read: a known name is fetched."""
    path = Path(name_or_path).expanduser()
    if str(name_or_path) in KNOWN:
        from palate.sources import fetch

        return fetch(str(name_or_path)), reader or KNOWN[str(name_or_path)]
    if not path.is_dir():
        raise DataError(
            f"expected a folder or a known data set, got {str(name_or_path)!r}; "
            f"{did_you_mean(str(name_or_path), KNOWN)}"
        )
    return path, reader


def find_reader(path: Path, name: str | None = None) -> Reader:
    """The reader of that name, or the one that knows the folder's layout. DataError where none or several
    do."""
    if name is not None:
        return plugin(READERS, Reader, name)()  # type: ignore[type-abstract]
    known = [cls() for cls in plugins(READERS, Reader).values()]  # type: ignore[type-abstract]
    fitting = [r for r in known if r.sniff(path)]
    described = [r for r in fitting if r.name == "tables"] if (path / SPEC_FILE).is_file() else []
    fitting = described or fitting
    if len(fitting) == 1:
        return fitting[0]
    if not fitting:
        listed = "\n".join(f"  {r.name}: {r.about}" for r in known)
        raise DataError(f"{path}: expected a folder in a known layout, found none of these:\n{listed}")
    names = ", ".join(r.name for r in fitting)
    raise DataError(f"{path}: several readers know this layout ({names}); choose one with reader= (--reader NAME)")


def _check_out(out: Path, origin: Path) -> None:
    """`out` may be new, empty or a data set to replace, but not where the data comes from."""
    if out.exists():
        if not out.is_dir() or (any(out.iterdir()) and not (out / SPEC_FILE).is_file()):
            raise DataError(f"expected a new, empty or data set folder to write to, {out} is something else")
        if origin.resolve().is_relative_to(out.resolve()):
            raise DataError(f"expected another folder than the source to write to, got {out}; choose one with --out")


def _left(out: Path) -> Path:
    """Where the list of rejects lies after an import that failed."""
    return out.parent / f"{out.name}.{REJECTS_FILE}"


@contextmanager
def _fresh(out: Path) -> Iterator[Path]:
    """A folder beside `out` that takes its place at the end; on an error only the list of rejects is kept."""
    out.parent.mkdir(parents=True, exist_ok=True)
    mark = uuid.uuid4().hex[:8]
    work, old = (out.parent / f".{out.name}.{mark}.{what}" for what in ("new", "old"))
    work.mkdir()
    left = _left(out)
    try:
        yield work
        if out.exists():
            out.rename(old)
        work.rename(out)
        left.unlink(missing_ok=True)
    except BaseException:
        if (work / REJECTS_FILE).is_file():
            (work / REJECTS_FILE).replace(left)
        if old.exists() and not out.exists():
            old.rename(out)
        raise
    finally:
        for folder in (work, old):
            shutil.rmtree(folder, ignore_errors=True)


def _write(layout: Layout, work: Path, extra: Path | None, rejects: RejectLog) -> None:
    """Clean tables, media and dataset.yaml into `work`."""
    spec = layout.spec
    for reject in layout.left_out:
        rejects.add(reject)
    wanted = None if spec.items.text is None else [*spec.items.text, *spec.items.media.values()]
    table = records.load(layout.items, spec.items.id, wanted, rejects, title=spec.items.title)
    catalog = ds.catalog_of(table, spec.items, layout.media_folder or work, rejects)
    if layout.media_folder is not None:
        media.copy(media.paths(ds.media_arrays(catalog)), layout.media_folder, work)
    if extra is not None:
        catalog = enrich.merge(catalog, extra, work, rejects)
    if layout.knowledge is not None and spec.knowledge is not None:
        catalog = knowledge.join(catalog, layout.knowledge, spec.knowledge, rejects, spec.items.id)
    users = None
    if layout.users is not None:
        users = ds.load_users(layout.users, spec, rejects)
    spec = _final_spec(spec, catalog, users)
    ds.check_show(spec, catalog)
    _write_records(work / ITEMS, spec.items.id, catalog.records)
    if users is not None and spec.users is not None:
        _write_records(work / USERS, spec.users.id, users.records)
    spill = work / ".context.arrow"
    source = layout.interactions or TableSource(work, INTERACTIONS, "arrow", batches=lambda: iter(()))
    found = events.collect(source, spec.interactions, catalog.records.index, rejects, spill)
    alone = layout.interactions is None or events.is_clean(layout.interactions.path)  # a catalogue, imported again
    if not len(found) and not alone:
        raise DataError(f"{source.name}: expected at least one good event, found none")
    events.write(found, catalog.item_ids, spec.interactions, work / INTERACTIONS)
    del found
    spill.unlink(missing_ok=True)
    spec.write(work)


def _final_spec(spec: DatasetSpec, catalog: Catalog, users: Users | None) -> DatasetSpec:
    """The spec of the clean folder: same columns, Parquet files; what a knowledge table said is among the items."""
    plain = {"encoding": "utf-8", "separator": None, "quote": True}
    items = spec.items.model_copy(
        update={"path": ITEMS, "text": catalog.text_fields, "media": catalog.media_columns, **plain}
    )
    interactions = spec.interactions.model_copy(update={"path": INTERACTIONS, **plain})
    people = None
    if users is not None and spec.users is not None:
        people = spec.users.model_copy(update={"path": USERS, "profile": users.fields, **plain})
    return spec.model_copy(update={"items": items, "interactions": interactions, "users": people, "knowledge": None})


def _write_records(path: Path, id_column: str, table: records.Records) -> None:
    columns = {id_column: pa.array(table.ids, pa.string()), **table.columns}
    pq.write_table(pa.table(columns), path, compression="zstd")


def _rename(work: Path, name: str) -> None:
    DatasetSpec.of(work).model_copy(update={"name": name}).write(work)
