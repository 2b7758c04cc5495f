"""Filters, fields and the shelf: pure logic over a catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.data import Dataset
from palate.errors import RequestError
from palate.recommender.fields import profile, shared
from palate.recommender.filters import condition_test, describe, number, parse_filter, parse_filters
from palate.recommender.shelf import Shelf, plain
from palate.schema import Item


@pytest.fixture
def shelf(tiny_data: Path) -> Shelf:
    return Shelf(Dataset.open(tiny_data).catalog)


@pytest.mark.parametrize(
    ("text", "value"),
    [("81 min", 81), ("1,299.00 EUR", 1299), ("$20", 20), ("1 h 21", 81), ("2 hours", 120), ("-3.5", -3.5),
     ("1995-05-01", 1995), ("none", None), ("", None)],
)  # fmt: skip
def test_number(text: str, value: float | None) -> None:
    assert number(text) == value


@pytest.mark.parametrize(
    ("condition", "text", "passes"),
    [
        ("Comedy", "Action comedy", True),
        ("Comedy", "Tragicomedy", False),
        ("Sci-Fi", "Sci-Fi Horror", True),
        ("喜剧", "动作喜剧片", True),
        (["War", "Drama"], "Drama", True),
        ((1980, 1995), "1995", True),
        ((1980, None), "1979", False),
        ((None, 100), "81 min", True),
        ((None, 100), "", False),
        (1994, "1994", True),
        ({"not": "War"}, "", True),
        ({"not": (1990, 1999)}, "1994", False),
        ({"min": 1980, "not": 1985}, "1985", False),
        ({"all": ["War", "Drama"]}, "Drama", False),
        ({"any": ["War", "Drama"]}, "Drama", True),
        (lambda text: len(text) > 3, "abcd", True),
    ],
)
def test_conditions(condition: Any, text: str, passes: bool) -> None:
    assert condition_test(condition, "field")(text) is passes


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (None, "expected a text, number, list, range or function, got None"),
        (True, "got True"),
        ([], r"got \[\]"),
        ("  ", "needs a value"),
        ((1995, 1980), "from low to high, got 1995 to 1980"),
        ({"nto": 3}, "did you mean 'not'"),
        ({}, "at least one of"),
        ({"min": "a"}, "expected a number as its limit, got 'a'"),
    ],
)
def test_wrong_conditions(condition: Any, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        condition_test(condition, "year")


@pytest.mark.parametrize(
    ("text", "field", "yes", "no"),
    [
        ("genres=Comedy|Drama", "genres", "Drama", "War"),
        ("genres!=War", "genres", "Comedy", "War"),
        ("year=1980..1995", "year", "1990", "1996"),
        ("year=..1995", "year", "1900", "1996"),
        ("year>=1980", "year", "1980", "1979"),
        ("year < 1980", "year", "1979", "1980"),
        ("plot=a story", "plot", "This is a story.", "history"),
    ],
)
def test_typed_filters(text: str, field: str, yes: str, no: str) -> None:
    name, condition = parse_filter(text)
    test = condition_test(condition, name)
    assert (name, test(yes), test(no)) == (field, True, False)


@pytest.mark.parametrize("text", ["genres", "=x", "genres=", ""])
def test_wrong_typed_filters(text: str) -> None:
    with pytest.raises(RequestError, match="expected a filter such as"):
        parse_filter(text)
    with pytest.raises(RequestError, match="expected a number after >"):
        parse_filter("year>old")


def test_two_filters_on_a_field_both_hold() -> None:
    condition = parse_filters(["year>=1980", "year<1990"])["year"]
    assert [condition_test(condition, "year")(y) for y in ("1979", "1980", "1989", "1990")] == [
        False, True, True, False,
    ]  # fmt: skip


@given(st.integers(0, 3000), st.integers(0, 3000), st.integers(0, 3000))
def test_ranges_hold(low: int, high: int, value: int) -> None:
    low, high = sorted((low, high))
    assert condition_test((low, high), "f")(f"{value} min") == (low <= value <= high)
    assert condition_test({"not": (low, high)}, "f")(str(value)) != (low <= value <= high)


def test_describe() -> None:
    told = describe({"genres": ["A", "B"], "year": (1980, None), "rated": {"not": "R"}, "not": {"a": "b"}})
    assert told == "genres A or B, year at least 1980, no rated R, not (a b)"
    assert describe({"genres": {"all": ["A"], "not": "B"}}, {"genres"}) == "A and no B"
    assert describe({"year": [(1980, 1989), (1990, 1999)]}) == "year 1980 to 1989 or 1990 to 1999"


# --- shelf ------------------------------------------------------------------------------------------


def test_mask_and_additions(shelf: Shelf) -> None:
    assert shelf.mask({"year": (1971, 1973)}).sum() == 3
    shelf.add(Item("x", "Blade Runner", {"year": "1972", "mood": "dark"}))
    assert shelf.mask({"year": (1971, 1973)}).sum() == 4
    assert shelf.mask({"mood": "dark"}).tolist() == [False] * 24 + [True]
    assert shelf.item_ids[-1] == "x"
    assert shelf.index("x") == 24
    assert len(shelf) == 25
    assert shelf.mask({"not": {"item_id": ["x", "1"]}}).sum() == 23
    assert shelf.mask(None).all()
    with pytest.raises(RequestError, match="no field of the catalogue is called 'moods'; did you mean 'mood'"):
        shelf.mask({"moods": "dark"})


@pytest.mark.parametrize(
    ("typed", "title"),
    [("alien", "Alien"), ("ALIENS!", "Aliens"), ("rock", "The Rock"), ("Rock, The", "The Rock"),
     ("12", "Alien"), ("Alien (1982)", "Alien"), (" toy  story 2", "Toy Story 2")],
)  # fmt: skip
def test_find(shelf: Shelf, typed: str, title: str) -> None:
    assert shelf[shelf.find(typed)].title == title


def test_find_suggests(shelf: Shelf) -> None:
    with pytest.raises(RequestError, match="'Alein'; did you mean 'Alien'"):
        shelf.find("Alein")
    with pytest.raises(RequestError, match="no title comes near it"):
        shelf.find("zzzzqqqq")
    assert shelf.lookup("Alien (1999)") is None


@given(st.text(max_size=40))
def test_plain_is_stable(text: str) -> None:
    assert plain(plain(text)) == plain(text) or not plain(text).strip()


# --- fields -----------------------------------------------------------------------------------------


def test_profile(shelf: Shelf) -> None:
    found = profile(shelf.values())
    assert found["year"].is_year
    assert (found["year"].low, found["year"].high) == (1971, 1994)
    assert found["genres"].kind == "tags"
    assert found["genres"].broad


def test_kinds_of_fields() -> None:
    people = ["Ann Lee", "Bo Wu, Cy Young", "Dee Fox, Ann Lee", "Eva Moon"] * 30
    items = [
        Item(str(n), "t", {
            "price": f"${n}.50", "cast": people[n], "runtime": f"{80 + n} min",
            "plot": "A long text, with commas, that goes on and on about a hero and her many adventures.",
            "genres": ["Action Comedy", "Action Drama", "Drama", "Comedy Drama Action"][n % 4],
        })
        for n in range(100)
    ]  # fmt: skip
    found = profile(items)
    assert {n: f.kind for n, f in found.items()} == {
        "price": "number", "cast": "tags", "runtime": "number", "plot": "prose", "genres": "tags",
    }  # fmt: skip
    assert found["runtime"].unit == "min"
    assert not found["runtime"].is_year
    assert found["cast"].split("Bo Wu, Cy Young") == ("Bo Wu", "Cy Young")
    assert found["genres"].split("Action Drama") == ("Action", "Drama")
    assert shared(items[0], items[1], found) == {"genres": ("Action",)}
