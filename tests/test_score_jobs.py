"""Scoring as a job: where tables come from, what is kept, what survives a kill, and several processes on one job."""

from __future__ import annotations

import bz2
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facade import tiny_bundle
from palate import Recommender
from palate.apps.candidates import Cutter, chunks, find_tables
from palate.apps.candidates.tables import Reader, kind_of
from palate.apps.scoring import Job, Share, score_file
from palate.apps.scoring.parts import Parts
from palate.errors import DataError, TooManyRejects
from palate.schema import Event, Request
from test_candidates import LONG, WIDE, read, write

REQUESTS = 60


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("adapters") / "tiny", tiny_base, tiny_data)


@pytest.fixture(scope="module")
def rec(bundle: Path, tiny_data: Path) -> Recommender:
    return Recommender.load(bundle, data=tiny_data, device="cpu")


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of few requests, so that little work has many."""
    monkeypatch.setattr(chunks, "WEIGHT", 6)
    monkeypatch.setattr(chunks, "REQUESTS", 2)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """REQUESTS requests of 3 candidates with histories of their own, and a bad row here and there."""
    rng = random.Random(7)
    rows: list[dict[str, Any]] = []
    for n in range(REQUESTS):
        history, picks = [str(rng.randint(1, 24)) for _ in range(rng.randint(0, 6))], rng.sample(range(1, 25), 3)
        rows.append(
            {"request_id": f"r{n}", "user_id": f"u{n // 3}", "history": history, "candidates": list(map(str, picks))}
        )
        if n % 20 == 5:
            rows.append({"request_id": f"bad{n}", "user_id": None, "history": [], "candidates": ["nope"]})
    return write(tmp_path_factory.mktemp("many") / "many.jsonl", rows)


# --- where tables come from -------------------------------------------------------------------------


def test_files_folders_globs_and_urls(rec: Recommender, tmp_path: Path) -> None:
    whole = tmp_path / "whole.jsonl"
    score_file(rec, Job(write(tmp_path / "all.csv", LONG), whole))
    folder = tmp_path / "tables"
    (folder / "deep").mkdir(parents=True)
    write(folder / "1.csv", LONG[:2])
    write(folder / "deep" / "2.parquet", LONG[2:])
    (folder / "_SUCCESS").write_text("")
    (folder / ".hidden.csv").write_text("nonsense")
    (folder / "readme.txt").write_text("nothing to score")
    for n, source in enumerate([folder, f"{folder}/**/*.*", [folder / "1.csv", f"file://{folder}/deep/2.parquet"]]):
        summary = score_file(rec, Job(source, tmp_path / f"{n}.jsonl"))
        assert (summary.rows, summary.parts) == (5, 2)
        assert _alike(tmp_path / f"{n}.jsonl", whole)


def _alike(a: Path, b: Path) -> bool:
    one, other = read(a), read(b)
    np.testing.assert_allclose([r["score"] for r in one], [r["score"] for r in other], atol=1e-5)
    return [(r["request_id"], r["item_id"], r["rank"]) for r in one] == [
        (r["request_id"], r["item_id"], r["rank"]) for r in other
    ]


def test_packed_tables_and_other_file_systems(rec: Recommender, tmp_path: Path) -> None:
    import fsspec

    plain = write(tmp_path / "c.csv", LONG)
    score_file(rec, Job(plain, tmp_path / "plain.csv"))
    expected = (tmp_path / "plain.csv").read_text()
    (tmp_path / "c.csv.gz").write_bytes(gzip.compress(plain.read_bytes()))
    (tmp_path / "c.jsonl.bz2").write_bytes(bz2.compress(write(tmp_path / "c.jsonl", LONG).read_bytes()))
    for kind, source in (("parquet", write(tmp_path / "c.parquet", LONG)), ("csv", plain)):
        fsspec.filesystem("memory").pipe_file(f"/there/c.{kind}", source.read_bytes())
    for source in (tmp_path / "c.csv.gz", tmp_path / "c.jsonl.bz2", "memory://there/c.parquet", "memory://there/c.csv"):
        score_file(rec, Job(source, tmp_path / "o.csv"))
        assert (tmp_path / "o.csv").read_text() == expected
    score_file(rec, Job(plain, "memory://out/scores.csv", max_rejects=1, work=tmp_path / "work"))
    assert fsspec.filesystem("memory").cat_file("/out/scores.csv").decode() == expected
    assert json.loads(fsspec.filesystem("memory").cat_file("/out/scores.csv.summary.json"))["rows"] == 5
    assert not (tmp_path / "work").exists()
    (tmp_path / "broken.csv.gz").write_bytes(b"not gzip at all")
    with pytest.raises(DataError, match=r"broken\.csv\.gz: cannot be read"):
        score_file(rec, Job(tmp_path / "broken.csv.gz", tmp_path / "o.csv"))


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("nothing.csv", "expected a table at .*nothing.csv, found nothing there"),
        ("*.csv", r"expected a table at .*\*\.csv, found nothing there"),
        ("empty", "expected a folder with tables .*found none in it"),
        ("sheet.xlsx", r"expected a file ending in \.parquet, \.csv, \.jsonl, got \.xlsx"),
        ("nofs://x/c.csv", "nofs://x/c.csv: cannot be read: .*nofs"),
    ],
)
def test_places_without_tables(tmp_path: Path, place: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "sheet.xlsx").write_text("x")
    with pytest.raises(DataError, match=message):
        find_tables(place if "://" in place else tmp_path / place)


def test_a_table_named_twice(tmp_path: Path) -> None:
    source = write(tmp_path / "c.csv", LONG)
    with pytest.raises(DataError, match="named twice"):
        find_tables(source, tmp_path)
    assert kind_of("a.b.csv.gz") == ".csv"
    with pytest.raises(DataError, match=r"got \.gz"):
        kind_of("a.parquet.gz")  # Parquet compresses its own pages


def test_a_request_in_two_files_is_told(rec: Recommender, tmp_path: Path) -> None:
    write(tmp_path / "in" / "1.csv" if (tmp_path / "in").mkdir() is None else tmp_path, LONG[:3])
    write(tmp_path / "in" / "2.csv", LONG[3:])
    with pytest.raises(DataError, match=r"2\.csv, line 2, column request_id: request 'b' comes again .*in one file"):
        score_file(rec, Job(tmp_path / "in", tmp_path / "o.csv"))


def test_users_name_requests_where_nothing_else_does(rec: Recommender, tmp_path: Path) -> None:
    rows = [{"user_id": "4", "item_id": "1"}, {"user_id": "4", "item_id": "7"}, {"user_id": "5", "item_id": "1"}]
    for kind in ("csv", "parquet", "jsonl"):
        score_file(rec, Job(write(tmp_path / f"c.{kind}", rows), tmp_path / "o.csv"))
        assert [(r["request_id"], r["user_id"]) for r in read(tmp_path / "o.csv")] == [
            ("4", "4"),
            ("4", "4"),
            ("5", "5"),
        ]


# --- what comes out ---------------------------------------------------------------------------------


def test_several_modes_and_the_best_alone(rec: Recommender, tmp_path: Path) -> None:
    source = write(tmp_path / "c.jsonl", WIDE)
    summary = score_file(rec, Job(source, tmp_path / "o.parquet", mode=["yes_no", "likelihood"]))
    table = pq.read_table(tmp_path / "o.parquet")
    assert table.schema.names[3:] == ["score_yes_no", "rank_yes_no", "score_likelihood", "rank_likelihood"]
    assert summary.mode == "yes_no,likelihood"
    for mode in ("yes_no", "likelihood"):
        score_file(rec, Job(source, tmp_path / "alone.parquet", mode=mode))
        alone = pq.read_table(tmp_path / "alone.parquet")
        assert table[f"rank_{mode}"].to_pylist() == alone["rank"].to_pylist()
        np.testing.assert_allclose(table[f"score_{mode}"].to_numpy(), alone["score"].to_numpy(), atol=1e-5)
    whole = sorted(read(tmp_path / "alone.parquet"), key=lambda r: (r["request_id"], r["rank"]))
    summary = score_file(rec, Job(source, tmp_path / "best.csv", mode="likelihood", top_k=2))
    best = read(tmp_path / "best.csv")
    assert summary.rows == 5
    assert [(r["request_id"], r["item_id"], r["rank"]) for r in best] == [
        (r["request_id"], r["item_id"], r["rank"]) for r in whole if r["rank"] <= 2
    ]
    with pytest.raises(DataError, match="top_k: expected 1 or more, got 0"):
        score_file(rec, Job(source, tmp_path / "best.csv", top_k=0))


def test_a_folder_of_parts(rec: Recommender, many: Path, tmp_path: Path, small: None) -> None:
    score_file(rec, Job(many, tmp_path / "whole.parquet", max_rejects=3))
    out = tmp_path / "scores"
    summary = score_file(rec, Job(many, f"{out}/", max_rejects=3))
    assert summary.parts > 20
    assert pq.read_table(out).to_pylist() == pq.read_table(tmp_path / "whole.parquet").to_pylist()
    names = sorted(p.name for p in out.iterdir())
    assert names == ["_rejects.jsonl", "_summary.json", *(f"part-{n:06d}.parquet" for n in range(summary.parts))]
    score_file(rec, Job(many, out, max_rejects=3, top_k=1))  # ours: it may be replaced
    assert pq.read_table(out).num_rows == REQUESTS
    assert not (tmp_path / "scores.parts").exists()
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="expected a new or empty folder, found other files there"):
        score_file(rec, Job(many, tmp_path / "home"))


# --- cutting ----------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 6), st.integers(0, 3)), min_size=1, max_size=40), st.integers(1, 50))
def test_chunks_follow_from_rows_alone(sizes: list[tuple[int, int]], group: int) -> None:
    """CSV, JSON lines and Parquet in row groups of any size are cut alike, and a span reads a chunk again."""
    import tempfile

    rows = [
        {"request_id": f"r{n}", "user_id": f"u{user}", "item_id": str(i)}
        for n, (size, user) in enumerate(sizes)
        for i in range(size)
    ]
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "WEIGHT", 7)
        patch.setattr(chunks, "REQUESTS", 4)
        pq.write_table(pa.Table.from_pylist(rows), Path(folder) / "c.parquet", row_group_size=group)
        write(Path(folder) / "c.csv", rows)
        write(Path(folder) / "c.jsonl", rows)
        found = {k: list(Cutter(find_tables(Path(folder) / f"c.{k}"))) for k in ("parquet", "csv", "jsonl")}
        got = [[row for _, row in chunk.rows] for chunk in found["parquet"]]
        assert [row for chunk in got for row in chunk] == rows
        for other in ("csv", "jsonl"):
            assert [[row for _, row in chunk.rows] for chunk in found[other]] == got
        for chunk in found["parquet"]:
            again = Reader(chunk.table, chunks.check_columns, chunks.COLUMNS).rows(*chunk.span)
            assert list(again) == chunk.rows


def test_repeated_histories_are_held_once(tmp_path: Path) -> None:
    rows = [{"request_id": "a", "item_id": str(i), "history": ["1", "2", "3"]} for i in range(4)]
    (chunk,) = Cutter(find_tables(write(tmp_path / "c.parquet", rows)))
    held = [row["history"] for _, row in chunk.rows if isinstance(row, dict)]
    assert all(h is held[0] for h in held)


# --- stopping and going on --------------------------------------------------------------------------


class Stop(Exception):
    pass


def stopped(rec: Recommender, job: Job, after: int) -> None:
    """Run a job until it has told `after` times of its progress."""
    calls = 0

    def show(progress: object) -> None:
        nonlocal calls
        calls += 1
        if calls == after:
            raise Stop

    with pytest.raises(Stop):
        score_file(rec, job, show)


def test_going_on_gives_the_same_bytes(rec: Recommender, many: Path, tmp_path: Path, small: None) -> None:
    whole = score_file(rec, Job(many, tmp_path / "whole.csv", max_rejects=3))
    assert (whole.rows, whole.requests, whole.rejected, whole.resumed_rows) == (3 * REQUESTS, REQUESTS, 3, 0)
    out = tmp_path / "o.csv"
    for after in (1, 7, 20):
        stopped(rec, Job(many, out, max_rejects=3, resume=True), after)
    assert not out.exists()
    summary = score_file(rec, Job(many, out, max_rejects=3, resume=True))
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    assert 0 < summary.resumed_rows < summary.rows == whole.rows
    assert (summary.requests, summary.rejected, summary.tokens) == (whole.requests, whole.rejected, whole.tokens)
    kept = [Path(str(s.rejects_file)).read_text() for s in (whole, summary)]
    assert kept[0] == kept[1]
    assert len(kept[0].splitlines()) == 3
    assert not (tmp_path / "o.csv.parts").exists()


def test_a_part_that_is_not_whole_is_scored_again(rec: Recommender, many: Path, tmp_path: Path, small: None) -> None:
    score_file(rec, Job(many, tmp_path / "whole.csv", max_rejects=3))
    out, parts = tmp_path / "o.csv", Parts(tmp_path / "o.csv.parts")
    stopped(rec, Job(many, out, max_rejects=3), 12)
    one, two, three = sorted(parts.numbers())[:3]
    parts.file(one).write_bytes(parts.file(one).read_bytes()[:-7])  # torn
    parts.file(two).unlink()  # its record is there
    (parts.folder / f"part-{three:06d}.json").unlink()  # no record
    (parts.folder / ".part-000099.parquet.123").write_text("half a part")
    score_file(rec, Job(many, out, max_rejects=3, resume=True))
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    stopped(rec, Job(many, out, max_rejects=3), 12)
    (parts.folder / f"part-{one:06d}.json").write_text("{")
    with pytest.raises(DataError, match=r"cannot be read: .*--restart"):
        score_file(rec, Job(many, out, max_rejects=3, resume=True))
    score_file(rec, Job(many, out, max_rejects=3, restart=True))
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mode": "yes_no"}, "is of other modes; throw it away with --restart"),
        ({"top_k": 1}, "is of another --top-k"),
        ({"source": "other"}, "is of other candidate tables"),
        ({"new_items": "new"}, "is of other new items"),
    ],
)
def test_work_of_another_run_is_not_taken(
    bundle: Path, tiny_data: Path, many: Path, tmp_path: Path, small: None, change: Mapping[str, Any], message: str
) -> None:
    rec = Recommender.load(bundle, data=tiny_data, device="cpu")
    stopped(rec, Job(many, tmp_path / "o.csv", max_rejects=3), 9)
    places = {"other": tmp_path / "other.jsonl", "new": write(tmp_path / "new.csv", [{"title": "Dune"}])}
    places["other"].write_bytes(many.read_bytes())
    told = {k: places.get(v, v) for k, v in change.items()}
    job = Job(**{"source": many, "output": tmp_path / "o.csv", "max_rejects": 3, "resume": True, **told})
    with pytest.raises(DataError, match=message):
        score_file(rec, job)


def test_other_weights_are_noticed(
    bundle: Path, tiny_base: Path, tiny_data: Path, many: Path, tmp_path: Path, small: None
) -> None:
    import torch

    rec = Recommender.load(bundle, data=tiny_data, device="cpu")
    stopped(rec, Job(many, tmp_path / "o.csv", max_rejects=3), 9)
    with torch.no_grad():
        next(p for n, p in rec.model.named_parameters() if "q_proj" in n).view(-1)[0] += 0.5
    with pytest.raises(DataError, match="is of another adapter, base or precision"):
        score_file(rec, Job(many, tmp_path / "o.csv", max_rejects=3, resume=True))


def test_too_many_bad_rows_keep_what_is_done(rec: Recommender, many: Path, tmp_path: Path, small: None) -> None:
    score_file(rec, Job(many, tmp_path / "whole.csv", max_rejects=3))
    out = tmp_path / "o.csv"
    with pytest.raises(TooManyRejects, match=r"\(3 bad rows\); mend the row, or allow bad rows with --max-rejects"):
        score_file(rec, Job(many, out, max_rejects=2))
    assert [json.loads(x)["value"] for x in (tmp_path / "o.csv.rejects.jsonl").read_text().splitlines()] == ["nope"]
    summary = score_file(rec, Job(many, out, max_rejects=3, resume=True))
    assert summary.resumed_rows > 100
    assert out.read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_two_runs_on_one_output(rec: Recommender, many: Path, tmp_path: Path, small: None) -> None:
    job = Job(many, tmp_path / "o.csv", max_rejects=3)
    asked, wrong = threading.Event(), list[Exception]()

    def second(progress: object) -> None:
        if not asked.is_set():
            asked.set()
            try:
                score_file(rec, job)
            except DataError as error:
                wrong.append(error)

    score_file(rec, job, second)
    assert "another process is at work on this output" in str(wrong[0])
    assert (tmp_path / "o.csv").exists()


# --- several processes ------------------------------------------------------------------------------


def test_shares_make_one_output(
    rec: Recommender, many: Path, tmp_path: Path, small: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from contextlib import nullcontext

    score_file(rec, Job(many, tmp_path / "whole.csv", max_rejects=3))
    monkeypatch.setattr(Share, "first_then_others", lambda self: nullcontext())
    summaries = [score_file(rec, Job(many, tmp_path / "o.csv", max_rejects=3), None, Share(n, 3, n)) for n in range(3)]
    assert [s.finished for s in summaries] == [False, False, True]
    assert summaries[-1].rows == 3 * REQUESTS
    assert (tmp_path / "o.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def command(*args: object, module: str = "palate") -> list[str]:
    return [sys.executable, "-m", module, *map(str, args)]


def test_accelerate_launch_equals_one_process(bundle: Path, tiny_data: Path, many: Path, tmp_path: Path) -> None:
    where = [many, "-a", bundle, "--data", tiny_data, "--device", "cpu", "--max-rejects", 3]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    patch = "from palate.apps.candidates import chunks; chunks.WEIGHT = 6; chunks.REQUESTS = 2\n"
    (tmp_path / "sitecustomize.py").write_text(patch)  # both runs in small chunks
    env["PYTHONPATH"] = str(tmp_path)
    subprocess.run(command("score", *where, "-o", tmp_path / "one.parquet"), check=True, env=env)
    launch = ["launch", "--cpu", "--num_processes", 2, "--num_machines", 1, "--mixed_precision", "no",
              "--dynamo_backend", "no", "-m", "palate.score"]  # fmt: skip
    out = subprocess.run(
        command(*launch, *where, "-o", tmp_path / "two.parquet", module="accelerate.commands.accelerate_cli"),
        check=True, capture_output=True, text=True, env=env,
    )  # fmt: skip
    assert (tmp_path / "two.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()
    assert out.stdout.count("candidates of 60 requests scored by embedding") == 1


def test_killed_again_and_again(bundle: Path, tiny_data: Path, many: Path, tmp_path: Path) -> None:
    """SIGKILL at random moments of real processes; the last one gives what an undisturbed run gives."""
    patch = (
        "import time\nfrom palate.apps.candidates import chunks\nfrom palate.apps.scoring.parts import Parts\n"
        "chunks.WEIGHT, chunks.REQUESTS, commit = 6, 2, Parts.commit\n"
        "Parts.commit = lambda *a: (time.sleep(0.02), commit(*a))[1]\n"  # slow enough to be hit
    )
    (tmp_path / "sitecustomize.py").write_text(patch)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    where = [many, "-a", bundle, "--data", tiny_data, "--device", "cpu", "--max-rejects", 3, "--resume"]
    subprocess.run(command("score", *where, "-o", tmp_path / "one.parquet"), check=True, env=env)
    rng, parts, kills = random.Random(3), tmp_path / "o.parquet.parts", 0
    for _ in range(2):
        process = subprocess.Popen(command("score", *where, "-o", tmp_path / "o.parquet"), env=env)
        had = len(list(parts.glob("part-*.json"))) if parts.exists() else 0
        while process.poll() is None and not (parts.exists() and len(list(parts.glob("part-*.json"))) > had):
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
    assert kills == 2
    subprocess.run(command("score", *where, "-o", tmp_path / "o.parquet"), check=True, env=env)
    assert (tmp_path / "o.parquet").read_bytes() == (tmp_path / "one.parquet").read_bytes()


# --- disks ------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_and_gone_on_from(rec: Recommender, many: Path, tmp_path: Path, small: None) -> None:
    score_file(rec, Job(many, tmp_path / "whole.csv", max_rejects=3))
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    try:
        with pytest.raises(DataError, match=r"cannot be written: No space left on device; .* --resume"):
            score_file(rec, Job(many, disk / "o.csv", max_rejects=3))
        assert not (disk / "o.csv").exists()
        assert any(Parts(disk / "o.csv.parts").numbers())
        subprocess.run(["mount", "-o", "remount,size=4m", str(disk)], check=True)
        summary = score_file(rec, Job(many, disk / "o.csv", max_rejects=3, resume=True))
        assert summary.resumed_rows > 0
        assert (disk / "o.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(DataError, match="cannot be written: Read-only file system"):
            score_file(rec, Job(many, disk / "p.csv", max_rejects=3))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_scores_do_not_depend_on_neighbours(rec: Recommender, tmp_path: Path, small: None) -> None:
    rows = [{"request_id": f"r{n}", "history": [str(1 + n % 24)], "candidates": ["3", "9"]} for n in range(9)]
    score_file(rec, Job(write(tmp_path / "c.jsonl", rows), tmp_path / "o.parquet"))
    scores = pq.read_table(tmp_path / "o.parquet")["score"].to_numpy().reshape(9, 2)
    for n in range(9):
        alone = rec.score(Request(f"r{n}", None, (Event(str(1 + n % 24)),), ("3", "9")))[0].scores
        np.testing.assert_allclose(scores[n], alone, atol=1e-5)
