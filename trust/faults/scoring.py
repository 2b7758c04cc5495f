"""Batch scoring, killed and gone on with; on a full disk."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from random import Random

from trust import procs, tiny
from trust.faults import Cannot, Fault, Missed

REQUESTS = 60


class ScoringKilled(Fault):
    name = "kill-scoring"
    fault = "SIGKILL in `palate score`, twice at random, then `--resume`"
    promise = "the output is byte for byte that of an undisturbed run; half an output is never there"
    times = 12

    def setup(self, folder: Path) -> None:
        from palate.apps.candidates import chunks

        chunks.WEIGHT, chunks.REQUESTS = 6, 2
        rng = Random(7)
        self.rec = tiny.recommender(folder)
        self.source = folder / "many.jsonl"
        rows = [
            {
                "request_id": f"r{n}",
                "history": [str(rng.randint(1, 24))],
                "candidates": [str(i) for i in rng.sample(range(1, 25), 3)],
            }
            for n in range(REQUESTS)
        ]
        self.source.write_text("".join(json.dumps(r) + "\n" for r in rows))
        self.score(folder / "whole.csv")
        self.whole = (folder / "whole.csv").read_bytes()

    def score(self, out: Path) -> None:
        from palate.apps.scoring import Job, score_file

        score_file(self.rec, Job(self.source, out, resume=True))

    def once(self, folder: Path, rng: Random) -> None:
        out, parts = folder / "o.csv", folder / "o.csv.parts"
        for _ in range(2):
            had = len(list(parts.glob("part-*.json")))
            wanted = had + rng.randint(1, 6)
            ready = lambda wanted=wanted: len(list(parts.glob("part-*.json"))) >= wanted  # noqa: E731
            if not procs.killed(lambda: self.score(out), folder / "log", ready, rng.uniform(0, 0.01)):
                raise Missed
            assert not out.exists(), "half an output is there"
        procs.done(lambda: self.score(out), folder / "log")
        assert out.read_bytes() == self.whole, "the output differs from an undisturbed run's"


class ScoringFull(ScoringKilled):
    name = "full-disk"
    fault = "disk full in `palate score` (a tmpfs of 64 to 120 kB), then room and `--resume`"
    promise = "one line that names the disk and --resume; no half output; the same bytes in the end"
    times = 5

    def once(self, folder: Path, rng: Random) -> None:
        from palate.errors import DataError

        size = rng.randint(64, 120)
        made = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", str(folder)], capture_output=True
        )
        if made.returncode:
            raise Cannot("mounting a small tmpfs needs rights that this process lacks")
        try:
            try:
                self.score(folder / "o.csv")
                raise Missed
            except DataError as error:
                assert "No space left on device" in str(error), str(error)
                assert "--resume" in str(error), str(error)
            assert not (folder / "o.csv").exists(), "half an output is there"
            subprocess.run(["mount", "-o", "remount,size=4m", str(folder)], check=True)
            self.score(folder / "o.csv")
            assert (folder / "o.csv").read_bytes() == self.whole, "the output differs"
        finally:
            subprocess.run(["umount", str(folder)], check=True)
