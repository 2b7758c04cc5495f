"""Nearest neighbours: the arithmetic, the contact sheet and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from palate.apps import cli
from palate.apps.contact_sheet import Cell, draw
from palate.errors import DataError, FeatureError
from palate.features import neighbours
from palate.features.neighbours import agreement, nearest
from palate.schema import Features


def table(vectors: np.ndarray, present: np.ndarray | None = None) -> Features:
    here = np.ones(len(vectors), dtype=bool) if present is None else present
    ids = tuple(f"i{n}" for n in range(len(vectors)))
    return Features("image", ids, np.where(here[:, None], vectors, 0).astype(np.float32), here, "f")


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 40), st.integers(1, 2), st.integers(0, 99))
def test_nearest_is_the_sorted_cosine(items: int, k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    present = np.r_[True, True, True, rng.random(items - 3) < 0.7]
    made = table(rng.normal(size=(items, 5)), present)
    asked = np.flatnonzero(present)
    found = nearest(made, asked, k)
    unit = made.vectors / np.maximum(np.linalg.norm(made.vectors, axis=1, keepdims=True), 1e-9)
    for row, near, cosine in zip(found.rows, found.nearest, found.cosine, strict=True):
        others = [n for n in asked if n != row]
        wanted = sorted((float(unit[row] @ unit[n]) for n in others), reverse=True)[:k]
        np.testing.assert_allclose(cosine, wanted, atol=1e-6)
        assert row not in near
        assert present[near].all()


def test_blocks_and_ties_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(1).normal(size=(50, 4))
    vectors[10:20] = vectors[9]
    whole = nearest(table(vectors), range(50), 3)
    assert whole.nearest[15].tolist() == [9, 10, 11]
    monkeypatch.setattr(neighbours, "BLOCK", 7)
    np.testing.assert_array_equal(nearest(table(vectors), range(50), 3).nearest, whole.nearest)


def test_agreement_is_one_where_labels_are_places_and_chance_where_they_are_not() -> None:
    rng = np.random.default_rng(2)
    labels = ["abcd"[n % 4] for n in range(400)]
    places = np.eye(4)[[n % 4 for n in range(400)]] + 0.05 * rng.normal(size=(400, 4))
    told = agreement(table(places), labels, 5)
    assert (told.shared, told.n, told.k) == (1.0, 400, 5)
    assert told.chance == pytest.approx(99 / 399)
    blind = agreement(table(rng.normal(size=(400, 4))), labels, 5)
    assert blind.shared == pytest.approx(told.chance, abs=0.05)


def test_agreement_leaves_out_items_without_vector_or_label() -> None:
    vectors = np.eye(6)
    labels = ["a", "a", "", "b", "b", "b"]
    found = agreement(table(vectors, np.array([1, 1, 1, 1, 1, 0], dtype=bool)), labels, 1)
    assert found.n == 4
    assert found.chance == pytest.approx(1 / 3)
    drawn = agreement(table(np.random.default_rng(0).normal(size=(90, 3))), ["a"] * 90, 2, sample=10)
    assert (drawn.n, drawn.shared, drawn.chance) == (10, 1.0, 1.0)


def test_copies_count_once() -> None:
    rng = np.random.default_rng(3)
    vectors = np.repeat(rng.normal(size=(60, 4)), 5, axis=0)
    labels = [str(n // 5 % 30) for n in range(300)]
    found = agreement(table(vectors), labels, 4)
    assert found.n == 60
    assert found.shared < 0.1


def test_what_cannot_be_asked_is_named() -> None:
    made = table(np.eye(4), np.array([1, 1, 1, 0], dtype=bool))
    with pytest.raises(FeatureError, match="item 'i3' has no image vector"):
        nearest(made, [3], 1)
    with pytest.raises(FeatureError, match="fewer than the 3 items that can be compared by image, got 3"):
        nearest(made, [0], 3)
    with pytest.raises(FeatureError, match="at least one neighbour"):
        nearest(made, [0], 0)


def test_a_sheet_of_hostile_captions_and_pictures(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    Image.new("RGBA", (900, 20), (255, 0, 0, 128)).save(tmp_path / "wide.png")
    captions = ["", "$x^{$ \x00 \n\n<b>[red]", "漢字 عربي 🐦" * 50, "x" * 5000, "a b c d e f " * 30]
    pictures = [None, tmp_path / "bad.png", tmp_path / "wide.png", tmp_path / "gone.png", tmp_path]
    cells = [Cell(c, p, "0.50 note" * 9, marked=True) for c, p in zip(captions, pictures, strict=True)]
    made = draw(tmp_path / "deep" / "sheet.png", [cells, cells[:2]], "T" * 400, "a foot")
    with Image.open(made) as sheet:
        assert sheet.width < 800
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 10


def test_a_sheet_needs_rows_and_a_picture_ending(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected rows of items to draw"):
        draw(tmp_path / "a.png", [], "t")
    with pytest.raises(DataError, match=r"expected a picture to write \(\.png"):
        draw(tmp_path / "a.txt", [[Cell("a")]], "t")
    with pytest.raises(DataError, match="too large; ask for fewer"):
        draw(tmp_path / "a.png", [[Cell("a")] * 1000] * 20, "t")


def test_the_command_lists_draws_and_counts(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    sheet = tmp_path / "sheet.png"
    command = ["neighbours", str(tiny_data), "-m", "behaviour", "--field", "genres", "-k", "3"]
    assert cli.run([*command, "-i", "toy story", "-i", "12", "-o", str(sheet), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [i["title"] for i in told["items"]] == ["Toy Story", "Alien"]
    assert [len(i["neighbours"]) for i in told["items"]] == [3, 3]
    assert told["agreement"]["field"] == "genres"
    assert 0 <= told["agreement"]["shared"] <= 1
    with Image.open(sheet) as drawn:
        assert drawn.width > 400
    assert cli.run([*command, "--queries", "2"]) == 0
    shown = capsys.readouterr().out
    assert "of the 3 nearest have the same genres" in shown
    again = capsys.readouterr()
    assert cli.run([*command, "--queries", "2"]) == 0
    assert capsys.readouterr().out == shown
    assert not again.err


def test_the_commands_mistakes_are_one_line(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    command = ["neighbours", str(tiny_data), "-m", "behaviour"]
    for more, said in (
        (["--field", "genre"], "expected a text field of the items, got 'genre'; did you mean 'genres'"),
        (["-k", "500"], "fewer than the 24 items that can be compared by behaviour, got 500"),
        (["-i", "zzz-nothing"], "expected an item id of the catalogue, got 'zzz-nothing'"),
        (["-o", str(tmp_path / "a.doc")], "expected a picture to write"),
    ):
        assert cli.run([*command, *more]) == 2
        assert said in " ".join(capsys.readouterr().err.split())
