"""Items that came after training, from a table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from palate.apps.candidates.tables import Bad, Reader, find_tables
from palate.errors import DataError, RequestError

if TYPE_CHECKING:
    from palate.recommender import Recommender


def add_new_items(rec: Recommender, path: Path) -> int:
    """Add items that came after training: a table with title, text fields, media files and, if wanted, item_id.

    A column named after a modality of the data set or the adapter (image, ...) holds files, relative to the
    table's folder; every other column is a text field. Returns how many were added. Raises DataError with
    file and line.
    """
    media = {"image", *rec.dataset.catalog.modalities}
    for one in rec.adapters.values():
        media |= set(one.model.soft.modalities) if one.model.soft is not None else set()
    count = 0
    for line, row in Reader(find_tables(path)[0], _check):
        if isinstance(row, Bad):
            raise DataError(f"{path}, line {line}: {row.reason}")
        cells = {k: str(v).strip() for k, v in row.items() if v is not None and str(v).strip()}
        item_id, title = cells.pop("item_id", None), cells.pop("title", "")
        files = {m: _inside(path, line, m, cells.pop(m)) for m in sorted(media & cells.keys())}
        try:
            rec.add_item(title, cells, files, item_id)
        except RequestError as error:
            raise DataError(f"{path}, line {line}: {error}") from None
        count += 1
    return count


def _check(names: list[str]) -> str | None:
    return None if "title" in names else f"missing column title; the file has: {', '.join(names) or 'no columns'}"


def _inside(table: Path, line: int, column: str, value: str) -> Path:
    """A media file of a table; like a data set's, it may not leave the table's folder."""
    folder = table.parent.resolve()
    file = (folder / value).resolve()
    if not file.is_relative_to(folder):
        raise DataError(
            f"{table}, line {line}, column {column}: expected a file inside {table.parent}, got {value!r}; put it there"
        )
    return file
