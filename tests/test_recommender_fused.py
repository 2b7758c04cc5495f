"""Mode `fused`: what `palate evaluate --fuse ... --record` learned, served to anybody about anything."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from palate.errors import ConfigError
from palate.recommender import Recommender
from palate.recommender.fused import content_tables
from palate.retrieve import build
from palate.retrieve.fuse import reciprocal_rank, zscore
from palate.schema import Event, Features, Request
from planted import ITEMS, planted_bundle, planted_data, planted_tables

DECISION = {
    "method": "zscore",
    "mode": "embedding",
    "parts": ["adapter", "ease:recency=10", "dense:modality=image"],
    "weights": [0.5, 0.3, 0.2],
    "protocol": "loo-20/1",
    "part": "valid",
    "n": 40,
    "seed": 1,
}
PICKED = ("i16", "i1", "i30", "i48", "i5", "i7")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return planted_data(tmp_path_factory.mktemp("planted") / "data")


@pytest.fixture(scope="module")
def make(tmp_path_factory, tiny_base, data):
    folder = planted_bundle(tmp_path_factory.mktemp("planted") / "mine", tiny_base, data)

    def load(**changes):
        """A recommender whose bundle carries the decision with these changes."""
        from palate.model import bundle

        bundle.record(folder, [], {**DECISION, **changes})
        return Recommender.load(folder, data=data)

    return load


def by_hand(rec, candidates, fuse):
    """The mixture over the data set's histories, written out."""
    events = rec.dataset.histories.interactions
    history = events.sequence(events.user_index["u3"])
    columns = [events.item_index[c] for c in candidates]
    ease = build("ease", recency=10).fit(events).scores([history])[:, columns]
    tables = {"image": planted_tables(rec.dataset)["image"]}
    dense = build("dense", modality="image").fit(events, tables).scores([history])[:, columns]
    own = rec.score(Request("r", "u3", candidates=candidates), mode="embedding")[0].scores[None]
    return fuse([own, ease, dense], DECISION["weights"])[0]


@pytest.mark.parametrize(("method", "fuse"), [("zscore", zscore), ("reciprocal_rank", reciprocal_rank)])
def test_scores_are_the_weighted_sum_of_the_parts(make, monkeypatch, method, fuse):
    def compute(*_, **__):
        raise AssertionError("the bundle's own image vectors are at hand")

    monkeypatch.setattr("palate.features.compute", compute)
    rec = make(method=method)
    found = rec.score(Request("r", "u3", candidates=PICKED), mode="fused")[0]
    assert found.item_ids == PICKED
    np.testing.assert_allclose(
        found.scores, by_hand(rec, PICKED, fuse), atol=2e-3
    )  # vectors are kept in half precision
    turned = rec.score(Request("r", "u3", candidates=PICKED[::-1]), mode="fused")[0]
    np.testing.assert_array_equal(turned.scores[::-1], found.scores)


def test_many_requests_score_as_each_alone(make):
    rec = make()
    asked = [Request(f"r{n}", f"u{n}", candidates=PICKED[: 3 + n % 3]) for n in range(8)]
    together = rec.score(asked, mode="fused")
    for request, found in zip(asked, together, strict=True):
        np.testing.assert_allclose(found.scores, rec.score(request, mode="fused")[0].scores, atol=1e-5)


def test_recommend_ranks_the_whole_catalogue(make):
    rec = make()
    seen = {e.item_id for e in rec.dataset.histories.events("u3")}
    found = rec.recommend(user="u3", k=5, mode="fused")
    assert len(found) == 5
    assert not seen & {f.item_id for f in found}
    unseen = tuple(i for i in rec.shelf.item_ids if i not in seen)
    scores = rec.score(Request("r", "u3", candidates=unseen), mode="fused")[0]
    assert [f.item_id for f in found] == [i for i, _ in scores.top(5)]
    only = rec.recommend(user="u3", k=3, mode="fused", filters={"genre": "comedy"})
    assert all(rec.shelf[f.item_id].text["genre"] == "comedy" for f in only)


def test_a_slow_mode_reranks_a_pool(make):
    rec = make(mode="yes_no")
    found = rec.recommend(user="u3", k=3, mode="fused", pool=6)
    assert len(found) == 3
    assert [f.rank for f in found] == [1, 2, 3]


def test_a_new_user_and_an_empty_history(make):
    rec = make()
    assert len(rec.recommend(history=["Film 0", "Film 3"], k=4, mode="fused")) == 4
    assert len(rec.recommend(user="a stranger", k=4, mode="fused")) == 4


def test_a_new_item_stands_in_the_middle_of_what_knows_nothing_of_it(make):
    """Its picture counts at once; co-occurrence takes the mean, so it neither helps nor harms."""
    rec = make(weights=[0.0, 0.0, 1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rec.recommend(user="u3", k=1, mode="fused")  # fitted before the item comes
        new = rec.add_item("Film 99", {"genre": "war"})
    vector = rec.model.soft.tables()["image"].vectors[0]
    rec.model.soft.add_item(new, {"image": vector})
    asked = Request("r", None, (Event("i0"), Event("i16")), ("i1", "i2", "i32", new))
    by_picture = rec.score(asked, mode="fused")[0]
    assert by_picture.top(1)[0][0] == new
    assert new in {f.item_id for f in rec.recommend(history=["i0", "i16"], k=5, mode="fused")}
    ease = make(parts=["adapter", "ease:recency=10"], weights=[0.0, 1.0])
    other = ease.add_item("Film 98")
    asked = Request("r", None, (Event("i0"), Event(other)), (*PICKED, other))
    row = ease.score(asked, mode="fused")[0].scores
    retriever = build("ease", recency=10).fit(ease.dataset.histories.interactions)
    index = ease.dataset.histories.interactions.item_index
    whole = retriever.scores([np.array([index["i0"]])])[0]
    raw = np.append(whole[[index[i] for i in PICKED]], whole.mean())
    np.testing.assert_allclose(row, zscore([raw[None]])[0], atol=1e-4)
    assert len(ease.shelf) == ITEMS + 1


def test_a_retriever_that_needs_other_vectors_computes_them(make, monkeypatch):
    asked = []

    def compute(items, train, config):
        from types import SimpleNamespace

        from palate.schema import Features

        asked.append((len(items), list(config)))
        ids = tuple(i.item_id for i in items)
        vectors = np.eye(len(ids), 4, dtype=np.float32) + 0.1
        return SimpleNamespace(tables={"text": Features("text", ids, vectors, np.ones(len(ids), bool), "t")})

    monkeypatch.setattr("palate.features.compute", compute)
    rec = make(parts=["adapter", "dense:modality=text"], weights=[0.5, 0.5])
    rec.score([Request("r", "u3", candidates=PICKED)] * 2, mode="fused")
    assert asked == [(ITEMS, ["text"])]


def test_mistakes(make, tmp_path, tiny_base, data):
    plain = Recommender.load(planted_bundle(tmp_path / "plain", tiny_base, data), data=data)
    with pytest.raises(ConfigError, match=r"needs weights, and this adapter carries none; .*--fuse .* --record"):
        plain.recommend(user="u3", mode="fused")
    for changes, error in (
        ({"weights": [1.0]}, "expected a weight for each of adapter, ease:recency=10"),
        ({"method": "mean"}, r"palate.json: decision: key 'method'"),
        ({"parts": ["adapter", "eas", "dense"]}, "no retriever is called 'eas'; did you mean 'ease'"),
        ({"mode": "embeding"}, "embeding"),
        ({"weights": [0.0, 0.0, 0.0]}, "none negative and not all 0"),
    ):
        rec = make(**changes)
        with pytest.raises(ConfigError, match=error):
            rec.score(Request("r", "u3", candidates=PICKED), mode="fused")
    assert make().default_mode == "embedding"  # the decision changes no default


def test_explain_speaks_of_the_models_part(make):
    found = make().explain("i16", user="u3", mode="fused")
    assert found.mode == "embedding"


@pytest.mark.parametrize(
    ("text", "modality"), [("tiger", "text"), ("vbpr", "image"), ("tiger:modality=image", "image")]
)
def test_a_retriever_gets_the_table_it_reads(text: str, modality: str, tmp_path: Path) -> None:
    data = planted_data(tmp_path)
    train = data.histories.interactions
    own = {
        name: Features(name, train.item_ids, np.ones((ITEMS, 2), np.float32), np.ones(ITEMS, bool), name)
        for name in ("image", "text")
    }
    assert content_tables(text, data.catalog, train, own) == {modality: own[modality]}
