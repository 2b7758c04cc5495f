"""Refitted vectors turned onto the earlier ones: what was rotated comes back, and products stay as they were fitted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.data import Dataset
from palate.data.splits import before
from palate.errors import FeatureError
from palate.features.align import align
from palate.features.encoders import build
from palate.features.encoders.behaviour import Behaviour
from palate.schema import Features


def table(vectors: np.ndarray, first: int = 0, fingerprint: str = "f") -> Features:
    ids = tuple(f"i{n}" for n in range(first, first + len(vectors)))
    return Features("behaviour", ids, vectors.astype(np.float32), np.ones(len(vectors), dtype=bool), fingerprint)


def rotation(width: int, rng: np.random.Generator) -> np.ndarray:
    found, _ = np.linalg.qr(rng.normal(size=(width, width)))
    return np.asarray(found)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999), st.sampled_from([1, 2]), st.integers(2, 6), st.integers(0, 8))
def test_a_rotation_is_undone_for_new_items_too(seed: int, parts: int, width: int, new: int) -> None:
    rng = np.random.default_rng(seed)
    items = 4 * width
    whole = rng.normal(size=(items + new, parts, width))
    turned = (whole @ rotation(width, rng)).reshape(items + new, -1)
    old = table(whole[:items].reshape(items, -1), fingerprint="old")
    aligned, found = align(table(turned, fingerprint="new"), old, parts)
    np.testing.assert_allclose(aligned.vectors, whole.reshape(items + new, -1), atol=1e-4)
    assert (found.shared, aligned.item_ids[items:]) == (items, tuple(f"i{n}" for n in range(items, items + new)))
    assert found.after < 1e-5
    assert found.after <= found.before + 1e-9
    assert aligned.fingerprint not in ("old", "new")


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 999))
def test_products_of_parts_stay(seed: int) -> None:
    """Left of one item times right of another is what a behaviour vector means."""
    rng = np.random.default_rng(seed)
    new, old = table(rng.normal(size=(9, 8))), table(rng.normal(size=(7, 8)))
    aligned, found = align(new, old, 2)
    for vectors in (new.vectors, aligned.vectors):
        assert vectors.shape == (9, 8)
    np.testing.assert_allclose(
        aligned.vectors[:, :4] @ aligned.vectors[:, 4:].T, new.vectors[:, :4] @ new.vectors[:, 4:].T, atol=1e-4
    )
    assert found.after <= found.before + 1e-9


def test_items_without_a_vector_stay_empty_and_do_not_vote() -> None:
    rng = np.random.default_rng(1)
    vectors = rng.normal(size=(6, 4))
    present = np.array([True] * 5 + [False])
    old = replace(table(vectors), present=present)
    new = replace(table((vectors @ rotation(4, rng)) * present[:, None]), present=present)
    aligned, found = align(new, old)
    assert found.shared == 5
    assert not aligned.vectors[5].any()
    np.testing.assert_allclose(aligned.vectors[:5], vectors[:5], atol=1e-5)


def test_what_cannot_be_aligned_is_said() -> None:
    rng = np.random.default_rng(1)
    with pytest.raises(FeatureError, match=r"behaviour: expected vectors of 4 numbers in 1 parts, got 6"):
        align(table(rng.normal(size=(3, 6))), table(rng.normal(size=(3, 4))))
    with pytest.raises(FeatureError, match="no item has both an old and a new vector"):
        align(table(rng.normal(size=(3, 4))), table(rng.normal(size=(3, 4)), first=10))


def test_a_refitted_behaviour_encoder_comes_nearer(tiny_data) -> None:  # type: ignore[no-untyped-def]
    """Real singular vectors, fitted on part of the events and on all of them."""
    dataset = Dataset.open(tiny_data)
    events = dataset.histories.interactions
    items = [dataset.catalog[i] for i in dataset.catalog.item_ids]
    tables = []
    for known in (before(events, float(np.quantile(events.timestamps, 0.8))), events):
        encoder = build({"behaviour": _options(dims=8)})["behaviour"]
        assert isinstance(encoder, Behaviour)
        vectors, present, _ = encoder.fit(known).encode(items)
        tables.append(Features("behaviour", dataset.catalog.item_ids, vectors, present, encoder.fingerprint))
    _, found = align(tables[1], tables[0], Behaviour.parts)
    assert found.after < 0.75 * found.before


def _options(**options: int):  # type: ignore[no-untyped-def]
    from palate.config import EncoderConfig

    return EncoderConfig(options=options)
