"""The page on the real adapter, with pictures drawn by the test in place of posters, and its pictures for the docs.

PALATE_SCREENSHOTS=1 writes docs/images/page-*.png.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from browsed import Server, answered, ask, choose, chromium, needs_browser, serving, titles, until, visiting
from drawn_posters import with_drawn_posters

pytestmark = [pytest.mark.weights, pytest.mark.timeout(900)]
ROOT = Path(__file__).parents[1]
DATA, ADAPTER = ROOT / "data/ml-100k", ROOT / "adapters/ml-100k"
IMAGES = ROOT / "docs/images"
LARGEST = 400_000
"""Bytes of one picture."""
PHONE = {"width": 390, "height": 844}
FILMS = ("Heat", "Fargo", "Alien", "Toy Story")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    needs_browser()
    if not DATA.exists():
        pytest.skip("needs data/ml-100k: palate data import fetches it")
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def server(browser: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("screens")
    data = with_drawn_posters(DATA, folder / "ml-100k")
    with serving("-a", ADAPTER, "--data", data, "--store", folder / "store.db") as found:
        yield found


def shoot(page: Any, name: str) -> None:
    """Write what is seen, in 256 colours; nothing unless asked for."""
    if os.environ.get("PALATE_SCREENSHOTS") != "1":
        return
    page.evaluate("scrollTo(0, 0)")
    page.mouse.move(0, 0)
    seen = "[...document.images].every(i => i.complete || i.getBoundingClientRect().top > innerHeight)"
    page.wait_for_function(seen)
    page.wait_for_timeout(500)
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    IMAGES.mkdir(parents=True, exist_ok=True)
    path = IMAGES / f"page-{name}.png"
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < LARGEST


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_recommendations_follow_the_list(browser: Any, server: Server, scheme: str) -> None:
    with visiting(browser, server.url, color_scheme=scheme, viewport={"width": 1360, "height": 900}) as page:
        choose(page, *FILMS)
        before = titles(page)
        assert len(before) == 12
        assert set(before).isdisjoint(FILMS)
        page.get_by_role("heading", name="For you").click()
        shoot(page, f"recommendations-{scheme}")
        page.get_by_role("button", name=f"I like it: {before[2]}", exact=True).click()
        until(lambda: before[2] not in titles(page), "the liked film to join the list")
        assert titles(page) != before
        page.get_by_role("heading", name="Filters").click()
        page.get_by_label("Comedy").check()
        until(lambda: all("Comedy" in d for d in page.locator("#grid .details").all_inner_texts()), "comedies alone")
        assert page.locator("#grid .card").count() == 12


def test_a_reason_is_measured(browser: Any, server: Server) -> None:
    with visiting(browser, server.url, viewport={"width": 1200, "height": 900}) as page:
        choose(page, *FILMS)
        pictured = page.locator("#grid .card", has=page.locator("img")).first
        pictured.get_by_role("button", name="What mattered").click()
        dialog = page.get_by_role("dialog")
        dialog.locator(".bars").nth(1).wait_for()
        labels = dialog.locator(".label").all_inner_texts()
        assert set(FILMS) <= set(labels)
        assert "Picture of this movie" in labels
        shoot(page, "reason")


def test_modes_are_compared(browser: Any, server: Server) -> None:
    with visiting(browser, server.url, viewport={"width": 1360, "height": 900}) as page:
        choose(page, *FILMS)
        page.get_by_role("link", name="Compare").click()
        page.locator("#right-list li").nth(9).wait_for()
        page.locator("#shared", has_text="of 10 movies are on both lists.").wait_for()  # told once both lists are there
        linked = page.locator("#left-list li:not(.alone)")
        assert linked.count() == page.locator("#links path").count() > 0
        linked.first.get_by_role("button").focus()
        assert page.locator("#right-list .lit").count() == 1
        shoot(page, "compare")


def test_a_conversation(browser: Any, server: Server) -> None:
    with visiting(browser, server.url, viewport={"width": 1360, "height": 900}) as page:
        choose(page, *FILMS)
        page.get_by_role("link", name="Chat").click()
        ask(page, "something funny from the 80s, not animated")
        details = page.locator("#turns .details").all_inner_texts()
        assert len(details) == 5
        assert all(1980 <= int(d[:4]) <= 1989 and "Animation" not in d for d in details)
        named = titles(page, "#turns .card h2")
        page.get_by_role("button", name=f"I like it: {named[0]}", exact=True).click()
        page.locator("#turns .noted").wait_for()
        shoot(page, "chat")
        ask(page, "more")
        assert set(titles(page, "#turns .theirs:last-child .card h2")).isdisjoint(named)


def test_a_phone(browser: Any, server: Server) -> None:
    with visiting(browser, server.url, viewport=PHONE, device_scale_factor=2, has_touch=True) as page:
        choose(page, *FILMS)
        answered(page)
        assert page.evaluate("document.documentElement.scrollWidth") == PHONE["width"]
        page.get_by_role("heading", name="For you").click()
        shoot(page, "phone")
