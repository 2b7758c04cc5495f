"""Knowledge tables: facts joined as text fields, what is left out, and the real one of MovieLens-100K."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.data import Dataset, check, import_dataset
from palate.data.knowledge import BEYOND, NO_ITEM, NO_NAME, NOT_ASKED, OPAQUE, field_of, readable
from palate.errors import ConfigError, DataError, TooManyRejects

FACTS = [
    ("e1", "film.film.directed_by", "Ridley Scott"),
    ("e1", "film.film.prequel", "e2"),
    ("e2", "film.film.directed_by", "m.04h07s"),
    ("e2", "film.film.directed_by", "Ridley Scott"),
    ("e3", "film.film.genre", "m.06n90"),
    ("e9", "film.film.genre", "Western"),
]


def table(rows: list[tuple[str, ...]], *head: str, tab: bool = True) -> str:
    return "".join(("\t" if tab else ",").join(r) + "\n" for r in [head, *rows])


def folder(path: Path, facts: list[tuple[str, ...]] | None = None, **spec: Any) -> Path:
    """A described folder of three films; `spec` goes into its knowledge section."""
    path.mkdir()
    (path / "items.csv").write_text("item_id,title,genre\n1,Aliens,\n2,Alien,Horror\n3,Heat,Crime\n")
    (path / "interactions.csv").write_text("user_id,item_id\nu,1\nu,2\nu,3\n")
    (path / "facts.tsv").write_text(table(FACTS if facts is None else facts, "subject", "relation", "object"))
    (path / "links.csv").write_text("item_id,entity_id\n1,e1\n2,e2\n3,e3\n")
    described = {
        "name": "films", "items": {"path": "items.csv"}, "interactions": {"path": "interactions.csv"},
        "knowledge": {"path": "facts.tsv", "link": {"path": "links.csv"}, **spec},
    }  # fmt: skip
    (path / "dataset.yaml").write_text(json.dumps(described))
    return path


def left_out(data: Dataset) -> dict[str, int]:
    return {reason: n for (kind, _, reason), n in data.rejects.reasons.items() if kind == "fact"}


def test_facts_become_fields(tmp_path: Path) -> None:
    data = Dataset.open(folder(tmp_path / "d"))
    assert data.catalog.text_fields == ("genre", "directed_by", "prequel")
    assert data.catalog["1"].text == {"directed_by": "Ridley Scott", "prequel": "prequel: Alien"}
    assert data.catalog["2"].text == {"genre": "Horror", "directed_by": "Ridley Scott"}, (
        "ids without a name say nothing"
    )
    assert data.catalog["3"].text == {"genre": "Crime"}
    assert left_out(data) == {NO_NAME: 2, NO_ITEM: 1}
    assert data.rejects.total == 0, "a fact with no place is no bad row"


def test_names_relations_and_the_number_of_objects(tmp_path: Path) -> None:
    names = {"relations": {"film.film.directed_by": "director", "film.film.genre": "genre"}, "most": 1}
    source = folder(tmp_path / "d", names={"path": "names.csv"}, **names)
    (source / "names.csv").write_text("entity_id,name\nm.04h07s,James Cameron\nm.06n90,Science Fiction\nx,unused\n")
    data = Dataset.open(source)
    assert data.catalog["2"].text["director"] == "James Cameron", "the first in file order"
    assert data.catalog["3"].text["genre"] == "Crime", "the item table's own value is kept"
    assert left_out(data) == {NO_ITEM: 1, NOT_ASKED: 1, BEYOND: 1}


def test_subjects_may_be_item_ids_and_numbers_are_entities_unless_said(tmp_path: Path) -> None:
    facts = [("1", "year", "3"), ("1", "sequel", "3"), ("2", "sequel", "77")]
    data = Dataset.open(folder(tmp_path / "a", facts, link=None, literal=["year"]))
    assert data.catalog["1"].text == {"year": "3", "sequel": "sequel: Heat"}
    assert "sequel" not in data.catalog["2"].text
    assert left_out(data) == {NO_NAME: 1}


def test_the_fingerprint_covers_what_was_joined_and_nothing_else(tmp_path: Path) -> None:
    bare = folder(tmp_path / "plain")
    described = json.loads((bare / "dataset.yaml").read_text())
    del described["knowledge"]
    (bare / "dataset.yaml").write_text(json.dumps(described))
    plain = Dataset.open(bare)
    joined = Dataset.open(folder(tmp_path / "joined"))
    other = Dataset.open(folder(tmp_path / "other", [("e1", "x.directed_by", "James Cameron")]))
    mute = Dataset.open(folder(tmp_path / "mute", [("e3", "film.film.genre", "m.06n90")]))
    assert len({plain.fingerprint, joined.fingerprint, other.fingerprint}) == 3
    assert mute.fingerprint == plain.fingerprint


def test_an_import_keeps_the_fields_and_check_shows_them(tmp_path: Path) -> None:
    source = folder(tmp_path / "d")
    data = import_dataset(source, tmp_path / "out")
    assert data.spec.knowledge is None
    assert data.fingerprint == Dataset.open(source).fingerprint
    report = check(tmp_path / "out")
    assert report.filled["items"] == {"genre": 2, "directed_by": 2, "prequel": 1}
    assert ("fact", "facts.tsv", NO_NAME, 2) in report.rejected
    assert not report.counts["items"] - 3


def test_bad_rows_are_rejected_and_too_many_stop(tmp_path: Path) -> None:
    source = folder(tmp_path / "d", [*FACTS, ("e1", "", "x"), ("e1", "film.film.genre", "")])
    (source / "links.csv").write_text("item_id,entity_id\n1,e1\n2,e2\n3,e3\n4,e4\n")
    data = Dataset.open(source)
    rows = [json.loads(line) for line in (source / "rejects.jsonl").read_text().splitlines()]
    assert {(r["file"], r["line"], r["reason"]) for r in rows if r["kind"] == "row"} == {
        ("facts.tsv", 8, "empty relation"), ("facts.tsv", 9, "empty object"), ("links.csv", 5, "unknown item"),
    }  # fmt: skip
    assert data.rejects.total == 3
    with pytest.raises(TooManyRejects, match=r"links\.csv: 1 of 4 rows"):
        Dataset.open(source, max_rejects=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subject": "head"}, "expected a column 'head'.*subject"),
        ({"link": {"path": "nowhere.csv"}}, "expected a table at 'nowhere.csv'"),
        ({"link": None}, "expected facts about items, none of 6"),
        ({"relations": {"film.film.genre": "title"}, "names": {"path": "names.csv"}}, "would fill 'title'"),
    ],
)
def test_errors_say_what_to_mend(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    source = folder(tmp_path / "d", **change)
    (source / "names.csv").write_text("entity_id,name\nm.06n90,Science Fiction\n")
    with pytest.raises(DataError, match=f"(?s){message}"):
        Dataset.open(source)


def test_a_column_has_one_role(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="knowledge: column 'object' is named twice"):
        Dataset.open(folder(tmp_path / "d", relation="object"))


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("<http://dbpedia.org/resource/Am%C3%A9lie_Poulain>", "Amélie Poulain"),
        ('"Heat"@en', "Heat"),
        ('"1995"^^<http://www.w3.org/2001/XMLSchema#gYear>', "1995"),
        ("Scott, Ridley", "Scott, Ridley"),
    ],
)
def test_objects_are_shown_as_people_write_them(written: str, shown: str) -> None:
    assert readable(written) == shown


@pytest.mark.parametrize("opaque", ["m.02vxxgs", "g.1z0spgt8p", "/m/0dtfn", "Q42", "nm0000116", "_:b12", "a" * 32])
def test_ids_are_told_from_names(opaque: str) -> None:
    assert OPAQUE.fullmatch(opaque)


@pytest.mark.parametrize("name", ["M. Night Shyamalan", "m.butterfly", "Q", "1995", "tt", "Café"])
def test_names_are_not_taken_for_ids(name: str) -> None:
    assert not OPAQUE.fullmatch(name)


def test_the_field_of_a_relation() -> None:
    assert [field_of(r) for r in ("film.film.directed_by", "<http://x.org/ontology/starring>", "P57", "/")] == [
        "directed_by", "starring", "P57", "/",
    ]  # fmt: skip


CELL = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\t\r\n\x00"), min_size=1, max_size=12)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["e1", "e2", "e7"]), CELL.map("{}_x".format), CELL), min_size=1, max_size=8),
    st.integers(1, 3),
)
def test_any_facts_are_joined_or_counted(
    tmp_path_factory: pytest.TempPathFactory, facts: list[tuple[str, str, str]], most: int
) -> None:
    source = folder(tmp_path_factory.mktemp("any") / "d", [("e3", "r.known", "yes"), *facts], most=most, quote=False)
    data = Dataset.open(source, max_rejects=1000)
    joined = [data.catalog[i].text.get(f, "") for i in data.catalog for f in data.catalog.text_fields]
    assert all("\n" not in cell and "\x07" not in cell for cell in joined)
    assert data.catalog["3"].text["known"] == "yes"
    assert data.catalog["2"].text["genre"] == "Horror"
    lines = len(facts) + 1
    assert data.rejects.total + sum(left_out(data).values()) < lines


def recbole(path: Path, kg: str, link: str | None) -> Path:
    path.mkdir()
    (path / "ml.inter").write_text("user_id:token\titem_id:token\n7\t2\n7\t1\n")
    (path / "ml.item").write_text("item_id:token\tmovie_title:token_seq\n1\tAliens\n2\tAlien\n")
    (path / "ml.kg").write_text(kg)
    if link is not None:
        (path / "ml.link").write_text(link)
    return path


KG = "head_id:token\trelation_id:token\ttail_id:token\nm.1\tfilm.film.prequel\tm.2\nm.1\tfilm.film.actor\tm.0bln8\n"


def test_recbole_joins_its_kg_through_its_link(tmp_path: Path) -> None:
    data = import_dataset(
        recbole(tmp_path / "s", KG, "item_id:token\tentity_id:token\n1\tm.1\n2\tm.2\n"), tmp_path / "o"
    )
    assert data.catalog["1"].text == {"prequel": "prequel: Alien"}
    report = check(tmp_path / "o")
    assert ("fact", "ml.kg", NO_NAME, 1) in report.rejected
    assert "film.film.actor" in str(report.first[0])
    assert "m.0bln8" in str(report.first[0])


def test_recbole_without_a_link_says_so(tmp_path: Path) -> None:
    data = import_dataset(recbole(tmp_path / "s", KG, None), tmp_path / "o")
    assert data.catalog.text_fields == ()
    assert "facts are joined through ml.link, which is missing" in (tmp_path / "o" / "rejects.jsonl").read_text()


# --- the real thing ---------------------------------------------------------------------------------

LATER = {"260": "50", "1196": "172", "1210": "181", "480": "82", "648": "405"}
"""Ids of five films in later MovieLens releases, and here: Star Wars, its two sequels, Jurassic Park, and Mission:
Impossible."""


@pytest.mark.weights
def test_the_link_of_ml_100k_is_of_other_films_and_left_out(tmp_path: Path) -> None:
    """Star Wars is m.0dtfn in Freebase. The link table gives that entity the id 260, which here is Event Horizon."""
    from palate.sources import fetch

    data = import_dataset("ml-100k", tmp_path / "ml")
    assert data.catalog.text_fields == ("year", "genres")
    source = fetch("ml-100k")
    links = dict(line.split("\t")[::-1] for line in (source / "ml-100k.link").read_text().split("\n") if line)
    assert (links["m.0dtfn"], data.catalog["260"].title) == ("260", "Event Horizon")
    assert (data.catalog["50"].title, data.catalog["181"].title) == ("Star Wars", "Return of the Jedi")
    [(kind, file, reason, count)] = check(tmp_path / "ml").rejected
    assert (kind, file, count) == ("fact", "ml-100k.link", 1)
    assert "the item ids are those of a later MovieLens" in reason


@pytest.mark.weights
def test_the_facts_of_ml_100k_with_right_links_and_names(tmp_path: Path) -> None:
    """Five films linked as they should be, and two people named: the table itself is sound."""
    from palate.sources import fetch

    origin, source = fetch("ml-100k"), tmp_path / "ml-100k"
    source.mkdir()
    for ending in ("inter", "item", "user", "kg"):
        (source / f"ml-100k.{ending}").symlink_to(origin / f"ml-100k.{ending}")
    rows = (line.split("\t") for line in (origin / "ml-100k.link").read_text().split("\n")[1:] if line)
    right = [(LATER[item], entity) for item, entity in rows if item in LATER]
    (source / "ml-100k.link").write_text(table(right, "item_id:token", "entity_id:token"))
    data = import_dataset(source, tmp_path / "out")
    assert data.catalog["50"].text["sequel"] == "sequel: The Empire Strikes Back"
    assert data.catalog["181"].text["prequel"] == "prequel: The Empire Strikes Back"
    assert not {"actor", "directed_by", "genre"} & set(data.catalog.text_fields), "Freebase ids have no names here"
    reasons = {reason: n for kind, _, reason, n in check(tmp_path / "out").rejected if kind == "fact"}
    assert reasons[NO_NAME] > 100
    assert sum(reasons.values()) == 91_631 - 4, "every fact is joined or counted"
