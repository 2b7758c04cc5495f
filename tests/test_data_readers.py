"""Readers: each on small files of its layout, written here."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from palate.data import Dataset, import_dataset
from palate.data.columns import move_article, split_year
from palate.data.importing import READERS, find_reader
from palate.data.readers import Reader
from palate.errors import ConfigError, DataError
from palate.registry import plugins
from palate.schema import Event


def write(folder: Path, **files: str | bytes) -> Path:
    """Files named `stem__ending`, as a dot cannot stand in a keyword."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder


def recbole(folder: Path) -> Path:
    return write(
        folder,
        ml__inter="user_id:token\titem_id:token\trating:float\ttimestamp:float\tplace:token\n"
        "7\t2\t3.0\t20.0\thome\n7\t1\t4.0\t10.0\tbus\n",
        ml__item="item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\n"
        '1\tUsual "Suspects, The\t1995\tCrime Thriller\n2\tBabe\t1995\tComedy\n',
        ml__user="user_id:token\tage:token\tgender:token\n7\t24\tM\n",
    )


def ml100k(folder: Path) -> Path:
    flags = ["0"] * 19
    flags[5] = flags[8] = "1"
    lines = [
        f"1|Cité des enfants perdus, La (1995)|01-Jan-1995||http://x|{'|'.join(flags)}",
        f"2|unknown||||{'|'.join(['1', *['0'] * 18])}",
    ]
    return write(
        folder,
        u__data="7\t1\t5\t881250949\n7\t2\t1\t881250950\n",
        u__item="\n".join(lines).encode("latin-1"),
        u__user="7|24|M|technician|85711\n",
    )


def ml1m(folder: Path) -> Path:
    return write(
        folder,
        ratings__dat="7::1::5::978300760\n7::2::3::978302109\n7::2::3\n",
        movies__dat="1::Misérables, Les (1995)::Drama|Musical\n2::Heat (1995)::Action\n".encode("latin-1"),
        users__dat="7::F::25::12::48067\n",
    )


def ml25m(folder: Path) -> Path:
    return write(
        folder,
        ratings__csv="userId,movieId,rating,timestamp\n7,1,4.5,1147880044\n7,2,0.5,1147880045\n",
        movies__csv='movieId,title,genres\n1,"American President, The (1995)",Comedy|Drama\n'
        "2,Untitled,(no genres listed)\n",
    )


def amazon(folder: Path) -> Path:
    reviews = [
        {"rating": 5.0, "title": "Great", "text": "Fits, \"well\".", "images": [], "asin": "A1",
         "parent_asin": "P1",
         "user_id": "U", "timestamp": 1588687728923, "helpful_vote": 2, "verified_purchase": True},
        {"rating": 1.0, "title": "Bad", "text": "No", "asin": "P2", "parent_asin": None, "user_id": "U",
         "timestamp": 1588687728000, "helpful_vote": 0, "verified_purchase": False},
    ]  # fmt: skip
    meta = [
        {"parent_asin": "P1", "title": "Mug", "price": 9.5, "features": ["blue", "big"],
         "categories": ["Home"],
         "images": [{"thumb": None, "large": "https://m.example/1.jpg", "variant": "MAIN"}],
         "details": {"Brand": "Cup", "Weight": "1 kg"}, "store": "Cups", "description": []},
        {"parent_asin": "P2", "title": "Hat", "price": None, "features": [], "images": [], "details": {}},
    ]  # fmt: skip
    folder.mkdir()
    (folder / "Home.jsonl").write_text("".join(json.dumps(r) + "\n" for r in reviews), "utf-8")
    with gzip.open(folder / "meta_Home.jsonl.gz", "wt", encoding="utf-8") as f:
        f.writelines(json.dumps(m) + "\n" for m in meta)
    return folder


def saved(folder: Path) -> Path:
    import datasets

    tables = {
        "items": {"item_id": [1, 2], "title": ["Mug", "Hat"], "colours": [["red", "blue"], []]},
        "interactions": {"user_id": ["u", "u", "u"], "item_id": [9, 2, 1], "timestamp": [1, 3, 2]},
        "users": {"user_id": ["u"], "age": [30.0]},
    }
    parts = {name: datasets.Dataset.from_dict(columns) for name, columns in tables.items()}
    parts["interactions"] = parts["interactions"].select([1, 2])
    datasets.DatasetDict(parts).save_to_disk(str(folder))
    return folder


def plain(folder: Path) -> Path:
    return write(
        folder,
        items__tsv="item_id\ttitle\tcolour\timage\n1\tMug\tred\tmug.png\n2\tHat\t\t\n",
        interactions__jsonl='{"user_id": "u", "item_id": 1, "timestamp": 1, "place": "home"}\n'
        '{"user_id": "u", "item_id": 2, "timestamp": 2}\n',
        mug__png=b"x",
    )


def media(folder: Path) -> Path:
    return write(folder, mug__png=b"x", mug__txt="A mug.\n", hat__ogg=b"x", hat__dat="noflip")


LAYOUTS = {
    "recbole": recbole,
    "movielens-100k": ml100k,
    "movielens-dat": ml1m,
    "movielens-csv": ml25m,
    "amazon-2023": amazon,
    "datasets": saved,
    "tables": plain,
    "folder": media,
}


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    return request.param, LAYOUTS[request.param](tmp_path / "source")


def test_every_reader_has_a_layout_here() -> None:
    assert set(plugins(READERS, Reader)) == set(LAYOUTS)  # type: ignore[type-abstract]


def test_exactly_one_reader_knows_a_layout_and_reads_it(layout: tuple[str, Path], tmp_path: Path) -> None:
    name, source = layout
    knowing = [n for n, cls in plugins(READERS, Reader).items() if cls().sniff(source)]  # type: ignore[type-abstract]
    assert knowing == [name]
    data = import_dataset(source, tmp_path / "out")
    assert (len(data.catalog), len(data.histories.interactions.items)) == (2, 0 if name == "folder" else 2)
    assert all(item.title for item in data.catalog.values())
    again = import_dataset(tmp_path / "out", tmp_path / "again")
    assert again.fingerprint == data.fingerprint


def imported(source: Path, **options: Any) -> Dataset:
    return import_dataset(source, source.parent / "out", **options)


def test_recbole(tmp_path: Path) -> None:
    data = imported(recbole(tmp_path / "source"))
    assert data.name == "ml"
    assert data.wording.item == "movie"
    assert data.show.candidate == ("year", "genres")
    item = data.catalog["1"]
    assert item.title == 'The Usual "Suspects'
    assert dict(item.text) == {"year": "1995", "genres": "Crime Thriller"}
    assert data.histories.events("7") == (
        Event("1", 10.0, 4.0, {"place": "bus"}),
        Event("2", 20.0, 3.0, {"place": "home"}),
    )
    assert dict(data.users["7"]) == {"age": "24", "gender": "M"}


def test_recbole_needs_an_item_file_with_a_title(tmp_path: Path) -> None:
    source = recbole(tmp_path / "source")
    (source / "ml.item").write_text("item_id:token\tprice:float\n1\t3.0\n")
    with pytest.raises(DataError, match=r"ml.item: expected a title column"):
        imported(source)
    (source / "ml.item").unlink()
    with pytest.raises(DataError, match=r"ml.item is missing"):
        imported(source)


def test_movielens_100k_is_latin_1_with_genre_flags(tmp_path: Path) -> None:
    data = imported(ml100k(tmp_path / "source"))
    item = data.catalog["1"]
    assert item.title == "La Cité des enfants perdus"
    assert dict(item.text) == {"year": "1995", "genres": "Comedy Drama"}
    assert dict(data.catalog["2"].text) == {"genres": "unknown"}
    assert data.histories.events("7")[0] == Event("1", 881250949.0, 5.0, {})
    assert dict(data.users["7"])["zip_code"] == "85711"


def test_movielens_1m_splits_at_double_colons_and_spells_out_codes(tmp_path: Path) -> None:
    data = imported(ml1m(tmp_path / "source"), max_rejects=1)
    assert data.catalog["1"].title == "Les Misérables"
    assert data.catalog["1"].text["genres"] == "Drama Musical"
    assert dict(data.users["7"]) == {
        "gender": "F", "age": "25-34", "occupation": "programmer", "zip_code": "48067",
    }  # fmt: skip
    (found,) = map(json.loads, (data.folder / "rejects.jsonl").read_text().splitlines())
    assert (found["file"], found["line"], found["reason"]) == ("ratings.dat", 3, "expected 4 columns, got 3")


def test_movielens_25m(tmp_path: Path) -> None:
    data = imported(ml25m(tmp_path / "source"))
    assert data.catalog["1"].title == "The American President"
    assert dict(data.catalog["2"].text) == {}
    assert [e.rating for e in data.histories.events("7")] == [4.5, 0.5]


def test_amazon_reads_gzip_keeps_reviews_and_falls_back_to_the_own_asin(tmp_path: Path) -> None:
    data = imported(amazon(tmp_path / "source"))
    assert data.wording.verb == "bought"
    mug = data.catalog["P1"]
    assert mug.title == "Mug"
    assert mug.text["features"] == "blue, big"
    assert mug.text["details"] == "Brand: Cup; Weight: 1 kg"
    assert mug.text["image_url"] == "https://m.example/1.jpg"
    assert mug.text["price"] == "9.5"
    assert dict(data.catalog["P2"].text) == {}
    first, second = data.histories.events("U")
    assert (first.item_id, first.timestamp) == ("P2", 1588687728.0)
    assert (second.item_id, second.timestamp, second.rating) == ("P1", 1588687728.923, 5.0)
    assert dict(second.context) == {"review_title": "Great", "verified_purchase": "true", "helpful_vote": "2"}
    assert second.review == 'Fits, "well".'


def test_saved_datasets_honour_selections_and_join_lists(tmp_path: Path) -> None:
    data = imported(saved(tmp_path / "source"))
    assert [e.item_id for e in data.histories.events("u")] == ["1", "2"]
    assert dict(data.catalog["1"].text) == {"colours": "red, blue"}
    assert dict(data.users["u"]) == {"age": "30"}


def test_saved_datasets_need_their_tables_and_paths_for_media(tmp_path: Path) -> None:
    import datasets

    items = datasets.Dataset.from_dict({"item_id": [1], "title": ["Mug"], "image": [{"bytes": b"x", "path": None}]})
    datasets.DatasetDict({"items": items}).save_to_disk(str(tmp_path / "source"))
    with pytest.raises(DataError, match="expected a saved table called 'interactions', found items"):
        imported(tmp_path / "source")
    events = datasets.Dataset.from_dict({"user_id": ["u"], "item_id": [1]})
    datasets.DatasetDict({"items": items, "interactions": events}).save_to_disk(str(tmp_path / "other"))
    with pytest.raises(DataError, match="expected file paths in the column 'image'"):
        imported(tmp_path / "other")


def test_plain_tables_under_default_names_need_no_spec(tmp_path: Path) -> None:
    data = imported(plain(tmp_path / "source"))
    assert data.catalog["1"].media == {"image": data.folder / "mug.png"}
    assert (data.folder / "mug.png").read_bytes() == b"x"
    assert dict(data.histories.events("u")[0].context) == {"place": "home"}


def test_an_unknown_layout_names_all_layouts(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"(?s)known layout.*amazon-2023.*recbole: NAME.inter"):
        find_reader(tmp_path)
    with pytest.raises(ConfigError, match="no reader is called 'recbol'; did you mean 'recbole'"):
        find_reader(tmp_path, "recbol")


def test_two_layouts_in_one_folder_ask_for_a_choice(tmp_path: Path) -> None:
    source = ml100k(recbole(tmp_path / "source"))
    with pytest.raises(DataError, match=r"\(movielens-100k, recbole\); choose one with reader="):
        imported(source)
    assert imported(source, reader="recbole").catalog["2"].title == "Babe"


@pytest.mark.parametrize(
    ("given", "title", "year"),
    [
        ("Toy Story (1995)", "Toy Story", "1995"),
        ("Matrix, The (1999)", "The Matrix", "1999"),
        ("City of Lost Children, The (Cité des enfants perdus, La) (1995)",
         "The City of Lost Children (Cité des enfants perdus, La)", "1995"),
        ("Postino, Il", "Il Postino", ""),
        ("Avventura, L' (1960)", "L'Avventura", "1960"),
        ("Good, The Bad and The Ugly", "Good, The Bad and The Ugly", ""),
        ("(1995)", "(1995)", ""),
        ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey", "1968"),
    ],
)  # fmt: skip
def test_titles_lose_their_year_and_get_their_article_back(given: str, title: str, year: str) -> None:
    bare, found = split_year(pa.array([given]))
    assert (move_article(bare)[0].as_py(), found[0].as_py()) == (title, year)
