"""Importing: clean folders, media, atomic replacement, and any generated table."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palate.data import Dataset, check, events, import_dataset, stats
from palate.data.rejects import RejectLog
from palate.data.spec import InteractionsSpec
from palate.data.tables import TableSource
from palate.errors import DataError, TooManyRejects

SPEC = """\
name: gen
items: {path: items.csv}
interactions: {path: events.csv, rating: rating, timestamp: timestamp, context: [device]}
"""
ITEM_HEAD, EVENT_HEAD = ["item_id", "title", "note"], ["user_id", "item_id", "rating", "timestamp", "device"]


def write_csv(path: Path, rows: list[list[str]]) -> None:
    text = io.StringIO()
    csv.writer(text).writerows(rows)
    path.write_text(text.getvalue(), "utf-8", newline="")


def make(folder: Path, items: list[list[str]], rows: list[list[str]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write_csv(folder / "items.csv", [ITEM_HEAD, *items])
    write_csv(folder / "events.csv", [EVENT_HEAD, *rows])
    (folder / "dataset.yaml").write_text(SPEC)
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    items = [[str(n), f"Title {n}", ""] for n in range(4)]
    rows = [["b", "1", "5", "20", "tv"], ["a", "2", "", "", ""], ["b", "3", "4", "10", "phone"]]
    return make(tmp_path / "source", items, rows)


def test_an_import_is_clean_and_equal_to_its_source(source: Path, tmp_path: Path) -> None:
    with (source / "events.csv").open("a") as f:
        f.write("b,99,5,1,tv\nb,1,5,20,tv\n")
    before = Dataset.open(source, max_rejects=2)
    data = import_dataset(source, tmp_path / "out", max_rejects=2)
    assert data.fingerprint == before.fingerprint
    assert sorted(p.name for p in data.folder.iterdir()) == [
        "dataset.yaml", "interactions.parquet", "items.parquet", "rejects.jsonl",
    ]  # fmt: skip
    assert not data.rejects.reasons, "what was imported has nothing left to reject"
    report = check(data.folder)
    assert {r[2]: r[3] for r in report.rejected} == {
        "unknown item": 1,
        "duplicate event (same user, item and time), the first is kept": 1,
    }
    assert [(r.file, r.line) for r in report.first] == [("events.csv", 5), ("events.csv", 6)]
    for user in ("a", "b"):
        assert data.histories.events(user) == before.histories.events(user)
    assert pq.read_table(data.folder / "interactions.parquet")["user_id"].to_pylist() == ["b", "b", "a"]


def test_the_interactions_of_an_import_are_read_without_checking_each_row(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = import_dataset(source, tmp_path / "out")

    def never(*args: Any, **options: Any) -> None:
        raise AssertionError("checked again")

    monkeypatch.setattr(events, "collect", never)
    again = Dataset.open(data.folder)
    assert again.fingerprint == data.fingerprint
    assert again.histories.context("b") == ({"device": "phone"}, {"device": "tv"})


def test_a_clean_table_that_someone_edits_is_checked_again(source: Path, tmp_path: Path) -> None:
    data = import_dataset(source, tmp_path / "out")
    before = Dataset.open(data.folder).histories.events("b")
    path = data.folder / "interactions.parquet"
    table = pq.read_table(path)
    shuffled = table.take(pa.array([2, 1, 0, 1]))
    pq.write_table(shuffled, path)
    again = Dataset.open(data.folder)
    assert again.histories.events("b") == before
    with pytest.raises(DataError, match="changed after it was opened"):
        data.histories.events("b")
    assert again.rejects.total == 1
    items = pq.read_table(data.folder / "items.parquet")
    pq.write_table(table, path)
    pq.write_table(items.slice(0, 3), data.folder / "items.parquet")
    assert check(data.folder).rejected == [("row", "interactions.parquet", "unknown item", 1)]


def test_too_many_rejects_keep_the_old_folder_and_the_list(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    old = import_dataset(source, out).fingerprint
    with (source / "events.csv").open("a") as f:
        f.writelines(f"b,99,5,{n},tv\n" for n in range(9))
    with pytest.raises(TooManyRejects, match=r"9 of 12 rows are bad.*out\.rejects\.jsonl"):
        import_dataset(source, out)
    assert Dataset.open(out).fingerprint == old
    assert len((tmp_path / "out.rejects.jsonl").read_text().splitlines()) == 9
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "out.rejects.jsonl", "source"]
    new = import_dataset(source, out, max_rejects=0.9)
    assert not (tmp_path / "out.rejects.jsonl").exists()
    assert len((new.folder / "rejects.jsonl").read_text().splitlines()) == 9


def test_where_an_import_may_write(source: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="another folder than the source"):
        import_dataset(source, source)
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.doc").write_text("mine")
    with pytest.raises(DataError, match="is something else"):
        import_dataset(source, other)
    assert (other / "thesis.doc").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    assert len(import_dataset(source, tmp_path / "empty" / "deep").catalog) == 4


def test_a_name_that_is_neither_known_nor_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got 'ml-10k'; did you mean 'ml-100k'"):
        import_dataset("ml-10k", tmp_path / "out")


def test_no_good_event_is_an_error(tmp_path: Path) -> None:
    source = make(tmp_path / "source", [["1", "A", ""]], [])
    with pytest.raises(DataError, match="expected at least one good event"):
        import_dataset(source, tmp_path / "out")


# --- media ------------------------------------------------------------------------------------------


@pytest.fixture
def extra(tmp_path: Path) -> Path:
    folder = tmp_path / "extra"
    (folder / "posters").mkdir(parents=True)
    (folder / "posters" / "1.jpg").write_bytes(b"one")
    write_csv(
        folder / "items.csv",
        [
            ["item_id", "title", "note", "plot", "image"],
            ["1", "Other title", "filled", "A plot", "posters/1.jpg"],
            ["2", "", "", "", "posters/gone.jpg"],
            ["3", "", "lost", "", "../source/items.csv"],
            ["77", "Stranger", "", "", ""],
        ],
    )
    return folder


def test_media_and_fields_are_joined_by_item_id(source: Path, extra: Path, tmp_path: Path) -> None:
    write_csv(source / "items.csv", [ITEM_HEAD, ["1", "T1", ""], ["3", "T3", "own"], ["4", "T4", ""]])
    write_csv(source / "events.csv", [EVENT_HEAD, ["a", "1", "", "", ""]])
    data = import_dataset(source, tmp_path / "out", media=extra)
    one = data.catalog["1"]
    assert (one.title, dict(one.text)) == ("T1", {"note": "filled", "plot": "A plot"})
    assert one.media == {"image": data.folder / "posters" / "1.jpg"}
    assert one.media["image"].read_bytes() == b"one"
    assert dict(data.catalog["3"].text) == {"note": "own"}, "the own value stays"
    assert data.catalog["4"] == data.catalog.at(2)
    assert not data.catalog["4"].text
    assert data.catalog["3"].media == {}
    rejects = [json.loads(line) for line in (data.folder / "rejects.jsonl").read_text().splitlines()]
    assert {(r["value"], r["kind"]) for r in rejects} == {
        ("posters/gone.jpg", "media"), ("../source/items.csv", "media"), ("77", "media"), ("2", "media"),
    }  # fmt: skip


def test_a_media_folder_that_fits_nothing_is_an_error(source: Path, extra: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected a media folder"):
        import_dataset(source, tmp_path / "out", media=tmp_path / "nowhere")
    write_csv(extra / "items.csv", [["item_id", "image"], ["x", ""]])
    with pytest.raises(DataError, match="expected item ids of the catalogue, none of 1 rows fits"):
        import_dataset(source, tmp_path / "out", media=extra)
    (extra / "items.csv").unlink()
    with pytest.raises(DataError, match=r"expected items\.csv"):
        import_dataset(source, tmp_path / "out", media=extra)
    assert not (tmp_path / "out").exists()


# --- any table --------------------------------------------------------------------------------------

CELLS = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "1",
            "2",
            "a",
            "nan",
            "inf",
            "-1",
            "1e309",
            "5",
            "2020-01-01",
            "881250949",
            "a,b",
            '"',
            "\n",
        ]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=6),
)
ROWS = st.lists(st.lists(CELLS, min_size=1, max_size=6), max_size=12)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ROWS, ROWS, st.sampled_from(["csv", "jsonl"]))
def test_any_table_opens_and_every_row_is_kept_or_rejected(
    items: list[list[str]], rows: list[list[str]], kind: str
) -> None:
    items = [["ok", "A title", ""], *items]
    # JSON Lines have no ragged rows: a short row is an object with fewer keys
    if kind == "jsonl":
        items, rows = ([dict(zip(h, r, strict=False)) for r in t] for h, t in ((ITEM_HEAD, items), (EVENT_HEAD, rows)))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "source"
        if kind == "csv":
            make(folder, items, rows)
        else:
            folder.mkdir()
            for name, table, head in (("items", items, ITEM_HEAD), ("events", rows, EVENT_HEAD)):
                full = [{**dict.fromkeys(head, None), **r} for r in table]
                (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in full))
            (folder / "dataset.yaml").write_text(SPEC.replace(".csv", ".jsonl"))
        if kind == "jsonl" and not rows:
            return
        data = Dataset.open(folder, strict=False)
        lost = data.rejects.rows
        assert len(data.catalog) + lost[f"items.{kind}"] == len(items)
        assert len(data.histories.interactions.items) + lost[f"events.{kind}"] == len(rows)
        assert "ok" in data.catalog
        numbers = data.histories.interactions
        assert np.isfinite(numbers.ratings[~np.isnan(numbers.ratings)]).all()
        for item in data.catalog.values():
            assert item.item_id.strip() == item.item_id != ""
            assert "\n" not in item.title
        if len(numbers.items):
            out = import_dataset(folder, Path(scratch) / "out", max_rejects=1000)
            assert out.fingerprint == data.fingerprint
            assert stats(out)["events"] == len(numbers.items)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200), st.sampled_from(["csv", "jsonl", "parquet", "csv.gz"]))
def test_any_bytes_give_a_data_set_or_a_clear_error(content: bytes, ending: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / f"items.{ending}").write_bytes(content)
        (folder / "events.csv").write_text(",".join(EVENT_HEAD))
        (folder / "dataset.yaml").write_text(SPEC.replace("items.csv", f"items.{ending}"))
        with pytest.raises(DataError, match="items"):
            Dataset.open(folder, strict=False)


@pytest.mark.parametrize("line", ["[1]", "{", "3", '{"item_id": "\\ud800", "title": "x"}', "[" * 100_000, "nul"])
def test_a_line_that_is_no_json_object_is_rejected(tmp_path: Path, line: str) -> None:
    (tmp_path / "items.jsonl").write_text(
        f'{{"item_id": 1, "title": "A"}}\n\n{line}\n{{"item_id": 2.0, "title": "B"}}\n'
    )
    (tmp_path / "events.csv").write_text(",".join(EVENT_HEAD) + "\nu,1,,,\n")
    (tmp_path / "dataset.yaml").write_text(SPEC.replace("items.csv", "items.jsonl"))
    data = Dataset.open(tmp_path, strict=False)
    assert data.catalog["1"].title == "A"
    assert len(data.catalog) == 2
    (found,) = data.rejects.first
    assert (found.file, found.line) == ("items.jsonl", 3)
    assert len(found.value) <= 200


def test_json_lines_in_another_encoding_or_with_a_mark(tmp_path: Path) -> None:
    (tmp_path / "events.csv").write_text(",".join(EVENT_HEAD) + "\nu,1,,,\n")
    spec = SPEC.replace("items.csv", "items.jsonl")
    (tmp_path / "dataset.yaml").write_text(spec)
    line = '{"item_id": 1, "title": "Amélie"}\n'
    (tmp_path / "items.jsonl").write_text(line, "utf-8-sig")
    assert Dataset.open(tmp_path).catalog["1"].title == "Amélie"
    (tmp_path / "items.jsonl").write_text(line, "latin-1")
    with pytest.raises(DataError, match=r"items\.jsonl: expected utf-8 text, byte 27 is 0xe9"):
        Dataset.open(tmp_path)
    (tmp_path / "dataset.yaml").write_text(spec.replace("jsonl", "jsonl, encoding: klingon", 1))
    with pytest.raises(DataError, match="no encoding is called 'klingon'"):
        Dataset.open(tmp_path)


def test_keys_that_turn_up_late_or_never_are_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palate.data.formats.JSON_ROWS", 2)
    rows = [{"item_id": n, "title": f"T{n}", **({"late": "x"} if n == 3 else {"early": "y"})} for n in range(6)]
    (tmp_path / "items.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "events.csv").write_text(",".join(EVENT_HEAD) + "\nu,1,,,\n")
    (tmp_path / "dataset.yaml").write_text(SPEC.replace("items.csv", "items.jsonl"))
    catalog = Dataset.open(tmp_path).catalog
    assert [dict(i.text) for i in catalog.values()] == [{"late": "x"} if n == 3 else {"early": "y"} for n in range(6)]


def test_many_chunks_give_the_same_events_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, spilled context and gathering across chunks change nothing."""
    rng = np.random.default_rng(3)
    rows = [
        [
            f"u{rng.integers(20)}",
            str(rng.integers(9)),
            "",
            str(rng.integers(50)),
            f"d{n}{'x' * int(rng.integers(30))}",
        ]
        for n in range(3000)
    ]
    rows[700] = ["ragged"]
    rows[1500][4] = "two\nlines"
    rows[2900] = ["u1", "nope", "", "1", ""]
    source = make(tmp_path / "source", [[str(n), f"T{n}", ""] for n in range(9)], rows)
    whole = import_dataset(source, tmp_path / "one", max_rejects=2999)
    monkeypatch.setattr("palate.data.formats.BLOCK", 4096)
    monkeypatch.setattr("palate.data.events.WRITE_ROWS", 100)
    parts = import_dataset(source, tmp_path / "many", max_rejects=2999)
    assert parts.fingerprint == whole.fingerprint
    left = [(f / "rejects.jsonl").read_text().splitlines() for f in (tmp_path / "one", tmp_path / "many")]
    assert sorted(left[0]) == sorted(left[1])
    found = {json.loads(line)["reason"]: json.loads(line)["line"] for line in left[1]}
    assert found["expected 5 columns, got 1"] == 702
    assert found["unknown item"] == 2903


def test_an_arrow_source_without_rows_is_no_crash() -> None:
    src = TableSource(Path("none"), "none", "arrow", batches=lambda: iter(()))
    table = events.collect(src, InteractionsSpec(path="none"), {}, RejectLog())
    assert len(table) == 0


# --- the real thing ---------------------------------------------------------------------------------


@pytest.mark.weights
def test_movielens_100k_by_name(tmp_path: Path) -> None:
    data = import_dataset("ml-100k", tmp_path / "ml-100k")
    assert data.name == "ml-100k"
    assert len(data.catalog) == 1682
    numbers = data.histories.interactions
    assert (len(numbers), len(numbers.items), len(data.users)) == (943, 100_000, 943)
    assert not data.rejects.reasons
    assert data.catalog.find("usual suspects")[0] == ("12", 0.95)
    assert (np.diff(numbers.indptr) >= 20).all()
