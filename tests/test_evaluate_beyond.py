"""What is beyond accuracy, against brute force, scikit-learn and SciPy."""

from __future__ import annotations

import json
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import rankdata
from sklearn.metrics.pairwise import cosine_distances

from palate.evaluate import evaluate
from palate.evaluate.baselines import baseline
from palate.evaluate.beyond import MEASURES, Observer, distances, eligible, gini, percentiles, self_information
from palate.evaluate.report import beyond_facts, beyond_table, to_dict, to_markdown
from palate.recommender.fields import profile
from palate.recommender.likeness import alike, by_labels, by_vectors, label_field
from palate.schema import Features, Item
from test_evaluate_protocol import FULL, TWENTY, interactions, random_interactions
from test_evaluate_run import Fixed, dataset

DATA = random_interactions(users=60)
KINDS = ["Action", "Comedy", "Drama", "War"]
TRAIN = FULL.split(DATA).train


def catalogue(labels=True):
    """Sixty items with two labels of four, and a title that says nothing."""
    pairs = list(combinations(KINDS, 2))
    return [
        Item(i, f"item {n}", {"genres": " ".join(pairs[n % 6])} if labels else {}) for n, i in enumerate(DATA.item_ids)
    ]


ITEMS = catalogue()
FIELDS = profile(ITEMS)


def likeness(items):
    return alike([ITEMS[n] for n in items], FIELDS, {})


@settings(deadline=None)
@given(arrays(np.int64, st.integers(1, 20), elements=st.integers(0, 9)))
def test_gini_is_the_mean_difference_over_twice_the_mean(counts):
    expected = np.abs(counts[:, None] - counts[None]).mean() / (2 * counts.mean()) if counts.sum() else 0.0
    assert gini(counts) == pytest.approx(expected)
    assert 0 <= gini(counts) <= 1


@settings(deadline=None)
@given(arrays(np.int64, st.integers(1, 20), elements=st.integers(0, 5)))
def test_percentiles_agree_with_ranks_and_average_a_half(counts):
    assert percentiles(counts) == pytest.approx((rankdata(counts) - 0.5) / len(counts))
    assert percentiles(counts).mean() == pytest.approx(0.5)


def test_self_information_counts_users_once_and_is_finite_for_new_items():
    train = interactions([[0, 1, 1, 1], [0, 2], [0]], items=4)
    assert self_information(train).tolist() == pytest.approx([0.0, 1.0, 1.0, 2.0])


def sets(item):
    return set(item.text["genres"].split())


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 59), max_size=6, unique=True), min_size=1, max_size=5))
def test_diversity_by_labels_is_the_mean_jaccard_distance(lists):
    places = np.full((len(lists), 6), -1)
    for row, items in zip(places, lists, strict=True):
        row[: len(items)] = items
    found = distances(by_labels(ITEMS, FIELDS["genres"]), places)
    for value, items in zip(found, lists, strict=True):
        pairs = [(sets(ITEMS[a]), sets(ITEMS[b])) for a, b in combinations(items, 2)]
        if pairs:
            assert value == pytest.approx(np.mean([1 - len(a & b) / len(a | b) for a, b in pairs]), abs=1e-6)
        else:
            assert np.isnan(value)


def test_diversity_by_vectors_is_the_mean_cosine_distance_of_those_that_have_one():
    rng = np.random.default_rng(4)
    vectors, present = rng.standard_normal((8, 5)).astype(np.float32), np.arange(8) != 2
    table = by_vectors(vectors, present, "text vectors")
    expected = cosine_distances(vectors)
    both = np.mean([expected[a, b] for a, b in combinations([0, 3, 5], 2)])
    found = distances(table, np.array([[0, 2, 3, 5], [2, 4, -1, -1]]))
    assert found[0] == pytest.approx(both, abs=1e-6)
    assert np.isnan(found[1])  # one known item has no distance


def test_labels_come_first_then_content_vectors_then_nothing():
    bare = catalogue(labels=False)
    ids = tuple(DATA.item_ids)
    table = Features("text", ids[::-1], np.eye(60, dtype=np.float32)[::-1], np.arange(60) != 59, "test")
    behaviour = Features("behaviour", ids, np.ones((60, 2), np.float32), np.ones(60, bool), "test")
    assert alike(ITEMS, FIELDS, {"text": table}).name == "labels in 'genres'"
    by_text = alike(bare, profile(bare), {"behaviour": behaviour, "text": table})
    assert by_text.name == "text vectors"
    assert by_text.known.tolist() == [n != 0 for n in range(60)]  # rows are found by id
    assert (by_text.rows[1:] == np.eye(60)[1:]).all()
    assert alike(bare, profile(bare), {"behaviour": behaviour}) is None  # who chose an item is not what it is


def test_the_label_field_is_the_broad_one_that_says_most():
    people = [f"Person {n}" for n in range(60)]
    items = [
        Item(str(n), "t", {"star": people[n], "rated": "PG", "kind": f"{KINDS[n % 4]}, {KINDS[(n + 1) % 4]}"})
        for n in range(60)
    ]
    assert label_field(profile(items)).name == "kind"
    assert label_field(profile([Item("a", "t"), Item("b", "t")])) is None


def top_of(system, protocol=FULL):
    found = evaluate(dataset(DATA), [system], protocol, likeness=likeness)
    return found.systems[0]


def test_one_list_for_everybody_against_a_list_of_ones_own():
    same = top_of(Fixed("same", lambda case, items: -items))
    spread = top_of(Fixed("spread", lambda case, items: -((items - 7 * case.user) % 60)))
    assert same.beyond.coverage < 0.4 < spread.beyond.coverage == 1
    assert same.beyond.gini > 0.7 > 0.3 > spread.beyond.gini


def test_popular_lists_are_popular_not_new_and_lifted():
    counts = np.bincount(TRAIN.items, minlength=60)
    popular = top_of(Fixed("popular", lambda case, items: counts[items])).beyond.per_user
    niche = top_of(Fixed("niche", lambda case, items: -counts[items])).beyond.per_user
    assert popular["popularity"].low > 0.5 > niche["popularity"].high
    assert popular["novelty"].high < niche["novelty"].low
    assert popular["lift"].low > 0 > niche["lift"].high


def test_lift_and_novelty_by_hand():
    system = top_of(Fixed("by id", lambda case, items: -items))
    level = percentiles(np.bincount(TRAIN.items, minlength=60))
    bits = self_information(TRAIN)
    cases = FULL.cases(DATA)
    assert system.beyond.per_user["novelty"].value == pytest.approx(np.mean([bits[row].mean() for row in system.top]))
    lifts = [level[row].mean() - level[c.history].mean() for row, c in zip(system.top, cases, strict=True)]
    assert system.beyond.per_user["lift"].value == pytest.approx(np.mean(lifts))
    assert system.beyond.per_user["lift"].n == 60


def test_lists_of_like_items_are_less_diverse():
    alone = top_of(Fixed("one kind", lambda case, items: items % 6 == 0))
    mixed = top_of(Fixed("by id", lambda case, items: -items))
    assert alone.beyond.per_user["diversity"].high < mixed.beyond.per_user["diversity"].low
    assert alone.beyond.distance == "Jaccard distance of labels in 'genres'"


def test_who_was_recommended_nothing_is_left_out_and_counted():
    observer = Observer(FULL.cases(DATA), TRAIN, likeness)
    top = np.full((60, 10), -1)
    nobody = observer.measure(top)
    assert (nobody.coverage, nobody.gini, nobody.per_user) == (0, 0, {})
    top[0, :2] = [3, 4]
    top[1, 0] = 5
    some = observer.measure(top)
    assert {name: i.n for name, i in some.per_user.items()} == {
        "diversity": 1,
        "novelty": 2,
        "popularity": 2,
        "lift": 2,
    }
    assert some.coverage == 3 / 60


def test_only_items_that_somebody_could_be_recommended_count():
    assert eligible(FULL.cases(DATA), 60).all()
    cases = TWENTY.cases(DATA)[:1]
    assert np.flatnonzero(eligible(cases, 60)).tolist() == sorted(cases[0].candidates.tolist())
    full = Observer(cases, TRAIN).measure(cases[0].candidates[None])
    assert (full.coverage, full.gini) == (1, 0)


def test_reports_show_every_measure_and_what_distance_was_used():
    systems = [baseline("popularity", TRAIN), Fixed("by | id", lambda case, items: -items)]
    found = evaluate(dataset(DATA), systems, FULL, likeness=likeness)
    plain = json.loads(json.dumps(to_dict(found)))["systems"][0]["beyond"]
    assert set(plain) == {"coverage", "gini", "diversity", "novelty", "popularity", "lift", "distance"}
    assert plain["novelty"]["low"] <= plain["novelty"]["value"] <= plain["novelty"]["high"]
    text = to_markdown(found)
    assert f"| system | {' | '.join(MEASURES)} |" in text
    assert f"| popularity | {plain['coverage']:.3f} | {plain['gini']:.3f} |" in text
    assert "diversity: Jaccard distance of labels in 'genres'" in text
    assert "loo-full tells more" not in text
    assert beyond_table(found).row_count == 2
    short = evaluate(dataset(DATA), systems[:1], TWENTY)
    assert "Lists hold 20 candidates" in beyond_facts(short)
    assert "not told: the items have neither labels nor content vectors" in beyond_facts(short)
    assert "diversity" not in to_dict(short)["systems"][0]["beyond"]
