"""One contract over every retriever: shapes, empty and unseen histories, determinism, filters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.errors import ConfigError, EmptyLegalSet, FeatureError, RequestError
from palate.retrieve import Retriever, best_indices, build, names
from palate.schema import Features, Interactions

ITEMS = 18
ALL = [
    "bpr", "contentknn", "cornac-sasrec", "dense", "ease", "fused", "gru4rec", "itemknn", "popularity", "sasrec",
    "tiger", "transition", "vbpr",
]  # fmt: skip


def interactions(sequences: Sequence[Sequence[int]], items: int = ITEMS) -> Interactions:
    flat = np.array([i for s in sequences for i in s], dtype=np.int64)
    return Interactions(
        user_ids=tuple(f"u{n}" for n in range(len(sequences))),
        item_ids=tuple(f"i{n}" for n in range(items)),
        indptr=np.cumsum([0, *map(len, sequences)]).astype(np.int64),
        items=flat,
        timestamps=np.arange(len(flat), dtype=np.float64) * 3600,
        ratings=np.full(len(flat), np.nan, dtype=np.float32),
    )


def train() -> Interactions:
    """50 users, 5 items each; item 17 is in no history; low numbers are popular."""
    rng = np.random.default_rng(5)
    weight = 1.0 / np.arange(1, ITEMS)
    return interactions([rng.choice(17, 5, replace=False, p=weight / weight.sum()).tolist() for _ in range(50)])


def features() -> dict[str, Features]:
    """Two modalities; items 0 and 3 lack the picture, item 16 lacks both."""
    rng = np.random.default_rng(6)
    tables = {}
    for modality, missing in (("image", [0, 3, 16]), ("text", [16])):
        present = np.ones(ITEMS, dtype=bool)
        present[missing] = False
        vectors = rng.standard_normal((ITEMS, 6)).astype(np.float32)
        vectors[~present] = 0
        ids = tuple(f"i{n}" for n in range(ITEMS))
        tables[modality] = Features(modality, ids, vectors, present, "f")
    return tables


def fitted(name: str, **options: object) -> Retriever:
    return build(name, **options).fit(train(), features())


def ints(*values: int) -> np.ndarray:
    return np.array(values, dtype=np.int64)


def test_the_folder_is_the_registry() -> None:
    assert names() == ALL


@pytest.fixture(scope="module", params=ALL)
def retriever(request: pytest.FixtureRequest) -> Retriever:
    return fitted(request.param)


def test_scores_are_finite_and_shaped(retriever: Retriever) -> None:
    histories = [ints(1, 2), ints(), ints(0), ints(4, 4, 4), np.arange(ITEMS), ints(17)]
    scores = retriever.scores(histories)
    assert scores.shape == (6, ITEMS)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert retriever.scores([]).shape == (0, ITEMS)


def test_a_row_does_not_depend_on_its_batch(retriever: Retriever) -> None:
    histories = [ints(1, 2), ints(), ints(0, 7, 3), ints(16), ints(5)]
    whole = retriever.scores(histories)
    for n, history in enumerate(histories):
        np.testing.assert_allclose(retriever.scores([history])[0], whole[n], atol=1e-6)


def test_times_of_events_are_taken_by_all(retriever: Retriever) -> None:
    histories = [ints(1, 2), ints(), ints(0, 7, 3)]
    times = [np.array([0.0, 5.0]), np.array([]), np.array([0.0, np.nan, 9.0])]
    timed = retriever.scores(histories, times)
    assert timed.shape == (3, ITEMS)
    assert np.isfinite(timed).all()
    if type(retriever)._timed is Retriever._timed:
        np.testing.assert_array_equal(timed, retriever.scores(histories))
    with pytest.raises(RequestError, match="expected a time for each event of 3 histories, got 2 rows"):
        retriever.scores(histories, times[:2])


def test_an_empty_history_scores_by_popularity(retriever: Retriever) -> None:
    counts = np.bincount(train().items, minlength=ITEMS)
    np.testing.assert_allclose(retriever.scores([ints()])[0], counts / counts.max(), rtol=1e-6)
    best = retriever.top(ints(), 3)
    assert [counts[int(i[1:])] for i in best.item_ids] == sorted(counts)[::-1][:3]


def test_two_fits_agree(retriever: Retriever) -> None:
    histories = [ints(1, 2), ints(0, 7, 3)]
    np.testing.assert_array_equal(fitted(retriever.name).scores(histories), retriever.scores(histories))


def test_top_is_sorted_and_leaves_out_what_was_seen(retriever: Retriever) -> None:
    history = ints(1, 2, 3)
    found = retriever.top(history, 6)
    assert found.source == retriever.name
    assert len(found.item_ids) == len(set(found.item_ids)) == 6
    assert not {"i1", "i2", "i3"} & set(found.item_ids)
    assert (np.diff(found.scores) <= 0).all()
    row = retriever.scores([history])[0]
    np.testing.assert_array_equal(found.scores, row[[int(i[1:]) for i in found.item_ids]])
    assert len(retriever.top(history, 100).item_ids) == ITEMS - 3
    assert len(retriever.top(history, 100, exclude_seen=False).item_ids) == ITEMS


def test_allowed_is_a_mask_or_ids(retriever: Retriever) -> None:
    mask = np.zeros(ITEMS, dtype=bool)
    mask[[2, 5, 9]] = True
    by_mask = retriever.top(ints(2), 5, allowed=mask)
    by_ids = retriever.top([2], 5, allowed={"i9", "i5", "i2"})
    assert set(by_mask.item_ids) == {"i5", "i9"}
    assert by_mask.item_ids == by_ids.item_ids
    assert mask.sum() == 3  # the caller's mask is left alone


def test_wrong_requests_are_named(retriever: Retriever) -> None:
    with pytest.raises(RequestError, match=r"item indices in 0\.\.17, got 18"):
        retriever.scores([ints(18)])
    with pytest.raises(RequestError, match="got -1"):
        retriever.top(ints(-1), 3)
    with pytest.raises(RequestError, match="k of at least 1, got 0"):
        retriever.top(ints(1), 0)
    with pytest.raises(EmptyLegalSet, match="leave no item"):
        retriever.top(ints(2), 3, allowed=["i2"])
    with pytest.raises(RequestError, match="unknown item 'zzz'"):
        retriever.top(ints(2), 3, allowed=["zzz"])
    with pytest.raises(RequestError, match=r"mask of shape \(18,\), got \(3,\)"):
        retriever.top(ints(2), 3, allowed=np.ones(3, dtype=bool))


@pytest.mark.parametrize("name", ALL)
def test_it_must_be_fitted(name: str) -> None:
    with pytest.raises(RequestError, match=f"retriever '{name}' is not fitted"):
        build(name).scores([ints(0)])


def test_build_suggests_names_and_options() -> None:
    with pytest.raises(ConfigError, match=r"no retriever is called 'eas'; did you mean 'ease'\?"):
        build("eas")
    with pytest.raises(ConfigError, match=r"retriever 'ease' has no option 'penalti'; did you mean 'penalty'\?"):
        build("ease", penalti=3)
    with pytest.raises(ConfigError, match="option 'penalty': expected a number above 0, got -1"):
        build("ease", penalty=-1)
    with pytest.raises(ConfigError, match="option 'recency': expected a number above 0 or None, got 0"):
        build("itemknn", recency=0)
    with pytest.raises(FeatureError, match="needs at least one feature table"):
        build("dense").fit(train())
    with pytest.raises(FeatureError, match="no features of modality 'imag'; did you mean 'image'"):
        build("dense", modality="imag").fit(train(), features())


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.5, 1.0, -2.0]), min_size=1, max_size=30), st.integers(1, 35), st.data())
def test_best_indices_is_a_stable_sort(values: list[float], k: int, data: st.DataObject) -> None:
    row = np.array(values, dtype=np.float32)
    legal = np.array(data.draw(st.lists(st.booleans(), min_size=len(row), max_size=len(row))), dtype=bool)
    wanted = sorted(np.flatnonzero(legal), key=lambda i: (-row[i], i))[:k]
    assert best_indices(row, legal, k).tolist() == wanted
