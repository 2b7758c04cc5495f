"""The English words chat understands: negators, fillers, everyday names for tags, and a light stemmer."""

from __future__ import annotations

import re

WORD = re.compile(r"[^\W_]+(?:['-][^\W_]+)*")


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


NEGATORS = _set(
    """not no without never except isn't aren't don't dont doesn't didn't nothing avoid hate non minus
    less neither nor won't can't skip excluding exclude dislike
    hates hated dislikes"""
)
RESETS = _set("but just only please with from under over about like instead rather mind maybe")
GREETINGS = _set("hi hello hey thanks thank ok okay hm hmm yo greetings good morning evening bye")
POLITE = GREETINGS | _set("there again you all everyone everybody very much so a lot for the")
"""Words that may stand beside a greeting."""
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
    starring featuring written acted surprise whatever kinda pls plz gimme wanna flick flicks shows title titles
    genre genres called named ever lately stand prefer thanks feeling seem sounds either story stories half couple
    hour hours minute minutes min mins long"""
)
"""Words that carry no wish of their own."""

EMPTY = GENERIC | GREETINGS | RESETS
"""Words that say nothing of what is wanted."""

NOUNS = _set(
    """movie movies film films item items book books product products article articles song songs game games place
    places course courses flick flicks show shows one ones"""
)
"""What items are called."""

SYNONYMS = {
    "science fiction": "sci-fi", "science-fiction": "sci-fi", "scifi": "sci-fi", "sci fi": "sci-fi",
    "noir": "film-noir", "docu": "documentary", "docs": "documentary",
}  # fmt: skip
"""Another name of a tag, which is meant firmly."""

EVERYDAY: dict[str, tuple[str, ...]] = {
    word: tuple(meant.split("+"))
    for meant, words in {
        "comedy": "funny hilarious humorous humor laugh laughs lighthearted light-hearted silly",
        "horror": "scary frightening creepy spooky terrifying",
        "children": "kid kids family child family-friendly toddler toddlers",
        "animation": "cartoon cartoons",
        "romance": "romantic love lovers",
        "thriller": "exciting suspense suspenseful tense gripping",
        "sci-fi": "space futuristic spaceship spaceships",
        "mystery": "whodunit whodunnit detective detectives",
        "crime": "gangster gangsters mafia heist heists",
        "western": "cowboy cowboys",
        "musical": "singing",
        "drama": "tearjerker weepie",
        "romance+comedy": "romcom rom-com romcoms",
    }.items()
    for word in words.split()
}
"""Everyday word -> tags it hints at; used only where the catalogue has such tags."""

NEGATIONS = re.compile(
    r"\b(?:(?:tired|sick|bored) of|fed up with|instead of|rather than|other than|apart from|"
    r"(?:anything|everything) but|"
    r"enough of|(?:keep|stay) away from|can(?:'t|not) stand|no more(?! than)|non-)\b",
    re.IGNORECASE,
)
"""Several words that negate what follows."""

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
