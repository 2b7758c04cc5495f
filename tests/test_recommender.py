"""The facade over a tiny random model: scoring, recommending, explaining and new items, in every mode."""

from __future__ import annotations

import json
from collections.abc import Sequence
from io import StringIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from facade import tiny_bundle
from palate import Dataset, Event, Item, Recommender, Request
from palate.errors import (
    BundleError,
    ConfigError,
    DataError,
    EmptyLegalSet,
    PalateWarning,
    RequestError,
)
from palate.features.encoders import ContentEncoder, Encoded
from palate.recommender import newitems

MODES = ["embedding", "likelihood", "yes_no", "letters", "generate", "rating"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("adapters") / "tiny", tiny_base, tiny_data)


@pytest.fixture(scope="module")
def tuned(bundle: Path, tiny_data: Path) -> Recommender:
    return Recommender.load(bundle, data=tiny_data, device="cpu")


@pytest.fixture
def fresh(bundle: Path, tiny_data: Path) -> Recommender:
    """A recommender of one's own: for tests that add items."""
    return Recommender.load(bundle, data=tiny_data, device="cpu")


@pytest.fixture(scope="module")
def untuned(tiny_base: Path, tiny_data: Path) -> Recommender:
    return Recommender.load(f"path:{tiny_base}", data=tiny_data, device="cpu")


class Colour(ContentEncoder):
    """A toy image encoder: two pixels."""

    name = "colour"
    width = 6  # type: ignore[assignment]

    def identity(self, item: Item) -> bytes | None:
        return item.media["image"].read_bytes() if "image" in item.media else None

    def encode(self, items: Sequence[Item]) -> Encoded:
        try:
            small = Image.open(items[0].media["image"]).resize((2, 1))
        except OSError as error:
            return Encoded(np.zeros((1, 6), np.float32), np.zeros(1, bool), [self.problem(items[0], str(error))])
        return Encoded(np.asarray(small, np.float32).reshape(1, 6) / 255, np.ones(1, bool), [])


# --- loading ----------------------------------------------------------------------------------------


def test_default_modes(tuned: Recommender, untuned: Recommender) -> None:
    assert (tuned.default_mode, untuned.default_mode) == ("embedding", "likelihood")


def test_a_base_folder_is_an_untuned_base(tiny_base: Path, tiny_data: Path) -> None:
    rec = Recommender.load(tiny_base, data=Dataset.open(tiny_data), device="cpu")
    assert not rec.model.has_matching


def test_load_finds_the_recorded_data_set(
    bundle: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"trained on the data set 'tiny', which is not at data/tiny.*--data"):
        Recommender.load(bundle, device="cpu")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tiny").symlink_to(tiny_data)
    assert Recommender.load(bundle, device="cpu").dataset.name == "tiny"


def test_a_bundle_is_found_by_its_name(
    bundle: Path, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "films").symlink_to(bundle)
    assert Recommender.load("films", data=tiny_data, device="cpu").meta["name"] == "tiny"
    with pytest.raises(BundleError, match=r"found nothing at 'adapters/film'; did you mean 'adapters/films'"):
        Recommender.load("adapters/film", data=tiny_data)


def test_wrong_paths(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="untuned base has none of its own"):
        Recommender.load(f"path:{tiny_base}")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "readme.txt").write_text("hello")
    with pytest.raises(BundleError, match=r"expected an adapter bundle .* the folder has readme.txt"):
        Recommender.load(tmp_path / "odd", data=tiny_data)
    with pytest.raises(RequestError, match="base= goes with an adapter bundle"):
        Recommender.load(f"path:{tiny_base}", data=tiny_data, base=f"path:{tiny_base}")


def test_a_changed_template_is_refused(tmp_path: Path, tiny_base: Path, tiny_data: Path) -> None:
    folder = tiny_bundle(tmp_path / "old", tiny_base, tiny_data, {"templates": {"yes_no": "0" * 64}})
    with pytest.raises(BundleError, match="prompt template 'yes_no' has changed"):
        Recommender.load(folder, data=tiny_data)


# --- scoring ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_score_depends_on_prompt_and_candidate_alone(tuned: Recommender, mode: str) -> None:
    history = (Event("3"), Event("12"))
    one = Request("a", None, history, ("1", "2", "7", "9"))
    other = Request("b", "4", (), ("9", "5"))
    together = tuned.score([other, one], mode)
    alone = tuned.score(Request("a", None, history, ("9", "7", "2", "1")), mode)[0]
    assert [s.request_id for s in together] == ["b", "a"]
    assert together[1].item_ids == one.candidates
    np.testing.assert_allclose(together[1].scores, alone.scores[::-1], atol=2e-4)


def test_the_history_of_a_known_user_is_filled_in(tuned: Recommender) -> None:
    events = tuned.dataset.histories.events("4")
    by_id = tuned.score(Request("x", "4", (), ("1", "2", "3")))[0]
    by_hand = tuned.score(Request("x", "4", events, ("1", "2", "3")))[0]
    own = tuned.score(Request("x", "4", (Event("24"),), ("1", "2", "3")))[0]
    np.testing.assert_allclose(by_id.scores, by_hand.scores, atol=1e-5)
    assert np.abs(by_id.scores - own.scores).max() > 1e-4
    assert tuned.complete(Request("x", "4")).profile["occupation"] == "artist"


def test_an_unknown_user_without_history_is_scored(tuned: Recommender) -> None:
    scores = tuned.score(Request("x", "nobody", (), ("1", "2")))[0]
    empty = tuned.score(Request("y", None, (), ("1", "2")))[0]
    np.testing.assert_array_equal(scores.scores, empty.scores)
    assert scores.user_id == "nobody"


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request("r", None, (), ()), "request 'r': expected candidates to score, got none"),
        (Request("r", None, (), ("1", "99")), "unknown candidate in request 'r': '99'"),
        (Request("r", None, (), ("1", "Alien")), "'Alien' has the id '12'"),
        (Request("r", None, (), ("1", "2", "1")), "the candidate '1' is listed twice"),
        (Request("r", None, (Event("0"),), ("1",)), "unknown history item in request 'r': '0'"),
    ],
)
def test_wrong_requests(tuned: Recommender, request_: Request, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        tuned.score(request_)


def test_no_requests_no_scores(tuned: Recommender) -> None:
    assert tuned.score([]) == []


def test_unknown_mode(tuned: Recommender, untuned: Recommender) -> None:
    with pytest.raises(ConfigError, match="did you mean 'likelihood'"):
        tuned.score(Request("r", None, (), ("1",)), "liklihood")
    with pytest.raises(BundleError, match="trained matching head"):
        untuned.recommend(history=["Alien"], mode="embedding")


# --- recommending -----------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_recommend_in_every_mode(tuned: Recommender, mode: str) -> None:
    found = tuned.recommend(history=["Alien", "heat", "3"], k=5, mode=mode)
    assert [r.rank for r in found] == [1, 2, 3, 4, 5]
    assert not {"12", "14", "3"} & {r.item_id for r in found}
    assert all(a.score >= b.score for a, b in pairwise(found))
    assert all(r.title == tuned.shelf[r.item_id].title and r.reason.endswith(".") for r in found)


def test_embedding_ranks_the_whole_catalogue(tuned: Recommender) -> None:
    found = tuned.recommend(user="3", k=100)
    seen = {e.item_id for e in tuned.dataset.histories.events("3")}
    assert {r.item_id for r in found} | seen == set(tuned.shelf)
    request = tuned.request("3")
    ids = tuple(r.item_id for r in found)
    scores = tuned.score(Request("r", "3", request.history, ids))[0]
    np.testing.assert_allclose([r.score for r in found], scores.scores, atol=1e-5)


def test_generate_agrees_with_summed_likelihood(tuned: Recommender) -> None:
    """Enough beams make the search exhaustive: the order is that of the summed title probabilities."""
    from palate.engine.modes.likelihood import Likelihood

    found = tuned.recommend(history=["Alien"], k=23, mode="generate")
    request = Request("r", None, (Event("12"),), tuple(r.item_id for r in found))
    exact = Likelihood(reduce="sum").scores(tuned.runner, tuned.serializer, [request])[0]
    np.testing.assert_allclose([r.score for r in found], exact.scores, atol=1e-3)


def test_pool_bounds_what_is_reranked(tuned: Recommender) -> None:
    wide = tuned.rank(tuned.request(history=["Alien"]), tuned.legal(tuned.request()), 3, "likelihood", 50)
    narrow = tuned.rank(tuned.request(history=["Alien"]), tuned.legal(tuned.request()), 3, "likelihood", 6)
    assert (len(wide.item_ids), len(narrow.item_ids)) == (24, 6)


@pytest.mark.parametrize("mode", MODES)
def test_requests_ranked_together_are_ranked_as_alone(tuned: Recommender, mode: str) -> None:
    requests = [tuned.request(user) for user in ("3", "8", "11")]
    legal = [tuned.legal(r, {"year": {"min": 1970 + n}}) for n, r in enumerate(requests)]
    together = tuned.rank_all(requests, legal, 4, mode, pool=8)
    for request, mask, scores in zip(requests, legal, together, strict=True):
        alone = tuned.rank(request, mask, 4, mode, pool=8)
        assert scores.item_ids == alone.item_ids
        np.testing.assert_allclose(scores.scores, alone.scores, atol=1e-4)
        assert all(mask[tuned.shelf.index(i)] for i in scores.item_ids)


def test_filters_and_seen_items(tuned: Recommender) -> None:
    found = tuned.recommend(user="5", k=24, filters={"year": (1975, 1985), "genres": {"not": "Crime"}})
    seen = {e.item_id for e in tuned.dataset.histories.events("5")}
    assert found
    for r in found:
        item = tuned.shelf[r.item_id]
        assert 1975 <= int(item.text["year"]) <= 1985
        assert "Crime" not in item.text["genres"]
        assert r.item_id not in seen


def test_own_history_and_known_user_are_both_seen(tuned: Recommender) -> None:
    known = {e.item_id for e in tuned.dataset.histories.events("5")}
    found = tuned.recommend(user="5", history=["Dumbo"], k=24)
    assert not (known | {"23"}) & {r.item_id for r in found}


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"history": ["Alein"]}, RequestError, "no item .* 'Alein'; did you mean 'Alien'"),
        ({"history": "Alien"}, RequestError, r"expected a list .* write \['Alien'\]"),
        ({"history": ["Alien"], "k": 0}, RequestError, "k of at least 1"),
        ({"filters": {"genre": "Comedy"}}, RequestError, "did you mean 'genres'"),
        ({"filters": {"year": (2000, 2010)}}, EmptyLegalSet, "no movie .* satisfies year 2000 to 2010"),
        ({"history": ["Alien"], "filters": {"title": "Alien"}}, EmptyLegalSet, "in the history already"),
    ],
)
def test_wrong_wishes(tuned: Recommender, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        tuned.recommend(**options)


def test_context_reaches_the_prompt(untuned: Recommender) -> None:
    plain = untuned.recommend(history=["Alien"], k=24)
    evening = untuned.recommend(history=["Alien"], k=24, context={"time": "evening"})
    assert {r.item_id: r.score for r in plain} != {r.item_id: r.score for r in evening}


def test_reasons_name_only_what_is_there(tuned: Recommender) -> None:
    for r in tuned.recommend(history=["Alien", "Heat"], k=22):
        assert any(t in r.reason for t in ("Alien", "Heat"))
        if r.reason.startswith("Like "):
            tags = r.reason.rsplit(": ", 1)[1].rstrip(".").split(", ")
            assert all(tag in tuned.shelf[r.item_id].text["genres"].split() for tag in tags)
    assert "no movies watched so far" in tuned.recommend(k=1)[0].reason


# --- new items --------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_a_new_item_takes_part_at_once(fresh: Recommender, mode: str) -> None:
    fresh.recommend(history=["Alien"], k=3, mode=mode)  # whatever is kept must not hide the new item
    item_id = fresh.add_item("Blade Runner", {"year": "1982", "genres": "Sci-Fi Crime"})
    assert item_id == "new-1"
    scores = fresh.score(Request("r", None, (Event("3"),), ("1", item_id)), mode)[0]
    assert np.isfinite(scores.scores).all()
    found = fresh.recommend(history=["Alien"], k=24, mode=mode, filters={"title": "Blade Runner"})
    assert [r.item_id for r in found] == [item_id]
    everything = fresh.recommend(history=["Alien"], k=24, mode=mode)
    assert item_id in {r.item_id for r in everything}
    assert fresh.request(history=["blade runner"]).history == (Event(item_id),)
    fresh.recommend(history=["Blade Runner"], k=2, mode=mode)


def test_a_new_item_s_text_changes_its_score(fresh: Recommender) -> None:
    a = fresh.add_item("Blade Runner", item_id="a")
    b = fresh.add_item("The English Patient", item_id="b")
    scores = fresh.score(Request("r", None, (Event("12"),), (a, b)), "likelihood")[0].scores
    assert scores[0] != scores[1]


def test_a_new_item_gets_vectors_from_its_picture(
    tmp_path: Path, tiny_base: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The encoder named in the bundle reads the picture; a text file called .jpg costs only the modality."""
    monkeypatch.setattr(newitems, "build", lambda configs: {m: Colour(None, m) for m in configs if m == "image"})
    monkeypatch.setattr(Colour, "fingerprint", "toy-image")
    encoders = {"image": {"encoder": "colour"}, "behaviour": {"encoder": "behaviour"}}
    folder = tiny_bundle(tmp_path / "b", tiny_base, tiny_data, {"encoders": encoders})
    rec = Recommender.load(folder, data=tiny_data, device="cpu")
    soft = rec.model.soft
    assert soft is not None
    picture = rec.add_item("Red", media=tiny_data / "posters" / "1.jpg")
    assert [kind for kind, _ in soft.slots(picture)] == ["image"]
    assert rec.recommend(k=1, filters={"title": "Red"})[0].image == tiny_data / "posters" / "1.jpg"
    (tmp_path / "fake.jpg").write_text("this is no picture")
    with pytest.warns(PalateWarning, match=r"image \(.*fake.jpg\): cannot identify.*goes without it"):
        bad = rec.add_item("Fake", media={"image": tmp_path / "fake.jpg"})
    assert list(soft.slots(bad)) == []
    rec.recommend(history=["Fake"], k=2)
    monkeypatch.setattr(Colour, "fingerprint", "another")
    with pytest.raises(BundleError, match="image encoder differs"):
        rec.add_item("Blue", media=tiny_data / "posters" / "2.jpg")
    assert "Blue" not in rec.shelf.column("title")


def test_wrong_new_items(fresh: Recommender) -> None:
    with pytest.raises(RequestError, match="item id '1' is taken by 'Toy Story'"):
        fresh.add_item("Another", item_id="1")
    with pytest.raises(RequestError, match="expected a title"):
        fresh.add_item("  ")


# --- explaining -------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["embedding", "likelihood", "yes_no", "letters", "generate"])
def test_explain_leaves_each_item_out(tuned: Recommender, mode: str) -> None:
    history = ["Alien", "Heat", "Fargo", "Babe"]
    found = tuned.explain("Aliens", history=history, mode=mode)
    assert {c.title for c in found.contributions} == set(history)
    values = [c.value for c in found.contributions]
    assert values == sorted(values, reverse=True)
    json.dumps(found.to_dict())
    assert found.title in str(found)
    for one in found.contributions:
        for field, tag in one.shared:
            assert tag in tuned.shelf[one.item_id].text[field]
            assert tag in tuned.shelf["13"].text[field]


def test_a_contribution_is_a_difference_of_scores(untuned: Recommender) -> None:
    found = untuned.explain("Aliens", history=["Alien", "Heat"], mode="likelihood")
    whole = untuned.score(Request("r", None, (Event("12"), Event("14")), ("13",)), "likelihood")[0].scores[0]
    less = untuned.score(Request("r", None, (Event("14"),), ("13",)), "likelihood")[0].scores[0]
    value = next(c.value for c in found.contributions if c.title == "Alien")
    assert value == pytest.approx(float(whole - less), abs=1e-5)
    assert found.score == pytest.approx(float(whole), abs=1e-5)


def test_explain_without_history_and_unknown_item(tuned: Recommender) -> None:
    found = tuned.explain("Aliens")
    assert found.contributions == ()
    assert "no movies watched so far" in found.reason
    with pytest.raises(RequestError, match="did you mean 'Alien'"):
        tuned.explain("Alein", history=["Heat"])


def test_explain_renders(tuned: Recommender) -> None:
    from rich.console import Console

    console = Console(width=100, record=True, file=StringIO())
    console.print(tuned.explain("Aliens", user="3"))
    assert "Aliens" in console.export_text()


def test_a_long_history_works(tuned: Recommender) -> None:
    """10,000 items: the budget keeps the newest, the score is that of the newest alone."""
    ids = tuned.shelf.item_ids
    history = tuple(Event(ids[n % len(ids)]) for n in range(10_000))
    for mode in ("embedding", "likelihood"):
        long = tuned.score(Request("r", None, history, ("1", "2")), mode)[0]
        short = tuned.score(Request("r", None, history[-2000:], ("1", "2")), mode)[0]
        np.testing.assert_allclose(long.scores, short.scores, atol=1e-5)
