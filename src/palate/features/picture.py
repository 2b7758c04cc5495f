"""Pictures from strangers: bounded in bytes and pixels before they are decoded, any mode made RGB."""

from __future__ import annotations

import hashlib
import io
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from palate.features.problem import Unusable

MAX_BYTES = 20_000_000
MAX_PIXELS = 50_000_000
FORMATS = ("JPEG", "MPO", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF")
"""What is decoded, by content and not by file name. Formats that start other programs (EPS) stay out."""
BACKGROUND = (255, 255, 255)


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """A regular file's bytes. Raises Unusable where it is missing, empty, not a file or over `max_bytes`."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Unusable("expected a file, found a folder or a device")
        if status.st_size > max_bytes:
            raise Unusable(f"{status.st_size} bytes, more than the limit of {max_bytes}")
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise Unusable("there is no such file") from None
    except OSError as error:
        raise Unusable(f"cannot be read: {error.strerror or error}") from None
    if not data:
        raise Unusable("the file is empty (0 bytes)")
    if len(data) > max_bytes:
        raise Unusable(f"more than the limit of {max_bytes} bytes")
    return data


def file_identity(path: Path, max_bytes: int) -> bytes:
    """sha256 of a bounded file's content, 32 bytes. Raises Unusable as `read_bounded`."""
    return hashlib.sha256(read_bounded(path, max_bytes)).digest()


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
            return _rgb(ImageOps.exif_transpose(image))
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
