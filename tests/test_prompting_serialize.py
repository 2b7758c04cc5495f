"""Serializing requests: goldens, wording, order, labels, caching, errors."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palate.errors import BudgetError, RequestError, TemplateError
from palate.prompting import Extras, load, names
from palate.prompting import template as templates
from palate.schema import Event, Item, Request, Wording
from prompting_helpers import DOMAINS, ITEMS, PLANS, REQUEST, WORDING, serializer

GOLDENS = Path(__file__).parent / "goldens" / "prompting"
EXTRAS = {
    "explain": Extras(facts=("Sci-Fi", "year 1995")),
    "chat": Extras(turns=(("Hello!", "Hi, what do you feel like?"),)),
}
BRANCHING = ("next_item", "yes_no", "rating", "rated")


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base)


def golden(name: str, text: str) -> None:
    """Compare with the file; PALATE_WRITE_GOLDENS=1 writes it (read the difference before committing)."""
    path = GOLDENS / name
    if os.environ.get("PALATE_WRITE_GOLDENS"):
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", names())
def test_goldens(tokenizer: Any, name: str, language: str) -> None:
    s = serializer(tokenizer, wording=WORDING[language])
    template = load(name, language)
    prompt = s.prompt(template, REQUEST, extras=EXTRAS.get(name))
    branches = s.branches(template, REQUEST, REQUEST.candidates) if name in BRANCHING else []
    texts = [s.describe(prompt), *(f"--- branch {b.item_id}\n{s.describe(b)}" for b in branches)]
    golden(f"{language}-{name}.txt", "\n".join(texts) + "\n")
    ids = {"prompt": prompt.token_ids.tolist(), "ends": list(prompt.item_ends), "start": prompt.start}
    for branch in branches:
        ids[f"branch {branch.item_id}"] = branch.token_ids.tolist()
    golden(f"{language}-{name}.json", json.dumps(ids) + "\n")


@pytest.mark.parametrize("name", names())
def test_positions_and_slots(tokenizer: Any, name: str) -> None:
    s = serializer(tokenizer)
    prompt = s.prompt(load(name), REQUEST)
    assert prompt.history == ("1", "3", "5")
    assert prompt.dropped == 0
    assert list(prompt.item_ends) == sorted(prompt.item_ends)
    assert prompt.start < prompt.item_ends[0]
    listed = REQUEST.candidates if load(name).lists_candidates else ()
    expected = [(m, n, i) for i in (*prompt.history, *listed) for m, n in PLANS.get(i, ())]
    if name == "chat":
        assert prompt.item_ends[-1] < len(prompt) - 40
    assert [(slot.modality, slot.length, slot.item_id) for slot in prompt.slots] == expected
    for slot in prompt.slots:
        assert (prompt.token_ids[slot.start : slot.start + slot.length] == s.encoder.pad).all()
    first = s.describe(prompt)
    assert first.count("‹image×1›") == sum(m == "image" for m, _, _ in expected)


def test_sequence_ends_with_the_last_item_and_starts_before_the_first(tokenizer: Any) -> None:
    s = serializer(tokenizer, plans=dict.fromkeys(ITEMS, (("image", 1), ("behaviour", 1))))
    template = load("sequence")
    prompt = s.prompt(template, REQUEST)
    assert prompt.item_ends == (prompt.start + 2, prompt.start + 4, prompt.start + 6)
    assert prompt.item_ends[-1] == len(prompt) - 1
    nobody = s.prompt(template, dataclasses.replace(REQUEST, history=()))
    assert nobody.start == len(nobody) - 1
    assert nobody.item_ends == ()
    np.testing.assert_array_equal(nobody.token_ids, prompt.token_ids[: prompt.start + 1])


@pytest.mark.parametrize("wording", DOMAINS.values(), ids=DOMAINS)
@pytest.mark.parametrize("name", names())
def test_wording_of_six_domains(tokenizer: Any, name: str, wording: Wording) -> None:
    text = serializer(tokenizer, wording=wording).describe(
        serializer(tokenizer, wording=wording).prompt(load(name), REQUEST)
    )
    told = f"This {wording.person} {wording.verb} these {wording.items}, oldest first"
    if name == "rated":  # which has no order
        told = f"How this {wording.person} rates {wording.items}, from 1 to 5"
    assert told in text
    assert "movie" not in text


def test_chinese_has_its_own_default_wording(tokenizer: Any) -> None:
    s = serializer(tokenizer, wording=Wording())
    assert "这位用户选择过的物品（从早到晚）：" in s.describe(s.prompt(load("next_item", "zh"), REQUEST))
    assert "This user chose these items" in s.describe(s.prompt(load("next_item"), REQUEST))


def test_training_and_inference_share_their_tokens(tokenizer: Any) -> None:
    s = serializer(tokenizer)
    template = load("next_item")
    branch = s.branches(template, REQUEST, ["4", "2"])[1]
    np.testing.assert_array_equal(branch.token_ids, s.completion(template, REQUEST, "2"))
    assert s.encoder.decode(branch.token_ids) == "Star Wars<|im_end|>"
    assert branch.slots == ()
    for name, label in (("yes_no", "No"), ("rating", "4"), ("letters", "B")):
        t = load(name)
        assert s.completion(t, REQUEST, label).tolist() == [s.labels(t)[t.labels.index(label)]]
    for name in BRANCHING:
        t = load(name)
        one = s.prompt(t, REQUEST, ["2"])
        many = s.prompt(t, REQUEST, list(ITEMS))
        np.testing.assert_array_equal(one.token_ids, many.token_ids)


@pytest.mark.parametrize("name", ["next_item", "yes_no", "explain", "letters"])
def test_prompt_and_branch_read_as_the_chat_template_prints_it(tokenizer: Any, name: str) -> None:
    """The pieces, tokenised apart, are the text that one call of the chat template gives."""
    s = serializer(tokenizer, plans={})
    template = load(name)
    branch = s.branches(template, REQUEST, ["4"])[0].token_ids if template.branching else []
    text = s.encoder.decode([*s.prompt(template, REQUEST).token_ids, *branch])
    assert text.startswith("<|im_start|>system\n")
    turns = [t.partition("\n") for t in text.split("<|im_start|>")[1:]]
    messages = [{"role": role, "content": body.removesuffix("<|im_end|>\n")} for role, _, body in turns]
    assert [m["role"] for m in messages] == ["system", "user", "assistant"]
    assert messages[-1]["content"] == ""
    assert text == tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)


def test_branches_of_yes_no_open_the_answer(tokenizer: Any) -> None:
    s = serializer(tokenizer)
    branch = s.branches(load("yes_no"), REQUEST, ["4"])[0]
    assert s.describe(branch) == (
        "Would this viewer like Alien (1979, Sci-Fi, Horror)‹behaviour×2›? Yes or No?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert [(x.modality, x.length) for x in branch.slots] == [("behaviour", 2)]


def test_labels(tokenizer: Any) -> None:
    s = serializer(tokenizer)
    letters = load("letters")
    assert len(set(s.labels(letters))) == 26
    assert s.labels(letters, 3) == s.labels(letters)[:3]
    assert [s.encoder.decode([i]) for i in s.labels(load("rating"))] == list("12345")
    assert len(set(s.labels(load("yes_no", "zh")))) == 2
    with pytest.raises(TemplateError, match="expected 30 labels, it has 26"):
        s.labels(letters, 30)
    with pytest.raises(TemplateError, match="expected some labels, it has 0"):
        s.labels(load("chat"))
    values = {"name": "bad", "mode": "rating", "user": "a {{ history }}", "history_item": "{{ item.title }}"}
    bad = templates.parse({**values, "branch": "?", "labels": ["1", "10"]}, "bad.yaml")
    with pytest.raises(TemplateError, match=r"bad.yaml: the labels '1' and '10' start with the same token"):
        s.labels(bad)


def test_caching_changes_nothing(tokenizer: Any) -> None:
    warm = serializer(tokenizer)
    for name in names():
        template = load(name)
        for _ in range(2):
            fresh = serializer(tokenizer)
            a, b = warm.prompt(template, REQUEST), fresh.prompt(template, REQUEST)
            np.testing.assert_array_equal(a.token_ids, b.token_ids)
            assert (a.slots, a.item_ends, a.start) == (b.slots, b.item_ends, b.start)
    other = dataclasses.replace(REQUEST, history=(Event("1", rating=1.0), Event("3", rating=float("nan"))))
    rated = load("rating")
    np.testing.assert_array_equal(
        warm.prompt(rated, other).token_ids, serializer(tokenizer).prompt(rated, other).token_ids
    )
    assert "Toy Story (1995): 1‹" in warm.describe(warm.prompt(rated, other))
    assert "- Heat (1995)\n" in warm.describe(warm.prompt(rated, other))


def test_changed_slot_plans_and_items_are_seen(tokenizer: Any) -> None:
    plans = dict(PLANS)
    items = dict(ITEMS)
    s = serializer(tokenizer, items=items, plans=plans)
    template = load("next_item")
    before = s.prompt(template, REQUEST)
    plans["1"] = (("behaviour", 2),)
    assert len(s.prompt(template, REQUEST)) == len(before) - 1
    items["1"] = Item("1", "Toy Story 2")
    assert "Toy Story 2" not in s.describe(s.prompt(template, REQUEST))
    s.clear()
    assert "Toy Story 2" in s.describe(s.prompt(template, REQUEST))


def test_a_full_cache_starts_anew(tokenizer: Any) -> None:
    s = serializer(tokenizer)
    s._lines.limit = 2
    template = load("next_item")
    np.testing.assert_array_equal(
        s.prompt(template, REQUEST).token_ids, serializer(tokenizer).prompt(template, REQUEST).token_ids
    )


def test_empty_request_has_a_prompt_in_every_template(tokenizer: Any) -> None:
    s = serializer(tokenizer)
    for language in ("en", "zh"):
        for name in names():
            prompt = s.prompt(load(name, language), Request("r", candidates=("2",)))
            assert len(prompt) > 0
            assert 0 <= prompt.start < len(prompt)
            assert prompt.item_ends == ()


def test_requests_that_cannot_be_served(tokenizer: Any) -> None:
    s = serializer(tokenizer, items={**ITEMS, "toy-story": ITEMS["1"]})
    t = load("yes_no")
    bad = Request("r9", history=(Event("toy-stori"),))
    with pytest.raises(RequestError, match=r"request 'r9': the history item 'toy-stori'.*did you mean 'toy-story'"):
        s.prompt(t, bad)
    with pytest.raises(RequestError, match="the candidate 'zzz' is not in the catalogue; choose one of: 1, 2"):
        s.branches(t, REQUEST, ["zzz"])
    with pytest.raises(RequestError, match="request 'r1': expected candidates to choose from, got none"):
        s.prompt(load("letters"), REQUEST, [])
    with pytest.raises(RequestError, match="expected at most 26 candidates, got 27"):
        s.prompt(load("letters"), REQUEST, ["1"] * 27)
    with pytest.raises(RequestError, match="expected one of its labels, got 'Maybe'"):
        s.completion(t, REQUEST, "Maybe")
    with pytest.raises(TemplateError, match="mode 'letters' has no branches"):
        s.branches(load("letters"), REQUEST, ["1"])


def test_placeholders_must_be_printed_once(tokenizer: Any) -> None:
    s = serializer(tokenizer)
    base = {"name": "mine", "mode": "embedding", "chat": False, "history_item": "{{ item.title }}\n"}
    twice = templates.parse({**base, "user": "a {{ history }} {{ history }}"}, "mine.yaml")
    with pytest.raises(TemplateError, match=r"expected \{\{ history \}\} to be printed once, it came 2 times"):
        s.prompt(twice, REQUEST)
    never = templates.parse({**base, "user": "a {% if not history %}{{ history }}{% endif %}"}, "mine.yaml")
    with pytest.raises(TemplateError, match="it came 0 times"):
        s.prompt(never, REQUEST)
    first = templates.parse({**base, "user": "{{ history }} and so on"}, "mine.yaml")
    with pytest.raises(TemplateError, match="expected some text before"):
        s.prompt(first, REQUEST)


def test_long_histories_are_quick(tokenizer: Any) -> None:
    s = serializer(tokenizer, max_tokens=768)
    request = Request("r", history=tuple(Event(str(n % 5 + 1)) for n in range(10_000)))
    s.prompt(load("sequence"), request)
    start = time.perf_counter()
    prompt = s.prompt(load("sequence"), request)
    assert time.perf_counter() - start < 0.5
    assert prompt.history == tuple(e.item_id for e in request.history[-128:])
    assert prompt.dropped == 0


def test_over_budget_names_the_numbers(tokenizer: Any) -> None:
    s = serializer(tokenizer, max_tokens=64)
    with pytest.raises(BudgetError, match=r"at most 64 tokens \(max_tokens\).*without history it takes \d+: \d+ inst"):
        s.prompt(load("letters"), REQUEST)


def test_a_word_tells_of_a_pause_before_the_item(tokenizer: Any) -> None:
    s = serializer(tokenizer, plans=dict.fromkeys(ITEMS, (("image", 1),)))
    template = load("sequence_timed")
    day = 86_400.0
    events = (Event("1", 0.0), Event("3", 20.0), Event("5", 3 * day), Event("1", None))
    prompt = s.prompt(template, dataclasses.replace(REQUEST, history=events))
    assert s.describe(prompt).endswith("‹image×1›‹image×1› days‹image×1›‹image×1›")
    # the item is still what is read, with the word before it
    assert [prompt.token_ids[end] == s.encoder.pad for end in prompt.item_ends] == [True] * 4


def test_the_same_item_after_another_pause_is_another_line(tokenizer: Any) -> None:
    s = serializer(tokenizer, plans=dict.fromkeys(ITEMS, (("image", 1),)))
    template = load("sequence_timed")
    told = []
    for gap in (10.0, 4_000.0, 10.0):
        history = (Event("1", 0.0), Event("3", gap))
        told.append(s.describe(s.prompt(template, dataclasses.replace(REQUEST, history=history))))
    assert told[0] == told[2] != told[1]
