"""Structured filters: which items a recommendation may name.

A filter maps a field to a condition; all must hold. `title` and `item_id` are fields too.

    {"genres": "Comedy"}                    the field holds the words (any case, whole words)
    {"genres": ["Comedy", "Drama"]}         ... any of them
    {"year": (1980, 1995)}                  a number in the field lies in the range; None leaves an end open
    {"year": 1994}                          the number is this one
    {"genres": {"not": "Animation"}}        the opposite; an empty field passes
    {"year": {"min": 1980, "not": 1985}}    several at once: min, max, any, all, not
    {"plot": lambda text: len(text) > 80}   anything else
    {"not": {"genres": "Horror"}}           the opposite of a whole filter

A field without a value satisfies no condition but `not`: an unknown runtime is not "under 100 minutes".
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from palate.errors import RequestError, did_you_mean

Test = Callable[[str], bool]

_HOURS = re.compile(r"^\s*(\d+)\s*h(?:ours?|rs?)?\b\s*(\d+)?", re.IGNORECASE)
_NUMBER = re.compile(r"-?\d{1,3}(?:,\d{3})+(?:\.\d+)?|-?\d+(?:\.\d+)?")
_EXPRESSION = re.compile(r"^\s*(?P<field>[^=<>!~]+?)\s*(?P<op>!=|>=|<=|=|<|>)\s*(?P<value>.*?)\s*$")
_WORDS = ("any", "all", "not", "min", "max")


def number(text: str) -> float | None:
    """The first number in a field ("81 min" -> 81, "1,299.00 EUR" -> 1299, "1 h 21" -> 81), or None."""
    if hours := _HOURS.match(text):
        return 60.0 * float(hours[1]) + float(hours[2] or 0)
    found = _NUMBER.search(text)
    return float(found[0].replace(",", "")) if found else None


def shown(value: float) -> str:
    """A number for people; JSON's whole numbers may be larger than any float, and those are cut."""
    try:
        return f"{value:g}"
    except OverflowError:
        return f"{hex(value)[:20]}..." if isinstance(value, int) else str(value)


def holds(phrase: str) -> Test:
    """Does a text hold the phrase as whole words? Scripts without spaces are matched anywhere."""
    phrase = " ".join(phrase.split())
    if not phrase:
        raise RequestError("a filter needs a value, got an empty text")
    if any(ord(c) > 0x2E7F for c in phrase):
        return lambda text: phrase in text
    pattern = re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)", re.IGNORECASE)
    return lambda text: pattern.search(text) is not None


def between(low: float | None, high: float | None, where: str) -> Test:
    """Is the field's number in [low, high]?"""
    for end in (low, high):
        if end is not None and (isinstance(end, bool) or not isinstance(end, int | float)):
            raise RequestError(f"filter {where!r}: expected a number as its limit, got {end!r}")
    if low is not None and high is not None and low > high:
        raise RequestError(f"filter {where!r}: expected a range from low to high, got {shown(low)} to {shown(high)}")

    def test(text: str) -> bool:
        value = number(text)
        return value is not None and (low is None or value >= low) and (high is None or value <= high)

    return test


def condition_test(condition: Any, field: str) -> Test:
    """The test one condition puts to a field's text."""
    if callable(condition):
        return lambda text: bool(condition(text))
    if isinstance(condition, Mapping):
        return _mapping_test(condition, field)
    if isinstance(condition, bool) or condition is None:
        raise RequestError(f"filter {field!r}: expected a text, number, list, range or function, got {condition!r}")
    if isinstance(condition, int | float):
        return between(condition, condition, field)
    if isinstance(condition, str):
        return holds(condition) if field != "item_id" else lambda text: text == condition
    if _is_range(condition):
        return between(condition[0], condition[1], field)
    options = list(condition) if isinstance(condition, list | tuple | set | frozenset) else None
    if not options:
        raise RequestError(f"filter {field!r}: expected a text, number, list, range or function, got {condition!r}")
    tests = [condition_test(c, field) for c in options]
    return lambda text: any(t(text) for t in tests)


def _is_range(condition: Any) -> bool:
    return (
        isinstance(condition, tuple)
        and len(condition) == 2
        and all(x is None or (isinstance(x, int | float) and not isinstance(x, bool)) for x in condition)
        and condition != (None, None)
    )


def _opposite(test: Test) -> Test:
    return lambda text: not test(text)


def _mapping_test(condition: Mapping[str, Any], field: str) -> Test:
    tests: list[Test] = []
    for key, value in condition.items():
        if key not in _WORDS:
            raise RequestError(f"filter {field!r}: unknown word {key!r}; {did_you_mean(str(key), _WORDS)}")
        if key in ("min", "max"):
            tests.append(between(value if key == "min" else None, value if key == "max" else None, field))
        elif key == "all":
            if not isinstance(value, list | tuple):
                raise RequestError(f"filter {field!r}, 'all': expected a list of conditions, got {value!r:.80}")
            tests += [condition_test(v, field) for v in value]
        else:
            test = condition_test(value, field)
            tests.append(test if key == "any" else _opposite(test))
    if not tests:
        raise RequestError(f"filter {field!r}: expected at least one of {', '.join(_WORDS)}, got an empty mapping")
    return lambda text: all(t(text) for t in tests)


def parse_filter(text: str) -> tuple[str, Any]:
    """A filter typed on a command line: `genres=Comedy|Drama`, `genres!=War`, `year=1980..1995`,
    `year>=1980`.
    """
    found = _EXPRESSION.match(text)
    if not found or not found["value"]:
        raise RequestError(
            f"expected a filter such as genres=Comedy, genres!=War, year=1980..1995 or year>=1980, got {text!r}"
        )
    field, op, value = found["field"], found["op"], found["value"]
    if op in ("<", ">", "<=", ">="):
        limit = number(value)
        if limit is None:
            raise RequestError(f"filter {text!r}: expected a number after {op}, got {value!r}")
        step = 1e-9 * max(1.0, abs(limit)) if len(op) == 1 else 0.0
        return field, {"min": limit + step} if op[0] == ">" else {"max": limit - step}
    condition: Any = [v.strip() for v in value.split("|") if v.strip()]
    span = re.fullmatch(r"(-?[\d.]*?)\.\.(-?[\d.]*)", value)
    if span and (span[1] or span[2]):
        condition = (number(span[1]), number(span[2]))
    elif len(condition) == 1:
        condition = condition[0]
    return field, {"not": condition} if op == "!=" else condition


def parse_filters(texts: Collection[str]) -> dict[str, Any]:
    """Typed filters joined: two on one field must both hold."""
    out: dict[str, Any] = {}
    for text in texts:
        field, condition = parse_filter(text)
        out[field] = {"all": [out[field], condition]} if field in out else condition
    return out


def describe(filters: Mapping[str, Any], bare: Collection[str] = ()) -> str:
    """Filters in words: "genres Comedy, year 1980 to 1995, no genres Horror".

    bare: fields whose name goes without saying ("Comedy, no Horror").
    """
    told = (_describe("" if field in bare else field, condition) for field, condition in filters.items())
    return ", ".join(" ".join(text.split()) for text in told)


def _describe(field: str, condition: Any) -> str:
    if field == "not" and isinstance(condition, Mapping):
        return f"not ({describe(condition)})"
    if callable(condition):
        return f"{field} by a function"
    if isinstance(condition, Mapping):
        parts = []
        for key, value in condition.items():
            if key == "not":
                parts.append(f"no {_describe(field, value)}")
            elif key == "all":
                parts += [_describe(field, v) for v in value]
            elif key == "any":
                parts.append(_describe(field, value))
            else:
                parts.append(f"{field} {'at least' if key == 'min' else 'at most'} {shown(value)}")
        return " and ".join(parts)
    if _is_range(condition):
        low, high = condition
        if low is None or high is None:
            return f"{field} at most {shown(high)}" if low is None else f"{field} at least {shown(low)}"
        return f"{field} {shown(low)}" if low == high else f"{field} {shown(low)} to {shown(high)}"
    if isinstance(condition, list | tuple | set | frozenset):
        return f"{field} " + " or ".join(_describe("", c) for c in condition)
    return f"{field} {condition}"
