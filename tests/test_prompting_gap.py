"""Words for the pauses in a history, and where a prompt shows them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate.prompting import load
from palate.prompting.gap import gap_words
from palate.schema import Event

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0


def events(*times: float | None) -> list[Event]:
    return [Event(f"i{n}", time) for n, time in enumerate(times)]


@pytest.mark.parametrize(
    ("seconds", "word"),
    [
        (0, ""), (4 * MINUTE, ""), (5 * MINUTE, "minutes"), (HOUR, "hours"), (DAY, "days"), (7 * DAY, "weeks"),
        (30 * DAY, "months"), (4_000 * DAY, "months"), (-HOUR, ""), (float("nan"), ""),
    ],
)  # fmt: skip
def test_each_pause_has_its_word(seconds: float, word: str) -> None:
    assert gap_words(events(0.0, seconds), 0, 2) == ["", word]


def test_unknown_times_say_nothing() -> None:
    assert gap_words(events(None, 0.0, None, 9e9), 0, 4) == ["", "", "", ""]


def test_words_are_those_of_the_language() -> None:
    assert gap_words(events(0.0, 2 * DAY), 1, 2, "zh") == ["天"]
    assert gap_words(events(0.0, 2 * DAY), 1, 2, "de") == ["days"]


@given(st.lists(st.floats(0, 1e10), min_size=1, max_size=20), st.data())
def test_a_part_says_what_the_whole_says_there(times: list[float], data: st.DataObject) -> None:
    shown = events(*times)
    start = data.draw(st.integers(0, len(shown)))
    stop = data.draw(st.integers(start, len(shown)))
    assert gap_words(shown, start, stop) == gap_words(shown, 0, len(shown))[start:stop]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_timed_sequence_is_the_sequence_and_a_word(language: str) -> None:
    timed, plain = load("sequence_timed", language), load("sequence", language)
    assert timed.uses("history_item") - plain.uses("history_item") == {"gap"}
    assert timed.pieces["user"] == plain.pieces["user"]
    assert timed.hash != plain.hash
