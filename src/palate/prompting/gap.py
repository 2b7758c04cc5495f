"""How long after the event before: what tells a rating spree from a week's viewing, in one word."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from palate.schema import Event

STEPS = (300.0, 3_600.0, 86_400.0, 7 * 86_400.0, 30 * 86_400.0)
"""Seconds from which on the words below are said; a shorter pause is none."""
_WORDS = {
    "en": ("", "minutes", "hours", "days", "weeks", "months"),
    "zh": ("", "分钟", "小时", "天", "周", "月"),
}


def gap_words(events: Sequence[Event], start: int, stop: int, language: str = "en") -> list[str]:
    """For each of the events `start .. stop` how long after the one before it happened: minutes, hours, days, weeks,
    months, or "" for less than five minutes, for the first event, and where a time is unknown or runs backwards.

    Languages others than zh are written in English.
    """
    words = _WORDS.get(language, _WORDS["en"])
    return [words[_step(events[n - 1], events[n])] if n else "" for n in range(start, stop)]


def _step(before: Event, event: Event) -> int:
    if before.timestamp is None or event.timestamp is None:
        return 0
    gap = event.timestamp - before.timestamp
    return bisect_right(STEPS, gap) if gap == gap else 0
