"""`palate data check --consistency`: items whose picture or sound says another thing than their text."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests import captioner_models as made
from tests.drawings import DRAWINGS, draw
from tests.dual import COLOURS, picture, save_colour_clip
from typer.testing import CliRunner

from palate.apps.cli import build
from palate.errors import ConfigError, FeatureError
from palate.features import consistency as module
from palate.features.consistency import PRIOR, Consistency, consistency, threshold_of
from palate.schema import Item


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "weights" not in request.keywords:
        monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_colour_clip(tmp_path_factory.mktemp("clip"))


def shop(folder: Path) -> list[Item]:
    """Things of one colour each, which title and picture agree on."""
    things = [f"{size}{c} {thing}" for c in COLOURS for size, thing in (("", "lamp"), ("the small ", "mug"))]
    colours = [c for c in COLOURS for _ in range(2)]
    return [
        Item(f"i{n}", title, media={"image": picture(folder / f"{n}.png", colour, n)})
        for n, (title, colour) in enumerate(zip(things, colours, strict=True))
    ]


def swapped(items: Sequence[Item], *pairs: tuple[str, str]) -> list[Item]:
    """The items with titles exchanged."""
    titles = {i.item_id: i.title for i in items}
    for a, b in pairs:
        titles[a], titles[b] = titles[b], titles[a]
    return [replace(i, title=titles[i.item_id]) for i in items]


def listed(found: Consistency) -> set[str]:
    return {c.item_id for c in found.conflicts}


def test_planted_conflicts_are_found_in_a_shared_space(clip: Path, tmp_path: Path) -> None:
    items = shop(tmp_path)
    source = f"path:{clip}"
    clean = consistency(items, source=source)
    assert clean.conflicts == []
    assert clean.shared
    assert (clean.items, clean.judged, clean.unclear, clean.missing, clean.failed) == (20, 20, 0, 0, 0)
    assert clean.agreement > 0.95
    planted = consistency(swapped(items, ("i0", "i5"), ("i8", "i11")), source=source)
    assert listed(planted) == {"i0", "i5", "i8", "i11"}
    worst = planted.conflicts[0]
    assert [c.z for c in planted.conflicts] == sorted(c.z for c in planted.conflicts)
    assert worst.rank > 1
    assert 0 <= worst.percentile < 0.7
    by_id = {c.item_id: c for c in planted.conflicts}
    assert "red" in by_id["i0"].nearest  # what the picture shows, in the catalogue's own words
    assert by_id["i0"].title == "the small blue mug"
    assert by_id["i0"].file.endswith("0.png")


def test_z_percentile_and_rank_are_what_they_say(clip: Path, tmp_path: Path) -> None:
    """Against a plain computation, one item at a time."""
    from palate.config import EncoderConfig
    from palate.features.encoders.image import ImageEncoder
    from palate.features.space import TextTower

    items = shop(tmp_path)
    found = consistency(items, source=f"path:{clip}", threshold=math.inf)
    assert len(found.conflicts) == 20
    media = ImageEncoder(EncoderConfig(source=f"path:{clip}")).encode(items).vectors
    texts = TextTower(clip, "cpu").vectors([i.title for i in items])

    def centred(rows: np.ndarray) -> np.ndarray:
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        rows = rows - rows.mean(axis=0)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    similar = centred(media) @ centred(texts).T
    for conflict in found.conflicts:
        n = int(conflict.item_id[1:])
        others = np.delete(similar[n], n)
        own = similar[n, n]
        assert conflict.z == pytest.approx((own - others.mean()) / others.std(), abs=2e-2)
        assert conflict.rank == 1 + (others > own).sum()
        assert conflict.percentile == pytest.approx((others < own).mean(), abs=1e-3)
        assert conflict.nearest == items[np.delete(np.arange(20), n)[others.argmax()]].title


def test_items_of_one_text_are_not_held_against_one_another(clip: Path, tmp_path: Path) -> None:
    items = shop(tmp_path)
    twins = [replace(i, title="red lamp") if i.item_id == "i1" else i for i in items]
    found = consistency(twins, source=f"path:{clip}", threshold=math.inf)
    compared = {c.item_id: c.rank for c in found.conflicts}
    assert compared["i0"] == compared["i1"] == 1
    assert all(c.nearest != "red lamp" for c in found.conflicts if c.item_id in ("i0", "i1"))


def test_parts_and_samples_change_little(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = swapped(shop(tmp_path), ("i0", "i5"))
    whole = consistency(items, source=f"path:{clip}")
    monkeypatch.setattr(module, "ROWS", 3)
    parts = consistency(items, source=f"path:{clip}")
    assert parts.conflicts == whole.conflicts
    assert parts.threshold == pytest.approx(whole.threshold)
    monkeypatch.setattr(module, "COMPARED", 15)
    assert listed(consistency(items, source=f"path:{clip}")) == {"i0", "i5"}


def test_bad_media_and_few_items(clip: Path, tmp_path: Path) -> None:
    items = [*shop(tmp_path), Item("none", "no picture")]
    items[3].media["image"].write_text("not a picture")
    found = consistency(items, source=f"path:{clip}")
    assert (found.items, found.judged, found.missing, found.failed) == (21, 19, 1, 1)
    assert [p.item_id for p in found.problems] == ["i3"]
    few = consistency(items[10:16], source=f"path:{clip}", threshold=math.inf)
    assert (few.judged, few.conflicts) == (0, [])
    nothing = consistency([Item("x", "y")])
    assert (nothing.judged, nothing.missing, nothing.threshold, nothing.conflicts) == (0, 1, None, [])


def test_a_sound_needs_a_source_and_a_source_needs_two_towers(tmp_path: Path) -> None:
    sound = Item("s", "x", media={"audio": made.tone(tmp_path / "t.wav", 440)})
    with pytest.raises(ConfigError, match="expected a source with a tower for 'audio' and one for text"):
        consistency([sound], medium="audio")
    folder = made.audio_classifier(tmp_path / "ast")
    with pytest.raises(FeatureError, match="expected a model with a text tower"):
        consistency([sound], medium="audio", source=f"path:{folder}")


def test_sounds_and_texts_by_a_random_clap(tmp_path: Path, tiny_base: Path) -> None:
    """The code path of a sound's shared space; random weights agree on nothing."""
    folder = made.clap(tmp_path / "clap")
    items = [
        Item(f"s{n}", f"tone number {n}", media={"audio": made.tone(tmp_path / f"{n}.wav", 200 + 300 * n)})
        for n in range(9)
    ]
    found = consistency(items, medium="audio", source=f"path:{folder}", threshold=math.inf)
    assert (found.judged, found.compared, found.shared) == (9, 8, True)
    assert {c.item_id for c in found.conflicts} == {i.item_id for i in items}
    assert all(math.isfinite(c.z) and 1 <= c.rank <= 9 for c in found.conflicts)


@pytest.mark.parametrize("m", [0.5, 1.0, 2.0, 4.0, 8.0])
@pytest.mark.parametrize("s", [0.6, 0.9, 1.0])
def test_the_threshold_is_bayes_rule(m: float, s: float) -> None:
    t = threshold_of(m + s / 1.4826 * np.array([-3, -1, -1, 0, 1, 1, 5]))
    assert t is not None
    assert t < m

    def normal(x: float, mean: float, deviation: float) -> float:
        return math.exp(-(((x - mean) / deviation) ** 2) / 2) / deviation

    assert PRIOR * normal(t, 0, 1) == pytest.approx((1 - PRIOR) * normal(t, m, s))
    assert PRIOR * normal(t - 0.1, 0, 1) > (1 - PRIOR) * normal(t - 0.1, m, s)


def test_nothing_can_be_told_where_own_texts_fit_no_better() -> None:
    assert threshold_of(np.array([-0.2, 0.1, -0.4])) is None
    assert threshold_of(np.zeros(0)) is None


# --- the command ------------------------------------------------------------------------------------


def folder_of(items: Sequence[Item], folder: Path) -> Path:
    """A data set folder of these items."""
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", "title", "image"])
        rows.writerows([i.item_id, i.title, i.media["image"].name] for i in items)
    (folder / "interactions.csv").write_text("user_id,item_id\nu,i0\nu,i1\n")
    (folder / "dataset.yaml").write_text(
        "name: shop\nitems: {path: items.csv, media: {image: image}}\ninteractions: {path: interactions.csv}\n"
    )
    return folder


def test_the_command(clip: Path, tmp_path: Path) -> None:
    folder = folder_of(swapped(shop(tmp_path), ("i0", "i5")), tmp_path)
    words = ["data", "check", str(folder), "--consistency", "--source", f"path:{clip}"]
    done = CliRunner().invoke(build(), [*words, "--limit", "1"])
    assert done.exit_code == 0, done.output
    assert "20 of 20 items judged" in done.output
    assert "2 items below the threshold" in done.output
    assert "nearest" in done.output
    assert "and 1 more; --json lists them all" in done.output
    told = json.loads(CliRunner().invoke(build(), [*words, "--json"]).stdout)
    assert {c["item_id"] for c in told["consistency"]["conflicts"]} == {"i0", "i5"}
    assert told["counts"]["items"] == 20
    plain = json.loads(CliRunner().invoke(build(), ["data", "check", str(folder), "--json"]).stdout)
    assert "consistency" not in plain


# --- the default way --------------------------------------------------------------------------------


@pytest.mark.weights
def test_planted_conflicts_are_found_by_class_names(tmp_path: Path) -> None:
    items = draw(tmp_path)
    clean = consistency(items)
    assert (clean.judged, clean.unclear, clean.shared) == (len(DRAWINGS), 0, False)
    assert clean.conflicts == []
    assert "class names" in clean.space
    for pair in (("umbrella", "crossword"), ("balloon", "honeycomb"), ("stripes", "envelope"), ("lights", "web")):
        found = consistency(swapped(items, pair))
        assert listed(found) == set(pair)
    assert "spider web" in {c.item_id: c.shows for c in found.conflicts}["web"]
    assert {c.item_id: c.nearest for c in found.conflicts}["web"] == DRAWINGS["web"][2]


@pytest.mark.weights
def test_an_unclear_picture_is_not_judged(tmp_path: Path) -> None:
    from PIL import Image

    noise = np.random.default_rng(0).integers(90, 160, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    found = consistency([*draw(tmp_path), Item("noise", "A tree", media={"image": tmp_path / "noise.png"})])
    assert found.judged == len(DRAWINGS)
    assert found.unclear == 1
    assert "noise" not in listed(found)
