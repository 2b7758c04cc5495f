"""The English words chat understands: negators, fillers, everyday names for tags, and a light stemmer."""

from __future__ import annotations

import re

WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


NEGATORS = _set(
    """not no without never except isn't aren't don't dont doesn't didn't nothing avoid hate non excluding
    minus less neither nor won't can't skip"""
)
RESETS = _set("but just only please with from under over about like instead rather mind maybe")
GREETINGS = _set("hi hello hey thanks thank ok okay hm hmm yo greetings good morning evening bye")
GENERIC = _set(
    """a about again all also am an and another any anything are as at be because been best better big both
    by can could did do does else every favorite favourite feel few find for from fun get give given go
    going good got great had has have he help her here him his how i i'd i'll i'm i've if in into is it
    it's its just kind know let let's like list look looking lot love made make many may maybe me might
    mind mine mood more most much must my need new next nice now of off on one ones only or other our
    out over perfect perhaps pick please pretty quite rather really recommend recommendation
    recommendations right see seen set she should show so some someone something sort stuff such suggest
    suggestion suggestions tell than that that's the their them then there these they thing things think
    this those time to today tonight tomorrow too top try two type under up us use very want was watch
    watching we weekend well were what what's when where which while who why will wish with would year
    years you your evening night read buy listen play chosen choose movie movies film films item items
    book books product products article articles song songs game games place places course courses directed
    starring featuring written acted"""
)
"""Words that carry no wish of their own."""

EVERYDAY = {
    "funny": "comedy", "hilarious": "comedy", "humorous": "comedy", "laugh": "comedy", "laughs": "comedy",
    "lighthearted": "comedy", "scary": "horror", "frightening": "horror", "creepy": "horror",
    "spooky": "horror", "kid": "children", "kids": "children", "family": "children", "child": "children",
    "cartoon": "animation", "cartoons": "animation", "romantic": "romance", "love": "romance",
    "exciting": "thriller", "suspense": "thriller", "suspenseful": "thriller", "tense": "thriller",
    "scifi": "sci-fi", "space": "sci-fi", "science-fiction": "sci-fi", "futuristic": "sci-fi",
    "whodunit": "mystery", "detective": "mystery", "gangster": "crime", "mafia": "crime", "heist": "crime",
    "cowboy": "western", "cowboys": "western", "singing": "musical", "noir": "film-noir",
}  # fmt: skip
"""Everyday word -> tag it hints at; used only where the catalogue has such a tag."""

DECADES = {
    "twenties": 20, "thirties": 30, "forties": 40, "fifties": 50, "sixties": 60, "seventies": 70,
    "eighties": 80, "nineties": 90,
}  # fmt: skip
NUMBERS = {"a": 1.0, "an": 1.0, "one": 1.0, "two": 2.0, "three": 3.0, "four": 4.0}

_SUFFIXES = (
    ("ation", 4), ("ated", 4), ("atic", 4), ("ing", 4), ("ical", 5), ("ous", 5), ("ic", 5), ("al", 5), ("er", 4),
    ("ed", 4), ("y", 4), ("e", 4), ("a", 4),
)  # fmt: skip


def stem(word: str) -> str:
    """A word without its commonest endings: comedy, comedies -> comed; animated, animation -> anim."""
    word = word.casefold().removesuffix("'s")
    if word.endswith("ies") and len(word) > 5:
        word = word[:-3] + "y"
    elif word.endswith("s") and not word.endswith("ss") and len(word) > 3:
        word = word[:-1]
    for ending, least in _SUFFIXES:
        if word.endswith(ending) and len(word) - len(ending) >= least:
            return word[: -len(ending)]
    return word
