"""Peak memory of scoring many candidates for one user, each measurement in a fresh process.

    python -m benchmarks.memory --count 10000 --max-tokens 2048

prints one line of JSON. `benchmarks.scoring` calls it once a measurement: a fresh process has no memory that an
earlier one left in the allocator.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from benchmarks import baselines, bases, measure, options, workload
from palate.engine.pack import Job
from palate.engine.runner import Runner
from palate.schema import Branch, Prompt

FLAGS = ("device", "dtype", "base", "model_shape", "prefix", "seed")


WAYS = ("packed", "naive", "padded_batch", "padded_prefix")


def one(flags: argparse.Namespace) -> dict[str, Any]:
    """Score synthetic titles behind one random prompt; peak bytes above the loaded model."""
    base = bases.load(flags)
    rng = np.random.default_rng(flags.seed)
    count = flags.count
    tokens, bounds = workload.synthetic_titles(base.vocabulary, count, flags.seed)
    branches = tuple(Branch(str(n), tokens[bounds[n] : bounds[n + 1]]) for n in range(count))
    job = Job(Prompt(rng.integers(0, base.vocabulary, size=flags.prefix)), "tokens", branches)
    runs: dict[str, Callable[[Job], list[Any]]] = {
        "packed": lambda job: Runner(base.model, flags.max_tokens).run([job])[0].tokens,
        "naive": lambda job: baselines.naive(base.lm, [job])[0],
        "padded_batch": lambda job: baselines.padded_batch(base.lm, [job], 16)[0],
        "padded_prefix": lambda job: baselines.padded_prefix(base.lm, [job])[0],
    }
    run = runs[flags.way]
    run(Job(Prompt(job.prompt.token_ids[:8]), "tokens", branches[:2]))  # threads, kernels and their workspaces
    with measure.Peak(base.device) as peak:
        seconds, scores = measure.timed(lambda: run(job), base.device)
    assert len(scores) == count
    return {"way": flags.way, "candidates": count, "peak_bytes": peak.bytes, "seconds": seconds}


def budgets(flags: argparse.Namespace, sizes: Sequence[int]) -> dict[str, Any]:
    """Packed scoring of `--memory-candidates` titles for one user at each token budget."""
    runs = [{"max_tokens": size, **_fresh(flags, "packed", flags.memory_candidates, size)} for size in sizes]
    return {"what": "one user, synthetic titles of random tokens; memory above the loaded model", "runs": runs}


def ways(flags: argparse.Namespace) -> dict[str, int]:
    """Peak bytes of each way on one request of `--candidates` synthetic titles."""
    return {way: _fresh(flags, way, flags.candidates, flags.max_tokens)["peak_bytes"] for way in WAYS}


def _fresh(flags: argparse.Namespace, way: str, count: int, max_tokens: int | None) -> dict[str, Any]:
    """`one` in a process of its own. Raises PalateError where it fails, with its last words."""
    command = ["benchmarks.memory", "--way", way, "--count", str(count)]
    command += [] if max_tokens is None else ["--max-tokens", str(max_tokens)]
    for name in FLAGS:
        if (value := getattr(flags, name)) is not None:
            command += [f"--{name.replace('_', '-')}", str(value)]
    return measure.fresh(f"the memory measurement of {way}", command)


def main(argv: Sequence[str] | None = None) -> None:
    parser = options.parser(__doc__)
    parser.add_argument("--max-tokens", type=int)
    parser.add_argument("--way", choices=WAYS, default="packed")
    parser.add_argument("--count", type=int, default=10_000, help="candidates")
    flags = parser.parse_args(argv)
    bases.check(flags)
    print(json.dumps(one(flags)))


if __name__ == "__main__":
    main()
