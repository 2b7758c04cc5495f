"""SASRec: it learns an order, from the events it is given, and nothing hangs on batches or padding."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.config import EncoderConfig
from palate.errors import ConfigError
from palate.features.encoders.sasrec import SasRecEncoder
from palate.retrieve import build
from palate.schema import Interactions, Item
from palate.sequential import SasRecOptions, kept, sasrec

ITEMS = 12
SMALL = SasRecOptions(width=16, heads=2, length=6, epochs=40, dropout=0.0, lr=1e-2, batch=16)


def interactions(sequences: Sequence[Sequence[int]], items: int = ITEMS) -> Interactions:
    flat = np.array([i for s in sequences for i in s], dtype=np.int64)
    return Interactions(
        user_ids=tuple(f"u{n}" for n in range(len(sequences))),
        item_ids=tuple(f"i{n}" for n in range(items)),
        indptr=np.cumsum([0, *map(len, sequences)]).astype(np.int64),
        items=flat,
        timestamps=np.arange(len(flat), dtype=np.float64),
        ratings=np.full(len(flat), np.nan, dtype=np.float32),
    )


def rounds(items: int = ITEMS - 1) -> Interactions:
    """Everybody goes round the items in order, from some place on; the last item is in no history."""
    return interactions([[(start + n) % items for n in range(9)] for start in range(items)])


@pytest.fixture(scope="module")
def network() -> sasrec.SasRec:
    return sasrec.fit(rounds(), SMALL)


def test_it_learns_what_follows_what(network: sasrec.SasRec) -> None:
    histories = [np.array([n, (n + 1) % 11]) for n in range(11)]
    assert network.scores(histories).argmax(1).tolist() == [(n + 2) % 11 for n in range(11)]


def test_order_counts_where_popularity_cannot_tell(network: sasrec.SasRec) -> None:
    ahead, back = network.scores([np.array([4, 5]), np.array([5, 4])])
    assert ahead.argmax() == 6
    assert back.argmax() == 5


def test_a_score_does_not_hang_on_its_batch(network: sasrec.SasRec) -> None:
    histories = [np.array([3]), np.arange(9), np.array([1, 2, 3]), np.array([7, 7, 7, 7, 7, 7, 7, 7])]
    together = network.scores(histories)
    for row, history in zip(together, histories, strict=True):
        np.testing.assert_allclose(row, network.scores([history])[0], atol=1e-5)


def test_only_the_newest_items_are_read(network: sasrec.SasRec) -> None:
    long = np.array([9, 8, 1, 2, 3, 4, 5, 6])
    np.testing.assert_allclose(network.scores([long]), network.scores([long[-6:]]), atol=1e-6)


def test_the_seed_decides_and_torch_is_left_as_it_was() -> None:
    options = SMALL.model_copy(update={"epochs": 2, "dropout": 0.3})
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    first = sasrec.fit(rounds(), options)
    assert torch.equal(torch.random.get_rng_state(), before)
    again = sasrec.fit(rounds(), options)
    other = sasrec.fit(rounds(), options.model_copy(update={"seed": 2}))
    asked = [np.array([1, 2])]
    np.testing.assert_array_equal(first.scores(asked), again.scores(asked))
    assert not np.allclose(first.scores(asked), other.scores(asked))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=5),
    st.integers(1, 7),
    st.integers(0, 99),
)
def test_every_event_but_the_first_is_a_target_once(lengths: list[int], length: int, seed: int) -> None:
    numbered = np.arange(sum(lengths))
    sequences = np.split(numbered, np.cumsum(lengths)[:-1])
    train = interactions([s.tolist() for s in sequences], len(numbered) or 1)
    windows = sasrec._windows(train, length, np.random.default_rng(seed))
    assert all(2 <= len(w) <= length + 1 and (np.diff(w) == 1).all() for w in windows)
    targets = sorted(int(i) for w in windows for i in w[1:])
    assert targets == sorted(int(i) for s in sequences for i in s[1:])


def test_loss_in_chunks_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    options = SMALL.model_copy(update={"epochs": 3})
    whole = sasrec.fit(rounds(), options)
    monkeypatch.setattr(sasrec, "CELLS", 5 * ITEMS)
    parts = sasrec.fit(rounds(), options)
    np.testing.assert_allclose(whole.scores([np.array([2, 3])]), parts.scores([np.array([2, 3])]), atol=1e-3)


def test_losses_are_reported_and_fall() -> None:
    seen: list[tuple[int, float]] = []
    sasrec.fit(rounds(), SMALL.model_copy(update={"epochs": 15}), lambda epoch, loss: seen.append((epoch, loss)))
    assert [epoch for epoch, _ in seen] == list(range(15))
    assert seen[-1][1] < seen[0][1] / 2


def test_errors_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"expected a width that 3 heads divide, got 16"):
        sasrec.fit(rounds(), SMALL.model_copy(update={"heads": 3}))
    monkeypatch.setattr(sasrec, "MOST_ITEMS", 5)
    with pytest.raises(ConfigError, match=r"expected at most 5, got 12; use 'itemknn'"):
        sasrec.fit(rounds(), SMALL)
    with pytest.raises(ConfigError, match=r"retriever 'sasrec': key 'dropout': .*less than 1, got 2"):
        build("sasrec", dropout=2).fit(rounds())


def test_the_retriever_scores_as_the_network_does(network: sasrec.SasRec) -> None:
    options = {"width": 16, "length": 6, "epochs": 40, "dropout": 0.0, "lr": 1e-2}
    retriever = build("sasrec", **options).fit(rounds())
    assert retriever.top([3, 4], 1).item_ids == ("i5",)
    assert retriever.scores([np.array([], dtype=np.int64)])[0, 11] == 0  # popularity, where nothing is known


def test_the_encoder_gives_the_item_embeddings() -> None:
    options = SMALL.model_dump()
    encoder = SasRecEncoder(EncoderConfig(options=options)).fit(rounds())
    made = encoder.encode([Item("i3", "Three"), Item("i11", "Nobody's"), Item("new", "New")])
    assert made.present.tolist() == [True, False, False]
    want = sasrec.fit(rounds(), SMALL).item.weight[3].detach().numpy()
    np.testing.assert_allclose(made.vectors[0], want, atol=1e-6)
    assert not made.vectors[1:].any()
    assert encoder.identity(Item("i11", "Nobody's")) is None
    before = encoder.fingerprint
    other = rounds().items.copy()
    other[0] += 1
    changed = interactions(np.split(other, 11))
    assert encoder.fit(changed).fingerprint != before


def test_a_network_is_fitted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path))
    options = SMALL.model_copy(update={"epochs": 2})
    first = kept.fitted(rounds(), options)
    [file] = (tmp_path / "sequential").iterdir()
    calls: list[int] = []
    monkeypatch.setattr(kept, "fit", lambda train, options: calls.append(1) or sasrec.fit(train, options))
    asked = [np.array([1, 2])]
    np.testing.assert_array_equal(kept.fitted(rounds(), options).scores(asked), first.scores(asked))
    assert not calls
    kept.fitted(rounds(), options.model_copy(update={"seed": 9}))
    kept.fitted(interactions([[1, 2, 3]]), options)
    assert len(calls) == 2
    file.write_bytes(b"not a network")
    with pytest.warns(UserWarning, match="damaged cache file, SASRec is fitted again"):
        again = kept.fitted(rounds(), options)
    np.testing.assert_array_equal(again.scores(asked), first.scores(asked))
    assert not list((tmp_path / "sequential").glob(".*"))
