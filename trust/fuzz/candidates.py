"""Candidate files: cut, parsed and planned; every row ends in a request or among the bad rows, whatever the format."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trust import mutate, tiny
from trust.fuzz import SilentChange, Target

COLUMNS = ("request_id", "user_id", "history", "context", "profile", "query", "adapter")
WORDS = (b'"', b",", b"\n", b"\r", b"[", b"{", b"\x00", b"\xff", b"\xef\xbb\xbf", b"\\ud800", b"1e999", b"null", b"|")
ENDINGS = (".jsonl", ".jsonl", ".csv", ".csv", ".parquet", ".jsonl.gz", ".csv.bz2", ".jsonl.xz")


def cell(rng: Random, column: str, n: int) -> Any:
    """A cell: usually what belongs there."""
    if rng.random() < 0.2:
        return mutate.value(rng)
    if column == "request_id":
        return f"r{n}"
    if column == "user_id":
        return str(rng.randint(1, 30))
    if column == "item_id":
        return rng.choice((str(rng.randint(1, 24)), rng.randint(1, 30), float(rng.randint(1, 24))))
    if column in ("history", "candidates"):
        ids: list[Any] = [str(i) for i in rng.sample(range(1, 25), rng.randint(0, 5))]
        if column == "history" and ids and rng.random() < 0.3:
            ids[0] = {"item_id": ids[0], "timestamp": rng.choice(mutate.NUMBERS), "rating": mutate.value(rng)}
        return rng.choice((ids, json.dumps(ids), "|".join(map(str, ids)), " ".join(map(str, ids))))
    if column in ("context", "profile"):
        return rng.choice(({}, {"time": "evening"}, '{"a": "b"}', {"time": mutate.value(rng)}, ""))
    return rng.choice(("", None, "something funny"))


def written(rng: Random, rows: list[dict[str, Any]], columns: list[str], ending: str) -> bytes:
    """Rows as a file's bytes."""
    import bz2
    import lzma

    if ending == ".parquet":
        cells = {c: [r.get(c) for r in rows] for c in columns}
        arrays = {}
        for name, column in cells.items():
            try:
                arrays[mutate.flat(name)] = pa.array(mutate.flat(column))
            except (pa.ArrowException, OverflowError):
                arrays[mutate.flat(name)] = pa.array(
                    [None if v is None else mutate.flat(str(v)) for v in column], pa.string()
                )
        sink = io.BytesIO()
        pq.write_table(pa.table(arrays), sink, row_group_size=rng.choice((1, 3, 1000)))
        return sink.getvalue()
    if ending.startswith(".jsonl"):
        data = "\n".join(json.dumps(r) for r in rows).encode()
    else:
        text = io.StringIO()
        out = csv.writer(text)
        out.writerow([mutate.flat(c) for c in columns])
        for r in rows:
            out.writerow(
                [
                    mutate.flat(v if isinstance(v, str) else "" if v is None else json.dumps(v))
                    for v in map(r.get, columns)
                ]
            )
        data = text.getvalue().encode()
    packers = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}
    return packers.get(Path(ending).suffix, bytes)(data)


class Candidates(Target):
    name = "candidates"
    about = "long and row form in CSV, JSON lines, Parquet, packed: cells of any kind, odd columns, damage, cuts"

    def setup(self, folder: Path) -> None:
        from palate.apps.candidates import chunks

        chunks.WEIGHT, chunks.REQUESTS = 6, 2
        self.folder = folder
        self.rec = tiny.recommender(folder)

    def make(self, rng: Random) -> tuple[str, bytes]:
        wide = rng.random() < 0.6
        columns = [c for c in COLUMNS if rng.random() < (0.9 if c == "request_id" else 0.45)]
        columns.append("candidates" if wide else "item_id")
        if rng.random() < 0.08:
            columns.append(mutate.text(rng))
        if rng.random() < 0.04:
            columns.append("item_id" if wide else "candidates")
        rows = []
        for n in range(rng.choice((0, 1, 3, 8))):
            key = n if wide else n // 3
            rows.append({c: cell(rng, c, key) for c in columns})
        ending = rng.choice(ENDINGS)
        data = written(rng, rows, columns, ending)
        return ending, mutate.damaged(rng, data, WORDS) if rng.random() < 0.25 else data

    def judge(self, case: tuple[str, bytes]) -> None:
        from palate.apps.candidates import Cutter, Parser, find_tables
        from palate.apps.candidates.plan import Planner

        ending, data = case
        path = self.folder / f"c{ending}"
        path.write_bytes(data)
        try:
            parser = Parser(self.rec.shelf, self.rec.adapters)
            found = []
            for chunk in Cutter(find_tables(path)):
                requests, rejects = parser.parse(chunk)
                found.append((requests, [r.told() for r in rejects]))
                lines = {r.line for r in rejects}
                if chunk.rows and not requests and not lines:
                    raise SilentChange(f"{len(chunk.rows)} rows gave neither a request nor a bad row")
                for reject in rejects:
                    json.dumps(reject.told(), ensure_ascii=False).encode("utf-8", "surrogatepass")
            planned = [parser.parse(piece.chunk()) for piece in Planner(find_tables(path)).pieces()]
            if repr([(q, [r.told() for r in j]) for q, j in planned]) != repr(found):
                raise SilentChange("planned, the chunks are others than cut")
        finally:
            path.unlink()
