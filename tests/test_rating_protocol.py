"""The rating protocol: the split of ratings, its baselines, what an adapter may be asked, and the command."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from palate.apps.cli import build
from palate.data import Dataset
from palate.data.rated import RatedSplit, held_out_ratings, rated
from palate.errors import BundleError, ConfigError, DataError
from palate.evaluate import protocol
from palate.evaluate.cold import check_unseen
from palate.evaluate.rating import paired_rmse, rate
from palate.evaluate.rating_cases import cases, learnable
from palate.evaluate.rating_models import bias_only, regularised, tuned_shrinks
from palate.ratingfit import Events, fit_biases, fit_factors, plain_means
from palate.schema import Interactions

RATING = "rating:share=0.25:seed=3"


def made(rows: list[tuple[str, str, float]]) -> Interactions:
    """Interactions of (user, item, rating) rows; users in order of first sight, times by row."""
    users = list(dict.fromkeys(u for u, _, _ in rows))
    items = sorted({i for _, i, _ in rows})
    ordered = sorted(range(len(rows)), key=lambda n: (users.index(rows[n][0]), n))
    counts = [sum(u == user for u, _, _ in rows) for user in users]
    return Interactions(
        tuple(users),
        tuple(items),
        np.cumsum([0, *counts]).astype(np.int64),
        np.array([items.index(rows[n][1]) for n in ordered], dtype=np.int64),
        np.array(ordered, dtype=np.float64),
        np.array([rows[n][2] for n in ordered], dtype=np.float32),
    )


def pairs(interactions: Interactions, events: np.ndarray) -> set[tuple[str, str]]:
    owners = np.repeat(np.arange(len(interactions)), np.diff(interactions.indptr))
    return {(interactions.user_ids[owners[n]], interactions.item_ids[interactions.items[n]]) for n in events}


TABLES = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.sampled_from("uvwxyz"), st.sampled_from([1.0, 2.0, 4.0, float("nan")])),
    min_size=20,
    max_size=60,
)


# --- the split ------------------------------------------------------------------------------------------


@given(TABLES, st.randoms(use_true_random=False), st.integers(0, 5))
def test_any_order_of_rows_gives_the_same_split(rows: list[Any], shuffle: Any, seed: int) -> None:
    try:
        one = rated(made(rows), share=0.3, seed=seed, valid_share=0.3)
    except DataError:
        return
    mixed = list(rows)
    shuffle.shuffle(mixed)
    two = rated(made(mixed), share=0.3, seed=seed, valid_share=0.3)
    assert one.whole is not None
    assert two.whole is not None
    assert pairs(one.whole, one.test_events) == pairs(two.whole, two.test_events)
    assert pairs(one.whole, one.valid_events) == pairs(two.whole, two.valid_events)
    assert held_out_ratings(one, 0.3, seed) == held_out_ratings(two, 0.3, seed)


@given(TABLES, st.integers(0, 5))
def test_every_event_is_in_one_part_and_a_pair_is_never_cut(rows: list[Any], seed: int) -> None:
    whole = made(rows)
    try:
        split = rated(whole, share=0.3, seed=seed, valid_share=0.3)
    except DataError:
        return
    test, valid = set(split.test_events.tolist()), set(split.valid_events.tolist())
    assert not test & valid
    assert len(split.train.items) == len(whole.items) - len(test) - len(valid)
    assert np.isfinite(whole.ratings[[*test, *valid]]).all()
    known = np.isfinite(whole.ratings)
    assert int(np.isnan(split.train.ratings).sum()) == int((~known).sum())  # unrated events may be learned from
    rest = np.array([n for n in np.flatnonzero(known) if n not in test], dtype=np.int64)
    assert not pairs(whole, split.test_events) & pairs(whole, rest)
    repeats = int(known.sum()) - len(pairs(whole, np.flatnonzero(known)))
    assert 0 <= len(test) - round(0.3 * known.sum()) <= repeats


def test_a_larger_share_holds_out_the_same_and_more_and_seeds_differ(tiny_data: Path) -> None:
    whole = Dataset.open(tiny_data).histories.interactions
    small, large = rated(whole, share=0.1), rated(whole, share=0.3)
    assert set(small.test_events) < set(large.test_events)
    assert set(rated(whole, share=0.1, seed=2).test_events) != set(small.test_events)
    assert len(small.test_events) == round(0.1 * len(whole.items))


@pytest.mark.parametrize(
    ("options", "words"),
    [({"share": 0.0}, "share: expected a share"), ({"valid_share": 1.0}, "valid_share: expected a share"),
     ({"share": 0.001}, "leave no test rating")],
)  # fmt: skip
def test_shares_that_leave_nothing_are_mistakes(tiny_data: Path, options: dict[str, float], words: str) -> None:
    with pytest.raises(DataError, match=words):
        rated(Dataset.open(tiny_data).histories.interactions, **options)


def test_data_without_ratings_is_a_mistake(tiny_data: Path) -> None:
    whole = Dataset.open(tiny_data).histories.interactions
    with pytest.raises(DataError, match="needs ratings: expected events with one, found none"):
        rated(replace(whole, ratings=np.full(len(whole.items), np.nan, dtype=np.float32)))


def test_ranking_under_the_rating_protocol_is_a_mistake(tiny_data: Path) -> None:
    with pytest.raises(ConfigError, match="asks how items are rated, not which one comes next"):
        protocol("rating").cases(Dataset.open(tiny_data).histories.interactions)


# --- cases ----------------------------------------------------------------------------------------------


def test_cases_show_what_is_known_and_ask_the_rest(tiny_data: Path) -> None:
    whole = Dataset.open(tiny_data).histories.interactions
    split = protocol(RATING).split(whole)
    assert isinstance(split, RatedSplit)
    for part, asked in (("test", split.test_events), ("valid", split.valid_events)):
        found = cases(split, part)  # type: ignore[arg-type]
        assert sorted(n for c in found for n in c.asked.tolist()) == asked.tolist()
        hidden = set(split.test_events.tolist()) | (set(split.valid_events.tolist()) if part == "valid" else set())
        for case in found:
            assert not set(case.history.tolist()) & hidden
            request = case.request(whole)
            assert [e.item_id for e in request.history] == [whole.item_ids[i] for i in whole.items[case.history]]
            assert not {e.item_id for e in request.history} & set(request.candidates)
    assert len(cases(split, users=3)) == 3


def test_a_user_of_whom_nothing_is_known_is_not_named() -> None:
    """Who scores the request must not look the user up: the data set holds the answers."""
    rows = [("lone", "u", 5.0), *((u, i, 3.0) for u in "abcdefgh" for i in "uvwxyz")]
    whole = made(rows)
    for seed in range(200):
        split = rated(whole, share=0.3, seed=seed)
        found = [c for c in cases(split) if c.user_id == "lone"]
        if found:
            assert found[0].request(whole).user_id is None
            assert found[0].request(whole).history == ()
            return
    pytest.fail("no seed held out the one rating")


# --- models of ratings ----------------------------------------------------------------------------------


def events(rows: list[tuple[int, int, float]]) -> Events:
    users, items, ratings = zip(*rows, strict=True)
    return Events(np.array(users), np.array(items), np.array(ratings, dtype=np.float64), max(users) + 1, max(items) + 2)


def test_plain_means_by_hand() -> None:
    """Ratings 5, 3 of user 0 and 1 of user 1: mean 3; users 4 and 1; items 3 (5 and 1) and 3."""
    found = plain_means(events([(0, 0, 5.0), (0, 1, 3.0), (1, 0, 1.0)]))
    assert found.mean == pytest.approx(3.0)
    np.testing.assert_allclose(found.users, [1.0, -2.0])
    np.testing.assert_allclose(found.items, [0.0, 0.0, 0.0])
    np.testing.assert_allclose(found.predict(np.array([0, 1]), np.array([1, 2])), [4.0, 1.0])


def test_ridge_biases_solve_their_normal_equations() -> None:
    rng = np.random.default_rng(0)
    rows = [(int(u), int(i), float(r)) for u, i, r in zip(*(rng.integers(0, n, 80) for n in (6, 9, 5)), strict=True)]
    made_of = events(rows)
    found = fit_biases(made_of, 2.0, 3.0, sweeps=300)
    left = made_of.ratings - found.predict(made_of.users, made_of.items)
    np.testing.assert_allclose(np.bincount(made_of.users, left, 6), 2.0 * found.users, atol=1e-8)
    np.testing.assert_allclose(np.bincount(made_of.items, left, 10), 3.0 * found.items, atol=1e-8)


def test_factors_find_a_planted_rank_and_are_in_order() -> None:
    rng = np.random.default_rng(1)
    taste, kind = rng.normal(size=(40, 2)), rng.normal(size=(30, 2)) * [2.0, 0.5]
    users, items = (a.ravel() for a in np.meshgrid(np.arange(40), np.arange(30), indexing="ij"))
    truth = np.einsum("nk,nk->n", taste[users], kind[items])
    found = fit_factors(Events(users, items, truth, 40, 30), rank=4, ridge=0.01, sweeps=30)
    assert np.abs(found.predict(users, items) - truth).max() < 0.05
    sizes = (found.items**2).mean(axis=0)
    assert (np.diff(sizes) <= 1e-9).all()
    assert sizes[2] < 1e-3 * sizes[1]
    np.testing.assert_allclose((found.users[:, :2] ** 2).mean(axis=0), 1.0, rtol=1e-6)


def test_shrinkage_is_chosen_without_the_test_part(tiny_data: Path) -> None:
    whole = Dataset.open(tiny_data).histories.interactions
    split = rated(whole, share=0.25, seed=3, valid_share=0.2)
    other = whole.ratings.copy()
    other[split.test_events] = 6.0 - other[split.test_events]
    changed = rated(replace(whole, ratings=other), share=0.25, seed=3, valid_share=0.2)
    asked = cases(split)
    assert tuned_shrinks(split) == tuned_shrinks(changed)
    for make in (bias_only, regularised):
        one, two = (make(s, "test").predict(asked, lambda done, total: None) for s in (split, changed))
        np.testing.assert_array_equal(one, two)
    assert len(learnable(split).ratings) == len(whole.items) - len(split.test_events)


# --- the result -----------------------------------------------------------------------------------------


def test_paired_rmse_is_a_difference_of_roots_and_its_sign_flips() -> None:
    rng = np.random.default_rng(2)
    truth, users = rng.integers(1, 6, 400).astype(np.float64), rng.integers(0, 40, 400)
    near, far = truth + rng.normal(0, 0.5, 400), truth + rng.normal(0, 1.0, 400)
    found, back = paired_rmse(truth, near, far, users), paired_rmse(truth, far, near, users)
    roots = [np.sqrt(np.mean((p - truth) ** 2)) for p in (near, far)]
    assert found.diff == pytest.approx(roots[0] - roots[1])
    assert found.low < found.diff < found.high < 0
    assert (back.low, back.diff, back.high) == pytest.approx((-found.high, -found.diff, -found.low))
    same = paired_rmse(truth, near, near, users)
    assert (same.diff, same.low, same.high, same.p) == (0.0, 0.0, 0.0, 1.0)


def test_baselines_alone_make_a_result(tiny_data: Path) -> None:
    result = rate(Dataset.open(tiny_data), protocol(RATING), {})
    names = ["global mean", "bias only", "regularised biases", "matrix factorisation"]
    assert [s.name for s in result.systems] == names
    assert result.levels == (1.0, 2.0, 3.0, 4.0, 5.0)
    assert result.like == 4.0
    mean = result.system("global mean")
    assert np.ptp(mean.predicted) == 0
    assert mean.metrics["RMSE"].value == pytest.approx(np.sqrt(np.mean((mean.predicted - result.truth) ** 2)))
    with pytest.raises(ConfigError, match="no system is called 'bias'"):
        result.system("bias")


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (None, "was trained with all ratings"),
        ({"share": 0.25, "seed": 4}, "evaluate it with --protocol rating:share=0.25:seed=4"),
        ({"share": 0.25, "seed": 3, "sha256": "0" * 64}, "the ratings have changed since"),
    ],
)
def test_an_adapter_that_may_have_seen_the_answers_is_refused(
    tiny_data: Path, record: dict[str, Any] | None, words: str
) -> None:
    held = protocol(RATING)
    split = held.split(Dataset.open(tiny_data).histories.interactions)
    assert isinstance(split, RatedSplit)
    wanted = held_out_ratings(split, 0.25, 3)
    check_unseen({"training": {"held_out_ratings": wanted}}, held, wanted, "ratings", "mine")
    with pytest.raises(BundleError, match=words):
        check_unseen({"training": {"held_out_ratings": record}}, held, wanted, "ratings", "mine")


# --- the command ----------------------------------------------------------------------------------------


def test_train_and_evaluate_from_the_command_line(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    values = {
        "name": "stars",
        "data": str(tiny_data),
        "features": {"ratings": {"options": {"factors": 2, "folds": 3}}},
        "prompt": {"max_tokens": 400, "max_sequence": 20},
        "model": {
            "base": f"path:{tiny_base}", "dtype": "float32", "lora": {"rank": 4}, "hidden": 16, "matching": 16,
            "fusion": "feature",
        },
        "train": {
            "run": str(tmp_path / "run"), "output": str(adapter), "epochs": 2, "batch_tokens": 400,
            "protocol": RATING,
            "tasks": {"embedding": 0, "next_title": 0, "yes_no": 0, "letters": 0, "rating": 0, "rated": 1},
        },
    }  # fmt: skip
    (tmp_path / "stars.yaml").write_text(yaml.safe_dump(values))
    runner, app = CliRunner(), build()
    trained = runner.invoke(app, ["train", str(tmp_path / "stars.yaml")])
    assert trained.exit_code == 0, trained.output
    meta = json.loads((adapter / "palate.json").read_text())
    assert meta["training"]["held_out_ratings"]["share"] == 0.25
    assert {m["metric"] for m in meta["metrics"]} == {"RMSE", "MAE"}
    out = tmp_path / "ratings.json"
    ask = ["evaluate", str(tiny_data), "--protocol", RATING, "-a", str(adapter)]
    found = runner.invoke(app, [*ask, "-o", str(out)])
    assert found.exit_code == 0, found.output
    assert "adapter (rated)" in found.output
    assert "worst errors" in found.output
    told = json.loads(out.read_text())
    last = told["systems"][-1]
    assert last["name"] == "adapter (rated)"
    assert np.sum(last["confusion"]) == told["n"] == len(last["predicted"]) == len(told["truth"])
    assert [row["level"] for row in last["levels"]] == told["levels"]
    assert np.ptp(last["predicted"]) > 0
    assert min(last["predicted"]) >= 1
    assert max(last["predicted"]) <= 5
    error = np.sqrt(np.mean((np.array(last["predicted"]) - told["truth"]) ** 2))
    assert last["metrics"]["RMSE"]["value"] == pytest.approx(error, abs=1e-4)
    compared = {(d["a"], d["b"]) for d in told["differences"]}
    assert ("adapter (rated)", "bias only") in compared
    markdown = tmp_path / "ratings.md"
    assert runner.invoke(app, [*ask, "-o", str(markdown), "--record"]).exit_code == 0
    assert "report per level" in markdown.read_text()
    assert any(m["protocol"].endswith(", test") for m in json.loads((adapter / "palate.json").read_text())["metrics"])
    other = runner.invoke(app, [*ask[:3], "rating:share=0.25:seed=4", *ask[4:]])
    assert isinstance(other.exception, BundleError)  # which `palate` turns into one line and exit code 2
    assert "without another draw" in str(other.exception)


def test_options_that_mean_nothing_here_are_a_mistake(tiny_data: Path) -> None:
    words = ["evaluate", str(tiny_data), "--protocol", "rating", "--fuse", "ease"]
    found = subprocess.run([sys.executable, "-m", "palate", *words], capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "'rating' does not go with --fuse" in " ".join(found.stderr.split())
