"""Candidate files in, score files out: three formats, both forms, and every mistake a user makes."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facade import tiny_bundle
from palate import Recommender
from palate.apps.candidates import Cutter, Limit, Parser, chunks, find_tables, precheck
from palate.apps.candidates.cells import parse_context, parse_history, parse_ids
from palate.apps.candidates.seen import SeenIds
from palate.apps.scoring import Job, Progress, score_file
from palate.apps.scoring import target as targets
from palate.data import Dataset
from palate.errors import DataError, PalateWarning, TooManyRejects
from palate.recommender.shelf import Shelf
from palate.schema import Event, Request

Rows = Sequence[Mapping[str, Any]]
FORMATS = ["csv", "jsonl", "parquet"]


def write(path: Path, rows: Rows) -> Path:
    """A table in the format of its extension; lists become JSON in CSV."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist([dict(r) for r in rows]), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, list(rows[0]))
            table.writeheader()
            for row in rows:
                table.writerow({k: json.dumps(v) if isinstance(v, list | dict) else v for k, v in row.items()})
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return list(pq.read_table(path).to_pylist())
    if path.suffix == ".jsonl":
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {**r, "score": float(r["score"]), "rank": int(r["rank"]), "user_id": r["user_id"] or None}
            for r in csv.DictReader(file)
        ]


LONG: Rows = [
    {"request_id": "a", "user_id": "4", "item_id": "1"},
    {"request_id": "a", "user_id": "4", "item_id": "7"},
    {"request_id": "b", "user_id": "stranger", "item_id": "3"},
    {"request_id": "b", "user_id": "stranger", "item_id": "1"},
    {"request_id": "b", "user_id": "stranger", "item_id": "24"},
]
WIDE: Rows = [
    {"request_id": "a", "user_id": "4", "history": [], "candidates": ["1", "7"]},
    {"request_id": "n", "user_id": None, "history": ["12", "14"], "candidates": ["3", "1", "24"]},
]


@pytest.fixture(scope="module")
def rec(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> Recommender:
    folder = tiny_bundle(tmp_path_factory.mktemp("adapters") / "tiny", tiny_base, tiny_data)
    return Recommender.load(folder, data=tiny_data, device="cpu")


@pytest.fixture(scope="module")
def shelf(tiny_data: Path) -> Shelf:
    return Shelf(Dataset.open(tiny_data).catalog)


def requests(path: Path, shelf: Shelf, max_rejects: int = 0) -> list[Request]:
    found, limit = list[Request](), Limit(max_rejects)
    for chunk in Cutter(find_tables(path)):
        good, bad = Parser(shelf).parse(chunk)
        limit.take(bad)
        found += good
    return found


# --- round trips ------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [LONG, WIDE], ids=["long", "wide"])
def test_formats_agree(rec: Recommender, tmp_path: Path, form: Rows) -> None:
    results = []
    for kind in FORMATS:
        source = write(tmp_path / f"in.{kind}", form)
        for to in FORMATS:
            summary = score_file(rec, Job(source, tmp_path / f"out.{to}"))
            assert (summary.rows, summary.requests, summary.rejected, summary.mode) == (5, 2, 0, "embedding")
            results.append(read(tmp_path / f"out.{to}"))
    assert list(results[0][0]) == ["request_id", "user_id", "item_id", "score", "rank"]
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            assert {k: v for k, v in a.items() if k != "score"} == {k: v for k, v in b.items() if k != "score"}
            assert a["score"] == pytest.approx(b["score"], rel=1e-6)
    assert list(tmp_path.glob(".*")) == []


def test_scores_are_the_recommender_s(rec: Recommender, tmp_path: Path) -> None:
    score_file(rec, Job(write(tmp_path / "in.jsonl", WIDE), tmp_path / "out.parquet", mode="likelihood"))
    table = pq.read_table(tmp_path / "out.parquet")
    assert [str(t) for t in table.schema.types] == ["string", "string", "string", "float", "int32"]
    rows = [r for r in table.to_pylist() if r["request_id"] == "n"]
    asked = Request("n", None, (Event("12"), Event("14")), ("3", "1", "24"))
    expected = rec.score(asked, "likelihood")[0]
    np.testing.assert_allclose([r["score"] for r in rows], expected.scores, atol=1e-5)
    assert [r["rank"] for r in rows] == expected.ranks().tolist()


def test_a_run_in_small_chunks_is_the_same(rec: Recommender, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "in.csv", LONG)
    score_file(rec, Job(source, tmp_path / "whole.csv"))
    monkeypatch.setattr(chunks, "REQUESTS", 1)
    monkeypatch.setattr(targets, "ROWS", 2)
    seen: list[tuple[int, int, int]] = []
    score_file(rec, Job(source, tmp_path / "parts.csv"), lambda p: seen.append((p.requests, p.rows, p.read)))
    assert seen == [(1, 2, 3), (2, 5, 5)]  # a request ends where the next begins
    for a, b in zip(read(tmp_path / "whole.csv"), read(tmp_path / "parts.csv"), strict=True):
        assert (a["item_id"], a["rank"]) == (b["item_id"], b["rank"])
        assert a["score"] == pytest.approx(b["score"], abs=1e-4)


def cut(path: Path) -> list[list[list[str]]]:
    """Item ids of each request of each chunk."""
    found = []
    for chunk in Cutter(find_tables(path)):
        requests: dict[str, list[str]] = {}
        for _, row in chunk.rows:
            assert isinstance(row, dict)
            requests.setdefault(row["request_id"], []).append(row["item_id"])
        found.append(list(requests.values()))
    return found


def test_chunks_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "REQUESTS", 3)
    monkeypatch.setattr(chunks, "WEIGHT", 10)
    sizes = [1, 1, 1, 1, 9, 2, 30, 1]
    rows = [{"request_id": str(n), "item_id": str(i)} for n, size in enumerate(sizes) for i in range(size)]
    for kind in FORMATS:
        found = cut(write(tmp_path / f"c.{kind}", rows))
        assert [[len(r) for r in chunk] for chunk in found] == [[1, 1, 1], [1, 9], [2, 30], [1]]


def test_requests_of_one_user_stay_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "WEIGHT", 4)
    users = "aaabbbbbbbbbbbbc"
    rows = [{"request_id": str(n), "user_id": user, "item_id": "1"} for n, user in enumerate(users)]
    found = ["".join(users[int(row["request_id"])] for _, row in chunk.rows if isinstance(row, dict))
             for chunk in Cutter(find_tables(write(tmp_path / "c.csv", rows)))]  # fmt: skip
    # a user with very many requests is cut all the same
    assert found == ["aaabbbbb", "bbbbbbb" + "c"] or all(len(c) <= 9 for c in found)
    assert "".join(found) == users


# --- cells ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "ids"),
    [
        ("1 2  3", ("1", "2", "3")), ("1|2|3", ("1", "2", "3")), ('["1", "a b"]', ("1", "a b")),
        ("[1, 2.0]", ("1", "2")), ([1, 2], ("1", "2")), ("", ()), (None, ()), (7, ("7",)), ("a b|c", ("a b", "c")),
    ],
)  # fmt: skip
def test_ids(cell: Any, ids: tuple[str, ...]) -> None:
    assert parse_ids(cell) == ids


def test_histories_and_contexts() -> None:
    assert parse_history('[{"item_id": 5, "timestamp": "10", "rating": 4}, "6"]') == (
        Event("5", 10.0, 4.0),
        Event("6"),
    )
    assert parse_context('{"time": "evening", "n": 2.0, "x": null}') == {"time": "evening", "n": "2"}
    assert parse_context([("time", "noon")]) == {"time": "noon"}
    for wrong in ("[1", {"a": 1}, [["1"]], [True]):
        with pytest.raises(ValueError, match=r"JSON list|expected"):
            parse_ids(wrong)
    with pytest.raises(ValueError, match="expected item_id, timestamp"):
        parse_history([{"item": "5"}])
    with pytest.raises(ValueError, match="finite rating"):
        parse_history([{"item_id": "5", "rating": "nan"}])
    for text in ("evening", "[1]", [1]):
        with pytest.raises(ValueError, match="expected a mapping"):
            parse_context(text)


@given(st.lists(st.text(min_size=1).filter(lambda t: t.strip() == t), max_size=8))
def test_json_cells_come_back(ids: list[str]) -> None:
    assert parse_ids(json.dumps(ids)) == tuple(ids)
    assert parse_ids(ids) == tuple(ids)


@given(st.lists(st.integers(0, 60), max_size=300))
def test_seen_ids(numbers: list[int]) -> None:
    seen, held = SeenIds(block=8), set[int]()
    for n in numbers:
        assert seen.add(str(n)) is (n not in held)
        held.add(n)


# --- mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("item_id\n1\n", r"line 1: missing column request_id \(or user_id\); the file has: item_id"),
        ("request_id,user_id\n1,1\n", r"missing column item_id \(a row a candidate\) or candidates"),
        ("request_id,item_id,candidates\na,1,2\n", "got both columns"),
        ("request_id,item_id\na,1\na,99\n", "line 3, column item_id: unknown item '99'; ids look like '1', '2'"),
        ("request_id,item_id\na,Alien\n", "line 2, column item_id: .*'Alien' has the id '12'"),
        ("request_id,item_id\na,\n", "line 2, column item_id: item id is empty"),
        ("request_id,item_id\n,1\n", "line 2, column request_id: request_id is empty"),
        ("request_id,item_id\na,1\na,1\n", "line 3, column item_id: item listed twice in request 'a'"),
        ("request_id,item_id\na,1\nb,1\na,2\n", "line 4, column request_id: request 'a' comes again"),
        ("request_id,item_id\na,1,3\n", "line 2: expected 2 cells, got 3"),
        ("request_id,user_id,item_id\na,1\n", "line 2: expected 3 cells, got 2"),
        ("request_id,candidates\na,\n", "line 2, column candidates: candidates are empty"),
        ("request_id,candidates\na,1 2 1\n", "line 2, column candidates: item listed twice"),
        ("request_id,candidates\na,1\na,2\n", "line 3, column request_id: this request_id was used before"),
        ("request_id,candidates\na,[1\n", "line 2, column candidates: not a JSON list"),
        ("request_id,history,candidates\na,0,1\n", "line 2, column history: unknown item '0'"),
        ("request_id,context,candidates\na,noon,1\n", "line 2, column context: expected a mapping"),
        ('request_id,item_id\n"a\nb",1\nc,99\n', "line 4, column item_id: unknown item '99'"),
    ],
)  # fmt: skip
def test_wrong_rows(shelf: Shelf, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "c.csv"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=message) as caught:
        requests(path, shelf)
    assert str(path) in str(caught.value)


def test_wrong_files(shelf: Shelf, tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("request_id\n")
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "latin.csv").write_bytes("request_id,item_id\né,1\n".encode("latin-1"))
    (tmp_path / "p.parquet").write_text("no parquet")
    (tmp_path / "j.jsonl").write_text('{"request_id": "a", "item_id": 1}\n[]\n{"x"\n')
    for name, message in [
        ("c.txt", "expected a file ending in .parquet, .csv, .jsonl, got .txt"),
        ("none.csv", "found nothing there"),
        ("empty.csv", "the file is empty"),
        ("latin.csv", "expected UTF-8 text, got byte 0xe9"),
        ("p.parquet", "expected a Parquet file"),
        ("j.jsonl", "line 2: expected a JSON object"),
    ]:
        with pytest.raises(DataError, match=message):
            requests(tmp_path / name, shelf)
    with pytest.raises(DataError, match="line 3: not JSON"):
        requests(tmp_path / "j.jsonl", shelf, max_rejects=1)
    with pytest.raises(DataError, match="the file is empty"):
        precheck(tmp_path / "empty.csv")


def test_bad_rows_are_kept_apart(rec: Recommender, tmp_path: Path) -> None:
    rows = [*LONG, {"request_id": "c", "user_id": "1", "item_id": "nope"}, {"request_id": "d", "item_id": "2"}]
    source = write(tmp_path / "in.jsonl", rows)
    out = tmp_path / "out.csv"
    with pytest.raises(TooManyRejects, match=r"line 6, column item_id: unknown item 'nope'.*--max-rejects"):
        score_file(rec, Job(source, out))
    assert not out.exists()
    summary = score_file(rec, Job(source, out, max_rejects=1))
    assert (summary.rows, summary.requests, summary.rejected) == (6, 3, 1)
    lines = [json.loads(x) for x in Path(str(summary.rejects_file)).read_text().splitlines()]
    assert [(x["line"], x["column"], x["value"]) for x in lines] == [(6, "item_id", "nope"), (6, "item_id", "")]
    assert "no valid candidate left in 'c'" in lines[1]["reason"]
    assert {r["request_id"] for r in read(out)} == {"a", "b", "d"}
    write(source, LONG)
    assert score_file(rec, Job(source, out, max_rejects=1)).rejects_file is None
    assert list(tmp_path.glob("*.rejects.jsonl")) == []


def test_the_output_is_whole_or_absent(rec: Recommender, tmp_path: Path) -> None:
    source, out = write(tmp_path / "in.csv", LONG), tmp_path / "deep" / "out.parquet"
    score_file(rec, Job(source, out))
    before = out.read_bytes()

    def stop(progress: Progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score_file(rec, Job(source, out), stop)
    assert out.read_bytes() == before
    with pytest.raises(DataError, match=r"an unfinished run is there; go on with --resume, or .* --restart"):
        score_file(rec, Job(source, out))
    score_file(rec, Job(source, out, resume=True))
    assert out.read_bytes() == before
    assert sorted(p.name for p in out.parent.iterdir()) == ["out.parquet", "out.parquet.summary.json"]
    with pytest.raises(DataError, match="would overwrite the candidates"):
        score_file(rec, Job(source, source))
    with pytest.raises(DataError, match=r"got \.xlsx"):
        score_file(rec, Job(source, tmp_path / "o.xlsx"))
    (tmp_path / "head.csv").write_text("request_id,item_id\n")
    with pytest.raises(DataError, match="has no rows"):
        score_file(rec, Job(tmp_path / "head.csv", out))
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        score_file(rec, Job(source, tmp_path / "file" / "o.csv"))


def test_a_history_of_ten_thousand(rec: Recommender, tmp_path: Path) -> None:
    ids = [str(1 + n % 24) for n in range(10_000)]
    row = {"request_id": "long", "user_id": None, "history": ids, "candidates": ["1", "2"]}
    for kind in FORMATS:
        summary = score_file(rec, Job(write(tmp_path / f"in.{kind}", [row]), tmp_path / "o.csv"))
        assert summary.rows == 2
    row["history"] = ids[-500:]
    score_file(rec, Job(write(tmp_path / "in.csv", [row]), tmp_path / "short.csv"))
    for a, b in zip(read(tmp_path / "o.csv"), read(tmp_path / "short.csv"), strict=True):
        assert a["score"] == pytest.approx(b["score"], abs=1e-5)


# --- new items --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", FORMATS)
def test_new_items_are_scored(tmp_path: Path, tiny_base: Path, tiny_data: Path, kind: str) -> None:
    rec = Recommender.load(f"path:{tiny_base}", data=tiny_data, device="cpu")
    new = write(
        tmp_path / f"new.{kind}",
        [
            {"item_id": "x1", "title": "Blade Runner", "year": 1982, "genres": "Sci-Fi", "image": ""},
            {"item_id": "x2", "title": "Dune", "year": 1984, "genres": "Sci-Fi", "image": ""},
        ],
    )
    rows = [{"request_id": "a", "user_id": "1", "item_id": i} for i in ("x1", "1", "x2")]
    summary = score_file(rec, Job(write(tmp_path / "in.csv", rows), tmp_path / "o.csv", new_items=new))
    assert (summary.new_items, summary.rows, summary.mode) == (2, 3, "likelihood")
    assert rec.shelf["x1"].text == {"year": "1982", "genres": "Sci-Fi"}
    with pytest.raises(DataError, match=r"line [12]: item id 'x1' is taken"):
        score_file(rec, Job(tmp_path / "in.csv", tmp_path / "o.csv", new_items=new))


def test_wrong_new_items(rec: Recommender, tmp_path: Path) -> None:
    source = write(tmp_path / "in.csv", LONG)
    for rows, message in [
        ([{"name": "Dune"}], "line 1: missing column title; the file has: name"),
        ([{"title": "Dune", "image": "../../etc/passwd"}], "line 2, column image: expected a file inside"),
        ([{"title": " ", "year": "1"}], "line 2: item 'new-1': expected a title"),
    ]:
        new = write(tmp_path / "new.csv", rows)
        with pytest.raises(DataError, match=message):
            score_file(rec, Job(source, tmp_path / "o.csv", new_items=new))


def test_a_picture_that_is_a_text_file_warns(
    tmp_path: Path, tiny_base: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from palate.recommender import newitems
    from test_recommender import Colour

    monkeypatch.setattr(newitems, "build", lambda configs: {"image": Colour(None, "image")})
    monkeypatch.setattr(Colour, "fingerprint", "toy-image")
    folder = tiny_bundle(tmp_path / "b", tiny_base, tiny_data, {"encoders": {"image": {"encoder": "colour"}}})
    rec = Recommender.load(folder, data=tiny_data, device="cpu")
    (tmp_path / "p.jpg").write_text("no picture")
    new = write(tmp_path / "new.csv", [{"item_id": "x", "title": "Dune", "image": "p.jpg"}])
    rows = [{"request_id": "a", "item_id": i} for i in ("x", "1")]
    source = write(tmp_path / "in.csv", rows)
    with pytest.warns(PalateWarning, match=r"item 'x', image .*p.jpg.*; the item goes without it"):
        summary = score_file(rec, Job(source, tmp_path / "o.csv", new_items=new))
    assert (summary.rows, summary.new_items) == (2, 1)
