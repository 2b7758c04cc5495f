"""Reordering for diversity: invariants, an independent brute force, the recommender and the evaluation."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from typer.testing import CliRunner

from palate.apps.commands import evaluate as command
from palate.errors import ConfigError, RequestError
from palate.evaluate.diverse import DiverseSystem
from palate.recommender.fields import profile
from palate.recommender.likeness import Alike, by_vectors
from palate.recommender.ranking import Ranker
from palate.recommender.rerank import METHODS, dpp, mmr, rerank
from palate.schema import Item
from test_evaluate_protocol import FULL, random_interactions
from test_evaluate_run import Fixed

METHOD = st.sampled_from(sorted(METHODS))
DIVERSITY = st.floats(0.0, 1.0)


@st.composite
def pools(draw, most=12):
    """Scores, best first and often tied, and items of which some are copies and some are not known."""
    size = draw(st.integers(1, most))
    scores = draw(arrays(np.float32, size, elements=st.sampled_from([-3.0, 0.0, 0.5, 2.0, 40.0])))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if draw(st.booleans()):
        rows = (rng.random((size, 4)) < 0.5).astype(np.float32)
        return np.sort(scores)[::-1], Alike("labels", rows, rows.any(axis=1), True)
    vectors = rng.standard_normal((size, 3)).astype(np.float32)
    vectors[rng.random(size) < 0.2] = vectors[0]
    return np.sort(scores)[::-1], by_vectors(vectors, rng.random(size) < 0.8, "vectors")


@settings(deadline=None)
@given(pools(), METHOD, DIVERSITY)
def test_a_whole_pool_is_permuted_and_a_shorter_list_is_its_beginning(pool, method, diversity):
    scores, alike = pool
    order = rerank(scores, alike, diversity, len(scores), method).tolist()
    assert sorted(order) == list(range(len(scores)))
    for k in range(1, len(scores) + 3):
        assert rerank(scores, alike, diversity, k, method).tolist() == order[:k]
    assert order[0] == 0 or diversity == 1  # the best stays first


@settings(deadline=None)
@given(pools(), METHOD, st.integers(1, 12))
def test_at_0_the_order_is_the_plain_one(pool, method, k):
    scores, alike = pool
    assert rerank(scores, alike, 0.0, k, method).tolist() == list(range(min(k, len(scores))))


@settings(deadline=None)
@given(pools(), METHOD, DIVERSITY, st.floats(0.1, 100), st.floats(-50, 50))
def test_only_differences_of_scores_count(pool, method, diversity, scale, shift):
    scores, alike = pool
    whole = np.round(scores.astype(np.float64))  # so that scaling and shifting loses nothing that could break a tie
    moved = whole * 2 ** round(np.log2(scale)) + round(shift)
    first = rerank(whole, alike, diversity, len(scores), method)
    assert first.tolist() == rerank(moved, alike, diversity, len(scores), method).tolist()


@settings(deadline=None)
@given(pools(), METHOD, st.floats(0.01, 1.0))
def test_with_items_all_unlike_the_order_is_the_plain_one(pool, method, diversity):
    scores = pool[0]
    alike = by_vectors(np.eye(len(scores), dtype=np.float32), np.ones(len(scores), bool), "one each")
    assert rerank(scores, alike, diversity, len(scores), method).tolist() == list(range(len(scores)))


def spd(rng, size):
    """A correlation matrix far from singular."""
    rows = rng.standard_normal((size, size + 3))
    kernel = rows @ rows.T + 0.5 * np.eye(size)
    scale = np.sqrt(np.diag(kernel))
    return kernel / scale[:, None] / scale[None]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 7), st.floats(0.05, 0.95), st.integers(0, 2**32 - 1))
def test_greedy_dpp_is_the_greedy_search_over_determinants(size, diversity, seed):
    """Against Chen et al.'s own kernel, weights and all, with a determinant for every step and candidate."""
    rng = np.random.default_rng(seed)
    relevance, similarity = rng.random(size), spd(rng, size)
    weights = np.exp((1 - diversity) / (2 * diversity) * relevance)
    kernel = weights[:, None] * similarity * weights[None]
    chosen: list[int] = []
    while len(chosen) < size:
        left = [i for i in range(size) if i not in chosen]
        chosen.append(max(left, key=lambda i: np.linalg.slogdet(kernel[np.ix_([*chosen, i], [*chosen, i])])[1]))
    assert dpp(relevance, similarity, diversity, size).tolist() == chosen


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 8), DIVERSITY, st.integers(0, 2**32 - 1))
def test_mmr_is_its_formula(size, diversity, seed):
    rng = np.random.default_rng(seed)
    relevance, similarity = rng.random(size), spd(rng, size)
    chosen: list[int] = []
    while len(chosen) < size:

        def worth(i, chosen=tuple(chosen)):
            return (1 - diversity) * relevance[i] - diversity * max((similarity[i, j] for j in chosen), default=0.0)

        chosen.append(max((i for i in range(size) if i not in chosen), key=worth))
    assert mmr(relevance, similarity, diversity, size).tolist() == chosen


KINDS = ["Horror", "Horror", "Horror", "Comedy", "Comedy", "War"]


@pytest.mark.parametrize("method", sorted(METHODS))
def test_copies_wait_behind_other_kinds(method):
    rows = np.array([[kind == other for other in ("Horror", "Comedy", "War")] for kind in KINDS], dtype=np.float32)
    alike = Alike("labels", rows, np.ones(6, bool), True)
    scores = [9.0, 8.9, 8.8, 8.7, 8.6, 8.5]
    order = rerank(scores, alike, 0.9, 6, method)
    assert [KINDS[n] for n in order[:3]] == ["Horror", "Comedy", "War"]
    assert order[3:].tolist() == [1, 2, 4]  # what is left adds no kind, so it goes by relevance


@pytest.mark.parametrize("method", sorted(METHODS))
def test_not_proposed_items_stay_last(method):
    alike = by_vectors(np.eye(4, dtype=np.float32)[[0, 0, 1, 2]], np.ones(4, bool), "vectors")
    assert rerank([2.0, 1.9, -np.inf, -np.inf], alike, 1.0, 4, method).tolist() == [0, 1, 2, 3]
    assert rerank([-np.inf] * 4, alike, 1.0, 2, method).tolist() == [0, 1]


def test_wrong_options_are_named():
    alike = by_vectors(np.eye(2, dtype=np.float32), np.ones(2, bool), "vectors")
    with pytest.raises(RequestError, match=r"from 0 \(the plain order\) to 1, got 1.5"):
        rerank([1.0, 0.0], alike, 1.5, 2)
    with pytest.raises(RequestError, match="from 0"):
        rerank([1.0, 0.0], alike, float("nan"), 2)
    with pytest.raises(RequestError, match="no way to rerank is called 'mrr'; did you mean 'mmr'"):
        rerank([1.0, 0.0], alike, 0.5, 2, "mrr")


# --- in a recommender ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recommender(tiny_base, tiny_data):
    from palate.recommender import Recommender

    return Recommender.load(f"path:{tiny_base}", data=tiny_data)


def test_recommend_reorders_its_pool_and_keeps_scores(recommender):
    user = recommender.dataset.histories.interactions.user_ids[0]
    plain = recommender.recommend(user, k=30, pool=30)
    assert plain == recommender.recommend(user, k=30, pool=30, diversity=0.0, rerank="dpp")
    genres = {r.item_id: recommender.shelf[r.item_id].text["genres"] for r in plain}
    assert len(set(genres.values())) > 1
    for method in sorted(METHODS):
        whole = recommender.recommend(user, k=30, pool=30, diversity=0.9, rerank=method)
        scores = {r.item_id: r.score for r in plain}
        assert {r.item_id: r.score for r in whole} == scores
        assert [r.rank for r in whole] == list(range(1, len(plain) + 1))
        assert [r.item_id for r in whole] != [r.item_id for r in plain]
        few = recommender.recommend(user, k=4, pool=30, diversity=0.9, rerank=method)
        assert [r.item_id for r in few] == [r.item_id for r in whole[:4]]
        assert len({genres[r.item_id] for r in few}) >= len({genres[r.item_id] for r in plain[:4]})
    with pytest.raises(RequestError, match="to 1, got -1"):
        recommender.recommend(user, diversity=-1)


def test_without_labels_and_vectors_it_says_so(recommender):
    items = {i: Item(i, i) for i in "ab"}
    ranker = SimpleNamespace(
        shelf=items, _tables=dict, runner=SimpleNamespace(model=SimpleNamespace(has_matching=False))
    )
    with pytest.raises(ConfigError, match=r"nothing tells how alike items are.*leave diversity at 0"):
        Ranker.likeness(ranker, ["a", "b"], profile(items.values()))


# --- in an evaluation ---------------------------------------------------------------------------------

DATA = random_interactions(users=60)


def likeness(items):
    rows = np.eye(3, dtype=np.float32)[items % 3]
    return Alike("labels", rows, np.ones(len(items), bool), True)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_a_systems_best_are_reordered_and_the_rest_kept_behind_them(method):
    inner = Fixed("x", lambda case, items: np.where(items > 50, -np.inf, -(items // 2)))
    cases = FULL.cases(DATA)[:8]
    outer = DiverseSystem(inner, 60, likeness, 0.5, method, pool=10)
    assert outer.name == f"x, {method} 0.5"
    for case, before, after in zip(cases, inner.score(cases), outer.score(cases), strict=True):
        items = case.items(60)
        head = sorted(range(len(items)), key=lambda n: (-before[n], items[n]))[:10]
        order = np.argsort(-after)[:10]
        assert set(order.tolist()) == set(head)
        expected = rerank(before[head], likeness(items[head]), 0.5, 10, method)
        assert order.tolist() == [head[n] for n in expected]
        rest = np.setdiff1d(np.arange(len(items)), head)
        for better in (np.greater, np.equal):  # ties included
            assert (better.outer(after[rest], after[rest]) == better.outer(before[rest], before[rest])).all()
        assert ((after == -np.inf) == (before == -np.inf)).all()
        assert after[order].min() > after[rest].max()
    with pytest.raises(ConfigError, match="evaluate without --diversity"):
        DiverseSystem(inner, 60, lambda items: None, 0.5, method).score(cases)


@pytest.fixture
def run():
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    return lambda *words: CliRunner().invoke(app, ["evaluate", *map(str, words)])


def test_evaluate_adds_every_system_reordered(run, tiny_data):
    words = [tiny_data, "--protocol", "loo-full", "--against", "popularity", "--json"]
    done = run(*words, "--diversity", "0.8", "--rerank", "dpp", "--metrics", "MAP@10,Precision@5")
    assert done.exit_code == 0, done.output
    plain, diverse = json.loads(done.stdout)["systems"]
    assert (plain["name"], diverse["name"]) == ("popularity", "popularity, dpp 0.8")
    assert diverse["beyond"]["diversity"]["value"] > plain["beyond"]["diversity"]["value"]
    assert list(plain["metrics"]) == ["MAP@10", "Precision@5"]
    assert plain == {**json.loads(run(*words, "--metrics", "MAP@10,Precision@5").stdout)["systems"][0],
                     "seconds": plain["seconds"]}  # fmt: skip
    assert isinstance(run(*words, "--diversity", "2").exception, RequestError)
    assert "did you mean 'MAP@10'" in str(run(*words, "--metrics", "MAP@01").exception)
