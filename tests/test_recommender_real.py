"""The facade over the real default base and real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from palate import Event, Recommender, Request, import_dataset

pytestmark = pytest.mark.weights


@pytest.fixture(scope="module")
def rec(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    folder = tmp_path_factory.mktemp("data") / "ml-100k"
    return Recommender.load("smollm2-135m-instruct", data=import_dataset("ml-100k", folder), device="cpu")


def test_an_untuned_base_recommends(rec: Recommender) -> None:
    filters = {"year": (1980, 1995), "genres": {"not": "Comedy"}}
    found = rec.recommend(history=["Alien", "Heat", "The Terminator"], k=5, filters=filters, pool=12)
    assert len({r.item_id for r in found}) == 5
    for r in found:
        item = rec.shelf[r.item_id]
        assert 1980 <= int(item.text["year"]) <= 1995
        assert "Comedy" not in item.text["genres"]
        assert item.title not in ("Alien", "Heat", "The Terminator")


def test_scores_do_not_depend_on_company(rec: Recommender) -> None:
    """bfloat16 rounds each of the two by about 0.05 against float32, where they agree to 1e-5."""
    sequel, other = rec.shelf.find("Aliens"), rec.shelf.find("Toy Story")
    history = (Event(rec.shelf.find("Alien")),)
    alone = rec.score(Request("a", None, history, (sequel,)), "likelihood")[0].scores[0]
    company = [Request("b", "1", (), (other, sequel)), Request("a", None, history, (other, sequel))]
    together = rec.score(company, "likelihood")[1].scores
    assert together[1] == pytest.approx(alone, abs=0.12)
    assert np.isfinite(together).all()


def test_a_new_film_and_a_conversation(rec: Recommender, tmp_path: Path) -> None:
    item_id = rec.add_item("The Martian", {"year": "2015", "genres": "Adventure Sci-Fi"})
    found = rec.recommend(history=["Alien", "The Martian"], k=3, pool=6)
    assert item_id not in {r.item_id for r in found}
    chat = rec.chat(history=["Alien"])
    chat.k = 3
    answer = chat.ask("a comedy from the 80s, no romance")
    assert len(answer.items) == 3
    for item in answer.items:
        text = rec.shelf[item.item_id].text
        assert "Comedy" in text["genres"]
        assert "Romance" not in text["genres"]
        assert 1980 <= int(text["year"]) <= 1989
