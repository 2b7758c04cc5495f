"""Item, interaction and user tables in CSV, JSON Lines and Parquet: checked, imported, and what is kept is what stood there."""

from __future__ import annotations

import csv
import datetime
import gzip
import io
import json
import re
import shutil
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from palate.errors import DataError
from trust import mutate, tiny
from trust.fuzz import SilentChange, Target

COLUMNS = {
    "items": ("item_id", "title", "year", "genres", "image"),
    "interactions": ("user_id", "item_id", "rating", "timestamp", "place"),
    "users": ("user_id", "age", "occupation"),
}
TIMES = (
    "0",
    "881250949",
    "881250949000",
    "881250949000000",
    "1998-01-01",
    "1998-01-01T10:00:00+02:00",
    "x",
    "",
    "-1e20",
)
WORDS = (
    b'"',
    b",",
    b"\n",
    b"\r",
    b"\r\n",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b'""',
    b"{",
    b"\\u",
    b"\\ud800",
)
TYPES: tuple[Any, ...] = (
    pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.bool_(), pa.binary(), pa.large_binary(), pa.date32(),
    pa.date64(), pa.timestamp("s"), pa.timestamp("ns", "Europe/Berlin"), pa.time64("us"), pa.duration("ms"),
    pa.decimal128(20, 3), pa.list_(pa.int64()), pa.map_(pa.string(), pa.int32()), pa.struct([("a", pa.string())]),
    pa.dictionary(pa.int8(), pa.string()), pa.null(), pa.string_view(), pa.large_string(), pa.list_(pa.list_(pa.string())),
)  # fmt: skip


def cell(rng: Random, column: str) -> Any:
    """A cell: usually what belongs there."""
    roll = rng.random()
    if roll < 0.12:
        return mutate.value(rng)
    if roll < 0.22:
        return mutate.text(rng)
    if column == "timestamp":
        return rng.choice(TIMES)
    if column in ("rating", "year", "age"):
        return rng.randint(1, 5)
    if column == "image":
        return rng.choice(("posters/1.jpg", "", "posters/9.jpg", "../data/posters/1.jpg", "/etc/passwd", "link.jpg"))
    if column.endswith("_id"):
        return str(rng.randint(1, 24))
    return rng.choice(tiny.TITLES)


def typed(rng: Random, rows: int) -> Any:
    """A Parquet column of some type, with values of it."""
    kind = rng.choice(TYPES)
    plain: dict[str, Any] = {
        "int8": 3, "uint64": 2**64 - 1, "halffloat": 1.0, "float": float("nan"), "bool": True, "binary": b"\xff\x00",
        "large_binary": b"a", "date32[day]": datetime.date(9999, 1, 1), "date64[ms]": datetime.date(1, 1, 1),
    }  # fmt: skip
    value: Any = plain.get(str(kind))
    if pa.types.is_timestamp(kind):
        return pa.array([rng.choice((0, 2**62, -(2**62), None, 10**9)) for _ in range(rows)], pa.int64()).view(kind)
    if pa.types.is_time(kind):
        value = datetime.time(1, 2)
    elif pa.types.is_duration(kind):
        value = datetime.timedelta(1)
    elif pa.types.is_decimal(kind):
        value = Decimal("1.500")
    elif pa.types.is_map(kind):
        value = [("a", 1)]
    elif pa.types.is_struct(kind):
        value = {"a": "b"}
    elif pa.types.is_list(kind):
        value = [["a"]] if pa.types.is_list(kind.value_type) else [1]
    elif value is None and not pa.types.is_null(kind):
        value = "é"
    return pa.array([None if rng.random() < 0.2 else value for _ in range(rows)], kind)


def _prose(text: str) -> str:
    """A text as it is read: runs of what commands a terminal or turns the text that follows are one space."""
    return re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+", " ", text)


class Tables(Target):
    name = "tables"
    about = "cells of any kind and Parquet types; ragged, quoted, gzipped, cut and damaged files; media paths that climb out"

    def setup(self, folder: Path) -> None:
        self.data = tiny.data(folder / "data")
        self.spec = yaml.safe_load((self.data / "dataset.yaml").read_text())
        self.spec["interactions"]["context"] = ["place"]
        self.plain = {n: (self.data / f"{n}.csv").read_bytes() for n in COLUMNS}
        self.plain["interactions"] = b"user_id,item_id,rating,timestamp,place\n" + b"".join(
            b"%d,%d,4,%d,home\n" % (n % 9, n % 24 + 1, 880000000 + n) for n in range(60)
        )
        (self.data / "link.jpg").symlink_to("/etc/hostname")
        self.out = folder / "out"

    def make(self, rng: Random) -> tuple[str, str, bytes, list[dict[str, Any]] | None, bool]:
        """(table, ending, bytes, rows where all bytes are as written, whether it is imported too)."""
        table, imported = rng.choice(tuple(COLUMNS)), rng.random() < 0.25
        ending = rng.choice((".csv", ".csv", ".tsv", ".jsonl", ".jsonl", ".parquet", ".parquet"))
        if rng.random() < 0.2:
            return (
                table,
                ".csv",
                mutate.damaged(rng, self.plain[table][: rng.choice((200, 10_000))], WORDS),
                None,
                imported,
            )
        columns = list(COLUMNS[table])
        if rng.random() < 0.1:
            columns[rng.randrange(len(columns))] = mutate.text(rng)
        rows = [{c: cell(rng, c) for c in columns} for _ in range(rng.choice((0, 1, 3, 12, 12)))]
        data, rows = getattr(self, f"_{ending[1:]}")(rng, columns, rows)
        if rng.random() < 0.25:
            data, rows = mutate.damaged(rng, data, WORDS), None
        if ending != ".parquet" and rng.random() < 0.1:
            data, ending = gzip.compress(data), ending + ".gz"
            if rng.random() < 0.5:
                data, rows = mutate.damaged(rng, data), None
        return table, ending, data, rows, imported

    def _csv(
        self, rng: Random, columns: list[str], rows: list[dict[str, Any]], separator: str = ","
    ) -> tuple[bytes, Any]:
        sink = io.StringIO()
        out = csv.writer(sink, delimiter=separator, lineterminator=rng.choice(("\n", "\r\n")))
        texts = [{c: mutate.flat("" if v is None else str(v)) for c, v in r.items()} for r in rows]
        out.writerow([mutate.flat(c) for c in columns])
        out.writerows([list(r.values()) for r in texts])
        return sink.getvalue().encode(), texts if len(set(columns)) == len(columns) else None

    def _tsv(self, rng: Random, columns: list[str], rows: list[dict[str, Any]]) -> tuple[bytes, Any]:
        return self._csv(rng, columns, rows, "\t")

    def _jsonl(self, rng: Random, columns: list[str], rows: list[dict[str, Any]]) -> tuple[bytes, Any]:
        lines = []
        for row in rows:
            if rng.random() < 0.1:
                row.pop(rng.choice(columns), None)
            lines.append(json.dumps(row))
        return "\n".join(lines).encode(), rows

    def _parquet(self, rng: Random, columns: list[str], rows: list[dict[str, Any]]) -> tuple[bytes, Any]:
        arrays = []
        for c in columns:
            if rng.random() < 0.12:
                arrays.append(typed(rng, len(rows)))
            else:
                cells = [mutate.flat(r[c]) if isinstance(r[c], str) else str(r[c]) for r in rows]
                arrays.append(pa.array(cells if rng.random() < 0.9 else [None] * len(rows), pa.string()))
        sink = io.BytesIO()
        names = [mutate.flat(c) for c in columns]
        pq.write_table(pa.table(arrays, names=names), sink, row_group_size=rng.choice((1, 5, 1000)))
        texts = [a.to_pylist() if pa.types.is_string(a.type) else None for a in arrays]
        if None in texts or len(set(names)) < len(names):
            return sink.getvalue(), None
        return sink.getvalue(), [dict(zip(names, r, strict=True)) for r in zip(*texts, strict=True)]

    def judge(self, case: tuple[str, str, bytes, list[dict[str, Any]] | None, bool]) -> None:
        from palate.data import Dataset, check, import_dataset

        table, ending, data, rows, imported = case
        spec = {**self.spec, table: {**self.spec[table], "path": f"odd{ending}"}}
        for name in COLUMNS:
            (self.data / f"{name}.csv").write_bytes(self.plain[name])
        (self.data / f"odd{ending}").write_bytes(data)
        (self.data / "dataset.yaml").write_text(yaml.safe_dump(spec))
        (self.data / "rejects.jsonl").unlink(missing_ok=True)
        try:
            report = check(self.data)
            held = Dataset.open(self.data, strict=False)
            if held.fingerprint != report.fingerprint:
                raise SilentChange("opened twice, two fingerprints")
            if rows is not None:
                self._same(table, rows, held)
            if imported:
                self._import(import_dataset, held)
        finally:
            (self.data / f"odd{ending}").unlink(missing_ok=True)

    def _import(self, import_dataset: Any, held: Any) -> None:
        shutil.rmtree(self.out, ignore_errors=True)
        try:
            back = import_dataset(self.data, self.out, reader="tables", max_rejects=10**9)
        except DataError as error:
            if "at least one good event" in str(error):  # a catalogue alone can be opened, and says so here
                return
            raise SilentChange(f"could be opened and not be imported: {error}") from None
        if back.fingerprint != held.fingerprint:
            raise SilentChange("imported, the fingerprint is another")

    def _same(self, table: str, rows: list[dict[str, Any]], held: Any) -> None:
        """No row vanishes without a word, and what is kept has the words that were written."""
        lost = held.rejects.rows[f"odd{self._ending(held, table)}"]
        if table == "interactions":
            kept = len(held.histories.interactions.items)
        else:
            kept = len(held.catalog if table == "items" else held.users)
        if kept + lost != len(rows):
            raise SilentChange(f"{table}: {len(rows)} rows in, {kept} kept and {lost} rejected")
        if table != "items":
            return
        first: dict[str, dict[str, Any]] = {}
        for row in rows:
            if isinstance(row.get("item_id"), str):
                first.setdefault(row["item_id"], row)
        for item_id in held.catalog:
            row = first.get(item_id)
            if row is None or not isinstance(row.get("genres"), str):
                continue
            got = held.catalog[item_id].text.get("genres", "")
            if got != _prose(row["genres"]) and sum(str(r.get("item_id")) == item_id for r in rows) == 1:
                raise SilentChange(f"item {item_id!r}: genres {row['genres']!r} became {got!r}")

    @staticmethod
    def _ending(held: Any, table: str) -> str:
        return str(getattr(held.spec, table).path).removeprefix("odd")
