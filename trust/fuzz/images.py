"""Pictures: real small ones in every format that is decoded, damaged, cut, with headers that lie, and bombs."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from random import Random

from trust import mutate
from trust.fuzz import SilentChange, Target

SIDE = 24


def png(width: int, height: int, body: bytes, depth: int = 8, colour: int = 2) -> bytes:
    """A PNG by hand, whose header says what it likes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


class Images(Target):
    name = "images"
    about = "JPEG, PNG, GIF, WebP, BMP, TIFF, AVIF of all modes: bits flipped, cut, headers that lie, bombs, EXIF"

    def setup(self, folder: Path) -> None:
        import numpy as np
        from PIL import Image

        x, y = np.meshgrid(np.arange(SIDE), np.arange(SIDE + 8))
        whole = Image.fromarray(np.stack([x * 9, y * 7, x * 3 + y * 2], axis=-1).astype(np.uint8))
        exif = Image.Exif()
        exif[0x0112] = 6
        self.seeds = []
        for form, mode, more in (
            ("JPEG", "RGB", {"exif": exif.tobytes()}), ("JPEG", "L", {}), ("JPEG", "CMYK", {}), ("JPEG", "RGB", {"progressive": True}),
            ("PNG", "RGB", {}), ("PNG", "RGBA", {}), ("PNG", "P", {"transparency": 3}), ("PNG", "1", {}), ("PNG", "LA", {}),
            ("TIFF", "I", {}), ("GIF", "P", {}), ("WEBP", "RGB", {}), ("WEBP", "RGBA", {"lossless": True}), ("BMP", "RGB", {}),
            ("TIFF", "RGB", {}), ("TIFF", "F", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "I;16", {}),
            ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}), ("TIFF", "1", {"compression": "group4"}), ("AVIF", "RGB", {}),
        ):  # fmt: skip
            out = io.BytesIO()
            whole.convert("L").convert(mode).save(out, form, **more) if mode in ("I", "F", "I;16") else whole.convert(mode).save(out, form, **more)  # type: ignore[arg-type]  # fmt: skip
            self.seeds.append(out.getvalue())
        out = io.BytesIO()
        whole.save(out, "GIF", save_all=True, append_images=[whole.rotate(90)] * 3)
        self.seeds.append(out.getvalue())
        self.bomb = zlib.compress(bytes(40_000_000), 9)

    def make(self, rng: Random) -> bytes:
        roll = rng.random()
        if roll < 0.03:
            side = rng.choice((7000, 30_000, 100_000, 2**31 - 1, 2**32 - 1, 0))
            return png(
                side, rng.choice((1, side, 7000)), self.bomb, rng.choice((1, 8, 16, 3)), rng.choice((0, 2, 3, 4, 6, 9))
            )
        if roll < 0.05:
            return rng.choice(
                (b"%!PS-Adobe-3.0 EPSF-3.0\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"", b"RIFF")
            ) + rng.randbytes(9)
        data = rng.choice(self.seeds)
        if roll < 0.1:
            return data[: rng.randrange(len(data))]
        if roll < 0.2:
            return data + rng.choice(self.seeds)
        return mutate.damaged(
            rng,
            data,
            [b"\xff\xd8", b"\xff\xe1\xff\xff", b"IHDR", b"IDAT", b"II*\0", b"MM\0*", b"fcTL", b"iCCP", b"zTXt"],
        )

    def judge(self, case: bytes) -> None:
        from palate.errors import FeatureError
        from palate.features import picture
        from palate.features.problem import Unusable

        try:
            with picture.decoding():
                image = picture.decode(case)
        except Unusable as error:  # what a run counts against the item
            raise FeatureError(f"picture: {error}") from None
        if image.mode != "RGB" or image.width * image.height > picture.MAX_PIXELS:
            raise SilentChange(f"expected RGB within bounds, got {image.mode} {image.size}")
        with picture.decoding():
            if picture.decode(case).tobytes() != image.tobytes():
                raise SilentChange("the same bytes, two pictures")
