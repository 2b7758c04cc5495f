"""Training, feature extraction and import, killed; a worker without memory."""

from __future__ import annotations

import io
import json
import resource
import warnings
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from trust import procs, tiny
from trust.faults import Fault, Missed

STEPS = 12


class TrainingKilled(Fault):
    name = "kill-training"
    fault = "SIGKILL in training, then the same command again"
    promise = "it goes on from a checkpoint; the losses of every step are those of an undisturbed run"
    times = 6

    def setup(self, folder: Path) -> None:
        import yaml

        self.base, self.data = tiny.base(folder / "base"), tiny.data(folder / "data")
        values = {
            "name": "tiny", "data": str(self.data), "features": {"behaviour": {}},
            "prompt": {"max_tokens": 1000, "max_history": 4, "max_sequence": 12},
            "model": {"base": f"path:{self.base}", "dtype": "float32", "lora": {"rank": 4}, "hidden": 16, "matching": 16},
            "train": {
                "run": str(folder / "run"), "output": str(folder / "adapter"), "max_steps": STEPS, "epochs": 50,
                "batch_tokens": 1200, "checkpoint_every": 4, "validate_every": 6, "patience": 9,
            },
        }  # fmt: skip
        self.config = folder / "tiny.yaml"
        self.config.write_text(yaml.safe_dump(values))
        procs.done(lambda: self.train(folder), folder / "log")
        self.whole = self.losses(folder)

    def train(self, folder: Path) -> None:
        from rich.console import Console

        from palate.train import run

        places = [f"train.run={folder / 'run'}", f"train.output={folder / 'adapter'}"]
        run(self.config, places, console=Console(file=io.StringIO()))

    @staticmethod
    def rows(folder: Path) -> list[dict[str, Any]]:
        from palate.train.checkpoint import METRICS

        path = folder / "run" / METRICS
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in lines]

    def losses(self, folder: Path) -> list[tuple[int, float]]:
        return [(row["step"], row["loss"]) for row in self.rows(folder) if "loss" in row]

    def once(self, folder: Path, rng: Random) -> None:
        wanted = rng.randint(1, STEPS - 2)
        if not procs.killed(lambda: self.train(folder), folder / "log", lambda: len(self.rows(folder)) >= wanted):
            raise Missed
        assert not (folder / "adapter").exists() or (folder / "adapter" / "palate.json").exists(), "half a bundle"
        procs.done(lambda: self.train(folder), folder / "log")
        assert self.losses(folder) == self.whole, "losses differ from an undisturbed run's"


class ImportKilled(Fault):
    name = "kill-import"
    fault = "SIGKILL in `palate data import` over a data set that is there"
    promise = "the old data set or the new one, whole, never a mixture; the next import works"
    times = 12

    def setup(self, folder: Path) -> None:
        self.source = tiny.data(folder / "source")
        text = (self.source / "interactions.csv").read_text()
        more = "".join(f"u{n},{n % 24 + 1},4,{880000000 + n}\n" for n in range(60_000))
        self.larger = tiny.data(folder / "larger")
        (self.larger / "interactions.csv").write_text(text + more)
        self.prints = {self.imported(source, folder / source.name / "out") for source in (self.source, self.larger)}

    @staticmethod
    def imported(source: Path, out: Path) -> str:
        from palate.data import import_dataset

        return import_dataset(source, out, reader="tables").fingerprint

    def once(self, folder: Path, rng: Random) -> None:
        import time

        from palate.data import Dataset

        out = folder / "out"
        self.imported(self.source, out)
        at = time.monotonic() + rng.uniform(0.0, 0.25)
        if not procs.killed(lambda: self.imported(self.larger, out), folder / "log", lambda: time.monotonic() > at):
            raise Missed
        assert Dataset.open(out).fingerprint in self.prints, "a mixture"
        self.imported(self.larger, out)


class FeaturesKilled(Fault):
    name = "kill-features"
    fault = "SIGKILL in feature extraction (sounds), then again"
    promise = "vectors are those of an undisturbed run; no damaged cache file is read"
    times = 8

    def setup(self, folder: Path) -> None:
        from palate.schema import Item
        from trust.fuzz.audio import encoded

        rng = np.random.default_rng(3)
        self.items = []
        for n in range(40):
            path = folder / f"{n}.wav"
            path.write_bytes(encoded(rng.standard_normal(4000).astype(np.float32) * 0.1, "wav", "pcm_s16le"))
            self.items.append(Item(f"i{n}", f"t{n}", media={"audio": path}))
        self.whole = self.vectors(folder / "store")

    def vectors(self, store: Path) -> Any:
        from palate.config import EncoderConfig
        from palate.features.encoders.audio import AudioEncoder
        from palate.features.store import FeatureStore

        encoder = AudioEncoder(EncoderConfig(options={"workers": 1}))
        type(encoder).chunk = 4  # many shards
        return FeatureStore(store).get(encoder, self.items).features.vectors

    def once(self, folder: Path, rng: Random) -> None:
        store, wanted = folder / "store", rng.randint(1, 8)
        ready = lambda: len(list(store.glob("*/*"))) >= wanted  # noqa: E731
        if not procs.killed(lambda: self.vectors(store), folder / "log", ready, rng.uniform(0, 0.01)):
            raise Missed
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(self.vectors(store), self.whole), "vectors differ"


class NoMemory(Fault):
    name = "no-memory"
    fault = "the worker's address space is limited (RLIMIT_AS) in the middle of scoring"
    promise = "one line that says out of memory, or smaller packs and the same ranking; never wrong scores"
    times = 5

    def setup(self, folder: Path) -> None:
        self.rec = tiny.recommender(folder)
        self.asked = self.requests()
        self.whole = [s.scores for s in self.rec.score(self.asked, "likelihood")]

    @staticmethod
    def requests() -> Any:
        from palate.schema import Event, Request

        ids = tuple(str(i) for i in range(1, 25))
        return [Request(f"r{n}", None, (Event(str(1 + n % 24)),), ids) for n in range(40)]

    def once(self, folder: Path, rng: Random) -> None:
        def work() -> None:
            from palate.errors import PalateError

            size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (size + (rng.randint(0, 40) << 20), resource.RLIM_INFINITY))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    scored = [s.scores for s in self.rec.score(self.asked, "likelihood")]
            except PalateError as error:
                assert "out of memory" in str(error), str(error)
                return
            for got, want in zip(scored, self.whole, strict=True):
                np.testing.assert_allclose(got, want, atol=1e-4)

        procs.done(work, folder / "log")
