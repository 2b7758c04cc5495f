"""Chat's turns: streamed, awaited, kept as a state, replayed from messages; over a tiny random model."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from facade import tiny_bundle
from palate import Recommender
from palate.chat import Answer, Chat, Piece
from palate.chat.alike import SharedTags
from palate.data import Dataset
from palate.errors import RequestError

MESSAGES = [
    "a comedy or a drama, before 1990", "more", "but no drama", "something scary", "I hated Batman", "I loved Heat",
    "I've seen Speed", "why?", "reset", "", "like Alein", "yes", "no", "a comedy from 1973", "drop it",
    "like Toy Story but older", "about a toy", "comedy, not comedy", "before 1985", "nothing like Jaws",
    "less like Seven", "not from the 80s", "90年代的喜剧", "更多", "不要动画片", "我喜欢《Heat》",
    "why did you pick Aliens?",
]  # fmt: skip


@pytest.fixture(scope="module")
def rec(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> Recommender:
    path = tiny_bundle(tmp_path_factory.mktemp("adapters") / "tiny", tiny_base, tiny_data)
    return Recommender.load(path, data=Dataset.open(tiny_data), device="cpu")


def gist(answer: Answer) -> tuple[object, ...]:
    """An answer without its numbers: keys and values kept from an earlier prompt round a little differently."""
    named = tuple((i.item_id, i.rank, i.reason) for i in answer.items)
    found = answer.explanation
    return (answer.text, *named) if found is None else (found.item_id, found.reason)


@pytest.fixture
def chat(rec: Recommender) -> Chat:
    return Chat(rec, history=["Alien", "Fargo"], k=3, dense=False)


def test_the_pieces_of_a_stream_are_the_answer(chat: Chat, rec: Recommender) -> None:
    twin = Chat(rec, history=["Alien", "Fargo"], k=3, dense=False)
    for text in ["a comedy or a drama, before 1990", "more", "I loved Heat", "why?", "", "something scary"]:
        pieces = list(chat.stream(text))
        assert all(isinstance(p, Piece) for p in pieces)
        assert isinstance(chat.last, Answer)
        assert "".join(p.text for p in pieces) == chat.last.text == twin.ask(text).text
        assert tuple(p.item for p in pieces if p.item) == chat.last.items
        assert [i.rank for i in chat.last.items] == list(range(1, len(chat.last.items) + 1))


def test_the_first_item_comes_before_the_others_have_reasons(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    reason = type(chat.rec.reasoner).reason
    monkeypatch.setattr(
        type(chat.rec.reasoner), "reason", lambda self, item, known: asked.append(item) or reason(self, item, known)
    )
    stream = chat.stream("a comedy or a drama")
    first = next(p for p in stream if p.item)
    assert first.item is not None
    assert asked == [first.item.item_id]
    assert len([p for p in stream if p.item]) == len(set(asked)) - 1 == 2


def test_an_abandoned_stream_remembers_what_it_handed_out(chat: Chat, rec: Recommender) -> None:
    for piece in chat.stream("a comedy or a drama"):
        if piece.item:
            break
    stream = chat.stream("horror")
    next(stream)  # the heading alone
    stream.close()
    assert piece.item is not None
    assert chat.shown == chat.latest == [piece.item.item_id]
    assert chat.last is None
    other = Chat(rec, history=["Alien", "Fargo"], k=3, dense=False)
    other.ask("a comedy or a drama")
    more = chat.more()
    assert piece.item.item_id not in {i.item_id for i in more.items}
    assert "Comedy or Drama" in more.text


def test_awaited(chat: Chat, rec: Recommender) -> None:
    twin = Chat(rec, history=["Alien", "Fargo"], k=3, dense=False)

    async def talk() -> tuple[Answer, list[Piece], int]:
        beats = 0

        async def beat() -> None:
            nonlocal beats
            while True:
                beats += 1
                await asyncio.sleep(0.001)

        task = asyncio.create_task(beat())
        answer = await chat.aask("a comedy or a drama")
        pieces = [p async for p in chat.astream("more")]
        task.cancel()
        return answer, pieces, beats

    answer, pieces, beats = asyncio.run(talk())
    assert gist(answer) == gist(twin.ask("a comedy or a drama"))
    assert "".join(p.text for p in pieces) == twin.more().text
    assert chat.state() == twin.state()
    assert beats > 2


def test_cancelled_while_it_computes(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    ranking, go = threading.Event(), threading.Event()
    rank = Recommender.rank

    def slow(self: Recommender, *args: Any) -> Any:
        ranking.set()
        assert go.wait(10)
        return rank(self, *args)

    monkeypatch.setattr(Recommender, "rank", slow)
    before = chat.state()

    async def talk() -> Answer:
        task = asyncio.create_task(chat.aask("a comedy or a drama"))
        while not ranking.is_set():
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert chat.state() == before
        go.set()
        return await chat.aask("horror")  # waits for the thread that was left

    assert asyncio.run(talk()).items
    assert chat.wish is not None
    assert chat.wish.filters == {"genres": "Horror"}


def test_an_async_stream_left_half_way(chat: Chat) -> None:
    async def talk() -> str:
        stream = chat.astream("a comedy or a drama")
        async for piece in stream:
            if piece.item:
                await stream.aclose()
                return piece.item.item_id
        raise AssertionError

    assert asyncio.run(talk()) == chat.latest[0]
    time.sleep(0.05)
    assert len(chat.shown) == 1


def test_context_reaches_the_request(rec: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, str]] = []
    rank = Recommender.rank

    def spied(self: Recommender, request: Any, *args: Any) -> Any:
        asked.append(dict(request.context))
        return rank(self, request, *args)

    monkeypatch.setattr(Recommender, "rank", spied)
    chat = rec.chat(history=["Alien"], context={"weekday": "Friday"}, k=2)
    assert len(chat.ask("a comedy").items) == 2
    chat.ask("a drama", context={"device": "phone"})
    chat.more()
    assert asked == [{"weekday": "Friday"}, {"device": "phone"}, {"weekday": "Friday"}]
    with pytest.raises(RequestError, match="expected k of at least 1, got 0"):
        rec.chat(k=0)


TALK = st.lists(st.sampled_from(MESSAGES), max_size=6)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TALK, st.lists(st.sampled_from(MESSAGES), min_size=1, max_size=3), st.booleans())
def test_a_state_goes_on_as_the_conversation_would(
    rec: Recommender, said: list[str], then: list[str], known: bool
) -> None:
    chat = Chat(rec, "3" if known else None, None if known else ["Alien", "Fargo"], 3, dense=False)
    for text in said:
        chat.ask(text)
    kept = json.loads(json.dumps(chat.state()))
    other = Chat.restore(rec, kept, dense=False)
    assert other.state() == kept
    for text in then:
        assert gist(other.ask(text)) == gist(chat.ask(text)), (said, text)
    assert other.state() == chat.state()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TALK, st.sampled_from(MESSAGES))
def test_replayed_messages_give_the_next_answer(rec: Recommender, said: list[str], then: str) -> None:
    chat = Chat(rec, history=["Alien", "Fargo"], k=3, dense=False)
    replayed = Chat(rec, history=["Alien", "Fargo"], k=3, dense=False)
    for text in said:
        answer = chat.ask(text)
        replayed.listen(text)
        replayed.told(answer.text)
    assert replayed.state() == chat.state()
    assert gist(replayed.ask(then)) == gist(chat.ask(then))


def test_listening_runs_no_model(chat: Chat, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: Any) -> Any:
        raise AssertionError("the model ran")

    monkeypatch.setattr(Recommender, "rank", never)
    monkeypatch.setattr(Recommender, "explain", never)
    for text in MESSAGES:
        chat.listen(text)
        chat.told("2 movies:\n1. Toy Story (1971): Like Heat (1984): x.\n2. Aliens (1983)：好\n3. Nobody knows: it")
        if text != "reset":
            assert chat.latest == ["1", "13"]


def test_states_that_are_none(rec: Recommender, chat: Chat) -> None:
    kept = chat.state()
    with pytest.raises(RequestError, match="expected version 1, got 7"):
        Chat.restore(rec, {**kept, "version": 7})
    with pytest.raises(RequestError, match="misses shown"):
        Chat.restore(rec, {k: v for k, v in kept.items() if k != "shown"})
    with pytest.raises(RequestError, match="no language is called 'xx'"):
        Chat.restore(rec, {**kept, "language": "xx"})
    gone = Chat.restore(
        rec, {**kept, "liked": ["12", "gone"], "history": [{"item": "gone"}, {"item": "1"}]}, dense=False
    )
    assert gone.liked == ["12"]
    assert [e.item_id for e in gone.history] == ["1", "12"]


def test_shared_tags_weigh_as_reasons_do(rec: Recommender) -> None:
    tags = SharedTags(rec.shelf, rec.reasoner.fields)
    for other in rec.shelf.item_ids[:8]:
        expected = [rec.reasoner.common(i, other).weight for i in rec.shelf.item_ids]
        assert tags.shared(other) == pytest.approx(expected, abs=1e-5)


def test_a_conversation_writes_the_catalogues_titles_alone_in_mode_generate(rec: Recommender) -> None:
    chat = Chat(rec, history=["Alien", "Fargo"], k=3, mode="generate", dense=False)
    seen: set[str] = set()
    for text in ["a comedy or a drama", "more", "but no drama", "like Jaws"]:
        for item in chat.ask(text).items:
            assert rec.shelf[item.item_id].title == item.title
            assert item.item_id not in seen
            seen.add(item.item_id)
    assert len(seen) >= 6


def test_why_has_cards_too_and_all_is_escaped(rec: Recommender) -> None:
    evil = "<script>alert(1)</script> & Co"
    item_id = rec.shelf.lookup(evil) or rec.add_item(evil, {"genres": "Comedy", "year": "1980"})
    chat = Chat(rec, history=["Alien", evil], k=24, dense=False)
    why = chat.ask(f"why “{rec.shelf['1'].title}”?")
    assert why.explanation is not None
    assert why._repr_html_() == why.explanation._repr_html_()
    for html in (
        why._repr_html_(),
        chat.why("Heat")._repr_html_(),
        Chat(rec, history=["Alien"], k=24, dense=False).ask("comedies")._repr_html_(),
        chat.ask(evil)._repr_html_(),
    ):
        assert "<script>" not in html
    assert "&lt;script&gt;" in Chat(rec, history=["Alien"], k=24, dense=False).ask("comedies")._repr_html_()
    assert item_id in rec.shelf


def test_lines_of_the_last_answer_are_pointed_at(chat: Chat) -> None:
    first = chat.ask("a comedy or a drama")
    titles = [i.title for i in first.items]
    assert f"more like {titles[1]}" in chat.ask("I liked the second one").text
    assert f"less like {titles[2]}" in chat.ask("I hated the last one!").text
    assert chat.ask("why #2?").text.startswith(titles[1])
    assert chat.ask("why did you pick the 3rd?").text.startswith(titles[2])
    assert f"{titles[0]}, {titles[1]} and {titles[2]} is off" in chat.ask("I've seen all of them").text
    assert chat.seen == [i.item_id for i in first.items]
    assert (chat.liked, chat.disliked) == ([], [])
    assert "I do not find" in chat.ask("why number 9?").text


def test_a_yes_does_what_was_offered(chat: Chat) -> None:
    assert "Without “year 1973” there are" in chat.ask("a comedy from 1973").text
    dropped = chat.ask("yes please")
    assert len(dropped.items) == 3
    assert dropped.text.startswith("3 movies (Comedy):")
    assert chat.state()["wish"] == [{"text": "a comedy from 1973", "without": ["year"]}]
    assert "Nothing in the catalogue has year 2050" in chat.ask("from 2050").text
    assert chat.ask("ok").text.startswith("1 movie (Comedy):")
    assert "Did you mean Alien or Aliens?" in chat.ask("like Alein").text
    assert "(like Alien)" in chat.ask("yes").text
    assert "Did you mean Batman?" in chat.ask("I hated Batmann Returns").text or chat.disliked == []
    assert "Tell me what you are in the mood for" in chat.ask("yes").text or chat.disliked
    chat.ask("a comedy from 1973")
    assert chat.ask("no").text == "All right. What are you in the mood for instead?"
    assert "Tell me what you are" in chat.ask("yes").text


def test_refinements_add_replace_and_narrow(chat: Chat) -> None:
    for said, filters in [
        ("a comedy from the 80s", {"genres": "Comedy", "year": (1980.0, 1989.0)}),
        ("but no animation", {"genres": {"all": ["Comedy", {"not": "Animation"}]}, "year": (1980.0, 1989.0)}),
        ("since 1975", {"genres": {"all": ["Comedy", {"not": "Animation"}]}, "year": {"min": 1975.0}}),
        ("before 1990", {"genres": {"all": ["Comedy", {"not": "Animation"}]}, "year": {"min": 1975.0, "max": 1989.0}}),
        ("a drama", {"genres": "Drama"}),
        ("what about horror?", {"genres": "Horror"}),
    ]:
        chat.listen(said)
        assert chat.wish is not None
        assert chat.wish.filters == filters, said
    chat.listen("and also comedy")  # nothing is both: it was a new wish
    assert chat.wish.filters == {"genres": "Comedy"}


def test_rather_is_said_in_place_of_what_was_said(chat: Chat) -> None:
    chat.listen("something scary from the 80s, not a comedy, like Alien")
    chat.listen("rather something funny for the kids")
    assert chat.wish is not None
    assert chat.wish.filters == {"year": (1980.0, 1989.0)}
    assert [words for words, _ in chat.wish.hints] == ["funny", "kids"]
    assert [chat.rec.shelf[i].title for i in chat.wish.like] == ["Alien"]
    chat.listen("instead from the 70s")
    assert chat.wish.filters == {"year": (1970.0, 1979.0)}
    assert [words for words, _ in chat.wish.hints] == ["funny", "kids"]
