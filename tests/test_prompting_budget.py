"""The token budget never breaks, cuts the oldest history first, and keeps the order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.errors import BudgetError
from palate.prompting import Extras, budget, load, names
from palate.schema import Event, Request
from prompting_helpers import ITEMS, serializer

_TOKENIZER: list[Any] = []


@pytest.fixture(scope="module", autouse=True)
def tokenizer(tiny_base: Path) -> Any:
    from transformers import AutoTokenizer

    _TOKENIZER[:] = [AutoTokenizer.from_pretrained(tiny_base)]
    return _TOKENIZER[0]


@given(st.lists(st.integers(0, 50), max_size=60), st.integers(-5, 400))
def test_keep_takes_the_longest_tail_that_fits(lengths: list[int], room: int) -> None:
    kept = budget.keep(lengths, room)
    assert sum(lengths[:kept]) <= max(room, 0)
    assert kept == len(lengths) or sum(lengths[: kept + 1]) > room


@given(st.integers(0, 500), st.integers(0, 900), st.integers(32, 1000))
def test_reserve_covers_the_longest(longest: int, fixed: int, limit: int) -> None:
    free = budget.reserve(longest, fixed, limit)
    assert free >= longest
    if fixed + longest <= limit:
        assert fixed + free <= limit
    if fixed + longest + 64 <= limit and longest > 0:
        assert free % 64 == 0


@settings(deadline=None, max_examples=120)
@given(
    name=st.sampled_from(names()),
    language=st.sampled_from(["en", "zh"]),
    history=st.lists(st.sampled_from(sorted(ITEMS)), max_size=90),
    candidates=st.lists(st.sampled_from(sorted(ITEMS)), min_size=1, max_size=5),
    max_tokens=st.integers(64, 1200),
    max_history=st.integers(0, 80),
    answer=st.integers(0, 100),
)
def test_never_over_budget_and_the_oldest_go_first(
    name: str,
    language: str,
    history: list[str],
    candidates: list[str],
    max_tokens: int,
    max_history: int,
    answer: int,
) -> None:
    s = serializer(_TOKENIZER[0], max_tokens=max_tokens, max_history=max_history, max_sequence=max(1, max_history))
    template = load(name, language)
    request = Request("r", history=tuple(Event(i) for i in history))
    try:
        prompt = s.prompt(template, request, candidates, Extras(reserve=answer))
    except BudgetError:
        with pytest.raises(BudgetError, match="even without history"):
            s.prompt(template, Request("r"), candidates, Extras(reserve=answer))
        return
    follows = answer
    if template.branching or template.has("answer"):
        follows = max(answer, *(len(b) for b in s.branches(template, request, candidates)))
    assert len(prompt) + follows <= max_tokens
    cap = max(1, max_history) if template.dense else max_history
    shown = len(prompt.history)
    assert list(prompt.history) == history[len(history) - shown :]
    assert shown + prompt.dropped == min(len(history), cap)
    assert len(prompt.item_ends) == shown
    if template.lists_candidates:
        text = s.describe(prompt)
        assert all(ITEMS[i].title in text for i in candidates)
    if prompt.dropped:
        wider = s.prompt(
            template, Request("r", history=request.history[-shown - 1 :]), candidates, Extras(reserve=answer)
        )
        assert wider.dropped == 1
