"""A person can be removed from everywhere and can have what is held of them; others' rows stay as they were."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import stat
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from palate.apps.cli import run
from palate.data import Dataset, import_dataset
from palate.data.events import is_clean
from palate.data.forget import Removed, forget, held
from palate.data.rejects import read_rejects
from palate.errors import DataError, TooManyRejects
from palate.store import Store, StoredEvent

HEAD = "user_id,item_id,note,timestamp\r\n"
FIRST = 'ben,1,"a ""quoted"" note, over\ntwo lines",100\r\n'
OWN = 'ana,1,"said, on\nthree\nlines",100\r\n'
LAST = " ana maria ,2,ana,200\r\n"


def folder(tmp_path: Path, file: str, data: bytes, more: str = "", users: bytes | None = None) -> Path:
    """A data set folder of two items with the given interactions."""
    (tmp_path / "items.csv").write_text("item_id,title\n1,Alien\n2,Heat\n", encoding="utf-8")
    (tmp_path / file).write_bytes(data)
    text = (
        "name: small\nitems: {path: items.csv}\n"
        f"interactions: {{path: {file}, timestamp: timestamp, context: [note]{more}}}\n"
    )
    if users is not None:
        (tmp_path / "users.csv").write_bytes(users)
        text += "users: {path: users.csv}\n"
    (tmp_path / "dataset.yaml").write_text(text, encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("file", "more", "before", "after"),
    [
        ("events.csv", "", HEAD + FIRST + OWN + " ana ,2,,5\r\n" + LAST, HEAD + FIRST + LAST),
        ("events.csv", "", "\ufeff" + HEAD + OWN + FIRST, "\ufeff" + HEAD + FIRST),
        ("events.csv", "", HEAD + "ben,1,,1\n\n" + OWN + "ben,2,,9", HEAD + "ben,1,,1\n\nben,2,,9"),
        (
            "events.tsv",
            ", quote: false",
            "user_id\titem_id\tnote\ttimestamp\nben\t1\tsix\" tall\t1\nana\t2\tfive\"\t2\n",
            "user_id\titem_id\tnote\ttimestamp\nben\t1\tsix\" tall\t1\n",
        ),
        (
            "events.csv",
            ", separator: '::'",
            "user_id::item_id::note::timestamp\nana::1::a, b::1\nben::1::ana::1\n",
            "user_id::item_id::note::timestamp\nben::1::ana::1\n",
        ),
        (
            "events.jsonl",
            "",
            '{"user_id": "ana", "item_id": 1, "note": "x"}\n\n{"item_id":1, "user_id" : "ben"}\nno JSON\n',
            '\n{"item_id":1, "user_id" : "ben"}\nno JSON\n',
        ),
    ],
)  # fmt: skip
def test_other_rows_stay_byte_for_byte(tmp_path: Path, file: str, more: str, before: str, after: str) -> None:
    data = folder(tmp_path, file, before.encode(), more)
    rows = held(data, "ana")["interactions"]
    assert rows[0]["user_id"].strip() == "ana"
    assert (data / file).read_bytes() == before.encode(), "looking changes nothing"
    assert forget(data, "ana").interactions == len(rows)
    assert (data / file).read_bytes() == after.encode()
    assert held(data, "ana")["interactions"] == []
    assert not forget(data, "ana")


def test_encodings_zips_and_numbers(tmp_path: Path) -> None:
    head, other = "user_id,item_id,note,timestamp\n", "77,1,é,2\n"
    table = f"{head}7,1,ché,1\n{other}7,2,né,3\n".encode("latin-1")
    data = folder(tmp_path, "events.csv.gz", gzip.compress(table), ", encoding: latin-1")
    assert forget(data, "7") == Removed(interactions=2, users=0, rejects=0)
    assert gzip.decompress((data / "events.csv.gz").read_bytes()) == (head + other).encode("latin-1")
    assert list(Dataset.open(data).histories) == ["77"]


def test_a_clean_parquet_folder_stays_one(tiny_data: Path, tmp_path: Path) -> None:
    """As `palate data import` writes it: the histories of the others are those of a set that never had the person."""
    whole = import_dataset(tiny_data, tmp_path / "whole")
    rows = [line for line in (tiny_data / "interactions.csv").read_text().splitlines(True) if not line.startswith("7,")]
    other = tmp_path / "other"
    shutil.copytree(tiny_data, other)
    (other / "interactions.csv").write_text("".join(rows))
    users = [line for line in (tiny_data / "users.csv").read_text().splitlines(True) if not line.startswith("7,")]
    (other / "users.csv").write_text("".join(users))
    without = import_dataset(other, tmp_path / "without")
    file = tmp_path / "whole" / "interactions.parquet"
    before = pq.read_metadata(file)
    file.chmod(0o640)
    count = len(whole.histories.events("7"))
    assert forget(tmp_path / "whole", "7") == Removed(count, 1, 0)
    after = pq.read_metadata(file)
    assert is_clean(file)
    assert (after.num_rows, after.schema) == (before.num_rows - count, before.schema)
    assert after.row_group(0).column(0).compression == before.row_group(0).column(0).compression
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert Dataset.open(tmp_path / "whole").fingerprint == without.fingerprint != whole.fingerprint


def test_ids_that_are_numbers_in_parquet(tmp_path: Path) -> None:
    table = pa.table({"user_id": [7, 77, 7], "item_id": [1, 2, 2], "note": ["a", "b", None], "timestamp": [1, 2, 3]})
    out = io.BytesIO()
    pq.write_table(table, out, compression="none")
    data = folder(tmp_path, "events.parquet", out.getvalue())
    assert held(data, "7")["interactions"][1] == {"user_id": 7, "item_id": 2, "note": None, "timestamp": 3}
    assert forget(data, "7").interactions == 2
    assert pq.read_table(data / "events.parquet").equals(table.slice(1, 1))


def test_rejected_rows_are_removed_too(tmp_path: Path) -> None:
    rows = "ana,1,,1\nana,1,,1\nana,nowhere,,2\nben,nowhere,,2\nana,1,,2,too,many\nben,2,,3\nben,2,,3\nben,1,,now\n"
    data = folder(
        tmp_path,
        "events.csv",
        ("user_id,item_id,note,timestamp\n" + rows).encode(),
        users=b"user_id,age\nana,3\nana,4\nben,5\n",
    )
    Dataset.open(data, strict=False)
    assert sum("ana" in r.value for r in read_rejects(data / "rejects.jsonl")) == 3
    # of ana: the twin, the unknown item, the long row, and the second row of the user table
    assert forget(data, "ana") == Removed(interactions=4, users=2, rejects=4)
    left = [(r.reason, r.value) for r in read_rejects(data / "rejects.jsonl")]
    assert [value for _, value in left] == ["nowhere", "now", "ben 2 3"]
    assert b"ana" not in b"".join(f.read_bytes() for f in data.iterdir())


def test_rejects_of_an_import_are_removed_too(tmp_path: Path) -> None:
    rows = "user_id,item_id,note,timestamp\nana,1,,1\nana,1,,1\nben,2,,2\nana,2,x,3,y\nben,2,ana,2\n"
    source = tmp_path / "source"
    source.mkdir()
    folder(source, "events.csv", rows.encode())
    import_dataset(source, tmp_path / "out", max_rejects=9)
    assert len(list(read_rejects(tmp_path / "out" / "rejects.jsonl"))) == 3
    assert forget(tmp_path / "out", "ana") == Removed(interactions=1, users=0, rejects=2)
    [left] = read_rejects(tmp_path / "out" / "rejects.jsonl")
    assert left.value == "ben 2 2"


def test_rejects_that_a_failed_import_left_are_removed_too(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    folder(source, "events.csv", b"user_id,item_id,note,timestamp\nana,1,,1\nben,2,,2\n")
    import_dataset(source, tmp_path / "out")
    (source / "events.csv").write_text("user_id,item_id,note,timestamp\nana,1,,1,extra\nben,2,,2,extra\nben,1,,1\n")
    with pytest.raises(TooManyRejects, match=r"out\.rejects\.jsonl"):
        import_dataset(source, tmp_path / "out")
    assert forget(tmp_path / "out", "ana") == Removed(interactions=1, users=0, rejects=1)
    [left] = read_rejects(tmp_path / "out.rejects.jsonl")
    assert left.value == "ben,2,,2,extra"


def test_what_cannot_be_written_stays_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = folder(tmp_path, "events.csv", (HEAD + OWN + FIRST).encode())

    def full(source: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        DataError, match=r"events\.csv cannot be written anew: No space left on device; it is as it was"
    ):
        forget(data, "ana")
    assert (data / "events.csv").read_bytes() == (HEAD + OWN + FIRST).encode()
    assert {f.name for f in data.iterdir()} == {"dataset.yaml", "items.csv", "events.csv"}


def test_a_link_to_a_table_stays_a_link(tmp_path: Path) -> None:
    data = folder(tmp_path, "real.csv", (HEAD + OWN + FIRST).encode())
    (data / "events.csv").symlink_to("real.csv")
    (data / "dataset.yaml").write_text(
        (data / "dataset.yaml").read_text().replace("path: real.csv", "path: events.csv")
    )
    assert forget(data, "ana").interactions == 1
    assert (data / "events.csv").is_symlink()
    assert (data / "real.csv").read_bytes() == (HEAD + FIRST).encode()


def test_folders_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a data set folder with a dataset\.yaml"):
        forget(tmp_path, "ana")
    data = folder(tmp_path, "events.csv", b"uid,item_id\n1,1\n")
    with pytest.raises(DataError, match=r"events\.csv: expected a column 'user_id', found uid, item_id; "):
        forget(data, "ana")
    data = folder(tmp_path, "events.parquet", b"no parquet")
    with pytest.raises(DataError, match=r"events\.parquet: cannot be read as parquet"):
        forget(data, "ana")


# --- the commands -------------------------------------------------------------------------------------


@pytest.fixture
def place(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in: data/, store.db with words of user 7, and two adapters."""
    shutil.copytree(tiny_data, tmp_path / "data")
    with Store.open(tmp_path / "store.db") as store:
        session = store.new_session("7", "m")
        store.save_turn(session, "user", "something with robots")
        store.add_events([StoredEvent("7", "1", "like", session=session), StoredEvent("8", "2")])
    fingerprint = Dataset.open(tmp_path / "data").fingerprint
    for name, told in (("now", (fingerprint, "tiny")), ("once", ("0", "tiny")), ("else", ("1", "shop"))):
        (tmp_path / "adapters" / name).mkdir(parents=True)
        meta = {"data": {"fingerprint": told[0], "name": told[1]}}
        (tmp_path / "adapters" / name / "palate.json").write_text(json.dumps(meta))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PALATE_STORE", "store.db")
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "nothing"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    return tmp_path


def test_forget_says_what_it_removes_and_what_it_cannot(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = len(Dataset.open("data").histories.events("7"))
    assert run(["forget", "--user", "7", "--data", "data", "--yes"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "store store.db: 1 event, 1 conversation, 1 message",
        f"data set data: {events} interactions, 1 user row, 0 rejected rows",
        "Forgotten: 7.",
        "adapters/now was trained on rows of theirs: train it again if what it learned should go too.",
        "adapters/once was trained on an earlier state of this data set, maybe with rows of theirs: train it again if "
        "what it learned should go too.",
    ]
    assert "7" not in Dataset.open("data").histories
    with Store.open("store.db") as store:
        assert store.was_forgotten("7")
        assert store.events("7") == []
        assert len(store.events("8")) == 1
    assert run(["forget", "--user", "7", "--yes"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "store store.db: 0 events, 0 conversations, 0 messages (forgotten before)",
        "data set folders: not looked at; name one with --data",
        "Forgotten: 7.",
        "Adapters: not checked; with --data those trained on that data set are told.",
    ]


def test_forget_never_goes_ahead_without_a_yes(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["forget", "--user", "7", "--data", "data"]) == 2
    assert "cannot ask here; add --yes to go ahead" in capsys.readouterr().err
    assert "7" in Dataset.open("data").histories
    with Store.open("store.db") as store:
        assert store.events("7")


def test_forget_as_json(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["forget", "--user", "7", "--data", "data", "--yes", "--json", "-a", "adapters/once"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["store"] == {"events": 1, "sessions": 1, "turns": 1}
    assert told["data"]["users"] == 1
    assert told["trained_on_data_that_held_them"] == {"adapters/once": "earlier", "adapters/now": "this"}


def test_a_copy_in_the_cache_is_told(
    place: Path, tiny_data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_CACHE", "cache")
    shutil.copytree(tiny_data, place / "cache" / "data" / "tiny")
    copy = place / "cache" / "data" / "tiny"
    assert run(["forget", "--user", "7", "--data", "data", "--yes"]) == 0
    line = f"The cache has another copy with rows of theirs: palate forget --user 7 --data {copy}"
    assert line in capsys.readouterr().out.splitlines()
    assert run(["forget", "--user", "7", "--data", str(copy), "--yes", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["copy_that_holds_them"] is None
    assert held(copy, "7") == {"interactions": [], "users": [], "rejects": []}


def test_someone_only_the_data_set_knows_can_be_forgotten_by_a_server(place: Path) -> None:
    assert run(["forget", "--user", "9", "--yes"]) == 0
    with Store.open("store.db") as store:
        assert store.was_forgotten("9")


def test_mistakes_are_one_line(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for line, message in (
        (
            "forget --user 77 --data data --yes",
            "palate: nothing is held of a user '77'; check the id; did you mean '7'?",
        ),
        (
            "forget --user 7 --store none.db --yes",
            "palate: expected a store at none.db, found none; name it with --store",
        ),
        ("forget --user 7 --data nowhere --yes", "palate: expected a data set folder with a dataset.yaml at nowhere"),
        (
            "forget --user 7 --data data -a data --yes",
            "palate: expected an adapter's folder with a palate.json, got data",
        ),
        ("user-data --user 77", "palate: nothing is held of a user '77'; check the id, or name a data set folder"),
        ("user-data --user 7 -o store.db/x", "palate: store.db/x cannot be written: "),
        ("forget", "palate: Missing option '--user'"),
    ):
        assert run(line.split()) == 2, line
        error = capsys.readouterr().err
        assert error.startswith(message), error
        assert error.count("\n") == 1
    monkeypatch.delenv("PALATE_STORE")
    assert run(["forget", "--user", "7", "--yes"]) == 2
    assert "found none; name it with --store, or set PALATE_STORE" in capsys.readouterr().err
    assert run(["forget", "--user", "7", "--data", "data", "--yes"]) == 0
    assert capsys.readouterr().out.startswith("store: none here; name one with --store\ndata set data: ")


def test_user_data_is_everything_held(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["user-data", "--user", "7", "--data", "data", "-o", "mine/7.json"]) == 0
    assert capsys.readouterr().out.startswith("mine/7.json: 1 event, 1 conversation, 1 message; ")
    told = json.loads((place / "mine" / "7.json").read_text(encoding="utf-8"))
    assert told["store"]["sessions"][0]["turns"][0]["text"] == "something with robots"
    assert told["store"]["events"][0]["item"] == "1"
    assert told["data"]["users"] == [{"user_id": "7", "age": "27", "occupation": "engineer"}]
    assert len(told["data"]["interactions"]) == len(Dataset.open("data").histories.events("7"))
    assert run(["user-data", "--user", "8"]) == 0
    assert json.loads(capsys.readouterr().out)["data"] is None
