"""A new film, known by a title, some text and a picture alone, is ranked from its first second.

python examples/new_item.py adapters/ml-100k
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw

from palate import Event, Recommender, Request


def poster(path: Path) -> Path:
    """A picture drawn on the spot, so that the example needs no download."""
    picture = Image.new("RGB", (180, 270), (8, 10, 24))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((40, 60, 140, 160), fill=(70, 110, 160))
    draw.line((0, 200, 180, 170), fill=(220, 220, 235), width=3)
    picture.save(path)
    return path


def main(adapter: str) -> None:
    rec = Recommender.load(adapter)
    with tempfile.TemporaryDirectory() as folder:
        new = rec.add_item(
            "Orbit of Glass",
            text={"year": "1998", "genres": "Sci-Fi Thriller"},
            media={"image": poster(Path(folder) / "orbit.png")},
        )
    history = tuple(Event(rec.shelf.find(title)) for title in ("Alien", "Blade Runner", "Contact"))
    known = tuple(rec.shelf.find(title) for title in ("Sphere", "Event Horizon", "Babe", "Dumbo"))
    [scores] = rec.score(Request("example", history=history, candidates=(new, *known)))
    for item_id, score in scores.top(5):
        print(f"{score:8.3f}  {rec.shelf[item_id].title}{'   <- new' if item_id == new else ''}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "adapters/ml-100k")
