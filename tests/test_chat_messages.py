"""How many messages are understood as they are meant, over the real catalogue: `python tests/test_chat_messages.py`."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest

from palate.chat.textmatch import TextMatch
from palate.chat.wishes import Wish, Wishes
from palate.data import Dataset
from palate.recommender.fields import profile
from palate.recommender.filters import parse_filters
from palate.recommender.shelf import Shelf
from test_chat_dev import DEV
from test_chat_held_out import HELD_OUT

DATA = Path(__file__).parents[1] / "data" / "ml-100k"


@cache
def wishes() -> Wishes:
    """The parser over the catalogue alone: no model is loaded."""
    shelf = Shelf(Dataset.open(DATA).catalog)
    return Wishes(shelf, profile(shelf.values()), TextMatch(shelf), "movie")


def wrong(wish: Wish, label: str, shelf: Shelf) -> list[str]:
    """What of a message was not understood as its label says."""
    parts = [p.strip() for p in label.split(";") if p.strip()]
    marked = tuple('+-~±?!"')
    asked, meant = "?" in parts, [p[1:] for p in parts if p[0] == "±"]
    if meant and wish.questions:
        return [] if any(title in q for q in wish.questions for title in meant) else ["another title was offered"]
    if asked:
        return [] if wish.questions else ["it did not ask back"]
    if wish.questions:
        return [f"it asked {' '.join(wish.questions)!r}"]
    titles = lambda ids: sorted(shelf[i].title for i in ids)  # noqa: E731
    command = next((p[1:] for p in parts if p[0] == "!"), "ask")
    told = " ".join([wish.intent, *titles(wish.targets)])
    out = [] if told == command else [f"command {told!r}, not {command!r}"]
    for mark, found in (("+", wish.like), ("-", wish.unlike)):
        expected = sorted([p[1:] for p in parts if p[0] == mark] + (meant if mark == "+" else []))
        if titles(found) != expected:
            out.append(f"{mark} {titles(found)}")
    if (
        shelf.mask(wish.filters) != shelf.mask(parse_filters([p for p in parts if p[0] not in marked and p != "note"]))
    ).any():
        out.append(f"filters {wish.filters}")
    hints = {p[1:] for p in parts if p[0] == "~"}
    if "*" not in hints and (found := _hints(wish)) != hints:
        out.append(f"hints {sorted(found)}")
    words = [w for p in parts if p[0] == '"' for w in p.strip('"').split()]
    if not {*words} <= {*wish.text.split()}:
        out.append(f"text {wish.text!r}")
    return out + (["no note"] if "note" in parts and not wish.notes else [])


def _hints(wish: Wish) -> set[str]:
    """Hints as labels write them: field=tag, or the field where it is an end of a range."""
    return {
        f"{field}={condition}" if isinstance(condition, str) else field
        for _, conditions in wish.hints
        for field, condition in conditions.items()
    }


def judged(cases: Iterable[tuple[str, str]]) -> list[tuple[str, str, list[str]]]:
    """(message, label, what was wrong) for the messages misunderstood."""
    parser = wishes()
    read = [(text, label, wrong(parser.parse(text), label, parser.shelf)) for text, label in cases]
    return [case for case in read if case[2]]


needs_data = pytest.mark.skipif(not DATA.exists(), reason="data/ml-100k is not there; palate data import fetches it")


@pytest.mark.weights
@needs_data
@pytest.mark.parametrize(("cases", "least"), [(DEV, 0.95), (HELD_OUT, 0.8)], ids=["dev", "held-out"])
def test_messages_are_understood(cases: list[tuple[str, str]], least: float) -> None:
    assert len(cases) >= 60
    assert len({text for text, _ in cases}) == len(cases)
    failed = judged(cases)
    assert 1 - len(failed) / len(cases) >= least, failed


if __name__ == "__main__":
    for name, cases in (("dev", DEV), ("held-out", HELD_OUT)):
        if name not in sys.argv[1:] and sys.argv[1:]:
            continue
        failed = judged(cases)
        sys.stdout.write(f"{name}: {len(cases) - len(failed)} of {len(cases)} understood\n")
        for text, label, why in failed:
            sys.stdout.write(f"  {text!r} [{label}]: {'; '.join(why)}\n")
