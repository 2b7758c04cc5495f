"""Pictures from strangers: bounded in bytes and pixels before they are decoded, any mode made RGB."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from PIL import Image, UnidentifiedImageError

from palate.features.files import file_identity, read_bounded
from palate.features.problem import Unusable

__all__ = [
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "centre_square",
    "decode",
    "decoding",
    "file_identity",
    "read_bounded",
    "tamed",
]

MAX_BYTES = 20_000_000
MAX_PIXELS = 50_000_000
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
"""What is decoded, by content and not by file name. Formats that start other programs (EPS) stay out."""
BACKGROUND = (255, 255, 255)
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # fmt: skip
"""EXIF orientation -> what makes it upright."""


@contextmanager
def decoding() -> Iterator[None]:
    """Make pillow's size warning an error and drop its remarks on odd metadata.

    Warning filters belong to the process, so enter this once around a thread pool, not inside its threads.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
        warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
        yield


def decode(data: bytes, max_pixels: int = MAX_PIXELS, enough: int | None = None) -> Image.Image:
    """An upright RGB picture from file bytes. Raises Unusable with the reason.

    max_pixels: checked on the header, before any pixel is decoded. enough: a JPEG may be decoded at a smaller
    scale as long as both sides keep this many pixels. Transparency is laid on white; an animation gives its
    first frame; 16-bit and float pictures are scaled to 8 bits.
    """
    try:
        with Image.open(io.BytesIO(data), formats=_formats()) as image:
            width, height = image.size
            if width * height > max_pixels:
                raise Unusable(f"{width} x {height} pixels, more than the limit of {max_pixels}")
            if enough is not None:
                image.draft(None, (enough, enough))
            image.load()
            return _rgb(_upright(image))
    except Unusable:
        raise
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise Unusable(f"its header promises more pixels than the limit of {max_pixels}") from None
    except UnidentifiedImageError:
        raise Unusable(f"not a picture ({', '.join(FORMATS)}); it starts with {data[:12]!r}") from None
    except Exception as error:  # a decoder may raise anything on hostile bytes; one item must not end the run
        raise Unusable(f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}") from None


def _formats() -> list[str]:
    Image.init()
    return [f for f in FORMATS if f in Image.OPEN]


def _upright(image: Image.Image) -> Image.Image:
    """Turned as its EXIF or XMP says; damaged metadata costs the turn, not the picture."""
    try:
        turn = TURNS.get(image.getexif().get(ORIENTATION, 1))
    except Exception:  # as with the pixels, a parser of hostile bytes may raise anything
        return image
    return image if turn is None else image.transpose(turn)


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode as 8-bit RGB, transparency on white."""
    if image.mode.startswith("I") or image.mode == "F":
        return _scaled(image).convert("RGB")
    if "A" in image.getbands() or "a" in image.getbands() or "transparency" in image.info:
        seen = image.convert("RGBA")
        ground = Image.new("RGBA", seen.size, (*BACKGROUND, 255))
        return Image.alpha_composite(ground, seen).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _scaled(image: Image.Image) -> Image.Image:
    """16-bit, 32-bit or float greyscale as 8-bit greyscale."""
    values = np.nan_to_num(np.asarray(image).astype(np.float32), nan=0.0, posinf=0.0, neginf=0.0)
    top = float(values.max(initial=0.0))
    if image.mode == "F":
        scale = 255.0 if top <= 1.0 else (1.0 if top <= 255.0 else 255.0 / top)
    else:
        # 16 bits unless the values need more; a 32-bit picture that uses 8 bits only stays as it is
        scale = 255.0 / 65535.0 if image.mode.startswith("I;16") or 255.0 < top <= 65535.0 else 1.0
        scale = 255.0 / top if top > 65535.0 else scale
    return Image.fromarray(np.clip(values * scale, 0, 255).round().astype(np.uint8), "L")


def centre_square(image: Image.Image) -> Image.Image:
    """The largest centred square."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def tamed(image: Image.Image, side: int, aspect: float = 4.0) -> Image.Image:
    """Cut the long side to `aspect` times the short one, then shrink to at most 4 x `side` pixels a side.

    Processors that scale the short side up would otherwise make a 1 x 100,000 picture gigantic.
    """
    short = min(image.size)
    limit = max(1, int(short * aspect))
    width, height = min(image.width, limit), min(image.height, limit)
    if (width, height) != image.size:
        left, top = (image.width - width) // 2, (image.height - height) // 2
        image = image.crop((left, top, left + width, top + height))
    if max(image.size) > 4 * side:
        image = image.copy()
        image.thumbnail((4 * side, 4 * side), Image.Resampling.BICUBIC)
    return image
