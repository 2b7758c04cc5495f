"""A data set in which only pictures and sounds say what people like: a score above chance has to come from them.

Every item has a hidden kind, one of 4 x 4 pairs. Its picture shows the pair as pattern and colour, its sound plays it
as timbre and octave, and its title, made-up words, says nothing of it. All else is drawn at random: size, place,
direction and ground of the pattern; note, rhythm, loudness and noise of the sound.

Every user likes one kind and chooses items of it alone, uniformly (`turn` above 0: the kind moves on by so many with
every event). Nothing but the media can tell which:

- in the train split every item is chosen exactly once, so all are equally popular and no two users share one;
- nobody who chose a user's test item in training chose an item of that user's history: no chain of shared items
  leads from the history to the test item;
- no field, file name or id tells the kind: items and users are numbered in random order.
"""

from __future__ import annotations

import colorsys
import csv
import math
import wave
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

PATTERNS = ("stripes", "dots", "checks", "lattice")
HUES = (0.0, 0.16, 0.36, 0.62)
"""Red, yellow, green, blue."""
TIMBRES = ("pure", "hollow", "bright", "rough")
OCTAVES = (110.0, 220.0, 440.0, 880.0)
"""Lowest note of each, in Hz."""
KINDS = len(PATTERNS) * len(HUES)
TRAIN = 4
"""Train events of a user; a validation and a test event follow."""
PIXELS, RATE, SECONDS = 128, 16_000, 1.0
CONSONANTS, VOWELS = "bdfgklmnprstvz", "aeiou"
SPEC = """\
name: controlled
source: made by tests/controlled.py
items: {path: items.csv, media: {image: image, audio: audio}}
interactions: {path: interactions.csv, timestamp: timestamp}
"""


@dataclass(frozen=True)
class Controlled:
    """A generated data set. kinds: item id -> hidden kind; wants: user id -> kind of the test item."""

    folder: Path
    kinds: dict[str, int]
    wants: dict[str, int]

    def ideal(self, user_id: str, candidates: Sequence[str]) -> float:
        """Chance that who knows the kinds, and nothing more, puts the right one of `candidates` first."""
        return 1 / sum(self.kinds[c] == self.wants[user_id] for c in candidates)


@dataclass(frozen=True)
class Newcomer:
    """An item that is in no table."""

    kind: int
    title: str
    media: dict[str, Path]


def make(folder: Path, users: int = 160, seed: int = 1, turn: int = 0) -> Controlled:
    """Write a data set folder: `users` users (a multiple of KINDS, at least three a kind), TRAIN items for each."""
    each = users // KINDS
    if users % KINDS or each < 3:
        raise ValueError(f"expected a multiple of {KINDS} users, {3 * KINDS} or more, got {users}")
    rng = np.random.default_rng(seed)
    kinds = rng.permutation(np.repeat(np.arange(KINDS), each * TRAIN)).tolist()
    ids = [f"i{n:04d}" for n in range(1, len(kinds) + 1)]
    folder.mkdir(parents=True, exist_ok=True)
    items = [
        (i, title, *_media(folder, i, kind, rng))
        for i, kind, title in zip(ids, kinds, _titles(len(ids), rng), strict=True)
    ]
    _write(folder / "items.csv", ["item_id", "title", "image", "audio"], items)
    wants, events = {}, []
    for number, row in enumerate(rng.permutation(_histories(np.array(kinds), each, turn, rng)), 1):
        user = f"u{number:03d}"
        wants[user] = kinds[row[-1]]
        events += [(user, ids[item], 1_700_000_000 + 10_000 * number + 60 * t) for t, item in enumerate(row)]
    _write(folder / "interactions.csv", ["user_id", "item_id", "timestamp"], events)
    (folder / "dataset.yaml").write_text(SPEC, encoding="utf-8")
    return Controlled(folder, dict(zip(ids, kinds, strict=True)), wants)


def newcomers(folder: Path, each: int, seed: int = 1) -> list[Newcomer]:
    """`each` further items of every kind; their media are written into `folder`."""
    rng = np.random.default_rng([seed, 1])
    folder.mkdir(parents=True, exist_ok=True)
    kinds = rng.permutation(np.repeat(np.arange(KINDS), each)).tolist()
    made = []
    for n, (kind, title) in enumerate(zip(kinds, _titles(len(kinds), rng), strict=True), 1):
        image, audio = _media(folder, f"n{n:03d}", kind, rng)
        made.append(Newcomer(kind, title, {"image": folder / image, "audio": folder / audio}))
    return made


def _histories(kinds: np.ndarray, each: int, turn: int, rng: np.random.Generator) -> np.ndarray:
    """Item numbers of all users, oldest first: [KINDS * each, TRAIN + 2].

    The items of a kind are dealt out, TRAIN rows of one for each user, so that each is a train item once. User n's
    validation item is a train item of a user n + 1, the test item one of a user n + 2, whoever likes that kind there.
    """
    pools = [rng.permutation(np.flatnonzero(kinds == kind)).reshape(TRAIN, each) for kind in range(KINDS)]
    rows = []
    for like in range(KINDS):
        path = [pools[(like + turn * t) % KINDS] for t in range(TRAIN + 2)]
        for n in range(each):
            train = [path[t][t, n] for t in range(TRAIN)]
            held_out = [path[TRAIN - 1 + by][rng.integers(TRAIN), (n + by) % each] for by in (1, 2)]
            rows.append(train + held_out)
    return np.array(rows)


def _titles(count: int, rng: np.random.Generator) -> list[str]:
    """Distinct titles of two made-up words."""
    titles: dict[str, None] = {}
    while len(titles) < count:
        letters = [rng.choice(list(CONSONANTS if n % 2 == 0 else VOWELS)) for n in range(8)]
        titles["".join(letters[:4]).title() + " " + "".join(letters[4:]).title()] = None
    return list(titles)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def _media(folder: Path, name: str, kind: int, rng: np.random.Generator) -> tuple[str, str]:
    """Draw and play one item; file names relative to the folder."""
    first, second = divmod(kind, len(HUES))
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
    """A note of an octave, struck two to four times, with a little noise: float in -1 .. 1 [RATE * SECONDS].

    Pure: a sine; hollow: odd overtones; bright: all overtones; rough: a sine that flutters in noise.
    """
    time = np.arange(int(RATE * SECONDS)) / RATE
    phase = 2 * math.pi * lowest * 2 ** (rng.integers(12) / 12) * time + rng.uniform(0, 2 * math.pi)
    overtones = {"hollow": range(1, 8, 2), "bright": range(1, 13)}.get(timbre, range(1, 2))
    tone = sum(np.sin(n * phase) / n for n in overtones)
    if timbre == "rough":
        tone = tone * (1 + np.sin(2 * math.pi * 70 * time)) / 2 + 0.5 * rng.standard_normal(len(time))
    beat = SECONDS / rng.integers(2, 5)
    envelope = np.exp(-rng.uniform(2, 6) * (time % beat) / beat)
    sound = tone / np.abs(tone).max() * envelope * rng.uniform(0.3, 0.9)
    return np.clip(sound + 0.003 * rng.standard_normal(len(time)), -1, 1)
