"""An explanation as one HTML page: posters, bars and the reason; nothing is fetched and nothing runs in it.

Texts come from catalogues of strangers: the template escapes every one. Pictures are decoded within bounds, made
small and written into the page, so that a page is some hundred kilobytes at most.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

import jinja2
from PIL import Image

from palate.features.picture import MAX_BYTES, decode, decoding, read_bounded
from palate.features.problem import Unusable
from palate.recommender.explanation import Explanation, Part

POSTER = (320, 480)
THUMBNAIL = (96, 144)
"""Pixels a picture has at most; shown in half of that, as screens have two and more to a point."""
HISTORY = 15
"""History items shown: those that moved the score most."""
SHARED = 4
"""Shared tags shown beside a history item."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A small JPEG as a data URI, with the size it is shown at."""

    uri: str
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Row:
    """One bar: left and width in percent of the track; factor: "×2.0" or empty."""

    label: str
    value: str
    factor: str
    sign: str
    left: float
    width: float
    beside: str = ""
    picture: Picture | None = None


@dataclass(frozen=True, slots=True)
class Group:
    title: str
    rows: Sequence[Row]
    pictured: bool = False
    foot: str = ""


def page(found: Explanation) -> str:
    """A whole HTML document."""
    return _template().render(whole=True, **_values(found))


def fragment(found: Explanation) -> str:
    """The same for a notebook's output: no document around it, and styles that touch nothing else."""
    return _template().render(whole=False, **_values(found))


def picture(path: Path | None, size: tuple[int, int]) -> Picture | None:
    """A picture file, small enough for `size`; None where there is none. Raises Unusable, with the reason."""
    if path is None:
        return None
    with decoding():
        image = decode(read_bounded(path, MAX_BYTES), enough=max(size))
    image.thumbnail(size, Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
    fit = min(1.0, size[0] / 2 / image.width, size[1] / 2 / image.height)
    return Picture(uri, max(1, round(fit * image.width)), max(1, round(fit * image.height)))


@cache
def _template() -> jinja2.Template:
    source = resources.files("palate.recommender").joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source)


def _values(found: Explanation) -> dict[str, object]:
    notes = list(found.notes)
    pictures = _Pictures(notes)
    poster = pictures.take(found.title, found.image, POSTER)
    groups = _groups(found, pictures)
    return {"found": found, "poster": poster, "groups": groups, "notes": notes, "score": _signed(found.score)}


class _Pictures:
    """Takes pictures and notes down those that cannot be shown: the page goes without them."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def take(self, title: str, path: Path | None, size: tuple[int, int]) -> Picture | None:
        try:
            return picture(path, size)
        except Unusable as problem:
            self._notes.append(f"The picture of {title} cannot be shown: {problem}.")
            return None


def _groups(found: Explanation, pictures: _Pictures) -> list[Group]:
    w = found.wording
    shown = found.strongest(HISTORY)
    scale = _Scale.of([c.value for c in shown] + [p.value for p in (*found.fields, *found.modalities)])
    history = [
        _row(
            found,
            scale,
            Part(c.item_id, "history", c.title, c.value, c.share),
            ", ".join(tag for _, tag in c.shared[:SHARED]),
            pictures.take(c.title, c.image, THUMBNAIL),
        )
        for c in shown
    ]
    foot = "" if found.together is None else f"The whole history together: {_signed(found.together)}"
    if len(found.contributions) > len(shown):
        foot += f". Not shown: {len(found.contributions) - len(shown)} {w.items} that moved it less"
    groups = [Group(f"{w.items.capitalize()} you {w.verb}", history, any(r.picture for r in history), foot)]
    for of, title in (
        ("item", f"What is known about this {w.item}"),
        ("history", f"What is known about the {w.items} of the history"),
        ("person", f"What is known about the {w.person}"),
    ):
        parts = [p for p in (*found.modalities, *found.fields) if p.of == of]
        groups.append(Group(title, [_row(found, scale, p) for p in sorted(parts, key=lambda p: -p.value)]))
    return [g for g in groups if g.rows]


@dataclass(frozen=True, slots=True)
class _Scale:
    """One scale for all bars: where 0 stands on the track, in percent, and percent a unit."""

    zero: float
    unit: float

    @classmethod
    def of(cls, values: Sequence[float]) -> _Scale:
        low, high = min(0.0, *values, 0.0), max(0.0, *values, 0.0)
        span = (high - low) or 1.0
        return cls(-100 * low / span, 100 / span)


def _row(found: Explanation, scale: _Scale, part: Part, beside: str = "", shown: Picture | None = None) -> Row:
    width = abs(part.value) * scale.unit
    left = scale.zero - (width if part.value < 0 else 0.0)
    sign = "none" if not found.counts(part.value) else "for" if part.value > 0 else "against"
    times = found.times(part.value)
    factor = "" if times is None or sign == "none" else f"×{times:.2f}" if times < 10 else f"×{times:,.0f}"
    return Row(part.label, _signed(part.value), factor, sign, round(left, 2), round(width, 2), beside, shown)


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")
