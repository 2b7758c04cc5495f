"""Captions: cached by content, whatever runs beside it or dies in between; bad media are reported; the command."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from tests.dual import COLOURS, picture, save_colour_clip
from typer.testing import CliRunner

from palate.apps.cli import build
from palate.config import CaptionConfig
from palate.data import Dataset
from palate.errors import ConfigError, FeatureError
from palate.features import TextStore, caption, caption_item, captions
from palate.features.captioners import Captioned, Captioner, Unusable
from palate.schema import Item


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_colour_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def colours(clip: Path) -> dict[str, CaptionConfig]:
    """The field `picture`, written with a colour's name."""
    options = {"labels": list(COLOURS), "k": 1, "floor": 0.5}
    return {"picture": CaptionConfig(source=f"path:{clip}", options=options)}


class Upper(Captioner):
    """Says the file's text in capitals; keeps count; some files misbehave."""

    name = "upper"
    medium = "note"

    def __init__(self) -> None:
        super().__init__(field="said")
        self.said: list[str] = []

    def identity(self, item: Item) -> bytes | None:
        if "note" not in item.media:
            return None
        if not item.media["note"].is_file():
            raise Unusable("there is no such file")
        return item.media["note"].read_bytes()

    def caption(self, items: Sequence[Item]) -> Captioned:
        texts = [i.media["note"].read_text() for i in items]
        self.said += texts
        bad = [self.problem(i, "is bad") for i, t in zip(items, texts, strict=True) if t == "bad"]
        return Captioned([None if t == "bad" else t.upper() for t in texts], bad)


def notes(folder: Path, *texts: str | None) -> list[Item]:
    """An item for each text, with a file that holds it; None: without one."""
    folder.mkdir(exist_ok=True)
    items = []
    for n, text in enumerate(texts):
        if text is not None:
            (folder / f"{n}.txt").write_text(text)
        items.append(Item(f"i{n}", f"t{n}", media={} if text is None else {"note": folder / f"{n}.txt"}))
    return items


def run_upper(monkeypatch: pytest.MonkeyPatch, items: list[Item], store: TextStore) -> tuple[Upper, caption.CaptionSet]:
    upper = Upper()
    monkeypatch.setattr(caption, "build", lambda config: {"said": upper})
    return upper, captions(items, {"said": CaptionConfig()}, store=store, progress=False)


# --- the cache --------------------------------------------------------------------------------------


def test_a_second_run_captions_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = notes(tmp_path / "n", "a", "b", None, "a", "", "bad", "bad")
    items.append(Item("gone", "t", media={"note": tmp_path / "none"}))
    first, one = run_upper(monkeypatch, items, TextStore(tmp_path))
    assert first.said == ["a", "b", "", "bad"]  # equal content once
    assert one.texts == {"said": {"i0": "A", "i1": "B", "i3": "A"}}
    assert {(p.item_id, p.reason) for p in one.problems} == {
        ("gone", "there is no such file"), ("i5", "is bad"), ("i6", "is bad"),
    }  # fmt: skip
    r = one.report["said"]
    assert (r.written, r.wordless, r.missing, r.failed, r.hits, r.made) == (3, 1, 1, 3, 0, 4)
    assert r.written + r.wordless + r.missing + r.failed == len(items)
    second, two = run_upper(monkeypatch, items, TextStore(tmp_path))
    assert second.said == ["bad"]  # what failed may be mended
    assert two.texts == one.texts
    assert (two.report["said"].hits, two.report["said"].made) == (4, 0)


def test_without_the_medium_nothing_is_loaded_or_written(tmp_path: Path) -> None:
    config = {"a": CaptionConfig(source="path:/nowhere"), "b": CaptionConfig(captioner="tags", source="path:/nowhere")}
    store = TextStore(tmp_path)
    made = captions([Item("x", "no media")], config, store=store, progress=False)
    assert made.texts == {"a": {}, "b": {}}
    assert made.report["a"].missing == 1
    assert not store.path.exists()
    assert captions([], {}, store=store).texts == {}
    with pytest.raises(FeatureError, match="distinct ids"):
        captions([Item("x", "1"), Item("x", "2")], {}, store=store)


def test_a_damaged_cache_is_set_aside(tmp_path: Path) -> None:
    store = TextStore(tmp_path)
    store.write({b"k": "v"})
    assert store.read([b"k", b"other"]) == {b"k": "v"}
    store.write({b"k": "another"})
    assert store.read([b"k"]) == {b"k": "v"}
    store.path.write_bytes(b"not a database at all, but long enough to look at" * 100)
    with pytest.warns(UserWarning, match="damaged cache file, its captions are made again"):
        assert store.read([b"k"]) == {}
    store.write({b"k": "w"})
    assert store.read([b"k"]) == {b"k": "w"}
    store.path.unlink()
    store.path.mkdir()
    with pytest.raises(FeatureError, match="PALATE_CACHE may name another"):
        store.write({b"k": "w"})


def test_many_keys(tmp_path: Path) -> None:
    store = TextStore(tmp_path)
    rows = {n.to_bytes(4, "big"): str(n) for n in range(2_500)}
    store.write(rows)
    assert store.read(list(rows)) == rows


WRITER = textwrap.dedent(
    """
    import sys
    from palate.features.textstore import TextStore
    start, store = int(sys.argv[2]), TextStore(sys.argv[1])
    print("ready", flush=True)
    for n in range(start, start + int(sys.argv[3])):
        store.write({b"%d.%d" % (n, k): f"{n}.{k}" for k in range(5)})
    """
)


def writer(folder: Path, start: int, count: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(start), str(count)], stdout=subprocess.PIPE, text=True
    )


def test_writers_side_by_side_and_one_killed(tmp_path: Path) -> None:
    workers = [writer(tmp_path, start, 30) for start in (0, 20)]
    with writer(tmp_path, 1_000, 1_000_000) as victim:
        assert victim.stdout is not None
        assert victim.stdout.readline() == "ready\n"
        deadline = time.monotonic() + 60
        while not (tmp_path / "captions.sqlite").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        os.kill(victim.pid, signal.SIGKILL)
    for worker in workers:
        worker.communicate(timeout=120)
        assert worker.returncode == 0
    store = TextStore(tmp_path)
    keys = [b"%d.%d" % (n, k) for n in range(50) for k in range(5)]
    assert store.read(keys) == {key: key.decode() for key in keys}
    killed = [len(store.read([b"%d.%d" % (n, k) for k in range(5)])) for n in range(1_000, 3_000)]
    assert set(killed) <= {0, 5}  # all of a write, or none


def test_one_item(clip: Path, tmp_path: Path, colours: dict[str, CaptionConfig]) -> None:
    from palate.features.captioners import build as build_captioners

    built = build_captioners(colours)
    item = Item("1", "x", {"a": "b"}, {"image": picture(tmp_path / "p.png", "purple", 3)})
    assert caption_item(item, built).text == {"a": "b", "picture": "purple"}
    assert caption_item(Item("2", "no media"), built) == Item("2", "no media")
    broken = Item("3", "x", media={"image": tmp_path / "none.png"})
    with pytest.raises(FeatureError, match="there is no such file"):
        caption_item(broken, built)


# --- the command ------------------------------------------------------------------------------------


def test_the_command(tiny_data: Path, tmp_path: Path, colours: dict[str, CaptionConfig]) -> None:
    config = tmp_path / "run.yaml"
    values = {"name": "x", "data": "d", "captions": {k: v.model_dump() for k, v in colours.items()}}
    config.write_text(yaml.safe_dump(values))
    out = tmp_path / "texts" / "items.csv"
    done = CliRunner().invoke(build(), ["captions", str(tiny_data), "--config", str(config), "-n", "1", "-o", str(out)])
    assert done.exit_code == 0, done.output
    assert "Toy Story: red" in done.output
    assert "and 1 more in picture" in done.output
    with out.open(encoding="utf-8") as file:
        assert list(csv.reader(file)) == [["item_id", "picture"], ["1", "red"], ["2", "blue"]]
    done = CliRunner().invoke(build(), ["captions", str(tiny_data), "--config", str(config), "--json"])
    told = json.loads(done.stdout)
    assert told["captions"] == {"picture": {"1": "red", "2": "blue"}}
    assert told["fields"]["picture"]["hits"] == 2
    done = CliRunner().invoke(
        build(), ["data", "import", str(tiny_data), "--media", str(out.parent), "-o", str(tmp_path / "mine")]
    )
    assert done.exit_code == 0, done.output
    assert Dataset.open(tmp_path / "mine").catalog["1"].text["picture"] == "red"
    config.write_text("name: x\ndata: d\n")
    done = CliRunner().invoke(build(), ["captions", str(tiny_data), "--config", str(config)])
    assert isinstance(done.exception, ConfigError)
    assert "expected captioners under `captions:`" in str(done.exception)
