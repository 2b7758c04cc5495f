"""The index of item vectors: the exact one is brute force, the approximate one says how far it is from that."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.engine import index as module
from palate.engine.index import Index
from palate.errors import ConfigError, RequestError


def clustered(rows: int, width: int = 24, seed: int = 0) -> np.ndarray:
    """Float32 vectors around 40 centres, of different lengths."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((40, width))
    vectors = centres[rng.integers(0, 40, rows)] + 0.5 * rng.standard_normal((rows, width))
    return np.asarray(vectors * rng.uniform(0.5, 1.5, (rows, 1)), dtype=np.float32)


def brute(vectors: np.ndarray, query: np.ndarray, k: int, mask: np.ndarray | None) -> list[int]:
    scores = vectors @ query
    legal = range(len(vectors)) if mask is None else np.flatnonzero(mask).tolist()
    return sorted(legal, key=lambda n: (-scores[n], n))[:k]


@given(
    st.integers(1, 60),
    st.integers(1, 70),
    st.integers(1, 9),
    st.sampled_from([None, 0.0, 0.1, 0.5, 1.0]),
    st.integers(0, 2**16),
)
def test_exact_is_brute_force(rows: int, k: int, block: int, share: float | None, seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = rng.integers(-2, 3, (rows, 3)).astype(np.float32)  # whole numbers: many equal products, none rounded
    queries = rng.integers(-2, 3, (2, 3)).astype(np.float32)
    mask = None if share is None else rng.random(rows) < share
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", block)
        found, scores = Index.build(vectors).search(queries, k, mask)
    assert found.shape == scores.shape == (2, k)
    for query, own, values in zip(queries, found, scores, strict=True):
        wanted = brute(vectors, query, k, mask)
        assert own.tolist() == wanted + [-1] * (k - len(wanted))
        np.testing.assert_array_equal(values[: len(wanted)], vectors[wanted] @ query)
        assert (values[len(wanted) :] == -np.inf).all()


def test_a_mask_a_query() -> None:
    vectors = clustered(50)
    masks = np.random.default_rng(1).random((3, 50)) < 0.4
    found, _ = Index.build(vectors).search(vectors[:3], 5, masks)
    assert [row.tolist() for row in found] == [brute(vectors, q, 5, m) for q, m in zip(vectors[:3], masks, strict=True)]


@pytest.fixture(scope="module")
def approximate() -> Index:
    pytest.importorskip("faiss")
    return Index.build(clustered(6_000), kind="approximate", probes=12)


@pytest.fixture
def lists_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filters that leave few rows are not answered exactly."""
    monkeypatch.setattr(module, "FEW", 0)


@pytest.mark.usefixtures("lists_only")
def test_approximate_finds_most_and_scores_exactly(approximate: Index) -> None:
    queries = clustered(50, seed=5)
    found, scores = approximate.search(queries, 10)
    assert approximate.recall(queries, 10) > 0.9
    for query, own, values in zip(queries, found, scores, strict=True):
        np.testing.assert_allclose(values, approximate.vectors[own] @ query, rtol=1e-5)
        assert (np.diff(values) <= 0).all()
        assert len(set(own.tolist())) == 10


@pytest.mark.usefixtures("lists_only")
@settings(max_examples=20)
@given(st.floats(0.03, 1), st.integers(1, 60), st.integers(0, 99))
def test_approximate_keeps_to_the_filter(approximate: Index, share: float, k: int, seed: int) -> None:
    mask = np.random.default_rng(seed).random(len(approximate)) < share
    found, _ = approximate.search(clustered(4, seed=seed), k, mask)
    assert (found >= 0).all()
    assert mask[found].all()


@pytest.mark.usefixtures("lists_only")
def test_approximate_never_ends_before_the_legal_rows_do(approximate: Index) -> None:
    mask = np.zeros(len(approximate), dtype=bool)
    mask[[7, 77, 777, 5_777]] = True
    query = clustered(1, seed=8)
    found, _ = approximate.search(query, 6, mask)
    assert found[0].tolist() == [*brute(approximate.vectors, query[0], 4, mask), -1, -1]


def test_few_legal_rows_are_searched_exactly(approximate: Index) -> None:
    mask = np.random.default_rng(3).random(len(approximate)) < 0.2
    assert approximate.recall(clustered(20, seed=6), 10, mask) == 1.0


def test_recall_is_what_it_says(approximate: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEW", 0)
    monkeypatch.setattr(approximate, "probes", 1)
    queries = clustered(30, seed=7)
    found, _ = approximate.search(queries, 20)
    shares = [
        len(set(f.tolist()) & set(brute(approximate.vectors, q, 20, None))) / 20
        for f, q in zip(found, queries, strict=True)
    ]
    assert approximate.recall(queries, 20) == pytest.approx(np.mean(shares))
    assert approximate.recall(queries, 20) < 1
    assert Index.build(approximate.vectors).recall(queries, 20) == 1.0


def test_lists_do_not_multiply_with_the_rows(approximate: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    assert approximate._inverted.nlist == 6_000 // module.PER_LIST
    monkeypatch.setattr(module, "LISTS", 16)
    assert Index.build(clustered(3_000), "approximate")._inverted.nlist == 16


@pytest.mark.parametrize("kind", ["exact", "approximate"])
def test_saved_and_mapped(kind: str, tmp_path: Path) -> None:
    if kind == "approximate":
        pytest.importorskip("faiss")
    built = Index.build(clustered(2_000), kind)  # type: ignore[arg-type]
    built.save(tmp_path / "index")
    built.save(tmp_path / "index")  # in the place of the first
    assert [p.name for p in tmp_path.iterdir()] == ["index"]
    loaded = Index.load(tmp_path / "index")
    assert isinstance(loaded.vectors, np.memmap)
    assert (loaded.kind, len(loaded), loaded.probes) == (kind, 2_000, built.probes)
    queries = clustered(5, seed=2)
    for one, other in zip(built.search(queries, 7), loaded.search(queries, 7), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_mapped_array_is_not_copied(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", clustered(100))
    rows = np.load(tmp_path / "rows.npy", mmap_mode="r")
    assert Index.build(rows).vectors is rows


def test_what_is_no_index_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"expected an index that `Index\.save` wrote"):
        Index.load(tmp_path)
    Index.build(clustered(10)).save(tmp_path / "index")
    np.save(tmp_path / "index" / "vectors.npy", clustered(9))
    with pytest.raises(RequestError, match="build it again"):
        Index.load(tmp_path / "index")


def test_without_faiss_exact_works_and_approximate_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    rows = clustered(30)
    assert Index.build(rows).search(rows[:1], 1)[0].shape == (1, 1)
    with pytest.raises(ConfigError, match=r"pip install 'palate\[scale\]'.* or use kind 'exact'"):
        Index.build(rows, "approximate")


def test_wrong_input_is_named() -> None:
    rows = clustered(10)
    with pytest.raises(ConfigError, match="did you mean 'approximate'"):
        Index.build(rows, "aproximate")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="probes: expected a number of at least 1, got 0"):
        Index.build(rows, probes=0)
    with pytest.raises(RequestError, match=r"\[N, E\] in float32, got \[10, 24\] float64"):
        Index.build(rows.astype(np.float64))  # type: ignore[arg-type]
    broken = rows.copy()
    broken[4, 2] = np.nan
    with pytest.raises(RequestError, match="row 4 holds NaN"):
        Index.build(broken)
    index = Index.build(rows)
    with pytest.raises(RequestError, match=r"expected queries of shape \[Q, 24\], got \[1, 23\]"):
        index.search(rows[:1, :23], 3)
    with pytest.raises(RequestError, match="k of at least 1, got 0"):
        index.search(rows[:1], 0)
    with pytest.raises(RequestError, match=r"`allowed` of 10 booleans, got bool \[9\]"):
        index.search(rows[:1], 3, np.ones(9, dtype=bool))
    with pytest.raises(RequestError, match="a mask for each of 2 queries, got 3"):
        index.search(rows[:2], 3, np.ones((3, 10), dtype=bool))
