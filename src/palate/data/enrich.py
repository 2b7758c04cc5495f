"""Enrich: text fields and media from a second item table, joined to the catalogue by item id."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from palate.data import media, records, tables
from palate.data.catalog import Catalog
from palate.data.records import Records
from palate.data.rejects import Reject, RejectLog
from palate.data.spec import TableSpec
from palate.errors import DataError

ID = "item_id"


def merge(catalog: Catalog, folder: Path, target: Path, log: RejectLog) -> Catalog:
    """The catalogue with the fields and media of `folder`'s item table; media files are copied under
    `target`.

    folder: holds items.csv (or .tsv, .jsonl, .parquet) with an `item_id` column; columns called image,
    audio or video are paths relative to it. A new column is added; where both have a column the catalogue's
    own value is kept and only an empty one is filled; the title is always the catalogue's own. Empty stays
    empty. Refused and missing media, and rows of unknown items, are recorded; they never stop an import.
    Raises DataError where the folder or its table is missing or names no item of the catalogue.
    """
    if not folder.is_dir():
        raise DataError(f"expected a media folder with an item table, found no folder at {folder}")
    found = next((p for e in tables.KINDS if (p := folder / f"items{e}").is_file()), None)
    if found is None:
        raise DataError(f"{folder}: expected items.csv (or {', '.join(list(tables.KINDS)[1:])}), found none")
    extra = records.load(tables.source(folder, TableSpec(path=found.name)), ID, None, log)
    rows = pc.index_in(pa.array(catalog.item_ids, pa.string()), pa.array(extra.ids, pa.string()))
    if rows.null_count == len(rows):
        raise DataError(f"{found.name}: expected item ids of the catalogue, none of {len(extra):,} rows fits")
    for n, item_id in enumerate(extra.ids):
        if item_id not in catalog:
            log.add(Reject(found.name, int(extra.lines[n]), ID, item_id, "unknown item", "media"))
    columns = dict(catalog.records.columns)
    media_columns = dict(catalog.media_columns)
    text = list(catalog.text_fields)
    where = media.MediaFolder(folder)
    for name, cells in extra.columns.items():
        if name in ("title", catalog.title_column):
            continue
        is_medium = name in media.MODALITIES
        if is_medium:
            cells = media.usable(cells, where, name, found.name, extra.lines, log)
            media_columns.setdefault(name, name)
        elif name not in text:
            text.append(name)
        joined = pc.fill_null(cells.take(rows), "")
        own = columns.get(media_columns[name] if is_medium else name)
        if is_medium:
            used = joined if own is None else pc.if_else(pc.equal(own, ""), joined, "")
            media.copy(media.paths([used]), folder, target)
        columns[media_columns[name] if is_medium else name] = (
            joined if own is None else pc.if_else(pc.equal(own, ""), joined, own)
        )
    own_table = catalog.records
    table = Records(own_table.ids, columns, own_table.lines, own_table.total, own_table.file)
    return Catalog(table, catalog.title_column, text, media_columns, target)
