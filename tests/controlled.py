"""A data set in which only pictures and sounds say what people like, so that a score above chance has to come from them.

Every item has a hidden kind: one of 4 x 4 pairs. Its picture shows the pair as shape and colour, its sound plays it as
timbre and octave, and its title, random syllables, says nothing of it. Everything else is drawn at random: place, size,
angle and background of the shape, note, rhythm, loudness and noise of the sound.

Every user likes one kind and chooses items of it alone, uniformly. Nothing but the media can tell which:

- in the train split every item is chosen by exactly one user, so popularity is equal and no two users share an item;
- a user's test item was in nobody's train history beside an item of theirs, so no chain of shared items leads to it;
- no field, file name or id tells the kind; items are numbered in a random order.
"""

from __future__ import annotations

import colorsys
import csv
import math
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIDES = (4, 4)
KINDS = SIDES[0] * SIDES[1]
PATTERNS = ("stripes", "dots", "checks", "lattice")
HUES = (0.0, 0.16, 0.36, 0.62)
"""Red, yellow, green, blue."""
TIMBRES = ("pure", "hollow", "bright", "rough")
OCTAVES = (110.0, 220.0, 440.0, 880.0)
"""Lowest note of each, in Hz."""
PIXELS, RATE, SECONDS = 128, 16_000, 1.0
TRAIN = 4
"""Train events of a user; a validation and a test event follow."""
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"

SPEC = """\
name: controlled
wording: {item: item, items: items, verb: chose, person: user}
items: {path: items.csv, media: {image: image, audio: audio}}
interactions: {path: interactions.csv, timestamp: timestamp}
"""


@dataclass(frozen=True)
class Controlled:
    """A generated data set. kinds: hidden kind of each item, by id; likes: of each user, by id."""

    folder: Path
    kinds: dict[str, int]
    likes: dict[str, int]

    def oracle(self, user_id: str, candidates: tuple[str, ...]) -> float:
        """Chance that one who knows the kinds, and nothing else, names the right one of `candidates` first."""
        return 1 / sum(self.kinds[c] == self.likes[user_id] for c in candidates)


@dataclass(frozen=True)
class Newcomer:
    """An item that no training has seen."""

    kind: int
    title: str
    media: dict[str, Path]


def make(folder: Path, users: int = 160, seed: int = 1) -> Controlled:
    """Write a data set folder for `users` users (a multiple of KINDS, at least three a kind) and TRAIN items for each."""
    each = users // KINDS
    if users % KINDS or each < 3:
        raise ValueError(f"expected a multiple of {KINDS} users, at least {3 * KINDS}, got {users}")
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.repeat(np.arange(KINDS), each * TRAIN))
    ids = [f"{n + 1:04d}" for n in range(len(kinds))]
    folder.mkdir(parents=True, exist_ok=True)
    items = [(i, *_media(folder, i, int(kind), rng)) for i, kind in zip(ids, kinds, strict=True)]
    titles = _titles(len(ids), rng)
    _write(folder / "items.csv", ["item_id", "title", "image", "audio"], [(i, t, p, a) for (i, p, a), t in zip(items, titles, strict=True)])
    chosen = [(row, kind) for kind in range(KINDS) for row in _users(np.flatnonzero(kinds == kind), each, rng)]
    likes, events = {}, []
    for number, place in enumerate(rng.permutation(users)):
        row, kind = chosen[place]
        user = f"u{number + 1:03d}"
        likes[user] = kind
        events += [(user, ids[item], 1_700_000_000 + 10_000 * number + 60 * t) for t, item in enumerate(row)]
    _write(folder / "interactions.csv", ["user_id", "item_id", "timestamp"], events)
    (folder / "dataset.yaml").write_text(SPEC, encoding="utf-8")
    return Controlled(folder, dict(zip(ids, kinds.tolist(), strict=True)), likes)


def newcomers(folder: Path, each: int, seed: int = 1) -> Iterator[Newcomer]:
    """`each` items of every kind that are in no table; their media are written into `folder`."""
    rng = np.random.default_rng([seed, 1])
    folder.mkdir(parents=True, exist_ok=True)
    kinds = rng.permutation(np.repeat(np.arange(KINDS), each))
    for n, (kind, title) in enumerate(zip(kinds.tolist(), _titles(len(kinds), rng), strict=True)):
        image, audio = _media(folder, f"new-{n + 1:03d}", kind, rng)
        yield Newcomer(kind, title, {"image": folder / image, "audio": folder / audio})


def _users(items: np.ndarray, each: int, rng: np.random.Generator) -> np.ndarray:
    """Item numbers of all users of one kind, oldest first: [each, TRAIN + 2].

    Train items are dealt out. User n's validation item is one of user n + 1's train items, the test item one of user
    n + 2's: neither an own one, nor one that lay beside the other in a train history.
    """
    train = rng.permutation(items).reshape(each, TRAIN)
    columns = rng.integers(TRAIN, size=(2, each))
    turns = [np.roll(train, -by, axis=0)[np.arange(each), column] for by, column in zip((1, 2), columns, strict=True)]
    return np.column_stack([train, *turns])


def _titles(count: int, rng: np.random.Generator) -> list[str]:
    """Distinct titles of two made-up words."""
    titles: dict[str, None] = {}
    while len(titles) < count:
        words = ["".join(str(rng.choice(list(part))) for _ in range(2) for part in (CONSONANTS, VOWELS)) for _ in range(2)]
        titles[" ".join(words).title()] = None
    return list(titles)


def _write(path: Path, header: list[str], rows: list[tuple[object, ...]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _media(folder: Path, name: str, kind: int, rng: np.random.Generator) -> tuple[str, str]:
    """Draw and play one item; file names relative to the folder."""
    first, second = divmod(kind, SIDES[1])
    draw(PATTERNS[first], HUES[second], rng).save(folder / f"{name}.png")
    with wave.open(str(folder / f"{name}.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((play(TIMBRES[first], OCTAVES[second], rng) * 32767).astype("<i2").tobytes())
    return f"{name}.png", f"{name}.wav"


# --- pictures -------------------------------------------------------------------------------------------


def draw(pattern: str, hue: float, rng: np.random.Generator) -> Image.Image:
    """A pattern in a hue on a grey ground, of any size, at any place, upright or lying."""
    grey, step = int(rng.integers(60, 200)), int(rng.integers(14, 24))
    colour = colorsys.hsv_to_rgb((hue + rng.uniform(-0.03, 0.03)) % 1, rng.uniform(0.75, 1), rng.uniform(0.7, 1))
    fill = tuple(int(255 * c) for c in colour)
    picture = Image.new("RGB", (PIXELS, PIXELS), (grey, grey, grey))
    pen = ImageDraw.Draw(picture)
    left, top = (int(n) - 2 * step for n in rng.integers(2 * step, size=2))
    for column, x in enumerate(range(left, PIXELS, step)):
        if pattern == "stripes":
            pen.rectangle((x, 0, x + step // 2, PIXELS), fill=fill)
            continue
        for row, y in enumerate(range(top, PIXELS, step)):
            if pattern == "dots":
                pen.ellipse((x, y, x + 0.75 * step, y + 0.75 * step), fill=fill)
            elif pattern == "checks" and (column + row) % 2:
                pen.rectangle((x, y, x + step - 1, y + step - 1), fill=fill)
            elif pattern == "lattice":
                pen.line((x, y, x + step, y + step), fill=fill, width=3)
                pen.line((x, y + step, x + step, y), fill=fill, width=3)
    return picture.transpose(Image.Transpose.TRANSPOSE) if rng.integers(2) else picture


# --- sounds ---------------------------------------------------------------------------------------------


def play(timbre: str, lowest: float, rng: np.random.Generator) -> np.ndarray:
    """A note of an octave, struck two to four times, with a little noise: float in -1 .. 1 [RATE * SECONDS]."""
    time = np.arange(int(RATE * SECONDS)) / RATE
    pitch = lowest * 2 ** (rng.integers(12) / 12)
    phase = 2 * math.pi * pitch * time + rng.uniform(0, 2 * math.pi)
    beat = SECONDS / rng.integers(2, 5)
    envelope = np.exp(-rng.uniform(2, 6) * (time % beat) / beat)
    wanted = {"pure": [1.0], "hollow": [1, 0, 1 / 3, 0, 1 / 5, 0, 1 / 7], "bright": [1 / n for n in range(1, 13)]}
    tone = sum(a * np.sin(n * phase) for n, a in enumerate(wanted.get(timbre, [1.0]), 1))
    if timbre == "rough":
        tone = tone * (1 + np.sin(2 * math.pi * 70 * time)) / 2 + 0.5 * rng.standard_normal(len(time))
    sound = tone / np.abs(tone).max() * envelope * rng.uniform(0.3, 0.9)
    return np.clip(sound + 0.003 * rng.standard_normal(len(time)), -1, 1)
