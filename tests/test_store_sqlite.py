"""Where a store lies, what an SQLite file leaves behind, and what is said when a database cannot be used."""

from __future__ import annotations

import random
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from palate.errors import DataError, PalateWarning
from palate.store import Store, StoredEvent
from palate.store import store as store_module
from palate.store.connect import location, shown


def traces(folder: Path, word: bytes) -> dict[str, int]:
    return {f.name: n for f in folder.iterdir() if (n := f.read_bytes().count(word))}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nothing_of_a_forgotten_person_is_left_in_the_files(tmp_path: Path, seed: int) -> None:
    """Rows of all sizes, among those of others, while a second connection is open."""
    rng = random.Random(seed)
    with Store.open(tmp_path / "a.db") as store, Store.open(tmp_path / "a.db") as other:
        people = ["SECRETID", *(f"o{n}" for n in range(400))]
        talks = {p: store.new_session(p, "m") for p in people[:6]}
        for _ in range(200):
            said = [rng.choice(["SECRETID", *rng.sample(people, 4)]) for _ in range(40)]
            store.add_events(
                [
                    StoredEvent(who, "x" * rng.randrange(1, 60), "like", timestamp=rng.random() * 1e9)
                    for who in said
                ]
            )  # fmt: skip
            if rng.random() < 0.1:
                store.forget(rng.choice(people[6:]))
            who = rng.choice(people[:6])
            words = ("SECRETTEXT " if who == "SECRETID" else "hello ") * rng.choice([1, 10, 100, 2000])
            store.save_turn(talks[who], "user", words, [{"title": words[:200]}], {"shown": [words[:3000]]})
        assert other.events("o1") is not None
        assert traces(tmp_path, b"SECRET")
        gone = store.forget("SECRETID")
        assert gone.events > 100
        assert gone.turns > 10
        assert traces(tmp_path, b"SECRET") == {}
        assert other.events("SECRETID") == []


def test_rows_that_were_moved_leave_no_copy(tmp_path: Path) -> None:
    """With SQLite 3.40 this very order of rows leaves four copies unless the file is written anew."""
    rng = random.Random(1)
    with Store.open(tmp_path / "a.db") as store:
        for _ in range(300):
            rows = []
            for _ in range(40):
                who = rng.choice(["SECRETID", *(f"o{rng.randrange(400)}" for _ in range(4))])
                rows.append(StoredEvent(who, "x" * rng.randrange(1, 60), "like", timestamp=rng.random() * 1e9))
            store.add_events(rows)
            if rng.random() < 0.2:
                store.forget(f"o{rng.randrange(400)}")
        store.forget("SECRETID")
        assert traces(tmp_path, b"SECRET") == {}


def test_a_log_that_is_being_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "SCRUB_SECONDS", 0.1)
    with Store.open(tmp_path / "a.db") as store, Store.open(tmp_path / "a.db") as other:
        store.add_events([StoredEvent("SECRETID", "1")])
        with other._reading() as db:
            db.exec_driver_sql("SELECT count(*) FROM palate_events").scalar()
            with pytest.warns(PalateWarning, match=r"gone from .*a\.db, but the log beside it is being read"):
                assert store.forget("SECRETID").events == 1
        assert not store.forget("SECRETID")
        assert traces(tmp_path, b"SECRET") == {}


def test_others_may_not_read_a_new_store(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "store.db"
    with Store.open(path) as store:
        store.add_events([StoredEvent("ana", "1")])
        modes = {f.name: stat.S_IMODE(f.stat().st_mode) for f in path.parent.iterdir()}
    assert modes == {"store.db": 0o600, "store.db-wal": 0o600, "store.db-shm": 0o600}


def test_where_a_store_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PALATE_STORE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))
    if sys.platform == "linux":
        assert location(None).database == str(tmp_path / "share" / "palate" / "palate.db")
    monkeypatch.setenv("PALATE_STORE", "postgres://ana:pass%40word@db/shop")
    assert location(None).drivername == "postgresql+psycopg"
    assert location(None).password == "pass@word"
    assert shown(location(None)) == "postgresql+psycopg://ana:***@db/shop"
    assert location("x.db").database == location("sqlite:///x.db").database == "x.db"
    assert location(tmp_path / "x.db").database == str(tmp_path / "x.db")
    assert location("postgresql+psycopg://db/shop").drivername == "postgresql+psycopg"


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("mysql://db/shop", "expected a store in SQLite or PostgreSQL, got 'mysql'"),
        ("sqlite://", "expected a file for the SQLite store, got 'sqlite://'"),
        ("sqlite:///:memory:", "expected a file for the SQLite store"),
        ("postgresql://ana:secret@db:port/shop", "expected a store's URL such as .* that is none"),
    ],
)
def test_addresses_that_are_none(where: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        Store.open(where)
    assert "secret" not in str(caught.value)


def test_a_store_that_must_exist(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a store at .*a\.db, found none; name it with --store"):
        Store.open(tmp_path / "a.db", create=False)
    assert not list(tmp_path.iterdir())
    Store.open(tmp_path / "a.db").close()
    Store.open(tmp_path / "a.db", create=False).close()


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("a letter, not a database, and longer than a header " * 9)
    with pytest.raises(DataError, match=r"the store .*a\.db cannot be used: file is not a database"):
        Store.open(tmp_path / "a.db")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"folder cannot be used: unable to open database file"):
        Store.open(tmp_path / "folder")
    with pytest.raises(DataError, match=r"a\.db/b\.db cannot be made: (Not a directory|File exists)"):
        Store.open(tmp_path / "a.db" / "b.db")


def test_a_server_that_does_not_answer() -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(DataError, match=r"cannot be used: connection .* failed") as caught:
        Store.open("postgresql://ana:secret@127.0.0.1:1/shop")
    assert "secret" not in str(caught.value)


def test_a_store_is_light() -> None:
    code = (
        "import sys, palate.store; "
        "print([m for m in ('torch', 'scipy', 'pyarrow', 'pandas', 'psycopg', 'palate.data') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
