"""The page at /, as a person uses it: a real browser on a real server with a tiny model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from browsed import (
    HOSTILE,
    Server,
    answered,
    ask,
    choose,
    titles,
    two_models,
    until,
    visiting,
)


@pytest.fixture(scope="module")
def server(browser: Any, tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Server:
    return two_models(tmp_path_factory, tiny_base, tiny_data)


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Any]:
    """A fresh tab; the test fails if the page logs an error or asks another origin for anything."""
    with visiting(browser, server.url) as found:
        yield found


@pytest.fixture
def troubled(browser: Any, server: Server) -> Iterator[Any]:
    """A fresh tab in which the server will refuse something."""
    with visiting(browser, server.url, troubled=True) as found:
        yield found


def test_typing_finds_a_film_and_choosing_it_makes_a_list(page: Any) -> None:
    page.get_by_role("heading", name="Which movies do you like?").wait_for()
    page.get_by_role("button", name="Add Star Wars").click()
    answered(page)
    first = titles(page)
    assert len(first) == 12
    assert "Star Wars" not in first
    page.get_by_role("combobox", name="Search movies").fill("ali")
    page.locator("#suggestions").get_by_text("Aliens").click()
    answered(page)
    until(lambda: titles(page) != first, "another list after another choice")
    assert titles(page, "#history b") == ["Star Wars", "Aliens"]
    assert "Aliens" not in titles(page)
    card = page.locator("#grid .card").first
    assert re.search(r"\d{4} · \w+", card.locator(".details").inner_text())
    assert card.locator(".reason").inner_text()
    assert re.fullmatch(r"Score −?\d+\.\d\d", card.locator(".score").inner_text())


def test_the_list_is_ordered_and_shortened(page: Any) -> None:
    choose(page, "Heat", "Fargo", "Jaws")
    page.get_by_role("button", name="Move Jaws earlier").click()
    assert titles(page, "#history b") == ["Heat", "Jaws", "Fargo"]
    page.get_by_role("button", name="Remove Heat").click()
    assert titles(page, "#history b") == ["Jaws", "Fargo"]
    assert page.get_by_role("button", name="Move Jaws earlier").is_disabled()
    answered(page)
    assert "Heat" in titles(page) or page.get_by_role("button", name="Show more").is_visible()


def test_what_is_said_of_a_card_changes_the_next_answer(page: Any) -> None:
    choose(page, "Heat")
    for said, where in (
        ("I like it", "#history b"),
        ("Not for me", "#disliked span"),
        ("Already watched", "#history b"),
    ):
        before = titles(page)
        page.get_by_role("button", name=f"{said}: {before[0]}", exact=True).click()
        until(lambda was=before[0]: was not in titles(page), f"{said!r} to take the item off the list")
        assert before[0] in titles(page, where)
    assert [t for t in page.locator("#history small").all_inner_texts() if t in ("liked", "watched")] == [
        "liked",
        "watched",
    ]
    disliked = page.locator("#disliked span").inner_text()
    page.get_by_role("button", name=f"Take back: {disliked} is not for me").click()
    assert page.locator("#disliked li").count() == 0


def test_a_known_person_is_opened_and_their_feedback_stored(page: Any) -> None:
    page.get_by_role("textbox", name="Or open a viewer by id").fill("7")
    page.get_by_role("button", name="Open viewer").click()
    page.get_by_role("heading", name="Viewer 7").wait_for()
    answered(page)
    known, before = page.locator("#history li").count(), titles(page)
    assert known >= 6
    with page.expect_request("**/v1/events") as sent:
        page.get_by_role("button", name=f"I like it: {before[0]}", exact=True).click()
    assert sent.value.post_data_json["user"] == "7"
    until(lambda: page.locator("#history li").count() == known + 1, "the liked item in the list")
    # the server tells the same to a fresh page
    page.get_by_role("button", name="Close", exact=True).first.click()
    page.get_by_role("textbox", name="Or open a viewer by id").fill("7")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Viewer 7").wait_for()
    assert before[0] in titles(page, "#history b")
    page.get_by_role("button", name="Close", exact=True).first.click()
    page.get_by_role("textbox", name="Or open a viewer by id").fill("nobody")
    page.keyboard.press("Enter")
    page.get_by_text("No viewer is called “nobody”.").wait_for()


def test_filters_hold_on_every_card(troubled: Any) -> None:
    page = troubled
    choose(page, "Heat")
    page.get_by_role("heading", name="Filters").click()
    page.get_by_label("Horror").check()
    until(lambda: len(titles(page)) < 12, "fewer cards")
    details = page.locator("#grid .details").all_inner_texts()
    assert details
    assert all("Horror" in d for d in details)
    page.get_by_role("spinbutton", name="Year from").fill("1980")
    page.get_by_role("spinbutton", name="Year to").fill("1990")
    page.keyboard.press("Tab")

    def narrowed() -> bool:  # not by a count: each of the two years narrows the list in its own time
        now = page.locator("#grid .details").all_inner_texts()
        return bool(now) and all(1980 <= int(d[:4]) <= 1990 and "Horror" in d for d in now)

    until(narrowed, "the years to narrow the list")
    page.get_by_role("spinbutton", name="Year to").fill("1970")
    page.keyboard.press("Tab")
    page.get_by_text("From 1980 to 1970 is empty").wait_for()
    page.get_by_role("spinbutton", name="Year from").fill("1900")
    page.get_by_role("spinbutton", name="Year to").fill("1901")
    page.keyboard.press("Tab")
    page.get_by_text("Nothing is left that fits. Loosen a filter.").wait_for()
    page.get_by_role("button", name="Clear filters").click()
    until(lambda: len(titles(page)) == 12, "the whole list again")


def test_what_mattered_is_told_in_signed_bars(page: Any) -> None:
    choose(page, "Heat", "Alien", "Fargo")
    title = titles(page)[0]
    page.get_by_role("button", name=f"What mattered for {title}", exact=True).click()
    dialog = page.get_by_role("dialog", name=f"Why {title}?")
    dialog.locator(".bars").first.wait_for()
    assert dialog.locator("#explain-told").inner_text()
    rows = dialog.locator("section", has_text="Movies you watched").locator("li")
    assert sorted(rows.locator(".label").all_inner_texts()) == ["Alien", "Fargo", "Heat"]
    values = [float(v.replace("−", "-")) for v in rows.locator(".value b").all_inner_texts()]
    assert values == sorted(values, reverse=True)
    widths = rows.locator(".bar").evaluate_all("nodes => nodes.map(n => parseFloat(n.style.width))")
    by_size = sorted(zip(map(abs, values), widths, strict=True))
    assert [w for _, w in by_size] == sorted(widths)
    assert dialog.get_by_role("heading", name="Pictures, texts and behaviour").is_visible()
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")


def test_an_answer_streams_cards_and_a_reload_keeps_the_conversation(page: Any) -> None:
    choose(page, "Heat")
    page.get_by_role("link", name="Chat").click()
    ask(page, "something with Horror")
    first = titles(page, "#turns .card h2")
    assert len(first) >= 2
    assert all("Horror" in d for d in page.locator("#turns .details").all_inner_texts())
    # the cards are the list: the text does not tell it again
    assert first[0] not in page.locator("#turns .theirs > p").first.inner_text()
    page.get_by_role("button", name=f"Not for me: {first[0]}", exact=True).click()
    page.locator("#turns .noted").get_by_text("Not for you. The next answer counts it.").wait_for()
    ask(page, "something else")
    assert set(titles(page, "#turns .theirs:last-child .card h2")).isdisjoint(first)
    page.get_by_label("Message").fill("half a thou")
    said = page.locator("#turns .mine p").all_inner_texts()
    page.reload()
    page.locator("#turns .theirs").nth(1).wait_for()
    assert page.locator("#turns .mine p").all_inner_texts() == said
    assert titles(page, "#turns .card h2")[: len(first)] == first
    assert page.locator("#turns .noted").inner_text().startswith("Not for you")
    assert page.get_by_label("Message").input_value() == "half a thou"
    assert titles(page, "#history b") == ["Heat"]
    page.get_by_role("button", name="New conversation").click()
    assert page.locator("#turns li").count() == 0


def test_an_answer_can_be_stopped(page: Any) -> None:
    page.get_by_role("link", name="Chat").click()
    held: list[Any] = []
    page.route("**/v1/chat/completions", lambda route: held.append(route))
    page.get_by_label("Message").fill("anything")
    with page.expect_request("**/v1/chat/completions"):
        page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Stop").click()
    page.locator("#turns").get_by_text("Stopped.").wait_for()
    held[0].abort()
    page.unroute("**/v1/chat/completions")
    ask(page, "something with Horror")
    assert page.locator("#turns .card").count() >= 2


def lists(page: Any) -> list[list[str]]:
    """Titles of the two compared lists, read in one moment."""
    return page.evaluate(
        "['left', 'right'].map(s => [...document.querySelectorAll(`#${s}-list b`)].map(b => b.textContent))"
    )


def test_two_lists_are_compared(page: Any) -> None:
    choose(page, "Heat", "Alien")
    page.get_by_role("link", name="Compare").click()
    until(lambda: [len(titles) for titles in lists(page)] == [10, 10], "both lists")
    assert page.locator("#left-model").input_value() == "first"
    assert page.locator("#right-model").input_value() == "second"
    page.locator("#right-mode").select_option("likelihood")
    until(lambda: lists(page)[0] != lists(page)[1], "another mode to give another list")
    left, right = lists(page)
    assert len(left) == len(right) == 10
    both = set(left) & set(right)
    page.locator("#shared").get_by_text(f"{len(both)} of 10 movies are on both lists.").wait_for()
    assert page.locator("#links path").count() == len(both)
    for place, title in enumerate(left):
        told = page.locator("#left-list li").nth(place).locator("small").last.text_content()
        assert told.startswith(f"also #{right.index(title) + 1} " if title in both else "only here")
    page.locator("#left-list li button").first.click()
    page.get_by_role("dialog", name=f"Why {left[0]}?").locator(".bars").first.wait_for()


def test_hostile_titles_are_text(page: Any) -> None:
    box = page.get_by_role("combobox", name="Search movies")
    box.fill("<script>")
    option = page.get_by_role("option").filter(has_text="Quotes'")
    option.wait_for()
    assert option.locator("b").inner_text() == HOSTILE
    option.click()
    answered(page)
    assert page.locator("#history b").inner_text() == HOSTILE
    page.get_by_role("button", name="Start over").click()
    choose(page, "Heat")
    page.get_by_role("heading", name="Filters").click()
    page.get_by_label("Comedy").check()
    page.locator("#grid").get_by_text("Quotes'").wait_for()
    page.get_by_role("link", name="Chat").click()
    ask(page, HOSTILE)
    assert page.locator("#turns .mine p").inner_text() == HOSTILE
    assert page.title() == "Palate"
    assert page.locator("main script, aside script, main img[src=x], aside img[src=x]").count() == 0
