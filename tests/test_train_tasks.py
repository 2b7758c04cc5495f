"""The task mixture: what is supervised, that it reads right, and that nothing held out gets in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from palate import prompting
from palate.config import TASKS, PromptConfig, TasksConfig
from palate.data import Dataset
from palate.data.splits import leave_one_out
from palate.errors import ConfigError, DataError
from palate.schema import Interactions
from palate.train.mixture import Mixture
from palate.train.task import IGNORE, Example, Material
from palate.train.tasks import TEMPLATES, Embedding

SHARES = TasksConfig(embedding=1, next_title=1, yes_no=1, letters=1, rating=1)


@pytest.fixture(scope="module")
def dataset(tiny_data: Path) -> Dataset:
    return Dataset.open(tiny_data)


@pytest.fixture(scope="module")
def serializer(dataset: Dataset, tiny_base: Path) -> prompting.Serializer:
    return serialize(dataset, tiny_base, PromptConfig(max_tokens=2000))


def serialize(dataset: Dataset, base: Path, config: PromptConfig) -> prompting.Serializer:
    tokenizer = AutoTokenizer.from_pretrained(base)
    return prompting.Serializer(
        tokenizer, dataset.catalog, dataset.wording, dataset.show, config, lambda item: (("behaviour", 1),)
    )


def material(serializer: prompting.Serializer, train: Interactions, dataset: Dataset, **config: Any) -> Material:
    templates = {task: prompting.load(TEMPLATES.get(task, task)) for task in TASKS}
    prompt = PromptConfig(**{"max_tokens": 2000, **config})
    return Material(train, serializer, templates, prompt, dataset.users)


@pytest.fixture(scope="module")
def made(serializer: prompting.Serializer, dataset: Dataset) -> Material:
    return material(serializer, leave_one_out(dataset.histories.interactions).train, dataset)


def examples(mixture: Mixture, epoch: int = 0) -> list[Example]:
    found = [mixture.example(epoch, place) for place in range(mixture.size)]
    return [e for e in found if e is not None]


def of(task: str, made: Material, **shares: float) -> list[Example]:
    only = TasksConfig(**{**dict.fromkeys(TASKS, 0.0), task: 1.0, **shares})
    return examples(Mixture(made, only, seed=3))


def answer(example: Example, serializer: prompting.Serializer) -> str:
    """What the labels spell, and that each label is the token after its position."""
    where = np.flatnonzero(example.labels != IGNORE)
    assert (example.prompt.token_ids[where + 1] == example.labels[where]).all()
    assert (np.diff(where) == 1).all()
    assert where[-1] == len(example) - 2  # the answer is the end, and nothing else is supervised
    return serializer.encoder.decode(example.labels[where])


def shown(example: Example, serializer: prompting.Serializer) -> str:
    return serializer.describe(example.prompt)


# --- what the labels say --------------------------------------------------------------------------------


def test_next_title_spells_a_title_that_follows_the_history(made: Material, dataset: Dataset) -> None:
    found = of("next_title", made)
    assert len(found) == 30
    for e in found:
        said = answer(e, made.serializer)
        title, end = said[: -len("<|im_end|>")], said[-len("<|im_end|>") :]
        assert end == "<|im_end|>"
        [item] = [i for i in dataset.catalog if dataset.catalog[i].title == title]
        follows = [*e.prompt.history, item]
        assert any(_contains(_ids(made.train, u), follows) for u in range(len(made.train)))
        assert len(e.prompt.history) >= 1


def test_yes_no_says_yes_for_the_next_item_and_no_for_an_unseen_one(made: Material) -> None:
    found = of("yes_no", made)
    said = [answer(e, made.serializer) for e in found]
    assert set(said) == {"Yes", "No"}
    for e, word in zip(found, said, strict=True):
        asked = e.prompt.slots[-1].item_id
        users = [u for u in range(len(made.train)) if _contains(_ids(made.train, u), list(e.prompt.history))]
        follow = [_contains(_ids(made.train, u), [*e.prompt.history, asked]) for u in users]
        unseen = [asked not in _ids(made.train, u) for u in users]
        assert any(follow) if word == "Yes" else any(unseen)


def test_letters_names_the_one_candidate_that_follows(made: Material) -> None:
    found = of("letters", made)
    places = set()
    for e in found:
        letter = answer(e, made.serializer)
        place = ord(letter) - ord("A")
        listed = [s.item_id for s in e.prompt.slots[len(e.prompt.history) :]]
        assert 10 <= len(listed) <= 20
        assert len(set(listed)) == len(listed)
        users = [
            u for u in range(len(made.train)) if _contains(_ids(made.train, u), [*e.prompt.history, listed[place]])
        ]
        assert any(set(_ids(made.train, u)) & set(listed) == {listed[place]} for u in users)
        places.add(place)
    assert len(places) > 5  # the right answer moves about


def test_rating_is_the_digit_the_user_gave(made: Material) -> None:
    found = of("rating", made)
    for e in found:
        digit = answer(e, made.serializer)
        asked = e.prompt.slots[-1].item_id
        given = set()
        for u in range(len(made.train)):
            ids = _ids(made.train, u)
            if _contains(ids, [*e.prompt.history, asked]):
                place = int(made.train.indptr[u]) + ids.index(asked)
                given.add(f"{made.train.ratings[place]:.0f}")
        assert digit in given


def test_rating_is_silent_where_there_are_no_ratings(
    made: Material, serializer: prompting.Serializer, dataset: Dataset
) -> None:
    bare = replace(made.train, ratings=np.full_like(made.train.ratings, np.nan))
    mixture = Mixture(material(serializer, bare, dataset), SHARES, seed=1)
    assert mixture.names == ("embedding", "next_title", "yes_no", "letters")
    with pytest.raises(DataError, match="nothing to train on"):
        Mixture(
            material(serializer, bare, dataset),
            TasksConfig(embedding=0, next_title=0, yes_no=0, letters=0),
            seed=1,
        )


def test_ratings_beyond_the_labels_are_refused(
    made: Material, serializer: prompting.Serializer, dataset: Dataset
) -> None:
    ten = replace(made.train, ratings=made.train.ratings * 2)
    with pytest.raises(ConfigError, match=r"labels 1 to 5, but ratings run from 2 to 10; rescale"):
        Mixture(material(serializer, ten, dataset), SHARES, seed=1)


# --- embedding ------------------------------------------------------------------------------------------


def test_embedding_supervises_every_position_with_the_item_that_follows(made: Material) -> None:
    found = of("embedding", made)
    assert len(found) == len(made.train)
    for e in found:
        assert (e.labels == IGNORE).all()
        assert len(e.reads) == len(e.targets) == len(e.prompt.history) + 1
        assert e.reads[0] == e.prompt.start
        ids = [made.train.item_ids[t] for t in e.targets]
        assert ids[:-1] == list(e.prompt.history)
        assert any(ids == _ids(made.train, u) for u in range(len(made.train)))


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 40])
def test_windows_cover_every_event_every_epoch(
    made: Material, serializer: prompting.Serializer, dataset: Dataset, size: int
) -> None:
    task = Embedding(material(serializer, made.train, dataset, max_sequence=size))
    for seed in range(3):
        covered: dict[int, set[int]] = {}
        for number in range(task.pool):
            user, first, stop = task.window(number, np.random.default_rng([seed, number]))
            assert 0 <= first <= stop < made.lengths[user]
            assert stop - first <= size
            covered.setdefault(user, set()).update(range(first + (first > 0), stop + 1))
        assert {u: len(c) for u, c in covered.items()} == dict(enumerate(made.lengths.tolist()))


def test_a_cut_history_keeps_its_targets_aligned(made: Material, dataset: Dataset, tiny_base: Path) -> None:
    longest = max(len(e) for e in of("embedding", made))
    short = serialize(dataset, tiny_base, PromptConfig(max_tokens=longest - 2, max_sequence=40))
    found = of("embedding", material(short, made.train, dataset, max_sequence=40))
    cut = [e for e in found if e.prompt.dropped]
    assert cut
    for e in cut:
        assert e.targets[0] == -1
        ids = [made.train.item_ids[t] for t in e.targets[1:]]
        assert ids[:-1] == list(e.prompt.history[1:])
        users = [_ids(made.train, u) for u in range(len(made.train))]
        assert any(ids == u[-len(ids) :] for u in users)


def test_skipped_events_leave_what_came_next_as_the_target(made: Material) -> None:
    skipping = replace(made, skip=0.4)
    whole, found = of("embedding", made), of("embedding", skipping)
    shorter = 0
    for e, full in zip(found, whole, strict=True):
        user = made.train.user_index[next(u for u in made.train.user_ids if _ids(made.train, made.train.user_index[u])
                                          == [made.train.item_ids[t] for t in full.targets])]  # fmt: skip
        ids, start = _ids(made.train, user), int(made.train.indptr[user])
        assert len(e.reads) == len(e.targets) == len(e.events) == len(e.prompt.history) + 1
        for item, target, event in zip(e.prompt.history, e.targets[1:], e.events[1:], strict=True):
            assert made.train.items[event] == target
            assert ids[event - start - 1] == item  # the item read is the one right before the target
        assert e.targets[0] == (-1 if e.events[0] > start else made.train.items[start])
        shorter += len(e.prompt.history) < len(full.prompt.history)
    assert shorter
    again = of("embedding", skipping)
    assert all(same(a, b) for a, b in zip(found, again, strict=True))


def test_ties_are_told_in_any_order_and_never_with_their_answer(made: Material) -> None:
    train = made.train
    times = (np.arange(len(train.items)) - train.indptr[train.users]) // 3 * 10.0  # three events a moment
    tied = replace(made, train=replace(train, timestamps=times), shuffle_ties=True)
    plain = of("embedding", replace(tied, shuffle_ties=False))
    moved = 0
    for e, full in zip(of("embedding", tied), plain, strict=True):
        assert len(e.targets) == len(full.targets)
        shown = [train.item_index[i] for i in e.prompt.history]
        for n, (target, event) in enumerate(zip(e.targets, e.events, strict=True)):
            if target >= 0:
                assert train.items[event] == target
                assert target not in shown[:n] or list(train.items[: event + 1]).count(target) > 1
        # what is told at a place is of the same moment as in the file's order
        assert [times[n] for n in e.events] == [times[n] for n in full.events]
        moved += e.prompt.history != full.prompt.history
    assert moved


def test_without_ties_or_without_times_nothing_is_shuffled(made: Material) -> None:
    unknown = replace(made.train, timestamps=np.full(len(made.train.items), np.nan))
    rng = np.random.default_rng(1)
    for train in (made.train, unknown):
        material = replace(made, train=train, shuffle_ties=True)
        assert all((material.order(u, rng) == np.arange(n)).all() for u, n in enumerate(material.lengths.tolist()))


# --- purity and leaks -------------------------------------------------------------------------------------


def same(a: Example, b: Example) -> bool:
    return (
        a.task == b.task
        and a.prompt.slots == b.prompt.slots
        and np.array_equal(a.prompt.token_ids, b.prompt.token_ids)
        and np.array_equal(a.labels, b.labels)
        and np.array_equal(a.targets, b.targets)
    )


def test_an_example_is_a_function_of_seed_epoch_and_place(made: Material) -> None:
    one, two = Mixture(made, SHARES, seed=5), Mixture(made, SHARES, seed=5)
    backwards = [two.example(1, p) for p in reversed(range(two.size))][::-1]
    for place, b in enumerate(backwards):
        a = one.example(1, place)
        assert (a is None and b is None) or (a is not None and b is not None and same(a, b))
    assert not np.array_equal(one.order(0), one.order(1))
    assert not np.array_equal(one.order(0), Mixture(made, SHARES, seed=6).order(0))


def test_order_holds_each_pool_number_once_and_interleaves_tasks(made: Material) -> None:
    mixture = Mixture(made, SHARES, seed=5)
    order = mixture.order(0)
    for number, task in enumerate(mixture.tasks):
        assert sorted(order[order[:, 0] == number, 1]) == list(range(task.pool))
    half = np.bincount(order[: len(order) // 2, 0], minlength=5)
    assert (abs(half - np.array(mixture.counts) / 2) <= 2).all()


def test_a_share_above_one_draws_other_cuts(made: Material) -> None:
    twice = of("next_title", made, next_title=2.0)
    assert len(twice) == 60
    assert len({e.prompt.token_ids.tobytes() for e in twice}) > 45


def test_held_out_items_change_no_example(made: Material, serializer: prompting.Serializer, dataset: Dataset) -> None:
    """Replace every validation and test item by another: all examples of two epochs stay the same, byte by
    byte.
    """
    whole = dataset.histories.interactions
    other = whole.items.copy()
    for u in range(len(whole)):
        stop = int(whole.indptr[u + 1])
        unused = np.setdiff1d(np.arange(len(whole.item_ids)), whole.sequence(u))
        other[stop - 2 : stop] = unused[:2]
    assert not np.array_equal(other, whole.items)
    split = leave_one_out(replace(whole, items=other))
    swapped = Mixture(material(serializer, split.train, dataset), SHARES, seed=5)
    mixture = Mixture(made, SHARES, seed=5)
    for epoch in range(2):
        for a, b in zip(examples(mixture, epoch), examples(swapped, epoch), strict=True):
            assert same(a, b)


def test_no_held_out_item_is_shown_or_taught_as_chosen(made: Material, dataset: Dataset) -> None:
    """A held-out item is never history, never a target, never answered Yes, rated or picked, for its user."""
    split = leave_one_out(dataset.histories.interactions)
    names = {s: u for u, s in enumerate(split.train.user_ids)}
    seen: list[tuple[str, str]] = []

    class Spy(Material):
        def request(self, user: int, first: int, stop: int, *rest: Any, **more: Any) -> Any:
            assert stop < self.lengths[user] or stop == 0
            request = super().request(user, first, stop, *rest, **more)
            seen.extend((request.user_id or "", e.item_id) for e in request.history)
            return request

    spy = Spy(made.train, made.serializer, made.templates, made.prompt, made.profiles)
    assert examples(Mixture(spy, SHARES, seed=2))
    ids = split.train.item_ids
    held = {(split.train.user_ids[u], ids[part[u]]) for part in (split.valid, split.test) for u in names.values()}
    assert len(held) == 60
    assert seen
    assert not held & set(seen)


def test_task_weights_are_checked(made: Material) -> None:
    mixture = Mixture(made, SHARES, seed=1)
    assert mixture.weights({"letters": 0.5}) == [1.0, 1.0, 1.0, 0.5, 1.0]
    with pytest.raises(ConfigError, match="did you mean 'letters'"):
        mixture.weights({"leters": 1})
    with pytest.raises(ConfigError, match="expected a number from 0, got -1"):
        mixture.weights({"rating": -1})


def _ids(train: Interactions, user: int) -> list[str]:
    return [train.item_ids[i] for i in train.sequence(user)]


def _contains(whole: list[str], part: list[str]) -> bool:
    return any(whole[i : i + len(part)] == part for i in range(len(whole) - len(part) + 1))
