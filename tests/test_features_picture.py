"""Decoding pictures from strangers: every oddity has one outcome, and none raises anything but Unusable."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from palate.features.picture import MAX_BYTES, centre_square, decode, decoding, read_bounded, tamed
from palate.features.problem import Unusable


def encoded(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def colour(image: Image.Image) -> np.ndarray:
    """Mean colour, float [3]."""
    assert image.mode == "RGB"
    return np.asarray(image, dtype=np.float64).mean(axis=(0, 1))


def png(header: bytes, pixels: bytes) -> bytes:
    """A PNG of one header and compressed pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises width x height pixels and holds none."""
    return png(struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), zlib.compress(b""))


FORMS = ("JPEG", "PNG", "WEBP")
RED = (220, 30, 40)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encoded(Image.new("RGB", (40, 30), RED)), RED),
        (encoded(Image.new("RGB", (40, 30), RED), "JPEG", quality=95), RED),
        (encoded(Image.new("RGB", (40, 30), RED), "GIF"), RED),
        (encoded(Image.new("RGB", (40, 30), RED), "WEBP", lossless=True), RED),
        (encoded(Image.new("RGB", (40, 30), RED), "BMP"), RED),
        (encoded(Image.new("RGB", (40, 30), RED), "TIFF"), RED),
        (encoded(Image.new("L", (40, 30), 90)), (90, 90, 90)),
        (encoded(Image.new("LA", (40, 30), (90, 0))), (255, 255, 255)),
        (encoded(Image.new("1", (40, 30), 1)), (255, 255, 255)),
        (encoded(Image.new("RGB", (40, 30), RED).quantize(4)), RED),
        (encoded(Image.new("RGBA", (40, 30), (0, 0, 0, 0))), (255, 255, 255)),
        (encoded(Image.new("RGBA", (40, 30), (*RED, 255))), RED),
        (encoded(Image.new("CMYK", (40, 30), (0, 255, 255, 0)), "JPEG", quality=95), (255, 0, 0)),
        (encoded(Image.fromarray(np.full((30, 40), 32_768, np.uint16))), (128, 128, 128)),
        (encoded(Image.fromarray(np.full((30, 40), 100, np.uint16))), (0, 0, 0)),
        (encoded(Image.fromarray(np.full((30, 40), 0.5, np.float32)), "TIFF"), (128, 128, 128)),
    ],
    ids=[
        "png", "jpeg", "gif", "webp", "bmp", "tiff", "grey", "transparent grey", "bilevel", "palette",
        "transparent", "opaque RGBA", "CMYK", "16 bit", "dark 16 bit", "float",
    ],
)  # fmt: skip
def test_any_mode_and_format_becomes_rgb(data: bytes, expected: tuple[int, ...]) -> None:
    with decoding():
        image = decode(data)
    assert image.size == (40, 30)
    np.testing.assert_allclose(colour(image), expected, atol=4)


def test_exif_rotation_is_applied() -> None:
    picture = Image.new("RGB", (40, 20), (0, 0, 255))
    picture.paste(RED, (0, 0, 20, 20))  # left half red
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    upright = decode(encoded(picture, "JPEG", quality=95, exif=exif.tobytes()))
    assert upright.size == (20, 40)
    np.testing.assert_allclose(colour(upright.crop((2, 2, 18, 16))), RED, atol=12)
    np.testing.assert_allclose(colour(upright.crop((2, 24, 18, 38))), (0, 0, 255), atol=12)


@pytest.mark.parametrize("orientation", range(10))
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_every_exif_orientation_is_as_pillow_turns_it(orientation: int, form: str) -> None:
    x, y = np.meshgrid(np.arange(24), np.arange(16))
    picture = Image.fromarray(np.stack([x * 10, y * 15, x + y], axis=-1).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(picture, form, exif=exif, **({"lossless": True} if form == "WEBP" else {}))
    with Image.open(io.BytesIO(data)) as image:
        wanted = ImageOps.exif_transpose(image).convert("RGB")
    np.testing.assert_array_equal(np.asarray(decode(data)), np.asarray(wanted))


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=60), st.sampled_from([b"", b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08"]), st.sampled_from(FORMS))
def test_damaged_metadata_costs_no_picture(tail: bytes, head: bytes, form: str) -> None:
    data = encoded(Image.new("RGB", (40, 30), RED), form, exif=head + tail)
    with decoding():
        image = decode(data)
    assert set(image.size) == {30, 40}
    np.testing.assert_allclose(colour(image), RED, atol=6)


@pytest.mark.parametrize(("kind", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_a_channel(kind: int, channels: int) -> None:
    """PNG colour types grey, RGB, grey and alpha, RGBA; half full, half opaque on white where there is alpha."""
    pixels = zlib.compress((b"\0" + b"\x80\0" * channels * 8) * 8)
    image = decode(png(struct.pack(">IIBBBBB", 8, 8, 16, kind, 0, 0, 0), pixels))
    np.testing.assert_allclose(colour(image), [191 if kind >= 4 else 128] * 3, atol=1)


def test_the_content_tells_the_format_not_the_name(tmp_path: Path) -> None:
    for form, name in (("GIF", "a.jpg"), ("PNG", "a.gif"), ("WEBP", "a.png"), ("JPEG", "no ending")):
        (tmp_path / name).write_bytes(encoded(Image.new("RGB", (40, 30), RED), form))
        np.testing.assert_allclose(colour(decode(read_bounded(tmp_path / name, MAX_BYTES))), RED, atol=6)


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.new("RGB", (8, 8), c) for c in (RED, (0, 0, 255))]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(colour(decode(data)), RED, atol=4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (encoded(Image.effect_noise((200, 200), 90), "JPEG")[:900], "cannot be decoded: .*truncated"),
        (b"this is a text file\n", r"not a picture \(JPEG, .*starts with b'this is a te"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "not a picture"),
        (png_header(30_000, 30_000), "more pixels than the limit|900000000"),
        (png_header(10_000, 9_000), "10000 x 9000 pixels, more than the limit of 50000000|more pixels"),
        (png_header(8_000, 8_000), "8000 x 8000 pixels, more than the limit of 50000000"),
        (png_header(40, 30), "cannot be decoded"),
        (encoded(Image.new("RGB", (4, 4)))[:20], "cannot be decoded: Truncated"),
    ],
    ids=["truncated", "text", "postscript", "900 MP", "90 MP", "64 MP", "no pixels", "cut header"],
)
def test_what_cannot_be_used_says_why(data: bytes, reason: str) -> None:
    with decoding(), pytest.raises(Unusable, match=reason):
        decode(data)


@settings(deadline=None)
@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"II*\0"]),
)
def test_any_bytes_give_a_picture_or_unusable(data: bytes, magic: bytes) -> None:
    with decoding():
        try:
            mode = decode(magic + data).mode
        except Unusable:
            return
    assert mode == "RGB"


def test_bytes_are_bounded_before_reading(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    with pytest.raises(Unusable, match="no such file"):
        read_bounded(file, MAX_BYTES)
    file.write_bytes(b"")
    with pytest.raises(Unusable, match="empty"):
        read_bounded(file, MAX_BYTES)
    file.write_bytes(b"x" * 11)
    with pytest.raises(Unusable, match="11 bytes, more than the limit of 10"):
        read_bounded(file, 10)
    assert read_bounded(file, 11) == b"x" * 11
    with pytest.raises(Unusable, match="a folder or a device"):
        read_bounded(tmp_path, 10)
    with pytest.raises(Unusable, match="a folder or a device"):
        read_bounded(Path("/dev/zero"), 10)


def test_a_large_jpeg_is_decoded_smaller_but_not_too_small() -> None:
    data = encoded(Image.new("RGB", (1600, 1200), RED), "JPEG")
    image = decode(data, enough=448)
    assert min(image.size) >= 448
    assert max(image.size) < 1600
    np.testing.assert_allclose(colour(image), RED, atol=4)


@settings(deadline=None)
@given(st.integers(1, 400), st.integers(1, 400))
def test_cuts_keep_their_promises(width: int, height: int) -> None:
    image = Image.new("RGB", (width, height))
    assert centre_square(image).size == (min(width, height),) * 2
    cut = tamed(image, side=32, aspect=4.0)
    assert max(cut.size) <= 128
    assert max(cut.size) <= 4 * min(image.size) or max(cut.size) <= 4 * min(cut.size) + 4
    assert min(cut.size) >= 1
