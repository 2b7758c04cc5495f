"""What the tests of the page share: a real `palate serve`, a real Chromium, and a watch on what the page does."""

from __future__ import annotations

import atexit
import csv
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from facade import tiny_bundle

HOSTILE = "<script>document.title='owned'</script> & \"Quotes' <img src=x onerror=alert(1)>"
"""A title of the tests' catalogue, item 25."""
CHROMIUM = shutil.which("chromium")
STARTING = 280.0
"""Seconds a server may take to listen: it loads torch on a machine that does other things too."""


def needs_browser() -> None:
    """Skip, saying why, where there is no browser to drive."""
    if CHROMIUM is None:
        pytest.skip("needs a browser: apt-get install chromium")
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("needs playwright: pip install playwright")


_SHARED: dict[str, Server] = {}


class Server:
    """`palate serve` in a process of its own. It may be killed and started again on the same port."""

    def __init__(self, *args: str | Path, env: dict[str, str] | None = None) -> None:
        self.args = [str(a) for a in args]
        self.env = {**os.environ, "PALATE_API_KEYS": "", **(env or {})}
        self.url = ""
        self._process: subprocess.Popen[str] | None = None
        self.start()

    def start(self) -> None:
        """Start, or start again, and wait for the port."""
        port = self.url.rpartition(":")[2] or "0"
        command = [sys.executable, "-m", "palate", "serve", "--port", port, *self.args]
        self._process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.env
        )
        watchdog = threading.Timer(STARTING, self._process.kill)
        watchdog.start()
        told = []
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told.append(line)
            if found := re.search(r"http://[\w.]+:\d+", line):
                self.url = found[0]
                break
        watchdog.cancel()
        if not self.url or self._process.poll() is not None:
            raise AssertionError(f"palate serve did not start:\n{''.join(told)}")

    def kill(self) -> None:
        """As a power cut would."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """As an operator would."""
        self._end(signal.SIGTERM)

    def _end(self, how: int) -> None:
        if self._process is not None:
            self._process.send_signal(how)
            self._process.communicate(timeout=60)
            self._process = None


@contextmanager
def serving(*args: str | Path, **more: Any) -> Iterator[Server]:
    """A server that is stopped at the end."""
    server = Server(*args, **more)
    try:
        yield server
    finally:
        server.kill()


def shared(name: str, make: Callable[[], Server]) -> Server:
    """A server that several modules use: started once, ended with the test run."""
    if name not in _SHARED:
        _SHARED[name] = make()
        atexit.register(_SHARED[name].kill)
    return _SHARED[name]


@contextmanager
def chromium() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Visit:
    """A tab on the page, and all that it complained of or asked of others.

    troubled: refused requests are expected, so Chromium's own notes of them are no complaint.
    """

    def __init__(self, browser: Any, url: str, troubled: bool = False, **options: Any) -> None:
        self.url, self.complaints, self.foreign, self.troubled = url, list[str](), list[str](), troubled
        self.context = browser.new_context(viewport=options.pop("viewport", {"width": 1280, "height": 900}), **options)
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        self.page.on("request", self._asked)
        self.page.goto(f"{url}/")

    def _said(self, message: Any) -> None:
        refused = self.troubled and message.text.startswith("Failed to load resource")
        if message.type in ("error", "warning") and not refused:
            self.complaints.append(message.text)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((f"{self.url}/", "data:")):
            self.foreign.append(request.url)

    def close(self) -> None:
        """Leave; what the page complained of or asked elsewhere fails the test."""
        self.context.close()
        assert self.complaints == []
        assert self.foreign == []


@contextmanager
def visiting(browser: Any, url: str, **options: Any) -> Iterator[Any]:
    """The page, watched."""
    visit = Visit(browser, url, **options)
    try:
        yield visit.page
    except BaseException:
        visit.context.close()
        raise
    visit.close()


def two_models(factory: pytest.TempPathFactory, base: Path, data: Path) -> Server:
    """A server of a tiny data set with two tiny adapters, called first and second."""

    def make() -> Server:
        folder = factory.mktemp("page")
        bundle, world = tiny_world(folder, base, data)
        names = (f"{name}={bundle}" for name in ("first", "second"))
        return Server("-a", next(names), "-a", next(names), "--data", world, "--store", folder / "store.db")

    return shared("two models", make)


def tiny_world(folder: Path, base: Path, data: Path, wording: str = "") -> tuple[Path, Path]:
    """(bundle, data set): the tests' tiny ones, with one hostile title more, perhaps in the words of another domain."""
    world = folder / "data"
    shutil.copytree(data, world)
    if wording:
        card = world / "dataset.yaml"
        card.write_text(re.sub("wording: .*", f"wording: {wording}", card.read_text("utf-8")), "utf-8")
    with (world / "items.csv").open("a", newline="", encoding="utf-8") as f:
        csv.writer(f).writerow([25, HOSTILE, 1999, "Comedy", ""])
    return tiny_bundle(folder / "bundle", base, world), world


# --- what a person does ---------------------------------------------------------------------------


def choose(page: Any, *titles: str) -> None:
    """Type titles into the search box and take the first suggestion of each."""
    for title in titles:
        page.get_by_role("combobox", name="Search").fill(title)
        page.get_by_role("option").first.wait_for()
        page.locator("#suggestions [aria-selected=true] b").get_by_text(title).wait_for()
        page.keyboard.press("Enter")
    answered(page)


def answered(page: Any) -> None:
    """Wait until the list for the person is up to date."""
    page.locator("#grid[aria-busy=false] .card:not(.empty)").first.wait_for()


def titles(page: Any, where: str = "#grid .card h2") -> list[str]:
    """Titles on cards, without their ranks."""
    return [re.sub(r"^\d+\. ", "", text) for text in page.locator(where).all_inner_texts()]


def ask(page: Any, text: str) -> None:
    """Say something in the chat and wait for the whole answer."""
    before = page.locator("#turns .theirs").count()
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Enter")
    page.locator("#turns .theirs:not([aria-busy])").nth(before).wait_for()


def until(true: Any, what: str, seconds: float = 60.0) -> None:
    """Wait for something that no locator can wait for."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"expected {what} within {seconds:g} s"
        time.sleep(0.05)
