"""Context: what a moment says of a request, in words: time of day, weekday, season; and place and device as given.

Nothing is guessed. A time of day and a weekday need the user's own clock, a season needs a hemisphere; what is not
known is not said.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from zoneinfo import ZoneInfo

from palate.errors import ConfigError

DERIVED = ("time_of_day", "weekday", "season")
TIME, ZONE, HEMISPHERE = "time", "timezone", "hemisphere"
"""Entries of a request's context that the words are derived from."""
MILLISECONDS = 1e11
"""A number at least this large is milliseconds, and so on, as in tables."""
EARLIEST, LATEST = timedelta(hours=-12), timedelta(hours=14)
"""The zones people live in."""
_OFFSET = re.compile(r"^(?:UTC|GMT)?([+-])(\d{1,2})(?::?([0-5]\d))?$")
_DAY_PARTS = ((5, 3), (12, 0), (17, 1), (22, 2), (24, 3))
"""Before this hour, which of the words below."""
_WORDS = {
    "en": {
        "names": ("time of day", "weekday", "season", "place", "device"),
        "day": ("morning", "afternoon", "evening", "night"),
        "week": ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
        "year": ("winter", "spring", "summer", "autumn"),
    },
    "zh": {
        "names": ("时段", "星期", "季节", "地点", "设备"),
        "day": ("上午", "下午", "晚上", "夜间"),
        "week": ("星期一", "星期二", "星期三", "星期四", "星期五", "星期六", "星期日"),
        "year": ("冬季", "春季", "夏季", "秋季"),
    },
}


def context_of(
    time: float | str | datetime | None,
    *,
    zone: str | None = None,
    hemisphere: str | None = None,
    place: str = "",
    device: str = "",
    names: Sequence[str] = DERIVED,
    language: str = "en",
) -> dict[str, str]:
    """A request's context in words: {"time of day": "evening", "weekday": "Friday", "season": "summer", ...}.

    time: seconds since 1970, ISO 8601, or a datetime. Without a zone of its own an ISO text or a datetime is the
    user's clock; a number, and a time in UTC, is a moment, and needs `zone` to say what the user's clock showed.
    zone: as +02:00 or Europe/Berlin. hemisphere: north or south; seasons are those of meteorology, December to
    February the first. Near the turn of a season it is unknown without a zone.
    names: which of DERIVED. language: others than zh are written in English. Raises ConfigError for an unknown zone.
    """
    words = _WORDS.get(language, _WORDS["en"])
    labels = dict(zip((*DERIVED, "place", "device"), words["names"], strict=True))
    known = _derived(moment(time), zone_of(zone), hemisphere, words) if time is not None else {}
    found = {name: known.get(name, "") for name in names} | {"place": place, "device": device}
    return {labels[name]: value for name, value in found.items() if value}


def situated(
    given: Mapping[str, str],
    names: Sequence[str],
    zone: str | None = None,
    hemisphere: str | None = None,
    language: str = "en",
) -> dict[str, str]:
    """A request's context with its `time` put into words; its own `timezone` and `hemisphere` go before the others.

    As given where no names are asked for, or where time or zone cannot be read: {"time": "after lunch"} is a
    context too.
    """
    if not names or moment(given.get(TIME)) is None:
        return dict(given)
    try:
        derived = context_of(
            given[TIME],
            zone=given.get(ZONE) or zone,
            hemisphere=given.get(HEMISPHERE) or hemisphere,
            names=names,
            language=language,
        )
    except ConfigError:
        return dict(given)
    return derived | {name: value for name, value in given.items() if name not in (TIME, ZONE, HEMISPHERE)}


def moment(time: float | str | datetime | None) -> datetime | None:
    """A time as a datetime: with a zone a moment, without one a wall clock. None where it is no time."""
    if time is None or isinstance(time, datetime):
        return time
    try:
        seconds = float(time)
    except ValueError:
        return _iso(str(time).strip())
    if not math.isfinite(seconds):
        return None
    while abs(seconds) >= MILLISECONDS:
        seconds /= 1000
    try:
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=seconds)
    except OverflowError:
        return None


class _Day(datetime):
    """A date without a time of day."""


def _iso(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if any(c in text for c in "T: ") else _Day(found.year, found.month, found.day)


@lru_cache(maxsize=1024)
def zone_of(text: str | None) -> tzinfo | None:
    """The zone that +02:00, UTC or Europe/Berlin names; None for none. Raises ConfigError for others."""
    if text is None or not text.strip():
        return None
    text = text.strip()
    if text.upper() in ("UTC", "GMT", "Z"):
        return UTC
    if (offset := _OFFSET.match(text)) is not None:
        hours = timedelta(hours=int(offset[2]), minutes=int(offset[3] or 0))
        if hours < timedelta(hours=24):
            return timezone(hours if offset[1] == "+" else -hours)
    try:
        return ZoneInfo(text)
    except (LookupError, ValueError, OSError):
        raise ConfigError(
            f"timezone: expected an offset such as +02:00 or a name such as Europe/Berlin, got {text!r}"
        ) from None


def _derived(
    when: datetime | None, zone: tzinfo | None, hemisphere: str | None, words: Mapping[str, Sequence[str]]
) -> dict[str, str]:
    if when is None:
        return {}
    try:
        clocks = _clocks(when, zone)
    except (OverflowError, ValueError):  # the year 0 or 10000 somewhere on earth
        return {}
    months = {(clock.month % 12 // 3 + 2 * (hemisphere == "south")) % 4 for clock in clocks}
    known = {}
    if hemisphere in ("north", "south") and len(months) == 1:
        known["season"] = words["year"][months.pop()]
    if len(clocks) == 1:
        known["weekday"] = words["week"][clocks[0].weekday()]
        if not isinstance(when, _Day):
            known["time_of_day"] = next(words["day"][word] for end, word in _DAY_PARTS if clocks[0].hour < end)
    return known


def _clocks(when: datetime, zone: tzinfo | None) -> list[datetime]:
    """What the user's clock showed; the earliest and latest possible where the zone is not known."""
    if when.tzinfo is None:
        return [when]
    if zone is not None:
        return [when.astimezone(zone)]
    # a text that says UTC says nothing of where the user is: servers write it
    if when.utcoffset():
        return [when]
    return [when.astimezone(timezone(EARLIEST)), when.astimezone(timezone(LATEST))]
