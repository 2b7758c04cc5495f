"""Years, lengths and prices in what people write: "from the 90s", "before 1990", "under 100 minutes", "under
$20".
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import numpy as np

from palate.chat.reading import GAP, State
from palate.chat.words import DECADES, NUMBERS, stem
from palate.recommender.fields import Field
from palate.recommender.filters import number
from palate.recommender.shelf import Shelf

_I = re.IGNORECASE
_Y = r"(?:1[89]|20)\d\d"
_OPS = (
    "before|prior|pre|until|after|post|since|older|newer|earlier|later|over|under|above|below|more|less|up|long|short"
)
_NO = rf"(?P<no>\b(?:not|nothing|no|except|isn't|aren't|without|never)\s+(?:(?!{_OPS})\w+\s+)?)?"
_SPAN = re.compile(rf"\b(?:between|from|in)?\s*\b(?P<a>{_Y})\s*(?:and|to|-|–|until|till|through)\s*(?P<b>{_Y})\b", _I)
_DECADE = re.compile(
    rf"{_NO}\b(?:(?P<op>before|prior to|until|after|since)\s+)?(?:(?:from|in|of|during)\s+)?(?:the\s+)?"
    rf"(?:(?P<part>early|mid|late)[\s-]+)?(?P<ten>(?:1[89]|20)?\d0'?s|{'|'.join(DECADES)})(?!\w)",
    _I,
)
_YEAR = re.compile(
    rf"{_NO}\b(?:(?P<op>before|prior to|pre|older than|earlier than|until|up to|no later than|"
    rf"after|post|later than|newer than|since|starting)[\s-]+)?"
    rf"(?:(?:from|in|of)\s+)?(?:the\s+)?(?:year\s+)?(?P<year>{_Y})"
    rf"(?P<on>\s+(?:on|onwards?|or later|or newer|and later)|\+)?(?!\w|\s*(?:min|hour|page|\$|€|£))",
    _I,
)
_LESS = (
    "under|below|less than|shorter than|cheaper than|fewer than|no more than|not more than|no longer than|"
    "not longer than|not over|at most|max(?:imum)?(?: of)?|up to|within"
)
STRICT = (
    "under", "below", "less than", "shorter than", "cheaper than", "fewer than", "over", "above", "more than",
    "longer than",
)  # fmt: skip
_MORE = "over|above|more than|longer than|at least|min(?:imum)?(?: of)?|no less than|not under"
_ABOUT = "about|around|roughly|approximately|circa|some"
NEARBY = 0.12
"""How far "about 90 minutes" reaches, as a share of the amount."""
_N = r"(?P<cur>[$€£])?\s*(?P<n>\d+(?:[.,]\d+)?|\b(?:an?|one|two|three|four))(?P<half>\s+and a half)?"
_AMOUNT = re.compile(
    rf"{_NO}\b(?P<op>{_LESS}|{_MORE}|{_ABOUT})\s+{_N}[\s-]*(?P<unit>[a-z€$£]+)?"
    r"(?:\s+(?P<more>\d+)\s*min\w*)?(?P<half2>\s+and a half)?(?:\s+(?:long|in length))?",
    _I,
)
_AFTER = re.compile(
    rf"{_N}\s*(?P<unit>[a-z€$£]+)\s+"
    r"(?P<op>or less|max(?:imum)?|tops|at most|or shorter|or more|or longer|plus|minimum)\b",
    _I,
)
_EXACT = re.compile(
    rf"(?P<op>){_N}[\s-]*(?P<unit>min\w*|hours?|hrs?|h)\b(?:\s+(?P<more>\d+)\s*min\w*)?(?:\s+long)?", _I
)
_SHORT_YEAR = re.compile(r"(?<!\w)'(\d\d)\b(?!s)")
_CARRIED = re.compile(r"\s*(?:or|nor|and|,)*\s*", _I)
_CLOCK = re.compile(r"\b(\d{1,2})\s*h(?:ours?|rs?)?\s*(\d{2})(?:\s*(?:m|min\w*))?\b", _I)
_SOFT = re.compile(
    r"(?P<no>\b(?:not|nothing|no|isn't)\s+)?(?:\b(?:too|so|very|that)\s+)?\b(?P<word>short|long|recent|newer|modern|old|older|"
    r"classic|vintage|cheap|expensive|shorter|longer)\b",
    _I,
)
_TIME = ("runtime", "duration", "length", "minutes", "running_time")
_PRICE = ("price", "cost", "amount")
_SOFT_WORDS = {
    "short": ("time", "max"), "shorter": ("time", "max"), "long": ("time", "min"), "longer": ("time", "min"),
    "recent": ("year", "min"), "newer": ("year", "min"), "modern": ("year", "min"), "old": ("year", "max"),
    "older": ("year", "max"), "classic": ("year", "max"), "vintage": ("year", "max"),
    "cheap": ("price", "max"),
    "expensive": ("price", "min"),
}  # fmt: skip
_COMPARATIVES = ("shorter", "longer", "newer", "older")


class Amounts:
    """Reads numbers against the catalogue's number fields."""

    def __init__(self, shelf: Shelf, fields: Mapping[str, Field]) -> None:
        self.shelf = shelf
        self.numbers = {n: f for n, f in fields.items() if f.kind == "number"}
        self.year = next((n for n, f in self.numbers.items() if f.is_year), None)
        self.time = self._named(_TIME) or next((n for n, f in self.numbers.items() if f.unit.startswith("min")), None)
        self.price = self._named(_PRICE)

    def _named(self, names: tuple[str, ...]) -> str | None:
        return next((n for n in self.numbers if n.casefold() in names), None)

    def read(self, state: State) -> None:
        """Move the amounts of a message into its filters."""
        if self.year is not None:
            state.rest = _SHORT_YEAR.sub(r"19\1", state.rest)
        if self.time is not None:  # "1h30" is 90 minutes
            state.rest = _CLOCK.sub(lambda m: f"{60 * int(m[1]) + int(m[2])} minutes", state.rest)
        for pattern in (_AMOUNT, _AFTER, _EXACT):
            state.take(pattern, lambda m: self._amount(state, m))
        state.take(_SPAN, lambda m: self._years(state, float(m["a"]), float(m["b"])))
        state.take(_DECADE, lambda m: self._decade(state, m))
        state.take(_YEAR, lambda m: self._one_year(state, m))
        state.take(_SOFT, lambda m: self._soft(state, m))

    # --- years --------------------------------------------------------------------------------------

    def _years(self, state: State, low: float | None, high: float | None, no: bool = False) -> bool:
        if self.year is None:
            return self._cannot(state, "the year")
        if low is not None and high is not None:
            state.want(self.year, (min(low, high), max(low, high)), no, either=True)
        else:
            if no:  # nothing before 1980 is: from 1980 on
                low, high = (None if high is None else high + 1), (None if low is None else low - 1)
            ends = {k: v for k, v in (("min", low), ("max", high)) if v is not None}
            state.limit(self.year, **ends)
        return True

    def _decade(self, state: State, m: re.Match[str]) -> bool:
        text = m["ten"].casefold().replace("'", "").removesuffix("s")
        value = DECADES.get(m["ten"].casefold(), None)
        start = float(value if value is not None else text)
        if start < 100:
            start = self._century(start)
        offset = {"early": (0, 3), "mid": (4, 6), "late": (7, 9)}.get((m["part"] or "").casefold(), (0, 9))
        low, high = start + offset[0], start + offset[1]
        op, no = (m["op"] or "").casefold(), self._negated(state, m)
        if op in ("before", "prior to"):
            return self._years(state, None, low - 1, no)
        if op == "until":
            return self._years(state, None, high, no)
        if op == "after":
            return self._years(state, high + 1, None, no)
        return self._years(state, low, None, no) if op == "since" else self._years(state, low, high, no)

    def _negated(self, state: State, m: re.Match[str]) -> bool:
        """Is a year under a negation, or joined to one that is: "not from the 80s or 90s"?"""
        joint = state.rest[state.negated : m.start()]
        no = bool(m["no"]) or (state.negated >= 0 and _CARRIED.fullmatch(joint) is not None)
        state.negated = m.start() + len(GAP) if no else -1
        return no

    def _century(self, ten: float) -> float:
        """1990 for 90; the century in which the catalogue has such years, the later one where it has both."""
        info = self.numbers.get(self.year or "")
        late = 2000 + ten
        fits = info is not None and info.low <= late + 9 and late <= info.high
        return late if fits or (info is None and ten < 30) else 1900 + ten

    def _one_year(self, state: State, m: re.Match[str]) -> bool:
        year, op, no = float(m["year"]), (m["op"] or "").casefold(), self._negated(state, m)
        if op in ("before", "prior to", "pre", "older than", "earlier than"):
            return self._years(state, None, year - 1, no)
        if op in ("until", "up to", "no later than"):
            return self._years(state, None, year, no)
        if op in ("after", "post", "later than", "newer than"):
            return self._years(state, year + 1, None, no)
        if op in ("since", "starting") or m["on"]:
            return self._years(state, year, None, no)
        return self._years(state, year, year, no)

    # --- amounts ------------------------------------------------------------------------------------

    def _amount(self, state: State, m: re.Match[str]) -> bool:
        groups = m.groupdict()
        text, unit = groups["n"].casefold().strip(), (groups.get("unit") or "").casefold()
        value = NUMBERS[text] if text in NUMBERS else number(text)
        if value is None:
            return False
        value += 0.5 if groups.get("half") or groups.get("half2") else 0.0
        op = groups["op"].casefold()
        if not unit and not groups["cur"] and 1800 <= value < 2100:
            return False  # "up to 1995" is a year
        hours = re.fullmatch(r"h|hrs?|hours?", unit) is not None
        name = self._field_for(op, unit, bool(groups["cur"]), hours)
        if name is None:
            if (text in NUMBERS and not hours) or op in ("", *_ABOUT.split("|")):
                return False
            what = f"{groups['cur'] or ''}{text} {unit}".strip()
            return self._cannot(state, f"“{m['op']} {what}”")
        if hours and (self.numbers[name].unit.startswith("min") or self.numbers[name].high > 15):
            value = 60 * value + float(groups.get("more") or 0)
        if op in ("", *_ABOUT.split("|")):
            near = {"min": (1 - NEARBY) * value, "max": (1 + NEARBY) * value}
            state.hint(" ".join(m[0].split()).casefold(), name, near)
            return True
        most = re.fullmatch(rf"{_LESS}|or less|tops|or shorter", op) is not None
        step = 1e-6 if op in STRICT else 0.0
        if groups.get("no"):  # nothing over 100: at most 100
            most, step = not most, 1e-6 - step
        end = value - step if most else value + step
        if step and self.numbers[name].unit.startswith("min"):  # whole minutes: under 100 is at most 99
            end = math.ceil(value) - 1.0 if most else math.floor(value) + 1.0
        state.limit(name, **{"max" if most else "min": end})
        return True

    def _field_for(self, op: str, unit: str, currency: bool, hours: bool) -> str | None:
        if currency or unit in (
            "dollars",
            "dollar",
            "euros",
            "euro",
            "pounds",
            "bucks",
            "usd",
            "eur",
            "$",
            "€",
            "£",
        ):
            return self.price
        if hours or re.fullmatch(r"m|mins?|minutes?", unit) or op in ("shorter than", "longer than"):
            return self.time
        if op == "cheaper than":
            return self.price
        for name, info in self.numbers.items():
            if unit and stem(unit) in (stem(name), stem(info.unit or "-")):
                return name
        return None

    def _soft(self, state: State, m: re.Match[str]) -> bool:
        """ "short", "recent": a hint towards a quarter of the catalogue; "not too long" only leaves out a
        quarter.
        """
        word = m["word"].casefold()
        kind, end = _SOFT_WORDS[word]
        name = {"time": self.time, "year": self.year, "price": self.price}[kind]
        if name is None:
            return False
        values = [v for v in map(number, self.shelf.column(name)) if v is not None]
        low, high = np.quantile(values, [0.25, 0.75]) if values else (0.0, 0.0)
        liked = [number(self.shelf[i].text.get(name, "")) for i in state.like]
        if word in _COMPARATIVES and liked and liked[0] is not None:
            # "like Fargo but older": than Fargo
            condition = {end: liked[0] - 1e-6 if end == "max" else liked[0] + 1e-6}
        elif m["no"]:
            condition = {"min": float(low)} if end == "max" else {"max": float(high)}
        else:
            condition = {"max": float(low)} if end == "max" else {"min": float(high)}
        state.hint(m[0].strip().casefold(), name, condition)
        return True

    def _cannot(self, state: State, what: str) -> bool:
        state.note("cannot_check", what=what)
        return True
