"""Pictures to vectors: Palate's image encoder beside a plain loop and a DataLoader over the same stock network.

    python -m benchmarks.images --count 10000 --pictures ../shared/data/ml-100k-mm/posters --json images.json

Every picture is made for the run: a seeded crop, flip and change of colours of one under --pictures, else a synthetic
photo. Palate encodes all of them, hashing and writing the cache included; a slow way takes a sample of the same ones.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch.utils.data import DataLoader, Dataset

from benchmarks import measure, options
from palate import features, sources
from palate.config import EncoderConfig
from palate.errors import ConfigError
from palate.features import FeatureStore
from palate.features.encoders import build
from palate.features.encoders.image import ImageEncoder
from palate.features.files import file_identity, read_bounded
from palate.features.picture import MAX_BYTES, decode
from palate.schema import Floats, Item

ENDINGS = {".jpg", ".jpeg", ".png", ".webp"}
QUALITY = 88
PROBE = 64
"""Pictures on which the cost of each step is taken and vectors are compared."""


# --- pictures ---------------------------------------------------------------------------------------------


def pictures(folder: Path, count: int, source: str | None, size: int, seed: int) -> list[Item]:
    """`count` distinct JPEGs, the longer side `size` pixels. Raises ConfigError where `source` holds no picture."""
    found = Path(source).rglob("*") if source is not None else ()
    originals = sorted(p for p in found if p.suffix.lower() in ENDINGS)
    if source is not None and not originals:
        raise ConfigError(f"--pictures: expected a folder with pictures ({', '.join(sorted(ENDINGS))}), got {source}")

    def make(n: int) -> Item:
        rng = np.random.default_rng((seed, n))
        image = _varied(originals[n % len(originals)], rng) if originals else _synthetic(rng)
        scale = size / max(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        path = folder / f"{n:06}.jpg"
        image.save(path, quality=QUALITY)
        return Item(str(n), f"picture {n}", media={"image": path})

    with ThreadPoolExecutor() as pool:
        return list(pool.map(make, range(count)))


def _varied(path: Path, rng: np.random.Generator) -> Image.Image:
    """A crop of 70 to 100% a side, maybe mirrored, brightness, contrast and colour changed by up to a fifth."""
    image = decode(read_bounded(path, MAX_BYTES))
    width, height = (max(8, round(side * rng.uniform(0.7, 1.0))) for side in image.size)
    left, top = rng.integers(image.width - width + 1), rng.integers(image.height - height + 1)
    image = image.crop((left, top, left + width, top + height))
    if rng.random() < 0.5:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for change in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = change(image).enhance(rng.uniform(0.8, 1.2))
    return image


def _synthetic(rng: np.random.Generator) -> Image.Image:
    """Soft fields of colour, edges and grain: compresses and decodes like a photo, shows nothing."""
    soft = Image.fromarray(rng.integers(0, 256, (8, 6, 3), dtype=np.uint8)).resize((384, 512), Image.Resampling.BICUBIC)
    y, x = np.mgrid[0:512, 0:384]
    angle = rng.uniform(0, np.pi)
    edge = (x * np.cos(angle) + y * np.sin(angle) > rng.uniform(100, 400)) * rng.integers(-60, 60)
    values = np.asarray(soft, dtype=np.int16) + edge[..., None] + rng.normal(0, 6, (512, 384, 1))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


# --- what a user would write ------------------------------------------------------------------------------


def stock(weights: Path, device: torch.device) -> Any:
    """EfficientNet-Lite0 as its package gives it, with the same weights."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval().to(device)


def tensor(path: Path) -> torch.Tensor:
    """Open, cut the centred square, resize, normalise: float32 [3, 224, 224]."""
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
    return (torch.from_numpy(np.array(image)).permute(2, 0, 1).float() - 127.0) / 128.0


@torch.no_grad()
def plain_loop(network: Any, items: Sequence[Item], device: torch.device) -> Floats:
    """One picture at a time: float32 [n, 1280]."""
    rows = [network.extract_features(tensor(i.media["image"])[None].to(device)).mean(dim=(2, 3))[0] for i in items]
    return torch.stack(rows).cpu().numpy()


class Pictures(Dataset[torch.Tensor]):
    """The pictures for a DataLoader."""

    def __init__(self, items: Sequence[Item]) -> None:
        self.paths = [i.media["image"] for i in items]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, n: int) -> torch.Tensor:
        return tensor(self.paths[n])


@torch.no_grad()
def dataloader(network: Any, items: Sequence[Item], device: torch.device, batch: int, workers: int) -> Floats:
    """Batches decoded in worker processes: float32 [n, 1280]."""
    loader = DataLoader(Pictures(items), batch_size=batch, num_workers=workers)
    rows = [network.extract_features(pixels.to(device)).mean(dim=(2, 3)) for pixels in loader]
    return torch.cat(rows).cpu().numpy()


# --- measuring --------------------------------------------------------------------------------------------


def encoder(flags: argparse.Namespace) -> EncoderConfig:
    return EncoderConfig(source=flags.source, options={"device": flags.device})


def run(flags: argparse.Namespace) -> dict[str, Any]:
    """Make the pictures, time all ways in rounds, then the second run. Raises ConfigError for a bad flag."""
    for name, least in (("count", flags.rounds), ("sample", flags.rounds), ("rounds", 1), ("size", 32), ("batch", 1)):
        if getattr(flags, name) < least:
            raise ConfigError(f"--{name}: expected at least {least}, got {getattr(flags, name)}")
    device = torch.device(flags.device)
    with tempfile.TemporaryDirectory(prefix="palate-images-") as scratch:
        folder = Path(scratch) / "pictures"
        folder.mkdir()
        items = pictures(folder, flags.count, flags.pictures, flags.size, flags.seed)
        size = sum(i.media["image"].stat().st_size for i in items)
        store = FeatureStore(Path(scratch) / "store")
        found = timings(items, flags, device, store)
        began = time.perf_counter()
        again = features.compute(items, None, {"image": encoder(flags)}, store=store, progress=False)
        second = time.perf_counter() - began
    report = again.report["image"]
    return {
        **found,
        "second_run_seconds": second,
        "second_run_hits": report.hits,
        "second_run_computed": report.computed,
        "images": flags.count,
        "sampled_images": flags.sample,
        "longer_side": flags.size,
        "mean_bytes": size / flags.count,
        "pictures": "varied from --pictures" if flags.pictures else "synthetic",
        "setting": options.setting(flags),
        "machine": measure.machine(device),
    }


def timings(items: list[Item], flags: argparse.Namespace, device: torch.device, store: FeatureStore) -> dict[str, Any]:
    """Images a second of each way, medians over rounds. Each round has pictures of its own: Palate takes all of them,
    the others the first ones, so that all are the same pictures.
    """
    network = stock(sources.fetch(flags.source), device)
    parts = [list(part) for part in np.array_split(np.array(items, dtype=object), flags.rounds)]
    config = {"image": encoder(flags)}
    vectors: dict[str, Floats] = {}

    def palate(part: list[Item]) -> Floats:
        return features.compute(part, None, config, store=store, progress=False).tables["image"].vectors

    ways: dict[str, Callable[[list[Item]], Floats]] = {
        "palate": palate,
        "plain_loop": lambda part: plain_loop(network, part, device),
        "dataloader": lambda part: dataloader(network, part, device, flags.batch, flags.workers),
    }
    warm = FeatureStore(store.folder.with_name("warm"))
    features.compute(items[:2], None, config, store=warm, progress=False)
    plain_loop(network, items[:2], device)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    seconds = 0.0
    for part in parts:
        few = part[: max(1, min(len(part), flags.sample // flags.rounds))]
        for name, way in ways.items():
            chosen = part if name == "palate" else few
            took, made = measure.timed(lambda way=way, chosen=chosen: way(chosen), device)  # type: ignore[misc]
            rates[name].append(len(chosen) / took)
            vectors.setdefault(name, made[: len(few)])
            seconds += took if name == "palate" else 0.0
    speeds = {f"{name}_images_per_s": measure.median(values) for name, values in rates.items()}
    mine = speeds["palate_images_per_s"]
    return {
        **speeds,
        "ratio_vs_plain_loop": mine / speeds["plain_loop_images_per_s"],
        "ratio_vs_dataloader": mine / speeds["dataloader_images_per_s"],
        "palate_seconds": seconds,
        "rounds": {name: [round(r, 3) for r in values] for name, values in rates.items()},
        "vectors": agreement(vectors),
        "costs_ms": costs(items[:PROBE], config, device),
    }


def agreement(vectors: dict[str, Floats]) -> dict[str, dict[str, float]]:
    """How far Palate's vectors are from the other ways': lowest cosine and largest relative difference."""
    mine = vectors["palate"]
    found = {}
    for name in ("plain_loop", "dataloader"):
        other = vectors[name]
        norms = np.linalg.norm(other, axis=1)
        cosine = (mine * other).sum(axis=1) / (np.linalg.norm(mine, axis=1) * norms)
        apart = np.linalg.norm(mine - other, axis=1) / norms
        found[f"palate_vs_{name}"] = {"least_cosine": float(cosine.min()), "largest_difference": float(apart.max())}
    return found


def costs(items: Sequence[Item], config: dict[str, EncoderConfig], device: torch.device) -> dict[str, float]:
    """Milliseconds a picture of each step of Palate's encoder, each by itself and one after another."""
    built = build(config)["image"]
    assert isinstance(built, ImageEncoder)
    backend = built.backend
    files = [i.media["image"] for i in items]
    hashing, _ = measure.timed(lambda: [file_identity(f, MAX_BYTES) for f in files], device)
    enough = 2 * backend.side
    decoding, images = measure.timed(lambda: [decode(read_bounded(f, MAX_BYTES), enough=enough) for f in files], device)
    preparing, ready = measure.timed(lambda: [backend.prepare(i) for i in images], device)
    step = built.batch
    forward, _ = measure.timed(
        lambda: [backend.forward(ready[n : n + step]) for n in range(0, len(ready), step)], device
    )
    taken = {"hash": hashing, "read_and_decode": decoding, "resize": preparing, "forward": forward}
    return {name: 1000 * value / len(files) for name, value in taken.items()}


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--count", type=int, default=10_000, help="pictures that Palate encodes")
    flags.add_argument("--sample", type=int, default=600, help="pictures each of the other ways encodes")
    flags.add_argument("--rounds", type=int, default=5, help="parts the pictures are cut in; ways take turns in each")
    flags.add_argument("--pictures", help="a folder of pictures to vary; synthetic ones where none is named")
    flags.add_argument("--size", type=int, default=512, help="pixels of a picture's longer side")
    flags.add_argument("--batch", type=int, default=32, help="of the DataLoader")
    flags.add_argument("--workers", type=int, default=2, help="processes of the DataLoader")
    flags.add_argument("--source", default="efficientnet-lite0", help="the default encoder's weights")
    flags.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    flags.add_argument("--seed", type=int, default=1)
    flags.add_argument("--json", type=Path, help="write the results here")
    return flags.parse_args(args)


def main(args: Sequence[str] | None = None) -> dict[str, Any]:
    return options.finished(run, arguments(args))


if __name__ == "__main__":
    raise SystemExit(options.guarded(main))
