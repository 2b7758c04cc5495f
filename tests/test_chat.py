"""Chat: what is understood, and what is answered, over a tiny random model."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facade import tiny_bundle
from palate import Recommender
from palate.chat import Chat
from palate.chat.cards import cards
from palate.chat.wishes import Wish, Wishes
from palate.chat.words import stem
from palate.data import Catalog, Dataset
from palate.data.records import Records
from palate.errors import RequestError
from palate.recommender import Recommendation
from palate.recommender.fields import profile
from palate.recommender.filters import condition_test
from palate.recommender.shelf import Shelf

FILMS = [
    ("Toy Story", "1995", "Animation Children's Comedy", "John Lasseter", "Tom Hanks, Tim Allen", "81 min"),
    ("Alien", "1979", "Action Horror Sci-Fi Thriller", "Ridley Scott", "Sigourney Weaver, Tom Skerritt", "117 min"),
    ("Big", "1988", "Comedy", "Penny Marshall", "Tom Hanks, Elizabeth Perkins", "104 min"),
    ("Psycho", "1960", "Horror Thriller", "Alfred Hitchcock", "Anthony Perkins, Vera Miles", "109 min"),
    ("Heat", "1995", "Action Crime Thriller", "Michael Mann", "Al Pacino, Robert De Niro", "170 min"),
    ("Babe", "1995", "Children's Comedy Drama", "Chris Noonan", "James Cromwell", "92 min"),
    ("Vertigo", "1958", "Mystery Thriller", "Alfred Hitchcock", "James Stewart, Kim Novak", "128 min"),
    ("Toy Story 2", "1999", "Animation Children's", "John Lasseter", "Tom Hanks, Tim Allen", "92 min"),
]


@pytest.fixture(scope="module")
def wishes() -> Wishes:
    class Films(Catalog):
        """A catalogue that finds titles of the same two first letters alike."""

        def find(self, title: str, k: int = 5, cutoff: float = 0.6) -> list[tuple[str, float]]:
            return [(i, 0.7) for i, item in self.items() if item.title[:2].lower() == title[:2].lower()][:k]

    rows = [(*film, f"A story about {film[0]} that is told at length here.") for film in FILMS]
    names = ("title", "year", "genres", "director", "actors", "runtime", "plot")
    columns = {n: pa.array(cells, pa.large_string()) for n, cells in zip(names, zip(*rows, strict=True), strict=True)}
    records = Records(tuple(f"m{n}" for n in range(len(FILMS))), columns, np.arange(len(FILMS)), len(FILMS))
    films = Films(records, "title", names[1:], {}, Path())
    shelf = Shelf(films)
    return Wishes(shelf, profile(films.values()))


def meant(wishes: Wishes, text: str) -> set[str]:
    """Titles that satisfy a message's filters."""
    wish = wishes.parse(text)
    assert not wish.questions, wish.questions
    tests = {name: condition_test(c, name) for name, c in wish.filters.items()}
    return {i.title for i in wishes.shelf.values() if all(t(i.text[n]) for n, t in tests.items())}


ALL = {f[0] for f in FILMS}


@pytest.mark.parametrize(
    ("text", "titles"),
    [
        ("a comedy", {"Toy Story", "Big", "Babe"}),
        ("comedies, not animated", {"Big", "Babe"}),
        ("comedy but no animation please", {"Big", "Babe"}),
        ("no thrillers or comedies", {"Toy Story 2"}),
        ("a horror or a comedy", {"Alien", "Psycho", "Toy Story", "Big", "Babe"}),
        ("animated comedy", {"Toy Story"}),
        ("from the 90s", {"Toy Story", "Heat", "Babe", "Toy Story 2"}),
        ("late 90s", {"Toy Story 2"}),
        ("from the fifties and sixties", {"Psycho", "Vertigo"}),
        ("before 1980", {"Alien", "Psycho", "Vertigo"}),
        ("after 1995", {"Toy Story 2"}),
        ("since 1995", {"Toy Story", "Heat", "Babe", "Toy Story 2"}),
        ("from 1980 to 1995", {"Toy Story", "Big", "Heat", "Babe"}),
        ("between 1958 and 1960", {"Psycho", "Vertigo"}),
        ("something from 1979", {"Alien"}),
        ("not from the 90s", {"Alien", "Big", "Psycho", "Vertigo"}),
        ("before the 80s", {"Alien", "Psycho", "Vertigo"}),
        ("under 100 minutes", {"Toy Story", "Babe", "Toy Story 2"}),
        ("at most 92 min", {"Toy Story", "Babe", "Toy Story 2"}),
        ("no longer than 1.5 hours", {"Toy Story"}),
        ("longer than two hours", {"Heat", "Vertigo"}),
        ("less than an hour and a half", {"Toy Story"}),
        ("100 minutes or less", {"Toy Story", "Babe", "Toy Story 2"}),
        ("a thriller over 2 hours from the 90s", {"Heat"}),
        ("directed by Hitchcock", {"Psycho", "Vertigo"}),
        ("with Tom Hanks", {"Toy Story", "Big", "Toy Story 2"}),
        ("with Tom Hanks, not animated", {"Big"}),
        ("nothing with Hanks", ALL - {"Toy Story", "Big", "Toy Story 2"}),
        ("nothing scary", ALL - {"Alien", "Psycho"}),
        ("something funny for the kids tonight, not animated, under 100 minutes", {"Babe"}),
        ("I'm in the mood for something good", ALL),
        ("a film about friendship", ALL),
    ],
)
def test_filters_are_read(wishes: Wishes, text: str, titles: set[str]) -> None:
    assert meant(wishes, text) == titles


def test_everyday_words_are_hints(wishes: Wishes) -> None:
    wish = wishes.parse("something funny for the kids tonight")
    assert wish.filters == {}
    assert [h[0] for h in wish.hints] == ["funny", "kids"]
    assert [h[1] for h in wish.hints] == [{"genres": "Comedy"}, {"genres": "Children's"}]
    assert wish.text == ""


def test_soft_amounts(wishes: Wishes) -> None:
    assert wishes.parse("something short").hints == (("short", {"runtime": {"max": 92.0}}),)
    assert wishes.parse("an old film, not too long").hints[0][1] == {"year": {"max": 1974.25}}
    assert wishes.parse("not too long").hints[0][1]["runtime"] == {"max": 120.0 - 0.25}


@pytest.mark.parametrize(
    ("text", "like", "unlike"),
    [
        ("something like Heat", ["Heat"], []),
        ("like Toy Story 2 but older", ["Toy Story 2"], []),
        ("similar to alien and psycho", ["Alien", "Psycho"], []),
        ('I want "Babe"', ["Babe"], []),
        ("nothing like Alien", [], ["Alien"]),
        ("more like Heat, less like “Big”", ["Heat"], ["Big"]),
        ("I like comedies", [], []),
    ],
)
def test_titles_are_read(wishes: Wishes, text: str, like: list[str], unlike: list[str]) -> None:
    wish = wishes.parse(text)
    assert [wishes.shelf[i].title for i in wish.like] == like
    assert [wishes.shelf[i].title for i in wish.unlike] == unlike


@pytest.mark.parametrize(
    ("text", "intent", "title"),
    [
        ("more", "more", None),
        ("Show me some more, please!".replace(",", ""), "more", None),
        ("reset", "reset", None),
        ("why?", "why", None),
        ("Why did you recommend Heat?", "why", "Heat"),
        ("I loved Alien", "like", "Alien"),
        ("I didn't like Psycho.", "dislike", "Psycho"),
        ("I've already seen Big", "seen", "Big"),
        ("", "empty", None),
        ("hello!", "empty", None),
        ("...", "empty", None),
        ("I like comedies", "ask", None),
        ("recommend me something", "ask", None),
    ],
)
def test_intents(wishes: Wishes, text: str, intent: str, title: str | None) -> None:
    wish = wishes.parse(text)
    assert wish.intent == intent
    assert [wishes.shelf[i].title for i in wish.targets] == ([title] if title else [])


@pytest.mark.parametrize(
    ("text", "question"),
    [
        ("a comedy but not a comedy", "You ask for Comedy and against it"),
        ("after 1990 and before 1980", "cannot be met"),
        ("under 10 minutes", "Nothing in the catalogue has runtime at most 9"),
        ("like Alein", "I do not find “Alein” in the catalogue. Did you mean Alien"),
        ('something like "Qwerty"', "I do not find “Qwerty” in the catalogue."),
    ],
)
def test_questions(wishes: Wishes, text: str, question: str) -> None:
    assert any(question in q for q in wishes.parse(text).questions)


def test_what_cannot_be_checked_is_said(wishes: Wishes) -> None:
    assert "cannot check “under $20”" in wishes.parse("a comedy under $20").notes[0]


def test_the_rest_is_text(wishes: Wishes) -> None:
    wish = wishes.parse("a comedy about loneliness and friendship, not depressing, from the 80s")
    assert (wish.text, wish.avoid) == ("loneliness friendship", "depressing")


def test_refining_keeps_what_was_said(wishes: Wishes) -> None:
    first = wishes.parse("a comedy from the 80s about work")
    second = wishes.parse("but from the 90s")
    assert second.refines
    assert not first.refines
    both = second.onto(first)
    assert both.filters == {"genres": "Comedy", "year": (1990.0, 1999.0)}
    assert both.text == "work"


@pytest.mark.parametrize(
    "words",
    [("comedy", "comedies", "comedic"), ("animated", "animation"), ("thriller", "thrillers", "thrilling"),
     ("children", "children's"), ("drama", "dramas", "dramatic"), ("mystery", "mysteries")],
)  # fmt: skip
def test_stems(words: tuple[str, ...]) -> None:
    assert len({stem(w) for w in words}) == 1


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.one_of(
        st.text(max_size=80),
        st.lists(
            st.sampled_from(
                [
                    "not",
                    "like",
                    "no",
                    "comedy",
                    "Alien",
                    "and",
                    "or",
                    ",",
                    "under",
                    "100",
                    "minutes",
                    "from",
                    "the",
                    "90s",
                    "before",
                    "1980",
                    '"',
                    "Heat",
                    "why",
                    "more",
                    "than",
                    "$",
                    "between",
                    "1990",
                    "to",
                    "with",
                    "Tom",
                    "Hanks",
                    "nothing",
                    "too",
                    "short",
                ]
            ),
            max_size=14,
        ).map(" ".join),
    )
)
def test_any_message_is_parsed(wishes: Wishes, text: str) -> None:
    wish = wishes.parse(text)
    assert isinstance(wish, Wish)
    if not wish.questions:
        for name, condition in wish.filters.items():
            condition_test(condition, name)
    assert {*wish.like, *wish.unlike} <= set(wishes.shelf)


# --- answers ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["tuned", "untuned"])
def rec(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path
) -> Recommender:
    path: Any = f"path:{tiny_base}"
    if request.param == "tuned":
        path = tiny_bundle(tmp_path_factory.mktemp("adapters") / "tiny", tiny_base, tiny_data)
    return Recommender.load(path, data=Dataset.open(tiny_data), device="cpu")


@pytest.fixture
def chat(rec: Recommender) -> Chat:
    return Chat(rec, history=["Alien", "Fargo"], k=3, dense=False)


def test_a_conversation(chat: Chat) -> None:
    first = chat.ask("a comedy or a drama, before 1990")
    assert 0 < len(first.items) <= 3
    for item in first.items:
        text = chat.rec.shelf[item.item_id].text
        assert {"Comedy", "Drama"} & set(text["genres"].split())
        assert int(text["year"]) < 1990
        assert item.title in str(first)
    second = chat.more()
    assert not {i.item_id for i in first.items} & {i.item_id for i in second.items}
    refined = chat.ask("but no drama")
    assert all("Drama" not in chat.rec.shelf[i.item_id].text["genres"] for i in refined.items)
    assert str(chat.ask("why?")).startswith((refined if refined.items else second).items[0].title)


def test_nothing_is_named_twice_and_then_it_ends(chat: Chat) -> None:
    named: list[str] = []
    for answer in itertools.islice(iter(chat.more, None), 20):
        if not answer.items:
            assert "Every movie that fits is named or watched already" in str(answer)
            break
        named += [i.item_id for i in answer.items]
    assert len(named) == len(set(named)) == 22
    assert not {"12", "15"} & set(named)


def test_feedback_changes_the_next_answer(chat: Chat) -> None:
    def order() -> list[str]:
        chat.shown = []
        chat.k = 20
        return [i.item_id for i in chat.more().items]

    before = order()
    assert "more like Heat" in str(chat.like("Heat"))
    liked = order()
    assert "14" not in liked
    assert [i for i in before if i in liked] != liked
    assert "less like Batman" in str(chat.ask("I hated Batman"))
    away = order()
    assert "22" not in away
    horror = [i for i in away if "Horror" in chat.rec.shelf[i].text["genres"] and i in liked]
    assert sum(map(away.index, horror)) > sum(map(liked.index, horror))
    assert "off the list" in str(chat.mark_seen("Speed"))
    assert "21" not in order()
    assert [e.item_id for e in chat.history] == ["12", "15", "21", "14"]
    chat.reset()
    assert [e.item_id for e in chat.history] == ["12", "15"]
    assert order() == before


def test_hints_come_first_and_are_given_up(chat: Chat) -> None:
    answer = chat.ask("something scary")
    horror = [i for i in answer.items if "Horror" in chat.rec.shelf[i.item_id].text["genres"]]
    assert len(horror) == 3
    chat.k = 20
    last = chat.more()
    assert last.items
    assert "Horror" not in chat.rec.shelf[last.items[-1].item_id].text["genres"]


def test_asks_back(chat: Chat) -> None:
    for text, said in [
        ("", "Tell me what you are in the mood for"),
        ("comedy, not comedy", "which shall it be"),
        ("like Alein", "Did you mean Alien"),
        ("why Alein?", "I do not find"),
        ("why?", "not recommended anything yet"),
        ("a comedy from 1973", "No movie fits all of that. Without “year 1973” there"),
    ]:
        answer = chat.ask(text)
        assert said in str(answer), (text, str(answer))
        assert answer.items == ()
    with pytest.raises(RequestError, match="Nothing has been recommended yet"):
        chat.why()


def test_free_text_moves_the_ranking(chat: Chat) -> None:
    chat.k = 22
    plain = [i.item_id for i in chat.more().items]
    chat.reset()
    told = [i.item_id for i in chat.ask("a toy").items]
    assert told.index("1") < plain.index("1") or told.index("1") == 0


def test_why_is_an_explanation(chat: Chat) -> None:
    found = chat.why("Aliens")
    assert found.title == "Aliens"
    assert {c.item_id for c in found.contributions} == {"12", "15"}


def test_cards_are_escaped(tmp_path: Path, chat: Chat) -> None:
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "p.png")
    evil = Recommendation("1", "<script>alert(1)</script>", 1.0, 1, "a & b", tmp_path / "p.png")
    missing = Recommendation("2", "Plain", 0.5, 2, "why not", tmp_path / "absent.png")
    (tmp_path / "text.png").write_text("<svg onload=alert(1)>")
    odd = Recommendation("3", "Odd", 0.5, 3, "why not", tmp_path / "text.png")
    html = cards("2 films <b>", [evil, missing, odd])
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "a &amp; b" in html
    assert html.count("<img") == 1
    assert "data:image/png;base64," in html
    assert "svg" not in html
    assert "1." in chat.ask("a comedy")._repr_html_()
