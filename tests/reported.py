"""Small results of an evaluation, and a reader of pages that holds them to what a report promises."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

from palate.data import Dataset
from palate.evaluate import protocol
from palate.evaluate.bench import Bench
from palate.evaluate.report import write

HOSTILE = "</h2><script>alert(1)</script><img src=x onerror='alert(2)'>\"&{{ 7 * 7 }} $\\frac{1}{2}$ | `x`"
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags close in order; keeps tags, attributes and shown text."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def shown(self) -> str:
        return " ".join(" ".join(self.text).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def harmless(text: str) -> Page:
    """Parses; runs nothing; fetches nothing; each id once; every link and table and picture has what a reader needs."""
    found = Page(text)
    names = [attrs["id"] for _, attrs in found.tags if "id" in attrs]
    assert len(set(names)) == len(names)
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "link", "iframe", "object", "form", "base", "video"})
    for tag, attrs in found.tags:
        assert not any(name.startswith("on") for name in attrs), (tag, attrs)
        assert (attrs.get("src") or "data:image/jpeg;base64,").startswith("data:image/jpeg;base64,")
        for name in ("href", "xlink:href"):
            if name in attrs:
                assert str(attrs[name]).startswith("#")
                assert str(attrs[name])[1:] in names
        assert not re.search(r"url\((?!#)", attrs.get("style") or "")
        assert "srcset" not in attrs
    css = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    assert "url(" not in css
    assert "@import" not in css
    assert all(attrs.get("scope") in ("col", "row") for attrs in found.all("th"))
    assert all(attrs.get("alt") for attrs in found.all("img"))
    assert len(found.all("caption")) == len(found.all("table"))
    drawings = [attrs for attrs in found.all("div") if attrs.get("role") == "img"]
    assert len(drawings) == len(found.all("svg")) > 0
    assert all(attrs.get("aria-label") for attrs in drawings)
    return found


def write_results(data: Path, folder: Path) -> list[Path]:
    """Results of two protocols, one of them with two seeds."""
    opened, found = Dataset.open(data), []
    for name, seed in (("loo-full", 1), ("loo-20", 1), ("loo-20", 2)):
        bench = Bench(opened, protocol(name), None, seed)
        systems = bench.baselines(["ease", "popularity", *(["itemknn"] if name == "loo-full" else [])])
        path = folder / f"{name}-{seed}.json"
        found.append(write(bench.run(systems), path, f"palate evaluate tiny --protocol {name}"))
    return found


def changed(path: Path, out: Path, change) -> Path:
    plain = json.loads(path.read_text(encoding="utf-8"))
    change(plain)
    out.write_text(json.dumps(plain), encoding="utf-8")
    return out


def files(where: Path) -> list[Path]:
    """What `write_results` wrote there."""
    return [where / f"{name}.json" for name in ("loo-full-1", "loo-20-1", "loo-20-2")]
