"""A folder of media files as a catalogue: grouping, languages, what is left out and why, hostile folders."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from palate.apps import cli
from palate.apps.commands.features import _encoders
from palate.config import EncoderConfig
from palate.data import Dataset, check, import_dataset, stats
from palate.data.importing import find_reader
from palate.data.readers import folder as reader
from palate.data.splits import leave_one_out
from palate.errors import DataError
from palate.features import FeatureStore, compute

CROW = "A crow.\nde.utf8=Eine Krähe.\npt_BR.utf8=Um corvo.\nBlack, and cleverer than it looks.\n"


def make(root: Path, *names: str, **texts: str) -> Path:
    """Files by path; their content is their name. texts: stem with __ for / -> content of the .txt."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))
    for stem, text in texts.items():
        path = root / (stem.replace("__", "/") + ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return root


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    return make(
        tmp_path / "stamps",
        "animals/birds/crow.png", "animals/birds/crow.ogg", "animals/birds/crow_de.ogg", "animals/birds/crow_desc.ogg",
        "animals/birds/crow_desc_fr.ogg", "animals/birds/crow_mirror.png", "animals/birds/crow.dat",
        "animals/big_cat.JPG", "animals/big_cat.svg", "animals/fish.svg", "shapes/round.wav", "films/run.mp4",
        animals__birds__crow=CROW, animals__fish="A fish.", README="Read me", shapes__round="\ufeffA ring.",
    )  # fmt: skip


def reasons(data: Dataset) -> Counter[str]:
    return Counter({reason: n for _, _, reason, n in check(data.folder).rejected})


def test_files_that_share_a_stem_are_one_item(birds: Path, tmp_path: Path) -> None:
    data = import_dataset(birds, tmp_path / "out")
    assert {i.item_id: i.title for i in data.catalog.values()} == {
        "animals/birds/crow": "A crow.", "animals/big_cat": "big cat", "animals/fish": "A fish.",
        "films/run": "run", "shapes/round": "A ring.",
    }  # fmt: skip
    crow = data.catalog["animals/birds/crow"]
    assert dict(crow.text) == {
        "description": "Black, and cleverer than it looks.",
        "category": "animals",
        "subcategory": "birds",
    }
    assert {m: p.read_text() for m, p in crow.media.items()} == {
        "image": "animals/birds/crow.png",
        "audio": "animals/birds/crow.ogg",
    }
    assert data.catalog["films/run"].media["video"].name == "run.mp4"
    assert data.catalog["animals/big_cat"].media["image"].name == "big_cat.JPG"
    assert not data.catalog["animals/fish"].media
    assert data.show.candidate == ("category",)
    assert data.name == "stamps"


def test_every_file_left_out_is_counted_with_its_reason(birds: Path, tmp_path: Path) -> None:
    data = import_dataset(birds, tmp_path / "out", max_rejects=0)
    assert reasons(data) == {
        reader.FURTHER: 2, reader.ALOUD: 2, reader.OTHER: 1, reader.SVG: 2, reader.ALONE: 1,
    }  # fmt: skip
    files = sum(len(names) for _, _, names in os.walk(birds))
    media = sum(len(i.media) for i in data.catalog.values())
    texts = sum((birds / f"{i}.txt").is_file() for i in data.catalog)
    assert media + texts + reasons(data).total() == files
    lines = [json.loads(line) for line in (data.folder / "rejects.jsonl").read_text().splitlines()]
    assert {"animals/birds/crow_mirror.png", "animals/birds/crow_de.ogg"} == {
        r["value"] for r in lines if r["reason"] == reader.FURTHER
    }


@pytest.mark.parametrize(
    ("language", "title", "sound"),
    [("de", "Eine Krähe.", "crow_de.ogg"), ("pt", "Um corvo.", "crow.ogg"), ("pt-BR", "Um corvo.", "crow.ogg"),
     ("fr", "A crow.", "crow.ogg"), ("en", "A crow.", "crow.ogg")],
)  # fmt: skip
def test_titles_and_sounds_in_a_language(birds: Path, tmp_path: Path, language: str, title: str, sound: str) -> None:
    data = import_dataset(birds, tmp_path / "out", language=language)
    crow = data.catalog["animals/birds/crow"]
    assert (crow.title, crow.media["audio"].read_text()) == (title, f"animals/birds/{sound}")
    assert data.language == language


def test_english_takes_the_plain_file_before_another_english(tmp_path: Path) -> None:
    texts = {"z": "The letter Z.\nen_GB.utf8=The letter zed.", "y": "The letter Y.\nen_AU.utf8=Why"}
    source = make(tmp_path / "s", "z.ogg", "z_en_GB.ogg", "y_en_GB.ogg", **texts)
    data = import_dataset(source, tmp_path / "out")
    assert {i.title: i.media["audio"].read_text() for i in data.catalog.values()} == {
        "The letter Z.": "z.ogg",
        "The letter Y.": "y_en_GB.ogg",
    }


def test_without_texts_every_stem_is_an_item(tmp_path: Path) -> None:
    source = make(tmp_path / "s", "song.mp3", "song_live.mp3", "car.png", "car_mirror.png", "two.jpg", "two.png")
    data = import_dataset(source, tmp_path / "out")
    assert [i.title for i in data.catalog.values()] == ["car", "car mirror", "song", "song live", "two"]
    assert data.catalog["two"].media["image"].name == "two.png"
    assert reasons(data) == {reader.FURTHER: 1}
    assert data.catalog.text_fields == ()


def test_further_files_need_an_item_to_belong_to(tmp_path: Path) -> None:
    names = ("dog_bark.ogg", "dog_howl.ogg", "dog_mirror.png", "cat.png", "cat_purr.ogg")
    data = import_dataset(make(tmp_path / "s", *names, dog="Dogs", cat="Cats"), tmp_path / "out")
    media = {i.title: {m: p.name for m, p in i.media.items()} for i in data.catalog.values()}
    assert media == {
        "Cats": {"image": "cat.png"}, "Dogs": {"audio": "dog_bark.ogg"}, "dog mirror": {"image": "dog_mirror.png"},
    }  # fmt: skip
    assert reasons(data) == {reader.FURTHER: 2}


def test_a_directory_that_all_items_share_is_no_category(tmp_path: Path) -> None:
    source = make(tmp_path / "s", "usr/share/red_things/a.png", "usr/share/blue/deep/er/b.png")
    data = import_dataset(source, tmp_path / "out")
    assert dict(data.catalog["usr/share/red_things/a"].text) == {"category": "red things"}
    assert dict(data.catalog["usr/share/blue/deep/er/b"].text) == {"category": "blue", "subcategory": "deep / er"}


# --- which folders ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "table", ["movies.csv", "a.inter", "meta_X.jsonl.gz", "u.data", "parts/items.parquet", "items/state.json"]
)
def test_a_folder_with_a_table_is_left_to_other_readers(tmp_path: Path, table: str) -> None:
    make(tmp_path, "posters/1.jpg", table)
    assert not reader.Folder().sniff(tmp_path)


def test_media_alone_are_recognised(birds: Path, tmp_path: Path, tiny_data: Path) -> None:
    assert find_reader(birds).name == "folder"
    assert find_reader(tiny_data).name == "tables"
    empty = make(tmp_path / "e", "notes.txt", ".hidden.png")
    with pytest.raises(DataError, match=r"none of these:\n(.*\n)*  folder: media files"):
        import_dataset(empty, tmp_path / "out")
    with pytest.raises(DataError, match=r"expected pictures, sounds or videos \(\.png.*found none among 2 files"):
        import_dataset(empty, tmp_path / "out", reader="folder")
    make(birds, "list.csv")
    assert len(import_dataset(birds, tmp_path / "out", reader="folder").catalog) == 5


def test_an_imported_copy_inside_the_folder_is_not_read_again(birds: Path) -> None:
    first = import_dataset(birds, birds / "data" / "mine")
    again = import_dataset(birds, birds / "data" / "mine")
    assert again.fingerprint == first.fingerprint
    assert reasons(again)[reader.OWN] == 1


# --- hostile folders --------------------------------------------------------------------------------------


def test_links_stay_inside_the_folder(tmp_path: Path) -> None:
    secret = make(tmp_path / "outside", "secret.png", secret="my password")
    source = make(tmp_path / "s", "a.png", "d/b.png")
    for name, target in (
        ("x.png", secret / "secret.png"), ("x.txt", secret / "secret.txt"), ("a.txt", secret / "secret.txt"),
        ("far", secret), ("loop", source), ("gone.png", source / "nothing.png"), ("me.png", source / "me.png"),
        ("inner.png", source / "d" / "b.png"),
    ):  # fmt: skip
        (source / name).symlink_to(target)
    data = import_dataset(source, tmp_path / "out")
    assert [i.title for i in data.catalog.values()] == ["a", "inner", "b"]
    assert reasons(data) == {reader.OUTSIDE: 5, reader.LINKED: 2}
    assert data.catalog["inner"].media["image"].read_text() == "d/b.png"
    assert "password" not in "".join(p.read_text(errors="replace") for p in data.folder.rglob("*") if p.is_file())


def test_odd_names_and_files(tmp_path: Path) -> None:
    source = make(tmp_path / "s", "good.png", "ü ñ 漢字 🐦.png", "new\nline.png", "C:evil.png", "back\\slash.png",
                  " lead.png", "_.png", ".png", "a..png", "..b.png", "[red]x[/red].png", "%s{}$x^2$.png",
                  os.fsdecode(b"latin-\xe9.png"))  # fmt: skip
    os.mkfifo(source / "pipe.png")
    data = import_dataset(source, tmp_path / "out")
    titles = {i.item_id: i.title for i in data.catalog.values()}
    assert titles["ü ñ 漢字 🐦"] == "ü ñ 漢字 🐦"
    assert titles["new\nline"] == "new line"
    assert titles["_"] == "_"
    assert "C:evil" in titles
    assert not data.catalog["C:evil"].media
    assert not data.catalog["back\\slash"].media
    counted = reasons(data)
    assert counted[reader.NAME] == 2
    assert counted[reader.SPECIAL] == 1
    assert counted[reader.HIDDEN] == 2
    again = Dataset.open(data.folder)
    assert again.fingerprint == data.fingerprint


def test_texts_are_bounded_and_must_be_utf8(tmp_path: Path) -> None:
    source = make(tmp_path / "s", "long_one.png", "latin.png", "empty.png", "blank.png", empty="", blank=" \n \nmore")
    (source / "long_one.txt").write_text("x" * (reader.MAX_TEXT + 1))
    (source / "latin.txt").write_bytes("café".encode("latin-1"))
    data = import_dataset(source, tmp_path / "out")
    assert {i.title: dict(i.text) for i in data.catalog.values()} == {
        "blank": {"description": "more"}, "empty": {}, "latin": {}, "long one": {},
    }  # fmt: skip
    assert reasons(data) == {"text of more than 100,000 bytes": 1, "text that is not UTF-8": 1}


def test_an_unreadable_directory_is_counted(birds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def scandir(path: str | Path) -> os._ScandirIterator[str]:
        if str(path).rstrip("/").endswith("birds"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    found = reader.Folder().read(birds)
    monkeypatch.undo()
    assert [r.value for r in found.left_out if r.reason == "directory cannot be listed: Permission denied"] == [
        "animals/birds/"
    ]
    assert "animals/fish" in {r for b in found.items.batches() for r in b["item_id"].to_pylist()}  # type: ignore[misc]


def test_thousands_of_files(tmp_path: Path) -> None:
    source = make(tmp_path / "s", *(f"{n % 7}/{n}.png" for n in range(1500)), *(f"{n % 7}/{n}.x" for n in range(1500)))
    data = import_dataset(source, tmp_path / "out")
    assert len(data.catalog) == 1500
    assert reasons(data) == {reader.OTHER: 1500}


NAMES = st.text(st.characters(exclude_characters="/\x00", exclude_categories=["Cs"]), min_size=1, max_size=8)
SUFFIX = st.sampled_from([".png", ".PNG", ".ogg", ".txt", ".svg", ".mp4", "", ".", ".dat", "_de.ogg", "_desc_de.ogg"])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.sampled_from(["", "a/", "a/b/"]), NAMES, SUFFIX), min_size=1, max_size=12), st.data())
def test_any_names_give_items_or_reasons(files: list[tuple[str, str, str]], draw: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        source = Path(scratch) / "s"
        for where, name, suffix in [*files, ("", "ok", ".png")]:
            path = source / where / (name + suffix)
            if (name + suffix) in (".", "..") or len((name + suffix).encode()) > 200:
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if not path.exists():
                path.write_text(draw.draw(st.sampled_from(["", "Title", "T\nde.utf8=D", "\x00\x1b[31m"])))
        data = import_dataset(source, Path(scratch) / "out", reader="folder", max_rejects=1000)
        assert "ok" in data.catalog
        assert all(i.title.strip() for i in data.catalog.values())
        assert Dataset.open(data.folder).fingerprint == data.fingerprint


# --- a catalogue without interactions -----------------------------------------------------------------------


def test_a_catalogue_alone_has_features_and_no_users(birds: Path, tmp_path: Path) -> None:
    data = import_dataset(birds, tmp_path / "out")
    assert (len(data.histories), len(data.users), stats(data)["events"]) == (0, 0, 0)
    train = leave_one_out(data.histories.interactions).train
    items = list(data.catalog.values())
    made = compute(items, train, {"behaviour": EncoderConfig()}, store=FeatureStore(tmp_path / "f"), progress=False)
    assert not made.tables["behaviour"].present.any()
    assert np.isfinite(made.tables["behaviour"].vectors).all()


def test_features_of_a_catalogue_alone_leave_out_behaviour(birds: Path, tmp_path: Path) -> None:
    items = list(import_dataset(birds, tmp_path / "out").catalog.values())
    assert set(_encoders(None, None, items, learns=False)) == {"image", "audio", "video", "text"}
    assert "behaviour" in _encoders(None, None, items)


def test_training_on_a_catalogue_alone_says_what_is_missing(
    birds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import_dataset(birds, tmp_path / "out")
    config = tmp_path / "run.yaml"
    config.write_text(f"name: t\ndata: {tmp_path / 'out'}\nfeatures: {{text: {{}}}}\n")
    assert cli.run(["train", str(config)]) == 2
    assert "expected interactions, stamps is a catalogue of 5 items alone" in capsys.readouterr().err


def test_the_command_imports_in_a_language(birds: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = CliRunner().invoke(cli.build(), ["data", "import", str(birds), "-o", str(out), "--language", "de", "--json"])
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["counts"] == {"items": 5, "interactions": 0, "users": 0, "profiles": 0}
    assert report["media"] == {"image": [2, 3], "audio": [2, 3], "video": [1, 4]}
    assert Dataset.open(out).catalog["animals/birds/crow"].title == "Eine Krähe."
