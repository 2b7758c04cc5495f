"""Checkpoints that survive a kill: written beside, flushed to disk, renamed into place; and exact resume.

A run folder holds `step-00000100-00/` (the newest checkpoint: weights.safetensors, state.pt, state.json),
`best.safetensors` (the best validated weights), `metrics.jsonl` and `tensorboard/`.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from palate.errors import ConfigError, DataError

BEST = "best.safetensors"
METRICS = "metrics.jsonl"
OWN = (BEST, METRICS, "tensorboard")


@dataclass(slots=True)
class Progress:
    """How far a run is. positions: (epoch, place) of each process; best_*: of the best validation so far."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    positions: list[tuple[int, int]] = field(default_factory=list)
    best_score: float = -1e9
    best_step: int = 0
    waited: int = 0
    """Validations since the best one."""
    finished: bool = False


@dataclass(slots=True)
class Checkpoint:
    """All a run needs to go on as if nothing had happened.

    update: optimizer and scaler; rng: one state for each process.
    """

    progress: Progress
    weights: dict[str, torch.Tensor]
    update: dict[str, Any]
    rng: list[dict[str, Any]]
    identity: dict[str, Any]


def rng_state() -> dict[str, Any]:
    """The state of python's, numpy's and torch's generators, in types that `weights_only` reads back."""
    _, keys, place, has_gauss, gauss = np.random.get_state()
    version, inner, nxt = random.getstate()
    state: dict[str, Any] = {
        "python": (version, list(inner), nxt),
        "numpy": (
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(place),
            int(has_gauss),
            float(gauss),
        ),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: Mapping[str, Any]) -> None:
    """Put back what `rng_state` gave."""
    version, inner, nxt = state["python"]
    random.setstate((version, tuple(inner), nxt))
    keys, place, has_gauss, gauss = state["numpy"]
    np.random.set_state(("MT19937", keys.numpy().astype(np.uint32), place, has_gauss, gauss))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save(run: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint as `run/step-N`, whole or not at all, and drop the older ones."""
    stem = f"step-{checkpoint.progress.step:08d}"
    # the same step is written again at the end of a run; a new name, because a folder cannot replace another
    # at once
    taken = [int(p.name.rsplit("-", 1)[1]) for p in _steps(run) if p.name.startswith(stem)]
    name = f"{stem}-{max(taken, default=-1) + 1:02d}"
    made, final = run / f".{name}.tmp", run / name
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    save_file(checkpoint.weights, made / "weights.safetensors")
    torch.save({"update": checkpoint.update, "rng": checkpoint.rng}, made / "state.pt")
    (made / "state.json").write_text(
        json.dumps({"progress": asdict(checkpoint.progress), "identity": checkpoint.identity}, indent=1),
        encoding="utf-8",
    )
    for file in made.iterdir():
        _sync(file)
    _sync(made)
    made.rename(final)
    _sync(run)
    for old in _steps(run):
        if old != final:
            shutil.rmtree(old, ignore_errors=True)
    return final


def _steps(run: Path) -> list[Path]:
    return sorted(p for p in run.glob("step-*") if p.is_dir())


def load(run: Path) -> Checkpoint | None:
    """The newest checkpoint of a run, None where there is none. A damaged one is a DataError."""
    found = _steps(run)
    if not found:
        return None
    newest = found[-1]
    try:
        told = json.loads((newest / "state.json").read_text(encoding="utf-8"))
        state = torch.load(newest / "state.pt", map_location="cpu", weights_only=True)
        weights = load_file(newest / "weights.safetensors")
        progress = Progress(**told["progress"])
        progress.positions = [(int(e), int(p)) for e, p in progress.positions]
        return Checkpoint(progress, weights, state["update"], state["rng"], told["identity"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError, EOFError) as error:
        raise DataError(
            f"{newest}: expected a training checkpoint, but it cannot be read ({error}); "
            "delete it, or start anew with --restart"
        ) from error


def save_best(run: Path, weights: dict[str, torch.Tensor], metrics: Mapping[str, Any]) -> None:
    """Replace the best weights, whole or not at all; `metrics` travel in the file's header."""
    run.mkdir(parents=True, exist_ok=True)
    made = run / f".{BEST}.tmp"
    save_file(weights, made, metadata={"metrics": json.dumps(dict(metrics))})
    _sync(made)
    made.replace(run / BEST)
    _sync(run)


def load_best(run: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]] | None:
    """The best weights and their metrics, None before the first validation."""
    path = run / BEST
    if not path.exists():
        return None
    with safe_open(path, "pt") as f:
        metrics = json.loads((f.metadata() or {}).get("metrics", "{}"))
    return load_file(path), metrics


def clear(run: Path) -> None:
    """Remove what training wrote into a run folder, and nothing else."""
    for path in [*_steps(run), *run.glob(".step-*.tmp"), *(run / name for name in OWN)]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def truncate(path: Path, step: int) -> None:
    """Drop metrics lines past `step` and a half-written last line: they will be written again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line)
        except (ValueError, KeyError, TypeError):
            break  # the kill came while this line was written
    made = path.with_name(f".{path.name}.tmp")
    made.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    _sync(made)
    made.replace(path)


def check_identity(run: Path, saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on under another config, data set, base or number of processes; name what differs."""
    differ = [
        f"  {key}: {saved.get(key, '(absent)')!r} in the checkpoint, {now.get(key, '(absent)')!r} now"
        for key in sorted({*saved, *now})
        if saved.get(key) != now.get(key)
    ]
    if differ:
        raise ConfigError(
            f"the checkpoint in {run} belongs to another run:\n" + "\n".join(differ) + "\n"
            "put these back to resume, start anew with --restart, or give the run another name"
        )
