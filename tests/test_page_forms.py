"""The page as a whole: by keyboard, on a phone, in the dark, for a screen reader; its size and its manners."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

import pytest

from browsed import Server, answered, ask, choose, titles, two_models, until, visiting

PAGE = Path(__file__).parents[1] / "src/palate/apps/serve/page"
MOST = 85_000
"""Bytes of all files of the page; compressed they are less than half."""
PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def server(browser: Any, tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Server:
    return two_models(tmp_path_factory, tiny_base, tiny_data)


def focused(page: Any) -> str:
    """The name of what has the focus."""
    return page.evaluate(
        "() => { const n = document.activeElement; return n.getAttribute('aria-label') ?? n.labels?.[0]?.textContent"
        " ?? n.textContent }"
    )


def tab_to(page: Any, name: str) -> None:
    """Press Tab until something so named has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if focused(page).startswith(name):
            return
    raise AssertionError(f"expected Tab to reach {name!r}, got to {focused(page)!r}")


def test_everything_can_be_done_by_keyboard(browser: Any, server: Server) -> None:
    with visiting(browser, server.url) as page:
        page.locator(".starter").first.wait_for()
        page.keyboard.press("Tab")
        assert focused(page) == "Skip to the content"
        tab_to(page, "Search movies")
        page.keyboard.type("toy")
        page.get_by_role("option").nth(1).wait_for()
        page.keyboard.press("ArrowDown")
        assert page.locator("#search").get_attribute("aria-activedescendant") == "option-1"
        wanted = page.locator("#option-1 b").inner_text()
        page.keyboard.press("Enter")
        assert titles(page, "#history b") == [wanted]
        page.keyboard.type("heat")
        page.get_by_role("option", name="Heat").wait_for()
        page.keyboard.press("Escape")
        page.locator("#suggestions").wait_for(state="hidden")
        page.keyboard.press("ArrowDown")
        page.get_by_role("option", name="Heat").wait_for()
        page.keyboard.press("Enter")
        answered(page)
        tab_to(page, "Move Heat earlier")
        page.keyboard.press("Enter")
        assert titles(page, "#history b") == ["Heat", wanted]
        assert focused(page).startswith("Move Heat")
        answered(page)
        first = titles(page)[0]
        tab_to(page, "I like it")
        page.keyboard.press("Enter")
        until(lambda: titles(page)[0] != first, "the liked card to leave")
        until(lambda: focused(page) == f"I like it: {titles(page)[0]}", "the focus to stay in the list")
        tab_to(page, "What mattered")
        page.keyboard.press("Space")
        page.get_by_role("dialog").locator(".bars").first.wait_for()
        assert focused(page) == "Close"
        page.keyboard.press("Escape")
        until(lambda: focused(page).startswith("What mattered"), "the focus to return")


def test_a_phone_needs_no_sideways_scrolling(browser: Any, server: Server) -> None:
    with visiting(browser, server.url, viewport=PHONE, has_touch=True) as page:
        wide = "document.documentElement.scrollWidth"
        page.locator(".starter").first.wait_for()
        assert page.evaluate(wide) == PHONE["width"]
        choose(page, "<script>", "Heat", "Alien", "Fargo", "Jaws")
        page.get_by_role("heading", name="Filters").click()
        assert page.evaluate(wide) == PHONE["width"]
        page.get_by_role("button", name="What mattered").first.click()
        page.get_by_role("dialog").locator(".bars").first.wait_for()
        box = page.get_by_role("dialog").bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= PHONE["width"]
        page.keyboard.press("Escape")
        page.get_by_role("link", name="Compare").click()
        page.locator("#right-list li").nth(9).wait_for()
        assert page.evaluate(wide) == PHONE["width"]
        page.get_by_role("link", name="Chat").click()
        ask(page, "something with Comedy or a verylongwordwithoutanyspacesinit" * 2)
        assert page.evaluate(wide) == PHONE["width"]


def test_nothing_jumps_while_the_page_comes_up(browser: Any, server: Server) -> None:
    shifts = (
        "() => new Promise(done => new PerformanceObserver(list => done(list.getEntries().reduce("
        "(sum, e) => sum + (e.hadRecentInput ? 0 : e.value), 0))).observe({ type: 'layout-shift', buffered: true })"
        " || setTimeout(() => done(0), 500))"
    )
    with visiting(browser, server.url) as page:
        page.locator(".starter").first.wait_for()
        page.wait_for_load_state("networkidle")
        assert page.evaluate(shifts) < 0.05
        choose(page, "Heat")
        page.reload()
        page.locator("#grid .card .reason").first.wait_for()
        page.wait_for_load_state("networkidle")
        assert page.evaluate(shifts) < 0.05


def test_pictures_have_their_room_before_they_come(browser: Any, server: Server) -> None:
    with visiting(browser, server.url, troubled=True) as page:
        page.route("**/image", lambda route: route.abort())
        page.reload()
        page.locator(".starter").first.wait_for()
        box = page.locator(".starter .poster").first.bounding_box()
        assert box["height"] / box["width"] == pytest.approx(1.5, abs=0.02)
        choose(page, "Toy Story")
        told = dict(zip(titles(page), page.locator("#grid .poster span").all_text_contents(), strict=True))
        assert told.get("Get Shorty", "GS") == "GS"
        assert told.get("The Rock", "R") == "R"
        assert all(1 <= len(initials) <= 2 for initials in told.values())
        page.unroute("**/image")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(browser: Any, server: Server, scheme: str) -> None:
    with visiting(browser, server.url, color_scheme=scheme) as page:
        names = (
            "ground",
            "card",
            "sunk",
            "ink",
            "faint",
            "accent",
            "accent-ink",
            "wash",
            "for",
            "against",
            "none",
            "edge",
        )
        found = page.evaluate(
            "names => names.map(n => getComputedStyle(document.documentElement).getPropertyValue(`--${n}`).trim())",
            names,
        )
        colours = dict(zip(names, found, strict=True))
        texts = [
            *itertools.product(("ink", "faint", "accent"), ("ground", "card", "sunk", "wash")),
            *itertools.product(("for", "against", "none"), ("card",)),
            ("accent-ink", "accent"),
        ]
        weak = {f"{a} on {b}": contrast(colours[a], colours[b]) for a, b in texts}
        assert {pair: round(c, 2) for pair, c in weak.items() if c < 4.5} == {}
        # what is no text, but shows where a field is or what has the focus
        assert min(contrast(colours[a], colours["card"]) for a in ("edge", "accent")) >= 3


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours #rgb or #rrggbb."""

    def luminance(colour: str) -> float:
        digits = colour.removeprefix("#")
        parts = [digits[n : n + 2] for n in (0, 2, 4)] if len(digits) == 6 else [2 * d for d in digits]
        linear = [
            c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (int(p, 16) / 255 for p in parts)
        ]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_everything_has_a_name_and_a_place(browser: Any, server: Server) -> None:
    with visiting(browser, server.url, reduced_motion="reduce") as page:
        choose(page, "Heat", "Alien")
        page.get_by_role("heading", name="Filters").click()
        for landmark in ("banner", "navigation", "main", "complementary", "contentinfo"):
            assert page.get_by_role(landmark).count() == 1, landmark
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll('button, input, select, textarea')].filter(n => n.checkVisibility()
                && !(n.getAttribute('aria-label') || n.labels?.[0]?.textContent.trim() || n.textContent.trim()))
                .map(n => n.outerHTML)"""
        )
        assert unnamed == []
        assert page.locator("[id]").evaluate_all("nodes => nodes.length - new Set(nodes.map(n => n.id)).size") == 0
        assert "movies for you, first" in page.get_by_role("status").first.inner_text()
        assert page.locator("#grid .card").first.evaluate("n => n.getAnimations().length") == 0
        assert (
            page.locator("footer")
            .inner_text()
            .startswith("Data: tiny, 25 movies, 30 people · Models: first, second · Palate ")
        )
        small = page.locator("#grid button, #history button").evaluate_all(
            "nodes => nodes.map(n => n.getBoundingClientRect()).filter(b => b.width < 24 || b.height < 24).length"
        )
        assert small == 0


def test_the_page_is_small_and_shown_before_the_service_answers(browser: Any, server: Server) -> None:
    files = sorted(PAGE.iterdir())
    assert sum(f.stat().st_size for f in files) < MOST
    with visiting(browser, server.url) as page:
        held: list[Any] = []
        page.route("**/v1/**", lambda route: held.append(route))
        page.reload()
        page.get_by_role("combobox", name="Search").wait_for()
        page.get_by_role("link", name="Chat").click()
        page.get_by_label("Message").fill("typed before the service answers")
        assert held
        for route in held:
            route.continue_()
        page.unroute("**/v1/**")
        page.locator("footer").get_by_text("Data: tiny").wait_for()
        assert page.get_by_label("Message").input_value() == "typed before the service answers"


def test_the_files_keep_the_policy() -> None:
    html = (PAGE / "index.html").read_text()
    assert not re.search(r"\sstyle=|\son\w+=|<style|<script(?![^>]*\ssrc=)", html)
    assert set(re.findall(r"(?:src|href)=\"([^\"#][^\"]*)\"", html)) <= {
        f"/static/{f.name}" for f in PAGE.iterdir()
    } | {"/docs"}
    for script in PAGE.glob("*.js"):
        text = script.read_text()
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|https?://(?!www\.w3\.org/2000/svg)",
            text,
        ), script.name
