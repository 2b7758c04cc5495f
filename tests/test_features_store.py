"""The vector cache: content in, the same vector out, whatever runs beside it or dies in between."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from palate.features import store as store_module
from palate.features.encoders import ContentEncoder, Encoded, Unusable
from palate.features.store import FeatureStore
from palate.schema import Item


class Counting(ContentEncoder):
    """Two numbers from a title's hash; keeps count of what it encoded; some titles misbehave."""

    name = "counting"
    width = 2

    def __init__(self) -> None:
        super().__init__()
        self.encoded: list[str] = []

    def identity(self, item: Item) -> bytes | None:
        if item.title == "unreadable":
            raise Unusable("cannot be read")
        return item.title.encode() or None

    def encode(self, items: Sequence[Item]) -> Encoded:
        self.encoded += [i.title for i in items]
        rows = [np.frombuffer(hashlib.sha256(i.title.encode()).digest()[:2], np.uint8) for i in items]
        vectors = np.array(rows, dtype=np.float32)
        present = np.array([i.title != "bad" for i in items])
        vectors[[i.title == "nan" for i in items]] = np.nan
        vectors[~present] = 0
        return Encoded(vectors, present, [self.problem(i, "is bad") for i in items if i.title == "bad"])


def titled(*titles: str) -> list[Item]:
    return [Item(f"i{n}", t) for n, t in enumerate(titles)]


def test_a_second_run_encodes_nothing(tmp_path: Path) -> None:
    items = titled("a", "b", "", "a", "c")
    first, second = Counting(), Counting()
    ticks: list[int] = []
    one = FeatureStore(tmp_path).get(first, items, ticks.append)
    two = FeatureStore(tmp_path).get(second, items)
    assert first.encoded == ["a", "b", "c"]  # equal content once
    assert second.encoded == []
    assert (one.hits, one.computed) == (0, 4)
    assert (two.hits, two.computed) == (4, 0)
    assert sum(ticks) == len(items)
    np.testing.assert_array_equal(one.features.vectors, two.features.vectors)
    assert one.features.present.tolist() == [True, True, False, True, True]
    assert not one.features.vectors[2].any()
    assert one.features.item_ids == tuple(i.item_id for i in items)
    assert one.features.fingerprint == first.fingerprint
    np.testing.assert_array_equal(one.features.vectors[0], one.features.vectors[3])


def test_new_content_only_is_encoded(tmp_path: Path) -> None:
    FeatureStore(tmp_path).get(Counting(), titled("a", "b"))
    later = Counting()
    made = FeatureStore(tmp_path).get(later, titled("b", "x", "a"))
    assert later.encoded == ["x"]
    assert (made.hits, made.computed) == (2, 1)
    alone = FeatureStore(tmp_path / "other").get(Counting(), titled("b", "x", "a"))
    np.testing.assert_array_equal(made.features.vectors, alone.features.vectors)


def test_bad_media_are_problems_not_vectors(tmp_path: Path) -> None:
    items = titled("a", "bad", "nan", "unreadable", "bad")
    made = FeatureStore(tmp_path).get(Counting(), items)
    assert made.features.present.tolist() == [True, False, False, False, False]
    assert np.isfinite(made.features.vectors).all()
    assert not made.features.vectors[1:].any()
    reasons = {p.item_id: p.reason for p in made.problems}
    assert set(reasons) == {"i1", "i2", "i3", "i4"}
    assert len(made.problems) == 4
    assert reasons["i1"] == reasons["i4"] == "is bad"
    assert "not finite" in reasons["i2"]
    assert str(made.problems[0]).startswith("item 'i")


def test_another_fingerprint_is_another_vector_space(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    store.get(Counting(), titled("a"))

    class Newer(Counting):
        version = 2

    newer = Newer()
    assert newer.fingerprint != Counting().fingerprint
    store.get(newer, titled("a"))
    assert newer.encoded == ["a"]


def test_nothing_present_still_has_a_width(tmp_path: Path) -> None:
    made = FeatureStore(tmp_path).get(Counting(), titled("", ""))
    assert made.features.vectors.shape == (2, 2)
    assert FeatureStore(tmp_path).get(Counting(), []).features.vectors.shape == (0, 2)


def test_shards_are_merged_and_nothing_is_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "MANY", 5)
    store = FeatureStore(tmp_path)
    for n in range(23):
        store.get(Counting(), titled(f"t{n}"))
    folder = tmp_path / Counting().fingerprint
    assert len(list(folder.glob("*.safetensors"))) <= 6
    after = Counting()
    made = store.get(after, titled(*(f"t{n}" for n in range(23))))
    assert after.encoded == []
    assert made.features.present.all()


def test_a_damaged_shard_is_named_and_replaced(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    store.get(Counting(), titled("a", "b"))
    (shard,) = (tmp_path / Counting().fingerprint).glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-5])
    again = Counting()
    with pytest.warns(UserWarning, match="damaged cache file"):
        made = store.get(again, titled("a", "b"))
    assert again.encoded == ["a", "b"]
    assert made.features.present.all()


WRITER = textwrap.dedent(
    """
    import sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from palate.features import store as module
    from test_features_store import Counting, titled
    module.CHUNK, module.MANY = 3, 4
    start = int(sys.argv[1])
    while True:
        titles = [f"k{{n}}" for n in range(start, start + 40)]
        module.FeatureStore(Path({folder!r})).get(Counting(), titled(*titles))
        print("round", flush=True)
        start += 20
        if len(sys.argv) > 2:
            break
    """
)


def spawn(folder: Path, *args: str) -> subprocess.Popen[str]:
    code = WRITER.format(tests=str(Path(__file__).parent), folder=str(folder))
    return subprocess.Popen([sys.executable, "-c", code, *args], stdout=subprocess.PIPE, text=True)


def test_writers_side_by_side_lose_nothing(tmp_path: Path) -> None:
    workers = [spawn(tmp_path, str(start), "once") for start in (0, 10, 20)]
    assert [w.communicate(timeout=120)[0] for w in workers] == ["round\n"] * 3
    last = Counting()
    made = FeatureStore(tmp_path).get(last, titled(*(f"k{n}" for n in range(60))))
    assert last.encoded == []
    assert made.features.present.all()


def test_a_killed_writer_leaves_a_whole_cache(tmp_path: Path) -> None:
    with spawn(tmp_path, "0") as victim:
        assert victim.stdout is not None
        for _ in range(3):
            assert victim.stdout.readline() == "round\n"
        time.sleep(0.01)
        os.kill(victim.pid, signal.SIGKILL)
    last = Counting()
    made = FeatureStore(tmp_path).get(last, titled(*(f"k{n}" for n in range(80))))  # a damaged shard would warn
    assert last.encoded == []
    alone = FeatureStore(tmp_path / "fresh").get(Counting(), titled(*(f"k{n}" for n in range(80))))
    np.testing.assert_array_equal(made.features.vectors, alone.features.vectors)
