"""A folder written by `datasets` (save_to_disk): a DatasetDict with items, interactions and maybe users."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from palate.data.media import MODALITIES
from palate.data.readers import Layout, Reader
from palate.data.spec import DatasetSpec, InteractionsSpec, ItemsSpec, UsersSpec
from palate.data.tables import BATCH, TableSource
from palate.errors import DataError

PARTS = ("items", "interactions", "users")


class SavedDatasets(Reader):
    """Columns under their default names: item_id, title; user_id, item_id, rating, timestamp; user_id."""

    name = "datasets"
    about = "a DatasetDict of items, interactions and maybe users, or one folder each, from save_to_disk"

    def sniff(self, path: Path) -> bool:
        together = (path / "dataset_dict.json").is_file()
        return together or all((path / part / "state.json").is_file() for part in PARTS[:2])

    def read(self, path: Path) -> Layout:
        found = {part: t for part in PARTS if (t := self._open(path, part)) is not None}
        for part in PARTS[:2]:
            if part not in found:
                raise DataError(
                    f"{path}: expected a saved table called {part!r}, found {', '.join(found) or 'none'}; "
                    "save a DatasetDict with items, interactions and, if you have them, users"
                )
        sources = {
            part: TableSource(path / part, part, "arrow", batches=_batches(table)) for part, table in found.items()
        }
        events = found["interactions"].column_names
        roles = ("user_id", "item_id", "rating", "timestamp")
        spec = DatasetSpec(
            name=path.resolve().name,
            items=ItemsSpec(
                path="items",
                media={m: m for m in MODALITIES if _is_path(found["items"], m)},
                text=tuple(
                    c for c in found["items"].column_names
                    if c not in ("item_id", "title", *MODALITIES)
                ),
            ),
            interactions=InteractionsSpec(
                path="interactions",
                rating="rating" if "rating" in events else None,
                timestamp="timestamp" if "timestamp" in events else None,
                context=tuple(c for c in events if c not in roles),
            ),
            users=UsersSpec(path="users") if "users" in found else None,
        )  # fmt: skip
        return Layout(spec, sources["items"], sources["interactions"], sources.get("users"), path)

    def _open(self, path: Path, part: str) -> Any:
        import datasets

        folder = path / part
        if not (folder / "state.json").is_file():
            return None
        return datasets.load_from_disk(str(folder))


def _is_path(table: Any, name: str) -> bool:
    """Whether the table has a media column of paths. DataError where it holds the media themselves."""
    if name not in table.column_names:
        return False
    kind = table.features.arrow_schema.field(name).type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return True
    raise DataError(
        f"items: expected file paths in the column {name!r}, got {kind}; write the media to files in the "
        "folder and save their relative paths, or remove the column"
    )


def _batches(table: Any) -> Callable[[], Iterator[pa.RecordBatch]]:
    """Arrow batches of a memory-mapped table; selections and shuffles of `datasets` are honoured."""

    def batches() -> Iterator[pa.RecordBatch]:
        for part in table.with_format("arrow").iter(batch_size=BATCH):
            yield from part.to_batches()

    return batches
