"""Clocks, memory meters and the machine's own limits."""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from palate.errors import PalateError

ROOT = Path(__file__).resolve().parents[1]
STATM = Path("/proc/self/statm")


def synchronize(device: torch.device) -> None:
    """Wait for the device; a CPU is always done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(run: Callable[[], Any], device: torch.device) -> tuple[float, Any]:
    """Seconds of one call, from an idle device to an idle device, and its result."""
    synchronize(device)
    began = time.perf_counter()
    result = run()
    synchronize(device)
    return time.perf_counter() - began, result


def interleaved(ways: Mapping[str, Callable[[], Any]], repeats: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each way in each round: all ways once, then all again, so that a slow minute hits everyone."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, run in ways.items():
            seconds[name].append(timed(run, device)[0])
    return seconds


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """p50 and p99 in milliseconds, and of how many."""
    values = np.array(seconds) * 1000
    return {"p50_ms": float(np.quantile(values, 0.5)), "p99_ms": float(np.quantile(values, 0.99)), "n": len(values)}


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))


def resident() -> int:
    """Bytes of this process in memory now; the peak so far where there is no /proc."""
    if STATM.exists():
        import os

        return int(STATM.read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


class Peak:
    """The most memory inside a `with` block above what was held at its start: `bytes`.

    On CUDA what torch allocated; on a CPU the process's resident size, sampled every few milliseconds. Memory
    that an allocator kept from earlier work is not seen there: a fresh process gives the honest number.
    """

    def __init__(self, device: torch.device, every: float = 0.005) -> None:
        self.device, self.every = device, every
        self.bytes = 0

    def __enter__(self) -> Self:
        if self.device.type == "cuda":
            synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self._start = torch.cuda.memory_allocated(self.device)
            return self
        self._start = resident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(self.every):
            self.bytes = max(self.bytes, resident() - self._start)

    def __exit__(self, *_: object) -> None:
        if self.device.type == "cuda":
            synchronize(self.device)
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self._start
            return
        self._stop.set()
        self._thread.join()
        self.bytes = max(self.bytes, resident() - self._start)


def matmul_peak(
    device: torch.device, dtype: torch.dtype, model: Sequence[tuple[int, int, int]], seconds: float = 1.0
) -> dict[str, Any]:
    """The best rate of a matrix product, over square shapes and the model's own (rows, in, out): flop/s.

    Each shape runs for about `seconds`, its best call counts.
    """
    sizes = (4096, 8192, 16_384) if device.type == "cuda" else (512, 1024, 2048)
    best, rates = 0.0, {}
    with torch.inference_mode():
        for m, k, n in [*((s, s, s) for s in sizes), *model]:
            a = torch.randn(m, k, device=device, dtype=dtype)
            b = torch.randn(n, k, device=device, dtype=dtype)
            timed(lambda a=a, b=b: torch.nn.functional.linear(a, b), device)  # type: ignore[misc]
            took: list[float] = []
            left = seconds
            while left > 0 or len(took) < 2:
                took.append(timed(lambda a=a, b=b: torch.nn.functional.linear(a, b), device)[0])  # type: ignore[misc]
                left -= took[-1]
            rates[f"{m}x{k}x{n}"] = 2 * m * k * n / min(took)
            best = max(best, rates[f"{m}x{k}x{n}"])
    return {"flops": best, "shapes": rates}


def fresh(what: str, command: Sequence[str]) -> dict[str, Any]:
    """Run a module of benchmarks (name, arguments) in a process of its own; the JSON of its last line.

    Raises PalateError where `what` fails, with the process's last words.
    """
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise PalateError(f"{what} failed: {last_words(done)}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def last_words(done: subprocess.CompletedProcess[str]) -> str:
    """Why a process failed, as it said itself, or its exit code."""
    lines = done.stderr.strip().splitlines()
    return lines[-1][-500:] if lines else f"exit code {done.returncode}"


def machine(device: torch.device) -> dict[str, Any]:
    """Processor, device and versions; no host name, no paths."""
    import transformers

    import palate

    facts: dict[str, Any] = {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "palate": palate.__version__,
        "device": device.type,
    }
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
        facts["cuda"] = torch.version.cuda
    return facts


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields: dict[str, str] = {}
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            fields.setdefault(name.strip(), value.strip())
        if "model name" in fields:
            model = "/".join(fields[k] for k in ("cpu family", "model") if k in fields)
            return f"{fields['model name']} (family/model {model})" if model else fields["model name"]
    return platform.processor() or platform.machine()
