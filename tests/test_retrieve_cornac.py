"""Cornac's models behind the retriever contract: they learn what was planted, and say nothing they cannot know."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from palate.errors import ConfigError, DataError, FeatureError
from palate.retrieve import Retriever, build
from palate.schema import Features, Interactions
from test_retrieve_contract import interactions, ints

NAMES = ["bpr", "cornac-sasrec", "gru4rec", "tiger", "vbpr"]
GROUP = 8
"""Items 0..7 are chosen by one half of the users, 8..15 by the other; 16 and on by nobody."""
FIRST, SECOND = slice(0, GROUP), slice(GROUP, 2 * GROUP)
ROUND = 9
"""Items that everybody goes round in order; those from 9 on are in no history."""
OPTIONS: dict[str, dict[str, object]] = {
    "cornac-sasrec": {"width": 16, "heads": 1, "layers": 1, "length": 6, "epochs": 30, "lr": 1e-2, "batch": 16},
    "gru4rec": {"width": 16, "dropout": 0.0, "epochs": 20, "batch": 64},
    "tiger": {"width": 32, "heads": 2, "layers": 1, "length": 2, "epochs": 50, "lr": 3e-3, "batch": 16, "codes": 4,
              "levels": 2},
}  # fmt: skip


def tastes() -> Interactions:
    rng = np.random.default_rng(2)
    chosen = [rng.permutation(GROUP)[:5] + GROUP * (user % 2) for user in range(40)]
    return interactions([c.tolist() for c in chosen], items=2 * GROUP + 2)


def rounds() -> Interactions:
    return interactions([[(start + n) % ROUND for n in range(8)] for start in range(ROUND)], items=ROUND + 2)


def table(modality: str, vectors: np.ndarray, missing: list[int]) -> dict[str, Features]:
    """Rows of the catalogue i0, i1, ... in reverse, as a table has its own order."""
    present = np.ones(len(vectors), dtype=bool)
    present[missing] = False
    rows = np.where(present[:, None], vectors, 0).astype(np.float32)
    ids = tuple(f"i{n}" for n in range(len(vectors)))
    return {modality: Features(modality, ids[::-1], rows[::-1], present[::-1], "f")}


def pictures() -> dict[str, Features]:
    """The two groups look different; 16, which nobody chose, looks like the first. 3 and 17 have no picture."""
    look = np.array([0] * GROUP + [1] * GROUP + [0, 1])
    vectors = np.eye(6)[look] + 0.1 * np.random.default_rng(3).standard_normal((len(look), 6))
    return table("image", vectors, missing=[3, 17])


def texts() -> dict[str, Features]:
    """Nine texts; 9, which nobody chose, has that of 4 and 10 none."""
    vectors = np.random.default_rng(4).standard_normal((ROUND + 2, 8))
    vectors[9] = vectors[4]
    return table("text", vectors, missing=[10])


@pytest.fixture(scope="module")
def bpr() -> Retriever:
    return build("bpr", width=8, epochs=100).fit(tastes())


@pytest.fixture(scope="module")
def vbpr() -> Retriever:
    return build("vbpr", width=4, epochs=15, lr=0.02).fit(tastes(), pictures())


@pytest.fixture(scope="module", params=["cornac-sasrec", "gru4rec", "tiger"])
def reader(request: pytest.FixtureRequest) -> Retriever:
    return build(request.param, **OPTIONS[request.param]).fit(rounds(), texts())


def likes(row: np.ndarray) -> bool:
    """Whether all of the first group stands above all of the second."""
    return bool(row[FIRST].min() > row[SECOND].max())


@pytest.mark.parametrize("name", ["bpr", "vbpr"])
def test_tastes_are_told_apart(name: str, request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(name)
    for row, user in zip(model.scores(tastes().sequences()), range(40), strict=True):
        assert likes(row) == (user % 2 == 0)
        assert likes(-row) == (user % 2 == 1)
    one, other = model.scores([ints(0, 1, 2), ints(9, 8)])  # nobody's history: the mean of the items
    assert likes(one)
    assert likes(-other)


def test_a_history_finds_the_user_whose_sequence_it_goes_on(bpr: Retriever) -> None:
    sequence = tastes().sequence(7)
    own = bpr.users[7] @ bpr.items.T + bpr.bias
    for more in ([], [2], [2, 3]):
        row = bpr.scores([np.append(sequence, ints(*more))])[0]
        np.testing.assert_allclose(row[: 2 * GROUP], own, rtol=1e-5)
    turned = sequence[::-1].copy()
    mean = bpr.items[turned].mean(axis=0) @ bpr.items.T + bpr.bias
    np.testing.assert_allclose(bpr.scores([turned])[0, : 2 * GROUP], mean, rtol=1e-5)


def test_a_short_sequence_does_not_claim_every_history_it_begins() -> None:
    model = build("bpr", width=4, epochs=2).fit(interactions([[5], [5, 1], [1, 2, 3]], items=6))
    assert [model._user(h) for h in (ints(5), ints(5, 2), ints(5, 1, 2, 3), ints(5, 2, 3))] == [0, 0, 1, None]


def test_a_history_from_before_a_users_last_events_is_that_users() -> None:
    sequences = [[9, 8], [1, 2, 3, 4, 5], [1, 2, 3, 7], [1, 2, 3, 7]]
    model = build("bpr", width=4, epochs=2).fit(interactions(sequences, items=10))
    asked = {(1, 2, 3, 4): 1, (1, 2, 3): 2, (1, 2): 2, (9,): 0}  # of several the shortest, of those alike the first
    assert {h: model._user(ints(*h)) for h in asked} == asked
    for less_than_half_or_nobodys in ((1,), (2, 3), (8,), (1, 2, 4)):
        assert model._user(ints(*less_than_half_or_nobodys)) is None
    own = model.users[1] @ model.items.T + model.bias
    np.testing.assert_allclose(model.scores([ints(1, 2, 3, 4)])[0, model.scored], own, rtol=1e-5)


def test_an_item_nobody_chose_is_last_and_counts_for_nothing(bpr: Retriever) -> None:
    row, same, none = bpr.scores([ints(0, 1), ints(16, 0, 17, 1), ints(16, 17)])
    assert row[16] == row[17] == row[: 2 * GROUP].min() - 1
    np.testing.assert_array_equal(row, same)
    np.testing.assert_array_equal(none, bpr.prior())


def test_an_unchosen_item_scores_by_its_picture_and_none_borrows_one(vbpr: Retriever) -> None:
    one, other = vbpr.scores([tastes().sequence(0), tastes().sequence(1)])
    assert one[16] > one[SECOND].max()
    assert other[16] < other[SECOND].min()
    for row in (one, other):
        assert row[17] == row[: 2 * GROUP + 1].min() - 1
    assert not vbpr.vectors[3].any()
    np.testing.assert_allclose(np.linalg.norm(np.delete(vbpr.vectors, 3, axis=0), axis=1), 1, rtol=1e-5)
    assert np.isfinite(vbpr.scores([ints(16)])).all()


def test_readers_learn_what_follows_what(reader: Retriever) -> None:
    histories = [ints(n, (n + 1) % ROUND) for n in range(ROUND)]
    assert reader.scores(histories)[:, :ROUND].argmax(1).tolist() == [(n + 2) % ROUND for n in range(ROUND)]
    longer = [np.arange(start, start + 30) % ROUND for start in range(ROUND)]
    assert reader.scores(longer)[:, :ROUND].argmax(1).tolist() == [(start + 30) % ROUND for start in range(ROUND)]


def test_readers_put_what_they_cannot_know_last(reader: Retriever) -> None:
    row = reader.scores([ints(2, 3)])[0]
    assert row[10] == row[reader.scored].min() - 1
    if reader.name == "tiger":  # it knows the text of 9: the codes of 4, which comes next
        assert row[9] > row[:9].min()
        assert reader.place[9] == 9
    else:
        assert row[9] == row[10]
        np.testing.assert_array_equal(reader.scores([ints(9, 2, 10, 3)])[0], row)
    np.testing.assert_array_equal(reader.scores([ints(10)])[0], reader.prior())


@pytest.mark.parametrize("tokenizer", ["rkmeans", "rqvae"])
def test_tiger_searches_with_beams(tokenizer: str) -> None:
    options = {**OPTIONS["tiger"], "tokenizer": tokenizer, "epochs": 20}
    exact = build("tiger", **options).fit(rounds(), texts()).scores([ints(2, 3)])[0]
    found = build("tiger", beams=4, **options).fit(rounds(), texts()).scores([ints(2, 3)])[0]
    best = np.argsort(-found[:10], kind="stable")[:4]
    assert best[0] == exact[:10].argmax()
    np.testing.assert_allclose(found[best], exact[best], rtol=1e-4)
    rest = np.setdiff1d(np.arange(10), best)
    assert set(found[rest]) == {found[best].min() - 1}
    assert found[10] == found[best].min() - 2


@pytest.mark.parametrize("name", ["bpr", "gru4rec", "cornac-sasrec"])
def test_the_seed_decides(name: str) -> None:
    options = {"width": 8, "epochs": 2}
    first, again, other = [
        build(name, seed=seed, **options).fit(rounds()).scores([ints(2, 3)])[0] for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_training_is_silent_and_leaves_random_states_alone(capfd: pytest.CaptureFixture[str]) -> None:
    import torch

    states = []
    for _ in range(2):
        states.append((np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()))
        for name, data, tables in (
            ("vbpr", tastes(), pictures()),
            ("gru4rec", rounds(), {}),
            ("tiger", rounds(), texts()),
        ):
            build(name, **{**OPTIONS.get(name, {}), "epochs": 1}).fit(data, tables)
    assert states[0] == states[1]
    assert capfd.readouterr() == ("", "")


def test_nothing_is_loaded_before_it_is_used() -> None:
    code = (
        "import sys, palate.retrieve as r; r.build('bpr'); r.build('tiger'); "
        "print([m for m in ('cornac', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", NAMES)
def test_without_the_package_it_says_how_to_get_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cornac", None)
    with pytest.raises(ConfigError, match=rf"'{name}' needs the package cornac.*run: pip install 'palate\[compare\]'"):
        build(name)


@pytest.mark.parametrize(
    ("name", "options", "error"),
    [
        ("bpr", {"factors": 3}, "retriever 'bpr' has no option 'factors'"),
        ("bpr", {"width": 2.5}, "option 'width': expected a number without a fraction, at least 1, got 2.5"),
        ("bpr", {"epochs": True}, "option 'epochs': .* got True"),
        ("bpr", {"penalty": 0}, "option 'penalty': expected a number above 0, got 0"),
        ("vbpr", {"lr": "fast"}, "option 'lr': expected a number above 0, got 'fast'"),
        ("gru4rec", {"dropout": 1}, "option 'dropout': expected a number from 0 to below 1, got 1"),
        ("gru4rec", {"dropout": "half"}, "option 'dropout': .* got 'half'"),
        ("gru4rec", {"batch": 1}, "option 'batch': .* at least 2, got 1"),
        ("cornac-sasrec", {"seed": -1}, "option 'seed': .* at least 0, got -1"),
        ("cornac-sasrec", {"heads": 3}, "option 'width': expected a number that 3 heads divide, got 64"),
        ("tiger", {"tokenizer": "rqvea"}, "option 'tokenizer': no 'rqvea'; did you mean 'rqvae'"),
        ("tiger", {"codes": 1}, "option 'codes': .* at least 2, got 1"),
        ("tiger", {"beams": 0}, "option 'beams': .* at least 1, got 0"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, object], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        build(name, **options)


def test_a_table_is_needed() -> None:
    with pytest.raises(FeatureError, match="retriever 'tiger' needs features of modality 'text'; choose one of: image"):
        build("tiger").fit(tastes(), pictures())
    with pytest.raises(FeatureError, match="retriever 'vbpr' needs features of modality 'image'; there is nothing"):
        build("vbpr").fit(tastes())
    blank = table("image", np.ones((2 * GROUP + 2, 4)), missing=list(range(2 * GROUP + 2)))
    with pytest.raises(FeatureError, match="retriever 'vbpr': no item has a vector of modality 'image'"):
        build("vbpr").fit(tastes(), blank)
    assert build("vbpr", modality="text", epochs=1).fit(rounds(), texts()).vectors.shape == (10, 8)


@pytest.mark.parametrize(
    ("name", "sequences"), [("bpr", []), ("vbpr", [[0, 1], [1, 0]]), ("gru4rec", [[0], [1]]), ("cornac-sasrec", [[1]])]
)
def test_data_that_teaches_nothing(name: str, sequences: list[list[int]]) -> None:
    tables = table("image", np.eye(4), missing=[2, 3])
    with pytest.raises(DataError, match=f"retriever '{name}' has nothing to learn from"):
        build(name, width=4).fit(interactions(sequences, items=4), tables)


def test_those_who_chose_everything_are_left_out_and_repeats_count_once() -> None:
    model = build("vbpr", width=2, epochs=1).fit(
        interactions([[0, 1, 2], [0, 0, 1, 0]], items=3), table("image", np.eye(3), missing=[])
    )
    assert np.isfinite(model.scores([ints(0, 1, 2), ints(0)])).all()


def test_one_sequence_is_enough_for_gru4rec() -> None:
    model = build("gru4rec", width=4, epochs=1).fit(interactions([[0, 1, 2], [1]], items=4))
    assert np.isfinite(model.scores([ints(0)])).all()
