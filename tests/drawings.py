"""Drawings of things that an ImageNet classifier knows: the same on any machine, and no file to ship."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from palate.schema import Item

Pen = ImageDraw.ImageDraw
SIDE = 256
MIDDLE = SIDE // 2


def lights(d: Pen) -> None:
    d.rectangle((0, 0, SIDE, SIDE), fill=(150, 190, 230))
    d.rectangle((120, 200, 136, 256), fill=(60, 60, 60))
    d.rounded_rectangle((88, 20, 168, 210), 12, fill=(30, 30, 30))
    for n, colour in enumerate([(230, 30, 30), (90, 80, 20), (20, 70, 30)]):
        d.ellipse((104, 32 + 58 * n, 152, 80 + 58 * n), fill=colour)


def clock(d: Pen) -> None:
    d.rectangle((0, 0, SIDE, SIDE), fill=(220, 210, 190))
    d.ellipse((28, 28, 228, 228), fill=(40, 30, 20))
    d.ellipse((40, 40, 216, 216), fill="white")
    for minute in range(60):
        a, whole = math.radians(6 * minute), minute % 5 == 0
        points = [(MIDDLE + r * math.sin(a), MIDDLE - r * math.cos(a)) for r in (68 if whole else 78, 84)]
        d.line(points, fill="black", width=4 if whole else 1)
    d.line((128, 128, 128, 70), fill="black", width=4)
    d.line((128, 128, 90, 150), fill="black", width=6)


def crossword(d: Pen) -> None:
    filled = np.random.default_rng(0).random((12, 12)) < 0.3
    for (x, y), black in np.ndenumerate(filled):
        box = (8 + 20 * x, 8 + 20 * y, 28 + 20 * x, 28 + 20 * y)
        d.rectangle(box, outline="black", fill="black" if black else "white")


def honeycomb(d: Pen) -> None:
    d.rectangle((0, 0, SIDE, SIDE), fill=(120, 70, 10))
    corners = [(13 * math.cos(math.radians(a)), 13 * math.sin(math.radians(a))) for a in range(30, 390, 60)]
    for row in range(-1, 12):
        for column in range(-1, 10):
            x, y = column * 30 + 15 * (row % 2), row * 26
            d.polygon([(x + a, y + b) for a, b in corners], fill=(235, 170, 50), outline=(250, 210, 110))


def web(d: Pen) -> None:
    d.rectangle((0, 0, SIDE, SIDE), fill=(25, 40, 30))
    angles = [2 * math.pi * k / 16 for k in range(17)]
    for a in angles:
        d.line((128, 128, 128 + 180 * math.cos(a), 128 + 180 * math.sin(a)), fill=(210, 210, 210))
    for r in range(10, 180, 11):
        d.line([(128 + r * math.cos(a), 128 + r * math.sin(a)) for a in angles], fill=(210, 210, 210))


def ball(d: Pen) -> None:
    d.rectangle((0, 0, SIDE, SIDE), fill=(30, 90, 50))
    for k in range(80, 0, -1):
        light, shift = 1 - (k / 80) ** 2 * 0.5, (80 - k) * 0.35
        low, high = MIDDLE - k - shift, MIDDLE + k - shift
        d.ellipse((low, low, high, high), fill=(int(250 * light), int(250 * light), int(245 * light)))


def envelope(d: Pen) -> None:
    d.rectangle((0, 0, SIDE, SIDE), fill=(120, 90, 60))
    d.rectangle((20, 60, 236, 196), fill=(245, 240, 225))
    d.line((20, 60, 128, 140, 236, 60), fill=(170, 160, 140), width=3)
    d.line((20, 196, 100, 120), fill=(190, 180, 160), width=2)
    d.line((236, 196, 156, 120), fill=(190, 180, 160), width=2)


def digits(d: Pen) -> None:
    d.rectangle((0, 0, SIDE, SIDE), fill=(20, 20, 20))
    d.rounded_rectangle((16, 70, 240, 190), 14, fill=(50, 50, 55))
    d.rectangle((30, 85, 226, 175), fill=(10, 5, 5))
    red = (255, 40, 30)
    for n, strokes in enumerate(["bc", "abdeg", "bcfg", "acdfg"]):  # seven segments: 12:45
        x, y, w, h = 44 + 44 * n + 8 * (n > 1), 98, 26, 32
        at = {
            "a": (x, y, x + w, y), "b": (x + w, y, x + w, y + h), "c": (x + w, y + h, x + w, y + 2 * h),
            "d": (x, y + 2 * h, x + w, y + 2 * h), "e": (x, y + h, x, y + 2 * h), "f": (x, y, x, y + h),
            "g": (x, y + h, x + w, y + h),
        }  # fmt: skip
        for stroke in strokes:
            d.line(at[stroke], fill=red, width=6)
    d.ellipse((130, 115, 137, 122), fill=red)
    d.ellipse((130, 140, 137, 147), fill=red)


def stripes(d: Pen) -> None:
    for k in range(-10, 20):
        points = [(k * 26 + 10 * math.sin(y / 22) + y * 0.25, y) for y in range(0, 257, 4)]
        d.line(points, fill="black", width=13)


def balloon(d: Pen) -> None:
    d.rectangle((0, 0, SIDE, SIDE), fill=(135, 195, 240))
    d.polygon([(64, 150), (192, 150), (146, 210), (110, 210)], fill=(200, 40, 40))
    d.ellipse((48, 16, 208, 190), fill=(220, 50, 40))
    for k in range(-60, 61, 30):
        d.ellipse((120 - abs(k), 16, 136 + abs(k), 190), outline=(250, 200, 60), width=6)
    d.line((112, 205, 116, 228), fill="black")
    d.line((144, 205, 140, 228), fill="black")
    d.rectangle((114, 226, 142, 244), fill=(120, 80, 40))


def match(d: Pen) -> None:
    d.rectangle((0, 0, SIDE, SIDE), fill=(240, 240, 240))
    d.line((128, 230, 128, 70), fill=(215, 175, 120), width=14)
    d.ellipse((114, 36, 142, 84), fill=(180, 20, 20))


def umbrella(d: Pen) -> None:
    grey = (200, 205, 210)
    d.rectangle((0, 0, SIDE, SIDE), fill=grey)
    d.pieslice((28, 50, 228, 250), 180, 360, fill=(200, 30, 50))
    for k in range(4):
        d.pieslice((28 + 50 * k, 138, 78 + 50 * k, 162), 180, 360, fill=grey)
    for x in (78, 128, 178):
        d.line((128, 50, x, 145), fill=(120, 10, 20), width=2)
    d.line((128, 40, 128, 225), fill=(60, 40, 30), width=5)
    d.arc((104, 205, 130, 240), 0, 180, fill=(60, 40, 30), width=5)


DRAWINGS: dict[str, tuple[Callable[[Pen], None], int, str]] = {
    "lights": (lights, 920, "Traffic light on a pole"),
    "clock": (clock, 409, "Round analog wall clock"),
    "crossword": (crossword, 918, "Crossword puzzle"),
    "honeycomb": (honeycomb, 599, "Honeycomb with honey"),
    "web": (web, 815, "Web of a garden spider"),
    "ball": (ball, 722, "Table tennis ball"),
    "envelope": (envelope, 549, "Envelope for letters"),
    "digits": (digits, 530, "Digital alarm clock, red digits"),
    "stripes": (stripes, 340, "Zebra in the savanna"),
    "balloon": (balloon, 417, "Hot air balloon ride"),
    "match": (match, 644, "Box of matches"),
    "umbrella": (umbrella, 879, "Red umbrella for rainy days"),
}
"""Name -> how it is drawn, its ImageNet class, a title for it."""


def draw(folder: Path) -> list[Item]:
    """An item for each drawing, with its title and picture."""
    items = []
    for name, (how, _, title) in DRAWINGS.items():
        image = Image.new("RGB", (SIDE, SIDE), "white")
        how(ImageDraw.Draw(image))
        image.save(folder / f"{name}.png")
        items.append(Item(name, title, media={"image": folder / f"{name}.png"}))
    return items
