"""The report on predicted ratings against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk

from palate.errors import DataError
from palate.evaluate.rating_report import averages, classification, confusion, nearest, worst

STARS = [1.0, 2.0, 3.0, 4.0, 5.0]


@st.composite
def rated(draw):
    n = draw(st.integers(1, 40))
    truth = draw(arrays(np.float64, n, elements=st.sampled_from(STARS)))
    return truth, draw(arrays(np.float64, n, elements=st.floats(-1, 7, allow_nan=False)))


@settings(deadline=None)
@given(rated())
def test_confusion_and_report_agree_with_scikit_learn(case):
    truth, guess = case
    said = np.clip(np.floor(guess + 0.5), 1, 5)
    table = confusion(truth, guess, STARS)
    assert (table == sk.confusion_matrix(truth, said, labels=STARS)).all()
    assert table.dtype == np.int64
    expected = sk.precision_recall_fscore_support(truth, said, labels=STARS, zero_division=0)
    found = classification(truth, guess, STARS)
    assert [r.level for r in found] == STARS
    for name, theirs in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [getattr(r, name) for r in found] == pytest.approx(theirs.tolist())
    seen = sorted(set(truth.tolist()))
    for kind in ("macro", "weighted"):
        theirs = sk.precision_recall_fscore_support(truth, said, labels=seen, average=kind, zero_division=0)[:3]
        assert tuple(averages(found, kind == "weighted").values()) == pytest.approx(theirs)


@settings(deadline=None)
@given(st.lists(st.floats(-3, 8, allow_nan=False), max_size=20), st.sets(st.integers(0, 12), min_size=1, max_size=6))
def test_nearest_is_nearest_whatever_the_levels(values, halves):
    levels = sorted(n / 2 for n in halves)
    for value, place in zip(values, nearest(values, levels), strict=True):
        gaps = [abs(value - level) for level in levels]
        assert gaps[place] == pytest.approx(min(gaps))
    assert nearest([1.5, 2.5], STARS).tolist() == [1, 2]  # halfway goes up


def test_ratings_kept_in_float32_find_their_level():
    tenths = [n / 10 for n in range(1, 51)]
    truth = np.array(tenths, dtype=np.float32)
    assert (confusion(truth, truth, tenths) == np.eye(50, dtype=int)).all()


@settings(deadline=None)
@given(rated(), st.integers(0, 50))
def test_worst_lists_the_largest_errors_first(case, n):
    truth, guess = case
    found = worst(truth, guess, n)
    errors = np.abs(truth - guess)
    expected = sorted(range(len(truth)), key=lambda i: (-errors[i], i))[:n]
    assert found.tolist() == expected


def test_wrong_input_is_named():
    with pytest.raises(DataError, match=r"one of the levels 1, 2, 3, 4, 5, got 3.5 in row 1 \(1 in all\)"):
        confusion([3.0, 3.5], [3.0, 3.0], STARS)
    with pytest.raises(DataError, match="increasing order, each once"):
        confusion([1.0], [1.0], [2.0, 1.0])
    with pytest.raises(DataError, match="increasing order, each once"):
        nearest([1.0], [])
    with pytest.raises(DataError, match="a prediction for every rating"):
        worst([1.0], [1.0, 2.0], 3)
    with pytest.raises(DataError, match="NaN or infinity"):
        classification([1.0], [np.nan], STARS)
    with pytest.raises(DataError, match="one rating or more"):
        averages(classification([], [], STARS))
