"""Posters drawn from titles, to show in place of real ones: those may not be copied into a repository."""

from __future__ import annotations

import colorsys
import shutil
import textwrap
from pathlib import Path
from random import Random

from PIL import Image, ImageDraw, ImageFont

from palate.data import Dataset

WIDTH, HEIGHT = 300, 450
FINE = 2
"""Drawn so many times larger, then made smaller: smooth edges."""
Colour = tuple[int, int, int]


def poster(title: str) -> Image.Image:
    """A picture of shapes and colours that follow from the title, with the title on it."""
    rng = Random(title)
    hue = rng.random()
    ground = _colour(hue, 0.45, 0.30)
    tones = [_colour(hue + turn, 0.55, light) for turn, light in ((0.08, 0.62), (0.5, 0.55), (0.42, 0.78))]
    image = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), ground)
    draw = ImageDraw.Draw(image)
    rng.choice((_sun, _rings, _hills, _tiles, _rays))(draw, rng, tones, ground)
    font = ImageFont.load_default(26 * FINE)
    lines = textwrap.wrap(title.upper(), 16)[:4]
    for n, line in enumerate(lines):
        draw.text(
            (20 * FINE, (HEIGHT - 22 - 31 * (len(lines) - n)) * FINE), line, "white", font, stroke_width=FINE // 2
        )
    return image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _colour(hue: float, saturation: float, light: float) -> Colour:
    red, green, blue = (round(255 * c) for c in colorsys.hls_to_rgb(hue % 1, light, saturation))
    return red, green, blue


def _sun(draw: ImageDraw.ImageDraw, rng: Random, tones: list[Colour], ground: Colour) -> None:
    x, y, r = rng.randint(90, 210), rng.randint(110, 170), rng.randint(70, 105)
    _disc(draw, x, y, r, tones[0])
    for n in range(6):
        top = y + 6 + n * 17
        draw.rectangle([0, top * FINE, WIDTH * FINE, (top + 3 + 2 * n) * FINE], ground)


def _rings(draw: ImageDraw.ImageDraw, rng: Random, tones: list[Colour], ground: Colour) -> None:
    x, y = rng.randint(60, 240), rng.randint(100, 200)
    for n in range(7, 0, -1):
        _disc(draw, x, y, n * 24, (*tones, ground)[n % 4])


def _hills(draw: ImageDraw.ImageDraw, rng: Random, tones: list[Colour], ground: Colour) -> None:
    _disc(draw, rng.randint(60, 240), rng.randint(70, 120), rng.randint(25, 45), tones[2])
    for n, tone in enumerate((tones[1], tones[0])):
        peak, height = rng.randint(40, 260), 150 + 70 * n
        points = [(peak - 340, 360), (peak, height), (peak + 340, 360)]
        draw.polygon([(a * FINE, b * FINE) for a, b in points], tone)
    draw.rectangle([0, 330 * FINE, WIDTH * FINE, HEIGHT * FINE], ground)


def _tiles(draw: ImageDraw.ImageDraw, rng: Random, tones: list[Colour], ground: Colour) -> None:
    side = WIDTH // 3
    for row in range(3):
        for column in range(3):
            x, y = column * side * FINE, row * side * FINE
            end = side * FINE
            draw.rectangle([x, y, x + end, y + end], rng.choice([*tones, ground]))
            left, top = x - rng.choice((0, end)), y - rng.choice((0, end))
            corner = Image.new("L", (end, end), 0)
            ImageDraw.Draw(corner).ellipse([left - x, top - y, left - x + 2 * end, top - y + 2 * end], 255)
            draw.bitmap((x, y), corner, rng.choice(tones))


def _rays(draw: ImageDraw.ImageDraw, rng: Random, tones: list[Colour], ground: Colour) -> None:
    x, y = rng.randint(80, 220), rng.randint(120, 200)
    box = [(x - 500) * FINE, (y - 500) * FINE, (x + 500) * FINE, (y + 500) * FINE]
    for n in range(12):
        draw.pieslice(box, n * 30, n * 30 + 15, tones[n % 2])
    _disc(draw, x, y, 55, tones[2])
    draw.rectangle([0, 340 * FINE, WIDTH * FINE, HEIGHT * FINE], ground)


def _disc(draw: ImageDraw.ImageDraw, x: int, y: int, r: int, colour: Colour) -> None:
    draw.ellipse([(x - r) * FINE, (y - r) * FINE, (x + r) * FINE, (y + r) * FINE], colour)


def with_drawn_posters(data: Path, out: Path) -> Path:
    """A copy of a data set folder whose pictures are drawn from the titles; items without one stay without."""
    items = Dataset.open(data).catalog.values()
    pictures = {item.media["image"].resolve(): item.title for item in items if "image" in item.media}
    shutil.copytree(data, out, ignore=lambda at, names: [n for n in names if Path(at, n).resolve() in pictures])
    for path, title in pictures.items():
        poster(title).save(out / path.relative_to(data.resolve()), quality=88)
    return out
