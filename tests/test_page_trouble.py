"""The page when things go wrong: keys, a busy server, one that dies and comes back. Nothing a person typed is lost."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browsed import Server, answered, ask, choose, serving, tiny_world, titles, until, visiting

RECIPES = "{item: recipe, items: recipes, verb: cooked, person: cook}"
KEY = "a-key-of-the-tests-0123456789"


@pytest.fixture(scope="module")
def server(
    browser: Any, tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """A server that wants a key, of a cookbook."""
    folder = tmp_path_factory.mktemp("trouble")
    bundle, data = tiny_world(folder, tiny_base, tiny_data, RECIPES)
    with serving("-a", bundle, "--data", data, "--store", folder / "store.db", env={"PALATE_API_KEYS": KEY}) as found:
        yield found


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """A tab whose person has given the key."""
    with visiting(browser, server.url, troubled=True) as found:
        give(found, KEY)
        found.locator(".starter").first.wait_for()
        yield found


def give(page: Any, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Use it").click()


def test_a_key_is_asked_for_and_kept_for_the_tab(browser: Any, server: Server) -> None:
    with visiting(browser, server.url, troubled=True) as page:
        page.get_by_text("This server answers to people with a key.").wait_for()
        give(page, "not a key this server knows")
        page.get_by_text("The server did not take that key.").wait_for()
        page.get_by_role("button", name="Not now").click()
        page.get_by_text("The server wants a key.").wait_for()
        page.get_by_role("button", name="Try again").click()
        give(page, KEY)
        page.locator(".starter").first.wait_for()
        # pictures come with it too
        until(
            lambda: page.locator(".starter img").evaluate_all("all => all.some(i => i.naturalWidth > 0)"), "a picture"
        )
        page.reload()
        page.locator(".starter").first.wait_for()
        assert page.get_by_label("API key").is_hidden()


def test_the_words_are_those_of_the_domain(page: Any) -> None:
    page.get_by_role("heading", name="Which recipes do you like?").wait_for()
    page.get_by_role("heading", name="Your recipes").wait_for()
    page.get_by_role("textbox", name="Or open a cook by id").wait_for()
    choose(page, "Heat")
    assert page.get_by_role("button", name="Already cooked").count() == 12
    page.get_by_text("Cooked, oldest first.").wait_for()
    page.get_by_role("link", name="Chat").click()
    page.get_by_role("button", name="Surprise me with recipes I would enjoy").wait_for()
    assert "movie" not in page.locator("body").inner_text().lower()


def test_a_busy_server_is_waited_for(page: Any) -> None:
    refused = []

    def refuse(route: Any) -> None:
        refused.append(route)
        body = '{"error": {"message": "too many", "type": "rate_limit_error", "code": "overloaded"}}'
        route.fulfill(status=429, headers={"Retry-After": "2"}, content_type="application/json", body=body)

    page.route("**/v1/recommend", refuse)
    page.locator(".starter").first.click()
    page.get_by_text("The server is busy right now.").wait_for()
    page.get_by_text("Trying again in 2 s.").wait_for()
    assert page.locator("#foryou-trouble").bounding_box()["y"] < 300
    page.unroute("**/v1/recommend")
    answered(page)
    assert len(refused) == 1
    assert page.locator("#foryou-trouble").is_hidden()


def test_a_stopping_server_gives_the_message_back(page: Any) -> None:
    body = '{"error": {"message": "the server is stopping", "type": "server_error", "code": "closing"}}'
    page.route("**/v1/chat/completions", lambda r: r.fulfill(status=503, content_type="application/json", body=body))
    page.get_by_role("link", name="Chat").click()
    page.get_by_label("Message").fill("something with Horror")
    page.keyboard.press("Enter")
    page.get_by_text("The server is starting or stopping.").wait_for()
    assert page.get_by_label("Message").input_value() == "something with Horror"
    assert page.locator("#turns li").count() == 0
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Try again").click()
    page.locator("#turns .theirs:not([aria-busy])").wait_for()
    assert page.get_by_label("Message").input_value() == ""


def test_a_broken_answer_is_told_and_asked_again(page: Any) -> None:
    piece = 'data: {"choices": [{"delta": {"content": "5 recipes I th"}}]}\n\n'
    page.route("**/v1/chat/completions", lambda r: r.fulfill(content_type="text/event-stream", body=piece))
    page.get_by_role("link", name="Chat").click()
    page.get_by_label("Message").fill("something with Horror")
    page.keyboard.press("Enter")
    page.locator("#turns").get_by_text("The answer broke off here.").wait_for()
    assert page.locator("#turns .theirs > p").first.inner_text() == "5 recipes I th"
    page.unroute("**/v1/chat/completions")
    page.get_by_role("button", name="Try again").click()
    page.locator("#turns .theirs:not([aria-busy])").nth(1).wait_for()
    assert page.locator("#turns .theirs:last-child .card").count() >= 1
    assert page.locator("#chat-trouble").is_hidden()


def test_a_lost_conversation_begins_anew(page: Any, server: Server) -> None:
    page.get_by_role("textbox", name="Or open a cook by id").fill("3")
    page.keyboard.press("Enter")
    answered(page)
    page.get_by_role("link", name="Chat").click()
    ask(page, "something with Horror")
    header = {"Authorization": f"Bearer {KEY}"}
    assert page.request.delete(f"{server.url}/v1/users/3", headers=header).json()["removed"]["sessions"] == 1
    ask(page, "something with Comedy")
    assert page.locator("#turns .mine p").all_inner_texts() == ["something with Horror", "something with Comedy"]
    assert page.locator("#turns .theirs:last-child .card").count() >= 1
    assert page.locator("#chat-trouble").is_hidden()


def test_a_server_that_dies_is_found_again_with_all_that_was_said(page: Any, server: Server) -> None:
    choose(page, "Heat", "Alien")
    page.get_by_role("link", name="Chat").click()
    ask(page, "something with Horror")
    named = titles(page, "#turns .card h2")
    page.get_by_role("button", name=f"Not for me: {named[0]}", exact=True).click()
    page.locator("#turns .noted").wait_for()
    server.kill()
    page.get_by_label("Message").fill("something else")
    page.keyboard.press("Enter")
    page.get_by_text("The server cannot be reached.").wait_for()
    assert page.get_by_label("Message").input_value() == "something else"
    page.get_by_role("link", name="For you").click()
    page.locator("#foryou-trouble").get_by_text("The server cannot be reached.").wait_for()
    server.start()
    page.locator("#foryou-trouble").wait_for(state="hidden", timeout=60_000)
    answered(page)
    assert named[0] not in titles(page)
    page.get_by_role("link", name="Chat").click()
    page.get_by_label("Message").click()  # waits until the screen is there; press() alone would not
    page.keyboard.press("Enter")
    page.locator("#turns .theirs:not([aria-busy])").nth(1).wait_for()
    assert set(titles(page, "#turns .theirs:last-child .card h2")).isdisjoint(named)
    page.reload()
    page.locator("#turns .theirs").nth(1).wait_for()
    assert titles(page, "#turns .card h2")[: len(named)] == named
    assert page.locator("#turns .noted").count() == 1
