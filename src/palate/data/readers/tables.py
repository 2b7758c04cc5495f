"""Plain tables: a folder with dataset.yaml, or items.* and interactions.* under their default column
names."""

from __future__ import annotations

from pathlib import Path

from palate.data import knowledge, tables
from palate.data.media import MODALITIES
from palate.data.readers import Layout, Reader
from palate.data.spec import SPEC_FILE, DatasetSpec, InteractionsSpec, ItemsSpec, TableSpec, UsersSpec

ENDINGS = tuple(e + z for z in ("", ".gz") for e in tables.KINDS)


def named(folder: Path, stem: str) -> Path | None:
    """The table called `stem` with any known ending."""
    return next((p for e in ENDINGS if (p := folder / f"{stem}{e}").is_file()), None)


class Tables(Reader):
    """CSV, TSV, JSON Lines or Parquet, described by dataset.yaml."""

    name = "tables"
    about = "dataset.yaml, or items.* and interactions.* (.csv .tsv .jsonl .parquet)"

    def sniff(self, path: Path) -> bool:
        described = (path / SPEC_FILE).is_file()
        return described or (named(path, "items") is not None and named(path, "interactions") is not None)

    def read(self, path: Path) -> Layout:
        spec = DatasetSpec.of(path) if (path / SPEC_FILE).is_file() else self._guess(path)
        return Layout(
            spec,
            tables.source(path, spec.items),
            tables.source(path, spec.interactions),
            None if spec.users is None else tables.source(path, spec.users),
            path,
            None if spec.knowledge is None else knowledge.sources(path, spec.knowledge),
        )

    def _guess(self, path: Path) -> DatasetSpec:
        """A spec by the default column names; further columns are text, context and profile."""
        found = {stem: named(path, stem) for stem in ("items", "interactions", "users")}
        heads = {
            stem: tables.column_names(tables.source(path, TableSpec(path=p.name)))
            for stem, p in found.items()
            if p is not None
        }
        event_columns = heads["interactions"]
        roles = {"user_id", "item_id", "rating", "timestamp"}
        users = found["users"]
        return DatasetSpec(
            name=path.resolve().name,
            items=ItemsSpec(
                path=str(found["items"] and found["items"].name),
                media={m: m for m in MODALITIES if m in heads["items"]},
            ),
            interactions=InteractionsSpec(
                path=str(found["interactions"] and found["interactions"].name),
                rating="rating" if "rating" in event_columns else None,
                timestamp="timestamp" if "timestamp" in event_columns else None,
                context=tuple(c for c in event_columns if c not in roles),
            ),
            users=None if users is None else UsersSpec(path=users.name),
        )
