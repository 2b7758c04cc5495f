"""The same seed, data and machine give the same adapter and the same numbers, in two processes that share nothing but
the caches.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from palate.train.checkpoint import METRICS
from palate.train.journal import TIMES

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "configs" / "demo.yaml"
TOLD = {"seconds"}
"""Facts of a training that are of the clock."""


def command(*words: str | Path) -> str:
    """What `palate` prints in a process of its own, with hashes of text that begin elsewhere each time."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    env.pop("PYTHONHASHSEED", None)
    done = subprocess.run(
        [sys.executable, "-m", "palate", *map(str, words)],
        capture_output=True,
        text=True,
        env=env,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def learned(run: Path) -> list[dict[str, Any]]:
    """The journal without clock times."""
    lines = (run / METRICS).read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in lines]


def alike(one: Path, two: Path) -> None:
    """Two bundles: weights and item vectors to the byte, facts but for the clock, and the same files."""
    names = sorted(p.name for p in one.iterdir())
    assert names == sorted(p.name for p in two.iterdir())
    for name in names:
        if name.endswith(".safetensors"):
            assert tensors(one / name) == tensors(two / name), name
    told = [json.loads((f / "palate.json").read_text(encoding="utf-8")) for f in (one, two)]
    for t in told:
        t["training"] = {k: v for k, v in t["training"].items() if k not in TOLD}
        t.pop("manifest")
    assert told[0] == told[1]


def tensors(file: Path) -> dict[str, bytes]:
    return {name: t.reshape(-1).view(torch.uint8).numpy().tobytes() for name, t in load_file(file).items()}


def twice(config: Path, data: Path | str, where: Path, *changed: str) -> tuple[Path, Path]:
    """Train and evaluate two times; the two bundles."""
    folders = []
    for name in ("one", "two"):
        run, out = where / f"run-{name}", where / name / "adapter"
        command("train", config, f"data={data}", f"train.run={run}", f"train.output={out}", *changed)
        command("evaluate", data, "-a", out, "--protocol", "loo-full", "-o", where / f"{name}.json")
        folders.append(out)
    assert learned(where / "run-one") == learned(where / "run-two")
    alike(*folders)
    told = [json.loads((where / f"{n}.json").read_text(encoding="utf-8")) for n in ("one", "two")]
    systems = [[{k: v for k, v in row.items() if k != "seconds"} for row in t["systems"]] for t in told]
    assert systems[0] == systems[1]
    return folders[0], folders[1]


def test_the_same_seed_gives_the_same_adapter_and_metrics(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    values = {
        "name": "tiny",
        "data": "elsewhere",
        "features": {"behaviour": {}},
        "prompt": {"max_tokens": 1000, "max_history": 4, "max_sequence": 12},
        "model": {"base": f"path:{tiny_base}", "dtype": "float32", "hidden": 16, "matching": 16},
        "train": {
            "max_steps": 6,
            "epochs": 50,
            "batch_tokens": 1200,
            "tasks": {"embedding": 1.0, "next_title": 0.1, "yes_no": 0.1, "letters": 0.1, "rating": 0.1},
            "validate_every": 3,
        },
    }
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(values))
    twice(file, tiny_data, tmp_path)


@pytest.mark.weights
@pytest.mark.slow
def test_the_demo_is_the_same_twice(tmp_path: Path) -> None:
    data = tmp_path / "ml-100k"
    command("data", "import", "ml-100k", "-o", data)
    twice(DEMO, data, tmp_path)
