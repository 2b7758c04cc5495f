"""Sentiment: whether a short English text speaks well or ill of a thing."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any, Literal

LONGEST = 1000
"""Characters read: the lexicon method takes time that grows with the square of the length."""
LEAST = 0.05
"""Least compound score, either way, that its authors count as an opinion."""


@lru_cache(maxsize=20_000)
def sentiment(text: str) -> Literal["positive", "negative", ""]:
    """What a text thinks, by VADER (Hutto and Gilbert, 2014): a lexicon with rules for negation and emphasis.

    Empty where it is neutral, and for a text in another language: the lexicon is English.
    """
    if not text:
        return ""
    compound = float(_analyzer().polarity_scores(text[:LONGEST])["compound"])
    if abs(compound) < LEAST:
        return ""
    return "positive" if compound > 0 else "negative"


@cache
def _analyzer() -> Any:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    return SentimentIntensityAnalyzer()
