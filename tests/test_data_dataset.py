"""Opening a data set folder: catalogue, histories, fingerprints, and the answer to every kind of bad row."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from palate.data import Dataset, check, stats
from palate.data.catalog import Catalog
from palate.data.check import gini
from palate.errors import ConfigError, DataError, TooManyRejects
from palate.schema import Event, Item

ITEMS = "item_id,title,year,image\n1,Alien,1979,\n2,Heat,1995,\n3,Babe,1995,\n"
EVENTS = "user_id,item_id,rating,timestamp,device\nu,1,5,100,tv\nu,2,4,200,phone\nv,3,,50,\n"
SPEC = """\
name: mini
wording: {item: film, items: films, verb: saw, person: fan}
items: {path: items.csv, media: {image: image}}
interactions:
  {path: events.csv, rating: rating, timestamp: timestamp, context: [device], rating_range: [1, 5]}
show: {history: [year], candidate: [year]}
"""


@pytest.fixture
def make(tmp_path: Path) -> Any:
    """Writes a small data set folder; returns it."""

    def write(items: str | bytes = ITEMS, events: str | bytes = EVENTS, spec: str = SPEC) -> Path:
        for name, text in (("items.csv", items), ("events.csv", events), ("dataset.yaml", spec)):
            (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return write


def rejects(folder: Path) -> list[dict[str, Any]]:
    path = folder / "rejects.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def loose(folder: Path) -> Dataset:
    return Dataset.open(folder, strict=False)


# --- what is there ----------------------------------------------------------------------------------


def test_a_folder_opens_with_everything_the_spec_names(tiny_data: Path) -> None:
    data = Dataset.open(tiny_data)
    assert (data.name, data.language, data.wording.verb) == ("tiny", "en", "watched")
    assert (data.show.history, data.show.candidate) == (("year",), ("year", "genres"))
    assert len(data.catalog) == 24
    assert len(data.histories) == 30
    assert data.catalog.item_ids[:3] == ("1", "2", "3")
    first = data.catalog["1"]
    assert first.title == "Toy Story"
    assert dict(first.text) == {"year": "1971", "genres": "Action Thriller"}
    assert first.media["image"].read_bytes()[:2] == b"\xff\xd8"
    assert data.catalog["3"].media == {}
    assert dict(data.users["2"]) == {"age": "22", "occupation": "artist"}
    assert data.histories.interactions.item_ids == data.catalog.item_ids
    assert not data.rejects.reasons


def test_histories_are_oldest_first_with_ties_in_file_order_and_keep_context(make: Any) -> None:
    rows = "user_id,item_id,rating,timestamp,device\nu,1,5,200,tv\nu,3,,100,\nv,1,3,7,\nu,2,4,200,phone\n"
    data = Dataset.open(make(events=rows))
    assert data.histories.events("u") == (
        Event("3", 100.0, None, {}),
        Event("1", 200.0, 5.0, {"device": "tv"}),
        Event("2", 200.0, 4.0, {"device": "phone"}),
    )
    assert data.histories.context("u") == ({}, {"device": "tv"}, {"device": "phone"})
    assert data.histories.interactions.user_ids == ("u", "v")
    assert "u" in data.histories
    assert "nobody" not in data.histories
    with pytest.raises(DataError, match=r"got 'nobody'.*give a history"):
        data.histories.events("nobody")


def test_catalog_is_a_mapping_in_file_order(make: Any) -> None:
    catalog = Dataset.open(make()).catalog
    assert list(catalog) == ["1", "2", "3"]
    assert catalog.index("3") == 2
    assert [i.title for i in catalog.values()] == ["Alien", "Heat", "Babe"]
    assert catalog.at(1) == catalog["2"] == Item("2", "Heat", {"year": "1995"}, {})
    assert "9" not in catalog
    assert catalog.get("9") is None
    with pytest.raises(KeyError):
        catalog["9"]
    with pytest.raises(DataError, match="item id of the catalogue, got '9'"):
        catalog.index("9")


@pytest.mark.parametrize(
    ("typed", "title", "score"),
    [
        ("Alien", "Alien", 1.0),
        ("  aLIEN ", "Alien", 1.0),
        ("Heat (1995)", "Heat", 1.0),
        ("heat (1986)", "Heat", 0.9),
        ("Usual Suspects, The", "The Usual Suspects", 1.0),
        ("usual suspects", "The Usual Suspects", 0.95),
        ("seven", "Seven (Se7en)", 0.95),
        ("Psycho (1998)", "Psycho (1998)", 1.0),
        ("Psycho", "Psycho (1960)", 1.0),
    ],
)
def test_find_a_typed_title(make: Any, typed: str, title: str, score: float) -> None:
    items = (
        "item_id,title,year,image\n1,Alien,1979,\n2,Heat,1995,\n3,The Usual Suspects,1995,\n"
        "4,Seven (Se7en),1995,\n"
        "5,Psycho (1960),,\n6,Psycho (1998),,\n"
    )
    catalog: Catalog = Dataset.open(make(items)).catalog
    best, found = catalog.find(typed)[0]
    assert (catalog[best].title, found) == (title, score)


def test_find_corrects_spelling_and_returns_every_item_of_a_title(make: Any) -> None:
    items = "item_id,title,year,image\n1,Star Wars,1977,\n2,Star Maps,1997,\n3,Star Wars,1997,\n"
    catalog = Dataset.open(make(items)).catalog
    assert catalog.find("star wars") == [("1", 1.0), ("3", 1.0)]
    assert catalog.find("Star Wars (1997)") == [("3", 1.0), ("1", 0.9)]
    near = catalog.find("Satr Wras")
    assert [i for i, _ in near][:2] == ["1", "3"]
    assert all(0.6 <= s < 0.9 for _, s in near)
    assert catalog.find("zzzz") == []
    assert catalog.find("") == []


# --- bad rows ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "column", "value", "reason"),
    [
        (",1,5,100,", "user_id", "", "empty id"),
        ("u,  ,5,100,", "item_id", "  ", "empty id"),
        ("u,99,5,100,", "item_id", "99", "unknown item"),
        ("u,1,5,yesterday,", "timestamp", "yesterday", "expected a time"),
        ("u,1,5,1e400,", "timestamp", "1e400", "expected a time"),
        ("u,1,nan,100,", "rating", "nan", "finite number"),
        ("u,1,inf,100,", "rating", "inf", "finite number"),
        ("u,1,good,100,", "rating", "good", "finite number"),
        ("u,1,6,100,", "rating", "6", r"outside \(1.0, 5.0\)"),
        ("u,1,0,100,", "rating", "0", "outside"),
        ("u,1,5,200,", "item_id", "u 1 200", "duplicate event"),
        ("u,1,5", "", "u,1,5", "expected 5 columns, got 3"),
        ("u,1,5,100,tv,more", "", "u,1,5,100,tv,more", "expected 5 columns, got 6"),
    ],
)
def test_a_bad_event_is_rejected_with_file_line_column_value_and_reason(
    make: Any, row: str, column: str, value: str, reason: str
) -> None:
    good = "user_id,item_id,rating,timestamp,device\nu,1,5,200,tv\n"
    folder = make(events=f"{good}{row}\nv,2,3,9,\n")
    data = loose(folder)
    assert len(data.histories.interactions.items) == 2
    (found,) = rejects(folder)
    assert (found["file"], found["line"], found["column"], found["value"]) == ("events.csv", 3, column, value)
    assert re.search(reason, found["reason"])
    assert found["kind"] == "row"


@pytest.mark.parametrize(
    ("row", "column", "value", "reason"),
    [
        ("2,Heat again,,", "item_id", "2", "duplicate id, the first row is kept"),
        (",Nameless,,", "item_id", "", "empty id"),
        ("4,   ,1990,", "title", "item 4", "empty title"),
        ("4", "", "4", "expected 4 columns, got 1"),
    ],
)
def test_a_bad_item_is_rejected(make: Any, row: str, column: str, value: str, reason: str) -> None:
    folder = make(items=f"{ITEMS}{row}\n")
    data = loose(folder)
    assert [i.title for i in data.catalog.values()] == ["Alien", "Heat", "Babe"]
    (found,) = rejects(folder)
    assert [found[k] for k in ("file", "line", "column", "value", "reason")] == [
        "items.csv", 5, column, value, reason,
    ]  # fmt: skip


def test_lines_stay_right_after_values_that_span_lines_and_ragged_rows(make: Any) -> None:
    items = 'item_id,title,year,image\n1,"Two\nlines",1979,\n2,Heat\n3,"a\n\nb",1,\n4,,1,\n'
    folder = make(items, events="user_id,item_id,rating,timestamp,device\nu,1,5,1,\n")
    data = loose(folder)
    assert [i.title for i in data.catalog.values()] == ["Two lines", "a b"]
    assert sorted((r["line"], r["reason"]) for r in rejects(folder)) == [
        (4, "expected 4 columns, got 2"),
        (8, "empty title"),
    ]


def test_the_same_item_at_another_time_is_kept(make: Any) -> None:
    folder = make(events="user_id,item_id,rating,timestamp,device\nu,1,5,100,\nu,1,5,101,\nu,1,,,\n")
    events = Dataset.open(folder).histories.events("u")
    assert [e.timestamp for e in events] == [None, 100.0, 101.0], "an unknown time is the oldest"
    assert rejects(folder) == []


@pytest.mark.parametrize(
    ("spelling", "seconds"),
    [
        ("881250949", 881250949.0),
        ("881250949.5", 881250949.5),
        ("881250949000", 881250949.0),
        ("1700000000123", 1700000000.123),
        ("1700000000000000", 1700000000.0),
        ("1700000000000000000", 1700000000.0),
        ("2023-11-14T22:13:20Z", 1700000000.0),
        ("2023-11-14 22:13:20", 1700000000.0),
        ("2023-11-15T00:13:20+02:00", 1700000000.0),
        ("2023-11-14", 1699920000.0),
        ("-86400", -86400.0),
    ],
)
def test_times_in_seconds_milliseconds_and_iso(make: Any, spelling: str, seconds: float) -> None:
    folder = make(events=f"user_id,item_id,rating,timestamp,device\nu,1,5,{spelling},\n")
    event = Dataset.open(folder).histories.events("u")[0]
    assert event.timestamp is not None
    assert math.isclose(event.timestamp, seconds, abs_tol=1e-6)


def test_a_user_of_the_user_table_without_events_has_an_empty_history(make: Any) -> None:
    folder = make(spec=SPEC + "users: {path: users.csv}\n")
    (folder / "users.csv").write_text("user_id,age\nw,30\nu,40\nw,50\n")
    data = loose(folder)
    assert data.histories.interactions.user_ids == ("u", "v", "w")
    assert data.histories.events("w") == ()
    assert dict(data.users["w"]) == {"age": "30"}
    assert "v" not in data.users
    assert [r["reason"] for r in rejects(folder)] == ["duplicate id, the first row is kept"]


# --- media ------------------------------------------------------------------------------------------


def test_media_outside_the_folder_or_missing_cost_the_medium_not_the_item(
    make: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside") / "secret.jpg"
    outside.write_bytes(b"x")
    cells = [
        "ok.jpg",
        f"../{outside.name}",
        str(outside),
        "link.jpg",
        "away/secret.jpg",
        "gone.jpg",
        "",
        "dir",
    ]
    folder = make("item_id,title,year,image\n" + "".join(f"{n},T{n},,{c}\n" for n, c in enumerate(cells)))
    (folder / "ok.jpg").write_bytes(b"x")
    (folder / "dir").mkdir()
    (folder / "link.jpg").symlink_to(outside)
    (folder / "away").symlink_to(outside.parent)
    data = Dataset.open(folder, max_rejects=2)
    assert {i.item_id: list(i.media) for i in data.catalog.values() if i.media} == {"0": ["image"]}
    assert len(data.catalog) == 8
    found = {r["value"]: r["reason"] for r in rejects(folder) if r["kind"] == "media"}
    assert set(found) == set(cells) - {"ok.jpg", ""}
    assert all("refused" in found[c] for c in cells[1:5])
    assert all("missing" in found[c] for c in ("gone.jpg", "dir"))
    report = check(folder)
    assert report.media == {"image": (1, 7)}
    assert not report.clean


def test_a_link_that_stays_inside_the_folder_is_a_file_like_any_other(make: Any) -> None:
    folder = make("item_id,title,year,image\n1,Alien,,b.jpg\n")
    (folder / "a.jpg").write_bytes(b"x")
    (folder / "b.jpg").symlink_to("a.jpg")
    assert "image" in loose(folder).catalog["1"].media


# --- whole files ------------------------------------------------------------------------------------


def test_a_file_in_another_encoding_names_the_byte_and_the_setting(make: Any) -> None:
    items = "item_id,title,year,image\n1,Amélie,2001,\n2,Heat,,\n3,Babe,,\n".encode("latin-1")
    with pytest.raises(DataError, match=r"items.csv: expected utf-8 text, byte 29 is 0xe9.*encoding: latin-1"):
        Dataset.open(make(items))
    spec = SPEC.replace("path: items.csv,", "path: items.csv, encoding: latin-1,")
    assert Dataset.open(make(items, spec=spec)).catalog["1"].title == "Amélie"
    with pytest.raises(DataError, match="no encoding is called 'klingon'"):
        Dataset.open(make(items, spec=spec.replace("latin-1", "klingon")))


def test_utf_16_is_an_encoding_like_any_other(make: Any) -> None:
    spec = SPEC.replace("path: items.csv,", "path: items.csv, encoding: utf-16,")
    assert Dataset.open(make(ITEMS.encode("utf-16"), spec=spec)).catalog["3"].title == "Babe"


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_table_of_nothing_but_its_header_has_no_rows(make: Any, end: str) -> None:
    data = Dataset.open(make(events=EVENTS.split("\n")[0] + end))
    assert len(data.catalog) == 3
    assert len(data.histories) == 0
    assert stats(data)["events"] == 0


def test_a_byte_order_mark_is_skipped(make: Any) -> None:
    data = Dataset.open(make(b"\xef\xbb\xbf" + ITEMS.encode(), b"\xef\xbb\xbf" + EVENTS.encode()))
    assert data.catalog.item_ids == ("1", "2", "3")
    assert not data.rejects.reasons


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("", "expected a header line"),
        ("item_id,name\n1,Alien\n", r"expected a column 'title' \(title\), found item_id, name"),
        ("item_id,title,title\n1,Alien,x\n", "the column name 'title' comes twice"),
        ("item_id,title,year,image\n", "expected at least one good item, found none"),
    ],
)
def test_a_file_that_cannot_be_a_table_is_an_error(make: Any, items: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Dataset.open(make(items))


def test_a_corrupt_file_is_an_error(make: Any) -> None:
    folder = make(spec=SPEC.replace("items.csv", "items.parquet"))
    (folder / "items.parquet").write_bytes(b"PAR1 nonsense PAR1")
    with pytest.raises(DataError, match=r"items.parquet: cannot be read as parquet"):
        Dataset.open(folder)
    folder = make(spec=SPEC.replace("items.csv", "items.csv.gz"))
    (folder / "items.csv.gz").write_bytes(b"\x1f\x8b\x08\x00cut")
    with pytest.raises(DataError, match=r"items.csv.gz: cannot be read"):
        Dataset.open(folder)


@pytest.mark.parametrize(
    ("before", "after", "error", "message"),
    [
        ("wording:", "wordng:", ConfigError, "unknown key 'wordng'; did you mean 'wording'"),
        ("verb: saw", "verbs: saw", ConfigError, "did you mean 'verb'"),
        ("name: mini", "language: en", ConfigError, "key 'name' is required"),
        ("items.csv", "../items.csv", DataError, "table paths inside the folder, got '../items.csv'"),
        ("items.csv", "itms.csv", DataError, "found none; did you mean 'items.csv'"),
        ("items.csv", "dataset.yaml", DataError, "expected a table ending in"),
        ("history: [year]", "history: [yaer]", DataError, "names 'yaer'.*did you mean 'year'"),
        ("{image: image}", "{image: picture}", DataError, "media column 'picture'"),
        ("context: [device]", "context: [rating]", ConfigError, "column 'rating' is named twice"),
        ("context: [device]", "context: [place]", DataError, r"expected a column 'place' \(context\)"),
    ],
)
def test_a_wrong_spec_is_an_error_that_names_the_key(
    make: Any, before: str, after: str, error: type[Exception], message: str
) -> None:
    folder = make(spec=SPEC.replace(before, after))
    with pytest.raises(error, match=message):
        Dataset.open(folder)


def test_a_folder_without_a_spec_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"dataset.yaml.*palate data import"):
        Dataset.open(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        Dataset.open(tmp_path / "nowhere")


# --- how many are too many ----------------------------------------------------------------------------


def many(bad: int, good: int) -> str:
    rows = [f"u,1,5,{n},\n" for n in range(good)] + [f"u,nope,5,{n},\n" for n in range(bad)]
    return "user_id,item_id,rating,timestamp,device\n" + "".join(rows)


@pytest.mark.parametrize(
    ("bad", "good", "limit", "fits"),
    [
        (100, 101, None, True),
        (101, 1000, None, False),
        (120, 12_000, None, True),
        (3, 1, None, False),
        (3, 1, 3, True),
        (4, 9, 3, False),
        (2, 8, 0.2, True),
        (3, 7, 0.2, False),
        (1, 9, 0, False),
    ],
)
def test_the_limit_on_rejects(make: Any, bad: int, good: int, limit: float | None, fits: bool) -> None:
    folder = make(events=many(bad, good))
    if fits:
        assert Dataset.open(folder, max_rejects=limit).rejects.total == bad
        return
    message = rf"events.csv: {bad:,} of {bad + good:,} rows are bad.*line {good + 2}.*unknown item, got 'nope'"
    with pytest.raises(TooManyRejects, match=f"(?s){message}.*--max-rejects"):
        Dataset.open(folder, max_rejects=limit)
    assert len(rejects(folder)) == bad


@pytest.mark.parametrize("limit", [1.5, -1])
def test_a_limit_that_is_neither_rows_nor_a_share_is_an_error(make: Any, limit: float) -> None:
    with pytest.raises(DataError, match="a whole number of rows or a share below 1"):
        Dataset.open(make(), max_rejects=limit)


def test_rejects_are_logged_and_a_read_only_folder_still_opens(
    make: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(events=EVENTS + "u,99,5,1,\n")

    def refuse(self: Path, data: bytes) -> int:
        raise PermissionError("read only")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with caplog.at_level(logging.WARNING):
        data = Dataset.open(folder)
    assert data.rejects.total == 1
    assert data.rejects.first[0].reason == "unknown item"
    assert "cannot be written" in caplog.text
    assert "1 bad rows and 0 bad media left out" in caplog.text


def test_a_mended_row_is_no_longer_reported(make: Any) -> None:
    from palate.data import check

    folder = make(events=EVENTS + "u,99,5,1,\n")
    assert not check(folder).clean
    (folder / "events.csv").write_text(EVENTS, encoding="utf-8")
    assert check(folder).clean
    assert not (folder / "rejects.jsonl").exists()


# --- fingerprints -----------------------------------------------------------------------------------


def in_format(source: Path, target: Path, ending: str) -> Path:
    """The same data set with its tables in another format."""
    shutil.copytree(source, target)
    spec = (target / "dataset.yaml").read_text()
    for table in target.glob("*.csv"):
        read = pa_csv.read_csv(table)
        path = table.with_suffix(ending)
        if ending == ".parquet":
            pq.write_table(read, path)
        else:
            path.write_text("".join(json.dumps(r) + "\n" for r in read.to_pylist()), "utf-8")
        table.unlink()
    (target / "dataset.yaml").write_text(spec.replace(".csv", ending))
    return target


@pytest.mark.parametrize("ending", [".parquet", ".jsonl"])
def test_the_fingerprint_does_not_depend_on_the_format_or_the_folder(
    tiny_data: Path, tmp_path: Path, ending: str
) -> None:
    one = Dataset.open(tiny_data)
    other = Dataset.open(in_format(tiny_data, tmp_path / "other", ending))
    assert one.catalog.fingerprint == other.catalog.fingerprint
    assert one.histories.fingerprint == other.histories.fingerprint
    assert one.users.fingerprint == other.users.fingerprint
    assert one.fingerprint == other.fingerprint


@pytest.mark.parametrize(
    ("items", "events"),
    [
        (ITEMS.replace("Babe", "Babes"), EVENTS),
        (ITEMS.replace("1979", ""), EVENTS),
        (ITEMS.replace("2,Heat,1995", "2,Heat1,995"), EVENTS),
        (ITEMS, EVENTS.replace("100", "101")),
        (ITEMS, EVENTS.replace("tv", "radio")),
        (ITEMS, EVENTS.replace("v,3,,", "v,3,1,")),
        (ITEMS, EVENTS.replace("v,3", "w,3")),
    ],
)
def test_the_fingerprint_changes_with_any_content(make: Any, items: str, events: str) -> None:
    before = Dataset.open(make()).fingerprint
    assert Dataset.open(make(items, events)).fingerprint != before


# --- reports ----------------------------------------------------------------------------------------


def test_check_counts_and_stats_describe(make: Any) -> None:
    folder = make(events=EVENTS + "u,99,5,1,\nv,3,2,60,\n")
    report = check(folder)
    assert report.counts == {"items": 3, "interactions": 4, "users": 2, "profiles": 0}
    assert report.filled["items"] == {"year": 3}
    assert report.filled["interactions"] == {"timestamp": 4, "rating": 3, "device": 2}
    assert report.media == {"image": (0, 3)}
    assert report.rejected == [("row", "events.csv", "unknown item", 1)]
    numbers = stats(loose(folder))
    assert (numbers["users"], numbers["items"], numbers["events"]) == (2, 3, 4)
    assert numbers["density"] == pytest.approx(3 / 6)
    assert numbers["ratings"] == {"2": 1, "4": 1, "5": 1}
    assert (numbers["first"], numbers["last"]) == (50.0, 200.0)
    assert numbers["history_length"]["50%"] == 2.0
    assert numbers["top10_share"] == pytest.approx(0.5)
    assert json.loads(json.dumps(numbers)) == numbers


def test_gini() -> None:
    assert gini(np.array([5, 5, 5, 5])) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 8])) == pytest.approx(0.75)
    assert gini(np.array([0, 0])) == 0


def test_a_hundred_thousand_ratings_open_quickly(make: Any) -> None:
    rng = np.random.default_rng(0)
    rows = 100_000
    folder = make("item_id,title,year,image\n" + "".join(f"{n},Title {n},,\n" for n in range(2000)))
    table = pa.table(
        {
            "user_id": rng.integers(0, 1000, rows),
            "item_id": rng.integers(0, 2000, rows),
            "rating": rng.integers(1, 6, rows),
            "timestamp": np.arange(rows),
            "device": ["tv"] * rows,
        }
    )
    pa_csv.write_csv(table, os.fspath(folder / "events.csv"))
    start = time.process_time()
    data = Dataset.open(folder)
    assert len(data.histories.interactions.items) == rows
    assert time.process_time() - start < 2, "a second on a quiet machine, doubled for a busy one"
