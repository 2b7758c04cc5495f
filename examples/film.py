"""A film made of pictures and tones, seen and heard by the video encoder: which stretch shows which picture?

python examples/film.py [FOLDER OF PICTURES] [FILM.mp4]
"""

from __future__ import annotations

import sys
import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageOps

from palate.config import EncoderConfig
from palate.features import compute
from palate.schema import Item

SHOTS, SECONDS, FPS, RATE, SIZE = 4, 2, 8, 16_000, (320, 480)
PITCHES = (220, 440, 880, 1760)


def drawn(folder: Path) -> list[Path]:
    """Pictures drawn on the spot, so that the example needs no download."""
    paths = []
    for n, ground in enumerate(("navy", "darkgreen", "maroon", "goldenrod")):
        picture = Image.new("RGB", SIZE, ground)
        draw = ImageDraw.Draw(picture)
        for k in range(n + 1):
            box = (40 + 50 * k, 60 + 80 * k, 140 + 50 * k, 160 + 80 * k)
            (draw.ellipse if n % 2 else draw.rectangle)(box, fill="white")
        paths.append(folder / f"drawn{n}.png")
        picture.save(paths[-1])
    return paths


def write(path: Path, pictures: list[Path]) -> None:
    """Each picture for two seconds, each with a tone of its own."""
    frames = [ImageOps.pad(Image.open(p).convert("RGB"), SIZE) for p in pictures]
    times = np.arange(SECONDS * RATE) / RATE
    sound = np.concatenate([0.3 * np.sin(2 * np.pi * hertz * times) for hertz in PITCHES[: len(pictures)]])
    with av.open(str(path), "w") as film:
        video = film.add_stream("libx264", rate=FPS)
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        audio = film.add_stream("aac", rate=RATE, layout="mono")
        for n in range(len(frames) * SECONDS * FPS):
            frame = av.VideoFrame.from_image(frames[n // (SECONDS * FPS)])
            frame.pts, frame.time_base = n, Fraction(1, FPS)
            film.mux(video.encode(frame))
        tone = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), format="fltp", layout="mono")
        tone.sample_rate, tone.pts = RATE, 0
        film.mux([*video.encode(None), *audio.encode(tone), *audio.encode(None)])


def main(folder: str = "", film: str = "") -> None:
    with tempfile.TemporaryDirectory() as scratch:
        found = sorted(p for p in Path(folder).iterdir() if p.suffix in (".jpg", ".png")) if folder else []
        pictures = found[: 3 * SHOTS] or drawn(Path(scratch))
        path = Path(film) if film else Path(scratch) / "film.mp4"
        write(path, pictures[:SHOTS])
        posters = [Item(p.stem, p.stem, media={"image": p}) for p in pictures]
        still = compute(posters, None, {"image": EncoderConfig()}, progress=False).tables["image"].vectors
        config = EncoderConfig(options={"tokens": SHOTS, "fps": 2})
        made = compute([Item("film", "film", media={"video": path})], None, {"video": config}, progress=False)
    print(f"{path.name}: {SHOTS * SECONDS} s, {len(pictures)} pictures to choose from")
    for n, stretch in enumerate(made.tables["video"].vectors[0].reshape(SHOTS, -1)):
        seen = stretch[: still.shape[1]]  # then what was heard, and two marks: has a picture, has sound
        cosine = still @ seen / (np.linalg.norm(still, axis=1) * np.linalg.norm(seen))
        best = int(cosine.argmax())
        print(f"stretch {n + 1}: shows {pictures[n].stem}, nearest is {pictures[best].stem} ({cosine[best]:.2f})")


if __name__ == "__main__":
    main(*sys.argv[1:3])
