"""Where the time of a packed run goes: linear layers, attention, output head, elementwise work, the host."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.measure import synchronize

_ATTENTION = ("attention", "attn", "bmm", "softmax", "flex")
_LINEAR = ("mm", "linear", "gemm", "cutlass", "cublas")
_MOVES = ("memcpy", "memset", "copy_", "_to_copy")


def profile(run: Callable[[], Any], device: torch.device, vocabulary: int, top: int = 15) -> dict[str, Any]:
    """Profile one call of `run`.

    Operators are sorted by name, and by shape: what touches the vocabulary's size is the head. Shares are of the
    wall time; `host` is what no operator took: packing, Python, waiting. On CUDA operator times are kernel times.
    """
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    cuda = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    run()  # warm: compiled kernels, caches of shapes
    with profiler(activities=activities, record_shapes=True) as record:
        synchronize(device)
        began = time.perf_counter()
        run()
        synchronize(device)
        wall = time.perf_counter() - began
    seconds: dict[str, float] = defaultdict(float)
    ops: dict[str, float] = defaultdict(float)
    for event in record.key_averages(group_by_input_shape=True):
        own = (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e6
        if own <= 0 or (cuda and not event.key.startswith("aten::") and event.self_cpu_time_total <= 0):
            continue  # on CUDA a kernel is counted under the operator that launched it
        seconds[kind(event.key, _sizes(event.input_shapes), vocabulary)] += own
        ops[event.key] += own
    seconds["host"] = max(0.0, wall - sum(seconds.values()))
    return {
        "wall_seconds": wall,
        "shares": {k: v / wall for k, v in sorted(seconds.items(), key=lambda x: -x[1])},
        "top_operators": {k: v / wall for k, v in sorted(ops.items(), key=lambda x: -x[1])[:top]},
        "note": "with the profiler on; operators of two threads may overlap, so `host` is a lower bound",
    }


def kind(name: str, sizes: set[int], vocabulary: int) -> str:
    """The group an operator belongs to."""
    low = name.lower()
    if vocabulary in sizes and not low.endswith("embedding"):
        return "head"
    if any(word in low for word in _ATTENTION):
        return "attention"
    if any(word in low for word in _LINEAR):
        return "linear"
    if any(word in low for word in _MOVES):
        return "copies"
    return "elementwise"


def _sizes(shapes: Any) -> set[int]:
    """All dimensions of an operator's inputs."""
    found: set[int] = set()
    for shape in shapes or ():
        parts = shape if isinstance(shape, list | tuple) else ()
        for part in parts:
            found |= (
                _sizes([part]) if isinstance(part, list | tuple) else {int(part)} if isinstance(part, int) else set()
            )
    return found
