"""Candidate files all the way through `palate score` with a tiny model: every good candidate has a score, and no other."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from trust.fuzz import SilentChange
from trust.fuzz import candidates as files


class Scores(files.Candidates):
    name = "scores"
    about = "the same files scored by a tiny model into CSV, JSON lines and Parquet, and read back"
    share = 1.0

    def make(self, rng: Random) -> tuple[str, bytes]:
        ending, data = super().make(rng)
        return f"{rng.choice(('.csv', '.jsonl', '.parquet'))}{ending}", data

    def judge(self, case: tuple[str, bytes]) -> None:
        from palate.apps.candidates import Cutter, Parser, find_tables
        from palate.apps.scoring import Job, score_file

        output, ending = case[0].split(".", 2)[1:]
        path, out = self.folder / f"c.{ending}", self.folder / f"o.{output}"
        path.write_bytes(case[1])
        try:
            score_file(self.rec, Job(path, out, max_rejects=10**9, restart=True))
            parser = Parser(self.rec.shelf, self.rec.adapters)
            asked = [
                (q.request_id, i) for c in Cutter(find_tables(path)) for q in parser.parse(c)[0] for i in q.candidates
            ]
            got = [(str(r["request_id"]), str(r["item_id"])) for r in _rows(out)]
            if asked != got:
                raise SilentChange(f"asked for {asked[:3]} ({len(asked)}), got {got[:3]} ({len(got)})")
        finally:
            for file in (path, out):
                file.unlink(missing_ok=True)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    if path.suffix == ".parquet":
        yield from pq.read_table(path).to_pylist()
    elif path.suffix == ".jsonl":
        yield from map(json.loads, path.read_text("utf-8").split("\n")[:-1])
    else:
        with path.open(newline="", encoding="utf-8") as file:
            yield from csv.DictReader(file)
