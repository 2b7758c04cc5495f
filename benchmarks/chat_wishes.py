"""What the scripted turns of `benchmarks.chat` ask for, and what must hold of each item of the answers, as code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from palate.recommender.filters import number
from palate.schema import Item

Truth = Callable[[Item], bool]


def genre(*names: str) -> Truth:
    """All of these genres."""
    return lambda item: {*names} <= {*item.text["genres"].split()}


def either(*names: str) -> Truth:
    return lambda item: bool({*names} & {*item.text["genres"].split()})


def no(*names: str) -> Truth:
    return lambda item: not {*names} & {*item.text["genres"].split()}


def years(low: int, high: int) -> Truth:
    return lambda item: item.text.get("year", "").isdigit() and low <= int(item.text["year"]) <= high


def minutes(low: float = 0, high: float = 1e9) -> Truth:
    """A running time between the ends; unknown ones do not pass."""
    return lambda item: low <= (number(item.text.get("runtime", "")) or -1) <= high


def person(field: str, name: str, wanted: bool = True) -> Truth:
    return lambda item: (name in item.text.get(field, "")) == wanted


@dataclass(frozen=True)
class Wish:
    """A message and what must hold for each item of its answer; then a refinement, if any, and what it adds."""

    text: str
    holds: tuple[Truth, ...]
    then: str = "more"
    adds: tuple[Truth, ...] = ()
    chinese: bool = False


WISHES = (
    Wish(
        "a comedy from the 90s under 100 minutes",
        (genre("Comedy"), years(1990, 1999), minutes(high=99.99)),
        "but not romantic",
        (no("Romance"),),
    ),
    Wish(
        "horror from the 80s",
        (genre("Horror"), years(1980, 1989)),
        "nothing longer than 100 minutes",
        (minutes(high=100),),
    ),
    Wish("sci-fi before 1985, no comedies", (genre("Sci-Fi"), no("Comedy"), years(1900, 1984))),
    Wish(
        "a thriller or a mystery, over two hours",
        (either("Thriller", "Mystery"), minutes(120.01)),
        "without war",
        (no("War"),),
    ),
    Wish(
        "90年代的喜剧，不要动画片",
        (genre("Comedy"), no("Animation"), years(1990, 1999)),
        "100分钟以内",
        (minutes(high=100),),
        True,
    ),
    Wish(
        "an animated film, at most 80 min",
        (genre("Animation"), minutes(high=80)),
        "from before 1990",
        (years(1900, 1989),),
    ),
    Wish("crime dramas between 1970 and 1989", (genre("Crime", "Drama"), years(1970, 1989))),
    Wish("something funny, not animated and not for children", (no("Animation", "Children's"),)),
    Wish(
        "a romance, but no comedy and no musical",
        (genre("Romance"), no("Comedy", "Musical")),
        "from the nineties",
        (years(1990, 1999),),
    ),
    Wish(
        "有没有八十年代的科幻片或者恐怖片？",
        (either("Sci-Fi", "Horror"), years(1980, 1989)),
        "不要喜剧",
        (no("Comedy"),),
        True,
    ),
    Wish("westerns older than 1970", (genre("Western"), years(1900, 1969)), "at least 100 minutes", (minutes(100),)),
    Wish("a war film from the 50s or 60s", (genre("War"), years(1950, 1969))),
    Wish("an action film with Bruce Willis", (genre("Action"), person("actors", "Bruce Willis"))),
    Wish(
        "directed by Alfred Hitchcock, not from the 50s",
        (person("director", "Alfred Hitchcock"), lambda i: not years(1950, 1959)(i)),
    ),
    Wish("something like Alien, but not horror", (no("Horror"),), "before 1990", (years(1900, 1989),)),
    Wish("像《Toy Story》一样的，90分钟以内", (minutes(high=90),), "更多", (), True),
    Wish("a film about friendship from the 80s", (years(1980, 1989),), "and no drama", (no("Drama"),)),
    Wish(
        "comedies without Jim Carrey, since 1994",
        (genre("Comedy"), years(1994, 2100), person("actors", "Jim Carrey", False)),
    ),
    Wish("a musical no longer than 1h50", (genre("Musical"), minutes(high=110))),
    Wish("超过两小时的战争片", (genre("War"), minutes(120.01)), "不要爱情", (no("Romance"),), True),
)
