"""One whole run over a folder of good and bad pictures, sounds and films: it ends well, counts each, and the bad
ones change nothing for the good ones.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.films import RED, Shot, film
from tests.sounds import encoded, noise, riff, tone

from palate.apps import cli
from palate.data import import_dataset
from palate.features import load_features

SIDE = 40


def picture(form: str, mode: str = "RGB", **options: object) -> bytes:
    """A gradient in some mode and format."""
    x, y = np.meshgrid(np.arange(SIDE), np.arange(SIDE + 16))
    image = Image.fromarray(np.stack([x * 6, y * 4, x * 3 + y * 2], axis=-1).astype(np.uint8)).convert(mode)
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return picture("JPEG", quality=95, exif=exif.tobytes())


def sixteen_bits() -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.linspace(0, 65_535, SIDE * SIDE).reshape(SIDE, SIDE).astype(np.uint16)).save(out, "PNG")
    return out.getvalue()


def huge_png(width: int = 30_000, height: int = 30_000) -> bytes:
    """A whole PNG, black and white: 110 kB that would decode to 900 million pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    line = b"\0" + bytes((width + 7) // 8)
    press = zlib.compressobj(1)
    body = b"".join(press.compress(line * 100) for _ in range(height // 100)) + press.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


GOOD: dict[str, bytes] = {
    "plain.png": picture("PNG"),
    "gif named.jpg": picture("GIF"),
    "four channels.png": picture("PNG", "RGBA"),
    "four inks.jpg": picture("JPEG", "CMYK", quality=95),
    "sixteen bits.png": sixteen_bits(),
    "turned.jpg": turned(),
    "tone.ogg": encoded(tone(440), 16_000, "ogg", "libopus"),
    "eight bits.wav": riff(bytes(range(100, 156)) * 200),
}
BAD: dict[str, tuple[bytes, str]] = {
    "truncated.jpg": (picture("JPEG", quality=95)[:700], "cannot be decoded: .*truncated"),
    "huge.png": (huge_png(), "more pixels than the limit of 50000000"),
    "zero.png": (b"", "the file is empty"),
    "text.webp": (b"I am a text file, whatever my name is", "not a picture"),
    "zero.wav": (b"", "the file is empty"),
    "corrupt.mp3": (b"ID3\x04\0\0\0\0\0\x0a" + noise(0.2).tobytes(), "."),
    "text.flac": (b"fLaC but not really", "."),
    "broken.mp4": (b"\0\0\0\x18ftypmp42" + b"\x7f" * 400, "."),
    "empty.mkv": (b"", "the file is empty"),
}


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    film(folder / "silent.mp4", [RED])
    film(folder / "blind.mp4", [], tone(300), Shot(codec=None))
    with (folder / "three hours.wav").open("wb") as file:  # nearly all of it a hole on the disk
        file.write(riff(bytes(range(100, 156)) * 100, claimed=3 * 3600 * 8_000))
        file.truncate(44 + 3 * 3600 * 8_000)
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run config whose pictures and films are seen by a tiny random vision model."""
    import torch
    from transformers import ViTConfig, ViTModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("vit")
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**shape, image_size=32, patch_size=8)).save_pretrained(folder)
    facts = {
        "image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32}, "do_resize": True,
        "do_rescale": True, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    path = folder / "run.yaml"
    path.write_text(
        f"name: t\ndata: x\nfeatures:\n  image: {{source: 'path:{folder}'}}\n  audio: {{}}\n"
        f"  video: {{source: 'path:{folder}', options: {{tokens: 2}}}}\n"
    )
    return path


def features(folder: Path, config: Path, out: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    data = import_dataset(folder, out / "data")
    capsys.readouterr()
    assert cli.run(["features", str(data.folder), "--config", str(config), "--json", "-o", str(out / "f.st")]) == 0
    printed = capsys.readouterr()
    assert not printed.err, "decoders must not talk"
    facts: dict[str, Any] = json.loads(printed.out)
    return facts


def test_a_run_over_hostile_media(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a").mkdir()
    mixed = {**{f"bad {name}": content for name, (content, _) in BAD.items()}, **GOOD}
    facts = features(fill(tmp_path / "mixed", mixed), config, tmp_path / "a", capsys)

    counts = {m: (r["present"], r["failed"]) for m, r in facts["modalities"].items()}
    assert counts == {"image": (6, 4), "audio": (3, 3), "video": (2, 2)}
    reasons = {Path(p["file"]).name: p["reason"] for p in facts["problems"]}
    assert set(reasons) == {f"bad {name}" for name in BAD}
    for name, (_, reason) in BAD.items():
        assert re.search(reason, reasons[f"bad {name}"]), reasons[f"bad {name}"]

    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "other cache"))
    (tmp_path / "b").mkdir()
    clean = features(fill(tmp_path / "clean", GOOD), config, tmp_path / "b", capsys)
    assert not clean["problems"]
    beside, alone = (load_features(tmp_path / name / "f.st") for name in ("a", "b"))
    for modality, table in alone.items():
        assert table.present.sum() == counts[modality][0]
        rows = [beside[modality].item_ids.index(i) for i in table.item_ids]
        np.testing.assert_allclose(beside[modality].vectors[rows], table.vectors, atol=1e-3)
        assert np.isfinite(table.vectors).all()
    assert np.abs(alone["image"].vectors[alone["image"].present]).sum(axis=1).min() > 0
