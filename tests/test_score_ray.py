"""Ray: the bytes of one process, though workers and the driver are killed; and what a user is told without it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from facade import tiny_bundle
from palate.apps.cli import run
from palate.apps.scoring import Job
from palate.apps.scoring.cluster import Aside, Needs
from palate.apps.scoring.ray import Loading, _Agreed, score_on_ray
from palate.errors import ConfigError
from test_candidates import write

REQUESTS = 60
SMALL = (
    "import time\nfrom palate.apps.candidates import chunks\nfrom palate.apps.scoring.run import Scorer\n"
    "chunks.WEIGHT, chunks.REQUESTS, score = 6, 2, Scorer.score\n"
    "Scorer.score = lambda *a: (time.sleep(0.4), score(*a))[1]\n"  # slow enough to be hit
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("adapters") / "tiny", tiny_base, tiny_data)


def rows() -> list[dict[str, object]]:
    """REQUESTS requests of 3 candidates, and a bad row here and there; the last request comes twice."""
    found: list[dict[str, object]] = []
    for n in range(REQUESTS):
        history = [str(1 + (n + k) % 24) for k in range(n % 6)]
        found.append({"request_id": f"r{n}", "history": history, "candidates": [str(1 + (n + k) % 24) for k in (7, 9)]})
        if n % 20 == 5:
            found.append({"request_id": f"bad{n}", "history": [], "candidates": ["nope"]})
    return [*found, found[-1]]


def wait(process: subprocess.Popen[str], until: Callable[[], bool], said: list[Path]) -> None:
    end = time.monotonic() + 150
    while not until():
        assert process.poll() is None, [path.read_text() for path in said]
        assert time.monotonic() < end
        time.sleep(0.01)


def busy(driver: int) -> list[psutil.Process]:
    """Workers that have a chunk: Ray puts what a process does into its name."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "_Worker)).submit" in " ".join(process.cmdline()):
                found.append(process)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_worker_and_a_killed_driver_cost_no_byte(bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    source = tmp_path / "many"
    source.mkdir()
    write(source / "a.parquet", rows()[:30])
    write(source / "b.jsonl", rows()[30:])
    (tmp_path / "sitecustomize.py").write_text(SMALL)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(tmp_path)}
    score = [sys.executable, "-m", "palate", "score", str(source), "-a", str(bundle), "--data", str(tiny_data)]
    score += ["--device", "cpu", "--max-rejects", "4", "-o"]
    subprocess.run([*score, str(tmp_path / "one.parquet")], check=True, env=env)
    two, parts = tmp_path / "two.parquet", tmp_path / "two.parquet.parts"
    on_ray = [*score, str(two), "--engine", "ray", "--workers", "2"]

    def done() -> int:
        return len(list(parts.glob("part-*.json"))) if parts.exists() else 0

    said = [tmp_path / "out.txt", tmp_path / "err.txt"]

    def start() -> subprocess.Popen[str]:
        with said[0].open("w") as out, said[1].open("w") as err:
            return subprocess.Popen([*on_ray, "--resume"], env=env, text=True, stdout=out, stderr=err)

    first = start()
    wait(first, lambda: done() >= 3, said)
    first.send_signal(signal.SIGKILL)
    first.wait()
    kept = done()
    assert 3 <= kept < 30
    second = start()
    wait(second, lambda: done() >= kept + 3, said)
    wait(second, lambda: bool(busy(second.pid)), said)
    busy(second.pid)[0].send_signal(signal.SIGKILL)
    code = second.wait(300)
    out, told = (path.read_text() for path in said)
    assert code == 0, told
    assert f"{2 * REQUESTS:,} candidates of {REQUESTS:,} requests scored by embedding" in out
    assert "of them by the run that this one went on from" in out
    assert "raylet" not in out + told
    assert "a worker died over chunk" in told
    assert two.read_bytes() == (tmp_path / "one.parquet").read_bytes()
    rejects = [(tmp_path / f"{n}.parquet.rejects.jsonl").read_text() for n in ("one", "two")]
    assert rejects[0] == rejects[1]
    assert not parts.exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_is_wrong_on_a_worker_is_told_as_ever(tiny_data: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "many.jsonl", rows())
    command = [sys.executable, "-m", "palate", "score", str(source), "-a", "nowhere", "--engine", "ray"]
    done = subprocess.run([*command, "-o", str(tmp_path / "o.csv")], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "expected an adapter bundle or a base model, found nothing at 'nowhere'" in done.stderr
    assert not (tmp_path / "o.csv.parts").exists()


def test_ray_has_to_be_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("palate.apps.scoring.ray.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"--engine ray needs Ray; run `pip install 'palate\[scale\]'`"):
        score_on_ray(Loading("nowhere"), Job(tmp_path / "c.csv", tmp_path / "o.csv"))


def test_options_of_engines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(write(tmp_path / "many.jsonl", rows()))
    assert run(["score", source, "-a", "nowhere", "--engine", "rya"]) == 2
    assert "--engine: expected local or ray, got 'rya'; did you mean 'ray'?" in capsys.readouterr().err
    assert run(["score", source, "-a", "nowhere", "--workers", "2"]) == 2
    assert "--workers goes with --engine ray" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("workers", "cpus", "gpus", "needs"),
    [
        (None, 16, 0, Needs(4, 4, 0)),
        (None, 2, 0, Needs(1, 2, 0)),
        (3, 2, 0, Needs(3, 2 / 3, 0)),
        (None, 64, 8, Needs(8, 1, 1)),
        (4, 16, 2, Needs(4, 1, 0.5)),
    ],
)
def test_what_workers_take(workers: int | None, cpus: float, gpus: float, needs: Needs) -> None:
    assert Needs.of(workers, cpus, gpus) == needs


def test_places_are_whole_on_other_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").mkdir()
    assert Loading("a", "hub:x/y").everywhere() == Loading(str(tmp_path / "a"), "hub:x/y")
    assert Loading({"n": "a", "m": "b"}).everywhere().path == {"n": str(tmp_path / "a"), "m": "b"}


def test_the_first_worker_says_what_all_do() -> None:
    agreed = _Agreed(None)
    assert agreed.same({"identity": 1}, 2) == {"identity": 1} == agreed.same({"identity": 3}, 2)
    assert agreed.all() == ({"identity": 1}, 2)
    assert [agreed.begins(7), agreed.begins(7), agreed.begins(8)] == [1, 2, 1]


def test_answers_are_without_what_ray_says(capsys: pytest.CaptureFixture[str]) -> None:
    out = Aside(sys.stdout)
    print("one", file=out)
    print("(raylet) A worker died", file=out)
    print("two", file=out)
    assert capsys.readouterr().out == "one\ntwo\n"
