"""A contact sheet: rows of items as pictures with captions, such as items and their nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from palate.errors import DataError

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

SIDE, GAP, LINE, LINES = 112, 10, 15, 2
"""Pixels: of a picture's side, between cells, of a line of caption; lines of a caption."""
INK, PAPER, EMPTY, MARK, RULE = "#1F2328", "#FFFFFF", "#E6E9ED", "#009E73", "#C4CAD0"
MAX_PIXELS = 80_000_000


@dataclass(frozen=True)
class Cell:
    """One picture with a caption. image: None, or a file that cannot be used, is an empty tile. note: a short line
    under the caption; marked: the note in colour with a bar beside it.
    """

    caption: str
    image: Path | None = None
    note: str = ""
    marked: bool = False


def draw(path: str | Path, rows: Sequence[Sequence[Cell]], title: str, footer: str = "") -> Path:
    """Draw rows of cells, the first cell of each apart from the others, as a PNG or JPEG. Returns its path.

    Pictures come from strangers: they are decoded as the image encoder does, within the same bounds. Raises
    DataError where there is nothing to draw or too much for one picture.
    """
    from PIL import Image, ImageDraw

    if not rows or not all(rows):
        raise DataError("expected rows of items to draw, got none")
    path = Path(path)
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise DataError(f"expected a picture to write (.png, .jpg, .webp), got {path.name!r}")
    columns = max(map(len, rows))
    tall = SIDE + (LINES + 1) * LINE + GAP
    width = GAP + columns * (SIDE + GAP) + GAP
    height = 2 * GAP + 2 * LINE + len(rows) * tall + (2 * LINE if footer else 0)
    if width * height > MAX_PIXELS:
        raise DataError(f"a sheet of {len(rows)} x {columns} pictures is too large; ask for fewer")
    sheet = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((GAP, GAP), _cut(title, _font(15), width - 2 * GAP), INK, _font(15))
    for r, row in enumerate(rows):
        for c, cell in enumerate(row):
            _cell(sheet, pen, cell, (GAP + c * (SIDE + GAP) + (GAP if c else 0), 2 * GAP + 2 * LINE + r * tall))
    pen.line([(GAP * 2 + SIDE, 2 * GAP + 2 * LINE), (GAP * 2 + SIDE, height - GAP - 2 * LINE)], RULE)
    if footer:
        pen.text((GAP, height - GAP - LINE), _cut(footer, _font(11), width - 2 * GAP), INK, _font(11))
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _cell(sheet: Image.Image, pen: ImageDraw.ImageDraw, cell: Cell, at: tuple[int, int]) -> None:
    x, y = at
    picture = _picture(cell.image)
    if picture is None:
        pen.rectangle((x, y, x + SIDE - 1, y + SIDE - 1), fill=EMPTY)
    else:
        sheet.paste(picture, (x + (SIDE - picture.width) // 2, y + (SIDE - picture.height) // 2))
    y += SIDE + 2
    for line in _wrapped(cell.caption, _font(11), SIDE):
        pen.text((x, y), line, INK, _font(11))
        y += LINE - 2
    if cell.note:
        shift = 6 if cell.marked else 0
        if cell.marked:
            pen.rectangle((x, y + 2, x + 2, y + LINE - 3), fill=MARK)
        pen.text((x + shift, y), _cut(cell.note, _font(10), SIDE - shift), MARK if cell.marked else INK, _font(10))


def _picture(path: Path | None) -> Image.Image | None:
    """The file within SIDE x SIDE; None where there is none that can be used."""
    from palate.features.picture import MAX_BYTES, decode, decoding, read_bounded
    from palate.features.problem import Unusable

    if path is None:
        return None
    try:
        with decoding():
            picture = decode(read_bounded(path, MAX_BYTES), enough=SIDE)
    except Unusable:
        return None
    picture.thumbnail((SIDE, SIDE))
    return picture


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which matplotlib brings: more letters than pillow's own."""
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)


def _wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """At most LINES lines."""
    lines = [""]
    for word in " ".join(text.split()).split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1] or len(lines) == LINES:
            lines[-1] = longer[:200]
        else:
            lines.append(word)
    return [_cut(line, font, width) for line in lines]


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """One line of at most `width` pixels."""
    text = " ".join(text.split())[:300]
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
