"""What legal sets cost: the time inside the trie during a constrained generation, and a trie of a million titles.

    python -m benchmarks.masks --items 1000000 --vocabulary 49152

builds such a trie and prints one line of JSON; `benchmarks.generate` calls it, since only a fresh process knows its
peak memory.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, Self

import numpy as np
import torch

from benchmarks import measure, workload
from palate.engine.trie import Trie, View

STEP = ("legal", "items", "inner")
"""What a decode step asks of a View."""


class Clock:
    """Seconds spent in a View's methods (`steps`) and in `Trie.restrict` (`filters`) inside a `with` block.

    decode: seconds from the first question to a View, which comes when the prompts have been run, to the end. The
    device is idle before each measurement begins, so that no wait for the model counts as mask work.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.steps = self.filters = self.decode = 0.0
        self._depth = 0
        self._first: float | None = None

    def __enter__(self) -> Self:
        self._kept = [(View, name, getattr(View, name)) for name in STEP] + [(Trie, "restrict", Trie.restrict)]
        for owner, name, method in self._kept:
            setattr(owner, name, self._clocked(method, name in STEP))
        return self

    def __exit__(self, *_: object) -> None:
        for owner, name, method in self._kept:
            setattr(owner, name, method)
        if self._first is not None:
            measure.synchronize(self.device)
            self.decode = time.perf_counter() - self._first

    def _clocked(self, method: Callable[..., Any], step: bool) -> Callable[..., Any]:
        @wraps(method)
        def run(*args: Any, **kwargs: Any) -> Any:
            measure.synchronize(self.device)
            self._depth += 1
            began = time.perf_counter()
            if step and self._first is None:
                self._first = began
            try:
                return method(*args, **kwargs)
            finally:
                self._depth -= 1
                took = 0.0 if self._depth else time.perf_counter() - began  # one may call another
                if step:
                    self.steps += took
                else:
                    self.filters += took

        return run


def share(run: Callable[[], Any], device: torch.device, requests: int, repeats: int) -> dict[str, float]:
    """Mask work as a share of the decode steps of `run`: medians. `run` must prefill all its prompts at once."""
    run()
    clocks = []
    for _ in range(repeats):
        with Clock(device) as clock:
            run()
        clocks.append(clock)
    return {
        "share_of_step": measure.median([c.steps / c.decode if c.decode else 0.0 for c in clocks]),
        "share_of_step_with_filter": measure.median(
            [(c.steps + c.filters) / (c.decode + c.filters) if c.decode else 0.0 for c in clocks]
        ),
        "mask_seconds": measure.median([c.steps for c in clocks]),
        "decode_seconds": measure.median([c.decode for c in clocks]),
        "filter_seconds_a_request": measure.median([c.filters for c in clocks]) / requests,
    }


def build(items: int, vocabulary: int, seed: int) -> tuple[Trie, dict[str, Any]]:
    """A trie of synthetic titles, with its seconds, bytes and the peak memory above its input."""
    tokens, bounds = workload.synthetic_titles(vocabulary, items, seed)
    with measure.Peak(torch.device("cpu")) as peak:
        seconds, trie = measure.timed(lambda: Trie.from_flat(tokens, bounds), torch.device("cpu"))
    facts = {
        "items": items, "tokens": len(tokens), "nodes": trie.nodes, "seconds": seconds, "bytes": trie.nbytes,
        "peak_bytes": peak.bytes,
    }  # fmt: skip
    return trie, facts


def fresh(items: int, vocabulary: int, seed: int) -> dict[str, Any]:
    """`build` in a process of its own. Raises PalateError where it fails, with its last words."""
    command = ["benchmarks.masks"]
    for name, value in (("items", items), ("vocabulary", vocabulary), ("seed", seed)):
        command += [f"--{name}", str(value)]
    return measure.fresh(f"building a trie of {items} titles", command)


def random_masks(count: int, items: int, seed: int) -> list[np.ndarray | None]:
    """Filters from hardly any item to all of them: bool [items] each; None (no filter) for one in eight."""
    rng = np.random.default_rng([seed, 2])
    masks: list[np.ndarray | None] = []
    for n in range(count):
        if n % 8 == 7:
            masks.append(None)
            continue
        mask = rng.random(items) < np.exp(rng.uniform(np.log(1 / items), 0.0))
        mask[rng.integers(items)] = True  # never empty: an empty legal set is an error, and tested as one
        masks.append(mask)
    return masks


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--vocabulary", type=int, default=49_152)
    parser.add_argument("--seed", type=int, default=1)
    flags = parser.parse_args(argv)
    print(json.dumps(build(flags.items, flags.vocabulary, flags.seed)[1]))


if __name__ == "__main__":
    main()
