"""Planned chunks are the cutter's, whatever the columns' types, the row groups and the batches."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.apps.candidates import Cutter, chunks, find_tables, plan
from palate.apps.candidates.plan import Planner
from palate.errors import DataError

IDS = [pa.string(), pa.large_string(), pa.int32(), pa.float64(), pa.dictionary(pa.int8(), pa.string())]
LISTS = [pa.string(), pa.list_(pa.string()), pa.large_list(pa.int64()), pa.list_(pa.int16()),
         pa.list_(pa.struct({"item_id": pa.string()}))]  # fmt: skip
SOME_LISTS = [None, [], [1], [1, 2], [1, 3], list(range(12)), list(range(1, 13)), list(range(35))]


def cell(value: Any, kind: pa.DataType) -> Any:
    """A number, a list of numbers or None as a cell of this type."""
    if value is None:
        return None
    if isinstance(value, list):
        if pa.types.is_string(kind):
            return " ".join(map(str, value))
        if pa.types.is_struct(kind.value_type):
            return [{"item_id": str(v)} for v in value]
        return [str(v) for v in value] if pa.types.is_string(kind.value_type) else value
    return value if pa.types.is_integer(kind) or pa.types.is_floating(kind) else f" {value}"


def same(paths: Sequence[Path]) -> int:
    """Check the planner against the cutter; how many chunks there are."""
    cut, planned = Cutter(find_tables(*paths)), Planner(find_tables(*paths))
    wanted = [(c.number, c.table.path, c.rows) for c in cut]
    pieces = list(planned.pieces())
    assert [(c.number, c.table.path, c.rows) for c in (p.chunk() for p in pieces)] == wanted
    assert planned.read == cut.read
    shares = [p.share for p in pieces]
    assert shares == sorted(shares)
    assert all(0 <= s <= 1 for s in shares)
    return len(pieces)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for where, name, value in ((chunks, "WEIGHT", 7), (chunks, "REQUESTS", 4), (plan, "BATCH", 5)):
        monkeypatch.setattr(where, name, value)


ROWS = st.lists(
    st.tuples(st.integers(1, 9), st.one_of(st.none(), st.integers(1, 3)), st.sampled_from(SOME_LISTS)), max_size=40
)
TYPES = st.tuples(st.sampled_from(IDS), st.sampled_from(IDS), st.sampled_from(LISTS), st.sampled_from(LISTS))


@pytest.mark.usefixtures("small")
@settings(max_examples=150, deadline=None)
@given(ROWS, TYPES, st.booleans(), st.booleans(), st.integers(1, 30))
def test_a_plan_is_what_the_cutter_does(
    rows: list[Any], types: tuple[pa.DataType, ...], wide: bool, keyed: bool, group: int
) -> None:
    requests, users, candidates, histories = types
    table: dict[str, pa.Array] = {}
    if not wide:  # a request's rows stand together
        rows = sorted(rows, key=lambda r: r[0] if keyed else (r[1] or 0))
    if keyed or not wide:
        if keyed:
            table["request_id"] = pa.array([cell(r, requests) for r, _, _ in rows], requests)
        else:
            table["user_id"] = pa.array([cell(u, users) for _, u, _ in rows], users)
    if keyed and wide:
        table["user_id"] = pa.array([cell(u, users) for _, u, _ in rows], users)
    if wide:
        table.setdefault("user_id", pa.array([cell(u, users) for _, u, _ in rows], users))
        table["candidates"] = pa.array([cell(h and h[::-1], candidates) for _, _, h in rows], candidates)
    else:
        table["item_id"] = pa.array([str(r) for r, _, _ in rows], pa.string())
    table["history"] = pa.array([cell(h, histories) for _, _, h in rows], histories)
    with tempfile.TemporaryDirectory() as folder:
        for n, part in enumerate(
            (slice(0, 25), slice(25, 40))
        ):  # two tables: row-form ids may come again in the second
            whole = pa.table(table)
            piece = whole.slice(part.start, max(0, min(len(whole), part.stop) - part.start))
            pq.write_table(piece, Path(folder) / f"{n}.parquet", row_group_size=group)
        paths = sorted(Path(folder).glob("*.parquet"))
        try:
            list(Cutter(find_tables(*paths)))
        except DataError as error:  # a request that the two tables cut in two
            told = re.escape(str(error))
            with pytest.raises(DataError, match=f"^{told}$"):
                list(Planner(find_tables(*paths)).pieces())
        else:
            same(paths)


@pytest.mark.usefixtures("small")
def test_text_tables_are_read_to_be_cut(tmp_path: Path) -> None:
    lines = ["request_id,user_id,item_id", *(f"r{n // 3},u{n // 6},{n}" for n in range(40)), "r99"]
    (tmp_path / "a.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "b.jsonl").write_text('{"request_id": "x", "candidates": ["1"]}\nnonsense\n')
    assert same([tmp_path / "a.csv", tmp_path / "b.jsonl"]) > 4


def test_what_is_no_candidate_file_is_told(tmp_path: Path) -> None:
    pq.write_table(pa.table({"request_id": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="missing column item_id"):
        list(Planner(find_tables(tmp_path / "a.parquet")).pieces())
    (tmp_path / "b.parquet").write_bytes(b"nonsense")
    with pytest.raises(DataError, match="expected a Parquet file"):
        list(Planner(find_tables(tmp_path / "b.parquet")).pieces())
