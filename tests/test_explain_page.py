"""The page of an explanation: whole, harmless, with its pictures inside; and the command that writes it."""

from __future__ import annotations

import base64
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from facade import tiny_bundle
from palate.apps import cli
from palate.errors import ConfigError
from palate.recommender import Contribution, Explanation, Part
from palate.recommender.page import POSTER, THUMBNAIL, fragment, page, picture
from palate.schema import Wording
from reported import Page

HOSTILE = "</h1><script>alert(1)</script><img src=x onerror='alert(2)'>\"&{{ 7 * 7 }}"


def made(
    title: str = "Aliens", image: Path | None = None, values: tuple[float, ...] = (0.7, 0.0001, -0.3)
) -> Explanation:
    history = tuple(
        Contribution(f"h{n}", f"{title} {n}", v, (("genres", "Horror"),), 0.3, image) for n, v in enumerate(values)
    )
    return Explanation(
        "a", title, "embedding", -4.5, f"Mostly because you watched {title}.", history,
        (Part("genres", "history", "genres, in the history", 0.2, 1.0),),
        (Part("image", "item", "picture of this movie", 0.9, 0.9), Part("text", "item", "its text", -0.1, 0.1)),
        0.4, 1e-3, ("A note.",), (("year", "1986"), ("genres", "Sci-Fi")), image,
        Wording("movie", "movies", "watched", "viewer"),
    )  # fmt: skip


@pytest.fixture
def poster(tmp_path: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 255, (1800, 1200, 3), dtype=np.uint8)
    path = tmp_path / "poster.png"
    Image.fromarray(noise).save(path, compress_level=1)
    return path


def harmless(text: str) -> Page:
    """Parses, runs nothing, fetches nothing."""
    found = Page(text)
    tags = {tag for tag, _ in found.tags}
    assert tags.isdisjoint({"script", "link", "iframe", "object", "form", "a"})
    for _, attrs in found.tags:
        assert not any(name.startswith("on") or name == "href" for name in attrs)
        assert (attrs.get("src") or "data:").startswith("data:")
    css = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    assert "url(" not in css
    assert "@import" not in css
    assert "://" not in text
    return found


def test_a_page_holds_everything(poster: Path) -> None:
    found = harmless(text := page(made(image=poster)))
    assert text.startswith("<!doctype html>")
    for part in ("Aliens", "1986 · Sci-Fi", "Mostly because you watched", "shares Horror", "picture of this movie",
                 "Movies you watched", "genres, in the history", "The whole history together: +0.400.", "A note.",
                 "−0.300", "×2.01", "Score −4.500"):  # fmt: skip
        assert part in found.shown, part
    assert dict(found.tags)["html"] == {"lang": "en"}
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in [a for _, a in found.tags]
    assert "prefers-color-scheme: dark" in text
    headings = [tag for tag, _ in found.tags if tag in ("h1", "h2", "h3")]
    assert headings == ["h1", *["h2"] * (len(headings) - 1)]


def test_pictures_are_inside_small_and_named(poster: Path) -> None:
    found = Page(text := page(made(image=poster, values=(0.5,) * 40)))
    assert len(found.all("img")) == 1 + 15
    assert len(text) < 1_000_000
    for attrs, size in zip(found.all("img"), [POSTER, *[THUMBNAIL] * 15], strict=True):
        assert str(attrs["alt"]).startswith("Picture of Aliens")
        head, _, data = str(attrs["src"]).partition(",")
        assert head == "data:image/jpeg;base64"
        image = Image.open(io.BytesIO(base64.b64decode(data)))
        assert image.width <= size[0]
        assert image.height <= size[1]
        assert int(attrs["width"] or 0) <= size[0] // 2


@pytest.mark.parametrize(("size", "shape"), [((1, 5000), (1, 240)), ((5000, 1), (160, 1)), ((20, 20), (20, 20))])
def test_odd_shapes(tmp_path: Path, size: tuple[int, int], shape: tuple[int, int]) -> None:
    Image.new("RGB", size).save(tmp_path / "p.png")
    found = picture(tmp_path / "p.png", POSTER)
    assert found is not None
    assert (found.width, found.height) == shape


def test_a_bad_picture_costs_itself_and_is_told(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff not a picture")
    for path in (tmp_path / "bad.jpg", tmp_path / "none.jpg", tmp_path):
        found = harmless(page(made(image=path)))
        assert not found.all("img")
        assert "The picture of Aliens cannot be shown:" in found.shown
    assert not harmless(page(made())).all("img")


def test_hostile_texts_are_only_text() -> None:
    found = replace(made(HOSTILE), details=(("plot", HOSTILE),), notes=(HOSTILE,))
    found = replace(found, modalities=(Part(HOSTILE, "item", HOSTILE, 1.0, 1.0),), wording=Wording(*[HOSTILE] * 4))
    for text in (page(found), fragment(found)):
        assert " ".join(HOSTILE.split()) in harmless(text).shown
        assert "49" not in text


@settings(max_examples=20, deadline=None)
@given(st.text(), st.lists(st.floats(-1e6, 1e6), max_size=6), st.sampled_from(["embedding", "rating", "yes_no"]))
def test_any_title_and_any_values(title: str, values: list[float], mode: str) -> None:
    text = page(replace(made(title, values=tuple(values)), mode=mode))
    harmless(text.replace("://", ""))
    for left, width in re.findall(r"left:([-\d.e]+)%;width:([-\d.e]+)%", text):
        assert -0.02 <= float(left) <= 100.02
        assert float(left) + float(width) <= 100.02


def test_a_fragment_for_notebooks() -> None:
    text = made()._repr_html_()
    found = harmless(text)
    assert {tag for tag, _ in found.tags}.isdisjoint({"html", "head", "body", "title"})
    css = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
    for rule in re.findall(r"([^{}]+)\{", css):
        assert rule.strip().startswith((".palate-why", "@media")), rule  # nothing else of the notebook is styled


def test_no_history_no_bars() -> None:
    bare = replace(made(), contributions=(), fields=(), modalities=(), together=None)
    found = harmless(page(bare))
    assert "Movies you watched" not in found.shown
    assert "ol" not in {tag for tag, _ in found.tags}


def test_what_is_rounding_has_no_colour() -> None:
    classes = [attrs["class"] for tag, attrs in Page(page(made())).tags if tag == "li" and attrs]
    assert classes[:3] == ["for", "none", "against"]


# --- the command ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def where(tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    bundle = tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny", tiny_base, tiny_data)
    return ["-a", str(bundle), "--data", str(tiny_data), "-H", "Toy Story;Alien"]


def test_the_command_writes_a_page_and_json(where: list[str], tmp_path: Path) -> None:
    runner = CliRunner()
    done = runner.invoke(cli.build(), ["explain", "GoldenEye", *where, "-o", str(tmp_path / "why.html")])
    assert done.exit_code == 0, done.output
    assert "GoldenEye" in done.output
    assert "picture of this movie" in done.output
    found = harmless((tmp_path / "why.html").read_text(encoding="utf-8"))
    assert [i["alt"] for i in found.all("img")] == ["Picture of GoldenEye", "Picture of Toy Story"]
    options = ["--context", "time=evening", "--json", "-o", str(tmp_path / "why.json")]
    done = runner.invoke(cli.build(), ["explain", "GoldenEye", *where, *options])
    assert done.exit_code == 0, done.output
    plain = json.loads((tmp_path / "why.json").read_text(encoding="utf-8"))
    assert plain.pop("manifest")["fingerprints"].keys() == {"data", "adapter"}
    assert plain == json.loads(done.stdout)
    assert [p["label"] for p in plain["groups"]["fields"] if p["of"] == "person"] == ["time, now"]


def test_the_command_refuses_before_it_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path, said in (
        (tmp_path / "why.pdf", "expected a file that ends in .html or .json"),
        (tmp_path / "none" / "why.html", "expected an existing folder"),
    ):
        assert cli.run(["explain", "Alien", "-a", "nowhere", "-o", str(path)]) == 2
        assert said in capsys.readouterr().err


def test_a_file_that_cannot_be_written(where: list[str], tmp_path: Path) -> None:
    (tmp_path / "why.html").mkdir()
    done = CliRunner().invoke(cli.build(), ["explain", "Heat", *where, "-o", str(tmp_path / "why.html")])
    assert isinstance(done.exception, ConfigError)
    assert "cannot write" in str(done.exception)
