"""The store keeps what people said, gives it back, and forgets it: the same on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql
from tests.postgres import cluster, programs

from palate.errors import DataError, RequestError
from palate.store import Feedback, Forgotten, Session, Store, StoredEvent, Turn, tables


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    if programs() is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    pytest.importorskip("psycopg", reason="no psycopg here: pip install 'palate[postgres]'")
    with cluster() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    url = sql.make_url(request.getfixturevalue("postgres")).set(drivername="postgresql+psycopg")
    engine = sql.create_engine(url, isolation_level="AUTOCOMMIT")
    name = f"store_{time.monotonic_ns()}"
    with engine.connect() as db:
        db.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return url.set(drivername="postgresql", database=name).render_as_string()


@pytest.fixture
def store(where: str) -> Iterator[Store]:
    with Store.open(where) as opened:
        yield opened


# --- events and feedback ------------------------------------------------------------------------------


def test_events_come_back_oldest_first_with_all_they_had(store: Store) -> None:
    late = StoredEvent("ana", "50", "interaction", 4.5, 300.0, {"place": "Zürich 東京", "device": "tv"})
    early = StoredEvent("ana", "7", timestamp=100.0)
    twin = StoredEvent("ana", "8", "seen", timestamp=100.0)
    assert store.add_events([late, early, twin, StoredEvent("ben", "1")]) == 4
    assert store.events("ana") == [early, twin, late]
    assert store.events("ana", kinds=["seen"]) == [twin]
    assert store.events("nobody") == []
    assert store.events("ana")[-1].as_event().rating == 4.5
    assert store.add_events([]) == 0


def test_an_event_without_a_time_is_of_now(store: Store) -> None:
    before = time.time()
    store.add_events([StoredEvent("ana", "50")])
    [event] = store.events("ana")
    assert event.timestamp is not None
    assert before <= event.timestamp <= time.time()


def test_the_latest_word_on_an_item_counts(store: Store) -> None:
    said = [
        ("1", "like", 10.0),
        ("2", "dislike", 11.0),
        ("3", "seen", 12.0),
        ("1", "dislike", 13.0),
        ("2", "like", 14.0),
    ]
    store.add_events([StoredEvent("ana", item, kind, timestamp=at) for item, kind, at in said])  # type: ignore[arg-type]
    assert store.feedback("ana") == Feedback(liked=("2",), disliked=("1",), seen=("3",))
    # told later, but of an earlier moment: not the latest word
    store.add_events([StoredEvent("ana", "1", "like", timestamp=1.0)])
    assert store.feedback("ana").disliked == ("1",)
    assert store.feedback("ben") == Feedback()


def test_a_session_without_a_user_becomes_that_of_the_first_one_named(store: Store) -> None:
    session = store.new_session(None, "ml-100k")
    store.add_events([StoredEvent(None, "1", "like", session=session)])
    assert store.feedback(session=session).liked == ("1",)
    assert store.events("ana") == []
    store.add_events(
        [StoredEvent("ana", "2", "like", session=session), StoredEvent(None, "3", "like", session=session)]
    )
    assert store.session(session).user == "ana"
    assert store.feedback("ana").liked == ("1", "2", "3")
    assert store.feedback("ana", session) == store.feedback("ana")
    with pytest.raises(RequestError, match="is another user's; begin one for 'ben'"):
        store.add_events([StoredEvent("ben", "1"), StoredEvent("ben", "4", session=session)])
    assert store.events("ben") == []


def test_events_are_kept_all_or_none(store: Store) -> None:
    with pytest.raises(RequestError, match="no session has the id 'nonsense'"):
        store.add_events([StoredEvent("ana", "1"), StoredEvent("ana", "2", session="nonsense")])
    assert store.events("ana") == []


def test_text_stays_text(store: Store) -> None:
    """User text is a parameter, never part of a statement."""
    nasty = "Robert'); DROP TABLE palate_events;-- \\ % _ \" \N{CHERRIES} \u202e"
    store.add_events([StoredEvent(nasty, nasty, context={nasty: nasty})])
    session = store.new_session(nasty, nasty, {"liked": [nasty]})
    store.save_turn(session, "user", nasty, [{"title": nasty}])
    assert store.events(nasty)[0].context == {nasty: nasty}
    assert store.turns(session)[0].items == ({"title": nasty},)
    assert store.events("%") == []
    assert store.forget(nasty) == Forgotten(1, 1, 1)


# --- conversations ------------------------------------------------------------------------------------


def test_a_conversation_is_there_after_the_store_is_opened_again(where: str) -> None:
    with Store.open(where) as store:
        session = store.new_session("ana", "ml-100k", {"liked": []})
        items = [{"item_id": "50", "title": "Star Wars", "score": 1.25, "image": None}]
        assert store.save_turn(session, "user", "something with robots") == 1
        assert store.save_turn(session, "assistant", "1. Star Wars", items, {"shown": ["50"]}) == 2
    with Store.open(where) as store:
        held = store.session(session)
        assert held == Session(session, "ana", "ml-100k", held.created, held.updated, {"shown": ["50"]})
        assert held.created <= held.updated <= time.time()
        user, answer = store.turns(session)
        assert user == Turn(1, "user", "something with robots", (), user.created)
        assert answer == Turn(2, "assistant", "1. Star Wars", tuple(items), held.updated)


def test_a_state_may_be_saved_without_a_turn(store: Store) -> None:
    session = store.new_session("ana", "m", {"liked": []})
    store.save_state(session, {"liked": ["1"]})
    assert store.session(session).state == {"liked": ["1"]}
    assert store.turns(session) == []
    with pytest.raises(RequestError, match="no session has the id 'x'"):
        store.save_state("x", {})
    with pytest.raises(RequestError, match="state: expected plain data that JSON can hold"):
        store.save_state(session, {"liked": {1}})


def test_session_ids_cannot_be_guessed(store: Store) -> None:
    names = {store.new_session(None, "m") for _ in range(20)}
    assert len(names) == 20
    assert min(map(len, names)) == 32


def test_unknown_sessions_are_told(store: Store) -> None:
    for call in (store.session, store.turns, lambda s: store.save_turn(s, "user", "hello")):
        with pytest.raises(RequestError, match="no session has the id 'x'; begin one first"):
            call("x")


# --- a person's rights --------------------------------------------------------------------------------


def fill(store: Store) -> str:
    session = store.new_session("ana", "ml-100k", {"liked": ["1"]})
    store.save_turn(session, "user", "my secret wish", [], {"liked": ["1", "2"]})
    store.save_turn(session, "assistant", "1. Alien", [{"item_id": "2"}])
    store.add_events([StoredEvent("ana", "1", "like", session=session), StoredEvent("ana", "2", timestamp=5.0)])
    other = store.new_session("ben", "ml-100k")
    store.save_turn(other, "user", "hello")
    store.add_events([StoredEvent("ben", "1", "like", session=other)])
    return session


def test_export_holds_everything_and_is_plain(store: Store) -> None:
    import json

    session = fill(store)
    held = json.loads(json.dumps(store.export("ana")))
    assert held["user"] == "ana"
    assert held["forgotten"] is False
    assert [(e["item"], e["kind"], e["session"]) for e in held["events"]] == [
        ("2", "interaction", None),
        ("1", "like", session),
    ]
    [told] = held["sessions"]
    assert (told["id"], told["model"], told["state"]) == (session, "ml-100k", {"liked": ["1", "2"]})
    assert [(t["number"], t["role"], t["text"]) for t in told["turns"]] == [
        (1, "user", "my secret wish"),
        (2, "assistant", "1. Alien"),
    ]
    assert "ben" not in json.dumps(held)
    assert store.export("nobody") == {"user": "nobody", "forgotten": False, "events": [], "sessions": []}


def test_forgetting_removes_one_person_everywhere(store: Store) -> None:
    session = fill(store)
    assert store.forget("ana") == Forgotten(events=2, sessions=1, turns=2)
    assert store.was_forgotten("ana")
    assert not store.was_forgotten("ben")
    assert store.export("ana") == {"user": "ana", "forgotten": True, "events": [], "sessions": []}
    with pytest.raises(RequestError, match="no session has the id"):
        store.save_turn(session, "assistant", "an answer that was being written")
    assert len(store.events("ben")) == 1
    assert not store.forget("ana"), "there is nothing left"
    with store.engine.connect() as db:
        for table in tables.metadata.sorted_tables:
            assert "ana" not in str(db.execute(sql.select(table)).all())


def test_a_forgotten_person_may_come_back(store: Store) -> None:
    fill(store)
    store.forget("ana")
    store.add_events([StoredEvent("ana", "9", "like")])
    assert store.feedback("ana").liked == ("9",)
    assert store.was_forgotten("ana"), "what was before stays forgotten"


def test_hashes_of_two_stores_differ(store: Store, tmp_path: Path) -> None:
    def digests(held: Store) -> list[str]:
        held.forget("ana")
        with held.engine.connect() as db:
            return list(db.scalars(sql.select(tables.forgotten.c.digest)))

    with Store.open(tmp_path / "other.db") as other:
        assert digests(store) != digests(other)


# --- what is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"user": "u" * 257}, "user: expected an id of at most 256 characters, got 257"),
        ({"user": " "}, "user: expected an id as text, got ' '"),
        ({"item": 50}, "item: expected an id as text, got 50"),
        ({"item": "a\0b"}, "item: expected text, got a NUL character"),
        ({"item": "a\ud800"}, "item: expected text, got half of a character"),
        ({"user": None}, "belongs to a user or a session"),
        ({"kind": "love"}, "kind: expected one of interaction, like, dislike, seen, got 'love'"),
        ({"rating": float("nan")}, "rating: expected a finite number, got nan"),
        ({"rating": "5"}, "rating: expected a finite number, got '5'"),
        ({"timestamp": float("inf")}, "timestamp: expected seconds since 1970, got inf"),
        ({"timestamp": time.time() * 1000}, "in the future; are these milliseconds"),
        ({"context": {"note": "x" * 65_537}}, "context 'note': expected at most 64 KiB of text, got 65,537 bytes"),
        ({"context": {"note": 1}}, "context 'note': expected text, got 1"),
    ],
)
def test_events_are_bounded(values: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        StoredEvent(**{"user": "ana", "item": "1", **values})


def test_turns_are_bounded(store: Store) -> None:
    session = store.new_session("ana", "m")
    assert store.save_turn(session, "user", "é" * (32 << 10)) == 1
    with pytest.raises(RequestError, match="text: expected at most 64 KiB of text, got 65,538 bytes"):
        store.save_turn(session, "user", "é" * (32 << 10) + "é")
    with pytest.raises(RequestError, match="role: expected user or assistant, got 'system'"):
        store.save_turn(session, "system", "obey")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="items: expected plain data that JSON can hold, got Object of type set"):
        store.save_turn(session, "user", "x", [{1, 2}])
    with pytest.raises(RequestError, match="state: expected plain data that JSON can hold, got Out of range float"):
        store.save_turn(session, "user", "x", state={"score": float("nan")})
    with pytest.raises(RequestError, match="state: expected at most 1,024 KiB as JSON"):
        store.save_turn(session, "user", "x", state={"shown": "x" * (1 << 20)})
    with pytest.raises(RequestError, match="model: expected an id"):
        store.new_session("ana", "")
    assert [t.number for t in store.turns(session)] == [1]


def test_whose_events_must_be_said(store: Store) -> None:
    with pytest.raises(RequestError, match="whose events"):
        store.events()


# --- many at once -------------------------------------------------------------------------------------


def test_threads_lose_nothing_and_number_turns_in_order(store: Store) -> None:
    sessions = [store.new_session(f"u{n}", "m") for n in range(3)]
    failed: list[BaseException] = []

    def talk(worker: int) -> None:
        try:
            for n in range(10):
                store.save_turn(sessions[n % 3], "user", f"{worker} {n}", state={"last": n})
                store.add_events([StoredEvent(f"u{n % 3}", str(n), "like")])
                assert store.turns(sessions[n % 3])
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=talk, args=(w,)) for w in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    numbers = [[t.number for t in store.turns(s)] for s in sessions]
    assert numbers == [list(range(1, 49)), list(range(1, 37)), list(range(1, 37))]
    assert sum(len(store.events(f"u{n}")) for n in range(3)) == 120


def test_nothing_comes_back_of_someone_forgotten_in_the_middle(store: Store) -> None:
    """Answers and feedback still being written when a person is forgotten are refused or go with them."""
    sessions = [store.new_session("ana", "m") for _ in range(4)]
    refused: list[BaseException] = []

    def talk(session: str) -> None:
        try:
            for n in range(100_000):
                store.save_turn(session, "user", "secret", [], {"last": n})
                store.add_events([StoredEvent(None, str(n), "like", session=session)])
        except BaseException as error:
            refused.append(error)

    threads = [threading.Thread(target=talk, args=(s,)) for s in sessions]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    assert store.forget("ana").sessions == 4
    for thread in threads:
        thread.join()
    assert len(refused) == 4
    assert all(isinstance(e, RequestError) and ("no session" in str(e) or "meanwhile" in str(e)) for e in refused)
    held = store.export("ana")
    assert (held["events"], held["sessions"]) == ([], [])
    with store.engine.connect() as db:
        assert db.scalar(sql.select(sql.func.count()).select_from(tables.turns)) == 0
        assert db.scalar(sql.select(sql.func.count()).select_from(tables.events)) == 0


CHILD = """
import sys
from palate.store import Store, StoredEvent
with Store.open(sys.argv[1]) as store:
    for n in range(100_000):
        number = store.save_turn(sys.argv[2], "user", f"{sys.argv[3]} {n}", [{"n": n}], {"last": f"{sys.argv[3]} {n}"})
        print(number, sys.argv[3], n, flush=True)
        if n % 5 == 4:
            store.add_events([StoredEvent("guest", str(i), "like") for i in range(20)])
            store.forget("guest")
"""


def test_a_kill_loses_no_turn_that_was_kept(where: str, tmp_path: Path) -> None:
    """Two processes write to one conversation and are killed at random moments, again and again."""
    rng = random.Random(11)
    kept: dict[int, str] = {}
    with Store.open(where) as store:
        session = store.new_session("ana", "m", {"last": None})
        for round_ in range(8):
            files = [tmp_path / f"{round_}{name}.txt" for name in "ab"]
            writers = [_writer(where, session, file) for file in files]
            while not all("\n" in file.read_text() for file in files):
                assert all(writer.poll() is None for writer in writers)
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 0.15))
            for writer in writers:
                writer.kill()
                time.sleep(rng.uniform(0, 0.02))
            for writer, file in zip(writers, files, strict=True):
                writer.wait(timeout=30)
                for line in file.read_text().splitlines(keepends=True):
                    if line.endswith("\n"):
                        number, _, text = line.strip().partition(" ")
                        kept[int(number)] = text
            turns = store.turns(session)
            assert [t.number for t in turns] == list(range(1, len(turns) + 1))
            assert kept.items() <= {t.number: t.text for t in turns}.items()
            assert store.session(session).state == {"last": turns[-1].text}, "a turn and its state go together"
            if where.startswith("sqlite"):
                with store.engine.connect() as db:
                    assert db.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
        assert len(kept) > 50
        store.save_turn(session, "user", "still here")


def _writer(where: str, session: str, file: Path) -> subprocess.Popen[bytes]:
    """A process that writes turns, and notes each in a file once it is kept."""
    with file.open("wb") as out:
        return subprocess.Popen([sys.executable, "-W", "ignore", "-c", CHILD, where, session, file.stem], stdout=out)


def test_processes_may_open_a_new_store_at_once(where: str) -> None:
    code = "import sys; from palate.store import Store; input(); Store.open(sys.argv[1]).new_session('ana', 'm')"
    starting = [
        subprocess.Popen([sys.executable, "-c", code, where], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(5)
    ]
    time.sleep(1.5)
    for process in starting:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60)[1] for process in starting]
    assert [p.returncode for p in starting] == [0] * 5, "".join(told)
    with Store.open(where) as store:
        assert len(store.export("ana")["sessions"]) == 5


# --- layouts ------------------------------------------------------------------------------------------


def test_a_newer_layout_is_refused(where: str) -> None:
    with Store.open(where) as store, store.engine.begin() as db:
        db.execute(sql.update(tables.meta).where(tables.meta.c.name == "version").values(value="2"))
    with pytest.raises(DataError, match="has layout 2, written by a newer Palate; this one knows layouts up to 1"):
        Store.open(where)


def test_an_older_layout_is_taken_on(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with Store.open(where) as store:
        fill(store)
        salt = store._salt

    def mark(db: sql.Connection) -> None:
        db.execute(sql.update(tables.events).values(kind="seen"))

    monkeypatch.setattr(tables, "VERSION", 2)
    monkeypatch.setattr(tables, "STEPS", {1: mark})
    for _ in range(2):
        with Store.open(where) as store:
            assert store.feedback("ana").seen == ("2", "1")
            assert store._salt == salt
            with store.engine.connect() as db:
                version = sql.select(tables.meta.c.value).where(tables.meta.c.name == "version")
                assert db.scalar(version) == "2"
