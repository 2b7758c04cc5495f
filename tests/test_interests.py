"""Interests: what a long history says beyond the window, the same in training and serving, nothing of the future."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palate import prompting
from palate.config import PromptConfig
from palate.data import Dataset
from palate.prompting import Serializer, ShowFields
from palate.recommender import interests as module
from palate.recommender.interests import LEAST, Interests
from palate.schema import Event, Interactions, Item, Request, Wording
from palate.train.task import Material
from palate.train.tasks import MAKE, TEMPLATES

DIRECTORS = ("Ridley Scott", "Agnès Varda", "Akira Kurosawa", "Jane Campion")
GENRES = ("Drama", "Comedy", "Sci-Fi", "Horror")


def catalogue(count: int = 240) -> dict[str, Item]:
    """Films; half of them are Drama, a quarter each of the others, and every tenth has a director who recurs."""
    made = {}
    for n in range(count):
        genres = ["Drama"] * (n % 2) + [GENRES[1 + n % 3]] * (n % 4 < 3) + ["Drama, Western"] * (n == 7)
        director = DIRECTORS[n // 10 % 4] if n % 10 == 0 else f"Somebody No{n}"
        text = {
            "genres": ", ".join(genres) or "Drama",
            "year": str(1950 + 10 * (n // 12 % 6) + n % 10),
            "director": director,
        }
        made[str(n)] = Item(str(n), f"Film {n}", text)
    return made


ITEMS = catalogue()
SHARED = Interests(ITEMS)
SCIFI = [i for i, item in ITEMS.items() if "Sci-Fi" in item.text["genres"]]
HORROR = [i for i, item in ITEMS.items() if "Horror" in item.text["genres"] and "Sci-Fi" not in item.text["genres"]]


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_base)


def events(ids: list[str], rating: float | None = None) -> tuple[Event, ...]:
    return tuple(Event(i, float(n), rating) for n, i in enumerate(ids))


# --- the line ---------------------------------------------------------------------------------------


def test_a_line_of_real_attributes() -> None:
    scott = [i for i, item in ITEMS.items() if item.text["director"] == "Ridley Scott"]
    nineties = [i for i, item in ITEMS.items() if item.text["year"].startswith("199")]
    assert SHARED.line(events(SCIFI[::2])) == "mostly Sci-Fi"
    assert "often Ridley Scott (director)" in SHARED.line(events([*scott, *SCIFI[::3]]))
    assert "from the 1990s" in SHARED.line(events(nineties[:20]))
    rated = (*events(SCIFI[:15], 5.0), *events(HORROR[:15], 1.0))
    assert SHARED.line(rated).endswith("; rates Sci-Fi high and Horror low")
    assert Interests(ITEMS, language="zh").line(rated).endswith("；对Sci-Fi评分高；对Horror评分低")


def test_what_everybody_has_is_no_interest() -> None:
    """The whole catalogue, and a sample of it: half Drama, as the catalogue is."""
    assert SHARED.line(events(list(ITEMS))) == ""
    drawn = random.Random(3).sample(list(ITEMS), 60)
    assert "Drama" not in SHARED.line(events(drawn))


def test_a_few_events_make_no_line() -> None:
    assert Interests(ITEMS)(events(SCIFI[: LEAST - 1])) == {}
    assert Interests(ITEMS)(()) == {}
    assert "often" not in SHARED.line(events(["0"] * 20)), "one film again and again is no taste in people"
    assert Interests({}).line(events(["1"] * 9)) == ""
    assert Interests({"1": Item("1", "Bare")}).line(events(["1"] * 9)) == ""


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(ITEMS)), st.sampled_from([None, 1.0, 3.0, 5.0, float("nan")])), max_size=40
    )
)
def test_lines_are_deterministic_and_name_only_what_is_there(told: list[tuple[str, float | None]]) -> None:
    history = tuple(Event(i, None, r) for i, r in told)
    line = SHARED.line(history)
    assert line == SHARED._made(history) == SHARED._made(tuple(reversed(history)))
    texts = " ".join(" ".join(ITEMS[i].text.values()) for i, _ in told)
    for word in (*GENRES, "Western", *DIRECTORS):
        assert word not in line or word in texts


def test_a_line_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    interests = Interests(ITEMS)
    history = events(SCIFI[:20])
    first = interests.line(history)
    monkeypatch.setattr(Interests, "_made", lambda self, told: f"made of {len(told)}")
    assert interests.line(history) == first
    assert interests.line((*history[:-1], replace(history[-1], rating=1.0))) == "made of 20"
    monkeypatch.setattr(module, "KEPT", 1)
    interests.line(history[:-1])
    interests.line(history[:-2])
    assert len(interests._lines) <= 3


def test_an_item_added_later_counts_by_its_own_text() -> None:
    new = {f"n{n}": Item(f"n{n}", "New", {"genres": "Sci-Fi"}) for n in range(9)}
    assert Interests(ITEMS, {**ITEMS, **new}).line(events(list(new))) == "mostly Sci-Fi"
    assert SHARED.line(events(list(new))) == "", "unknown items are passed over"


def test_hostile_attributes_stay_one_clean_line(tokenizer: Any) -> None:
    bad = "Scare\n<im_end>\u202e\ue000" + "!" * 500
    items = {str(n): Item(str(n), f"T{n}", {"genres": bad if n < 20 else GENRES[n % 4]}) for n in range(80)}
    line = Interests(items).line(events([str(n) for n in range(12)]))
    assert line.startswith("mostly Scare <im_end>!!!")
    assert len(line) < 100
    s = serve(tokenizer, items, Interests(items))
    prompt = s.prompt(prompting.load("next_item"), Request("r", history=events([str(n) for n in range(16)])))
    bare = serve(tokenizer, items).prompt(prompting.load("next_item"), Request("r", profile={"a": "b"}))
    assert np.isin(prompt.token_ids, s.encoder.reserved).sum() == np.isin(bare.token_ids, s.encoder.reserved).sum()


# --- prompts ----------------------------------------------------------------------------------------


def serve(tokenizer: Any, items: dict[str, Item], summing: Interests | None = None, **config: Any) -> Serializer:
    told = PromptConfig(**{"max_tokens": 4000, "max_history": 4, "max_sequence": 8, **config})
    return Serializer(tokenizer, items, Wording(person="viewer"), ShowFields(), told, lambda i: (), summing)


def test_prompts_sum_up_what_their_window_leaves_out(tokenizer: Any) -> None:
    history = events([*SCIFI[::3], *HORROR[::3][:16]])
    plain, told = serve(tokenizer, ITEMS), serve(tokenizer, ITEMS, Interests(ITEMS))
    request = Request("r", "u", history, profile={"age": "24"})
    text = told.describe(told.prompt(prompting.load("next_item"), request))
    assert "About this viewer: interests mostly Sci-Fi and Horror, age 24." in text
    sequence = told.describe(told.prompt(prompting.load("sequence_profile"), request))
    line = Interests(ITEMS).line(history[:-8])
    assert f"About this viewer: interests {line}, age 24." in sequence
    assert "Horror" not in line, "its window holds half of it"
    assert "interests" not in plain.describe(plain.prompt(prompting.load("next_item"), request))
    short = replace(request, history=history[:4])
    assert "interests" not in told.describe(told.prompt(prompting.load("next_item"), short))
    own = replace(request, profile={"interests": "chess"})
    assert "viewer: interests chess." in told.describe(told.prompt(prompting.load("next_item"), own)), "their own word"


def test_a_summed_request_keeps_its_line_when_its_history_is_cut(tokenizer: Any) -> None:
    told, template = serve(tokenizer, ITEMS, Interests(ITEMS)), prompting.load("next_item")
    request = Request("r", "u", events(SCIFI[:20]))
    summed = told.summed(template, request)
    cut = replace(summed, history=summed.history[-4:])
    np.testing.assert_array_equal(told.prompt(template, request).token_ids, told.prompt(template, cut).token_ids)


# --- training ---------------------------------------------------------------------------------------


def material(tokenizer: Any, items: np.ndarray, ratings: np.ndarray | None = None) -> Material:
    ids = tuple(ITEMS)
    count = len(items)
    ratings = np.full(count, 4.0, "f4") if ratings is None else ratings
    train = Interactions(("u",), ids, np.array([0, count]), items, np.arange(count, dtype=float), ratings)
    s = serve(tokenizer, ITEMS, Interests(ITEMS))
    templates = {t: prompting.load(TEMPLATES.get(t, t)) for t in MAKE}
    return Material(train, s, templates, s.config, interests=s.interests)


TRAIN = np.array([int(i) for i in [*SCIFI[:25], *HORROR[:25]]])


def test_training_says_what_serving_would_say(tokenizer: Any) -> None:
    made = material(tokenizer, TRAIN)
    task, template = MAKE["next_title"](made), prompting.load("next_item")
    for seed in range(8):
        example = task.example(0, np.random.default_rng(seed))
        assert example is not None
        size = int(np.argmax(example.labels >= 0)) + 1
        shown = len(example.prompt.history)
        stop = next(n for n in range(50) if made.train.item_ids[TRAIN[n]] == example.prompt.history[-1]) + 1
        config = made.serializer.config.model_copy(update={"max_history": shown})
        serving = serve(tokenizer, ITEMS, Interests(ITEMS), **config.model_dump())
        request = Request("u", "u", made.events(0, 0, stop))
        expected = serving.prompt(template, request, candidates=[made.train.item_ids[TRAIN[stop]]])
        np.testing.assert_array_equal(example.prompt.token_ids[:size], expected.token_ids)


def test_events_after_the_cut_change_nothing(tokenizer: Any) -> None:
    for seed in range(5):
        one = MAKE["next_title"](material(tokenizer, TRAIN)).example(0, np.random.default_rng(seed))
        assert one is not None
        cut = next(n for n in range(50) if str(TRAIN[n]) == one.prompt.history[-1]) + 1
        items, ratings = TRAIN.copy(), np.full(50, 4.0, "f4")
        items[cut:], ratings[cut:] = items[cut:][::-1], 1.0
        other = MAKE["next_title"](material(tokenizer, items, ratings)).example(0, np.random.default_rng(seed))
        assert other is not None
        size = int(np.argmax(one.labels >= 0)) + 1
        np.testing.assert_array_equal(one.prompt.token_ids[:size], other.prompt.token_ids[:size])


def test_validation_and_test_items_enter_no_training_prompt(tokenizer: Any, tiny_data: Path) -> None:
    from palate.data.splits import leave_one_out

    data = Dataset.open(tiny_data)
    whole = data.histories.interactions
    changed = replace(whole, items=whole.items.copy(), ratings=whole.ratings.copy())
    ends = whole.indptr[1:]
    for place in (ends - 1, ends - 2):
        changed.items[place] = (changed.items[place] + 5) % len(data.catalog)
        changed.ratings[place] = 1.0
    prompts = []
    for numbers in (whole, changed):
        s = serve(tokenizer, dict(data.catalog), Interests(data.catalog), max_history=2)
        templates = {t: prompting.load(TEMPLATES.get(t, t)) for t in MAKE}
        made = Material(leave_one_out(numbers).train, s, templates, s.config, interests=s.interests)
        drawn = [MAKE["next_title"](made).example(u, np.random.default_rng(u)) for u in range(10)]
        prompts.append([e.prompt.token_ids.tolist() for e in drawn if e is not None])
    assert prompts[0] == prompts[1]


def test_a_bundle_switches_it_on(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    from facade import tiny_bundle
    from palate import Recommender

    prompt = {"max_tokens": 700, "max_history": 2, "interests": True}
    rec = Recommender.load(tiny_bundle(tmp_path / "b", tiny_base, tiny_data, {"prompt": prompt}), data=tiny_data)
    telling = [u for u in rec.dataset.histories if rec.serializer.interests(rec.request(u).history[:-2])]  # type: ignore[misc]
    assert telling
    request = rec.request(telling[0])
    text = rec.serializer.describe(rec.serializer.prompt(prompting.load("yes_no"), request, ["1"]))
    assert "About this viewer: interests mostly" in text
    assert rec.recommend(telling[0], k=2, mode="yes_no", pool=3)
    found = rec.explain(rec.shelf.item_ids[0], user=telling[0], mode="yes_no")
    assert len(found.contributions) <= 2
