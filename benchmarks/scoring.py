"""Score candidate titles three ways on the same prompts: packed, one forward each, prefix cache with padding.

    python -m benchmarks.scoring --json FILE

SmolLM2-135M-Instruct in bfloat16 on the CPU, synthetic titles of one to six words; a score is the
title's mean log-probability. Every way scores the same requests; medians over repeats, ratios from this run.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from palate.config import ModelConfig
from palate.engine.pack import Job
from palate.engine.runner import Runner
from palate.model import Model
from palate.schema import Branch, Prompt
from palate.sources import base_model

Scores = list[np.ndarray]
WORDS = [
    *("the", "of", "night", "river", "stone", "last", "king", "summer", "dead", "city", "blue", "love", "story"),
    *("house", "war", "garden", "moon", "road", "gold", "return", "secret", "paper", "island", "winter", "glass"),
]


def make_jobs(model: Model, requests: int, prefix: int, candidates: int, seed: int) -> list[Job]:
    """Requests with a prefix of `prefix` random tokens and `candidates` distinct titles."""
    rng = np.random.default_rng(seed)
    end = model.tokenizer.eos_token_id
    titles: set[str] = set()
    while len(titles) < 4 * candidates:
        titles.add(" ".join(w.title() for w in rng.choice(WORDS, size=rng.integers(1, 7))))
    ids = [np.array([*model.tokenizer(t)["input_ids"], end], dtype=np.int64) for t in sorted(titles)]
    jobs = []
    for _ in range(requests):
        chosen = rng.choice(len(ids), size=candidates, replace=False)
        tokens = rng.integers(100, 40_000, size=prefix).astype(np.int64)
        jobs.append(Job(Prompt(tokens), "tokens", tuple(Branch(str(c), ids[c]) for c in chosen)))
    return jobs


def stock() -> Any:
    """The same base as transformers loads it, with its own attention: what a user would have without Palate."""
    from transformers import AutoModelForCausalLM

    folder = base_model(ModelConfig().base)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa").eval()


def packed(model: Model, jobs: Sequence[Job]) -> list[Scores]:
    return [o.tokens for o in Runner(model).run(jobs)]


@torch.inference_mode()
def naive(lm: Any, jobs: Sequence[Job]) -> list[Scores]:
    """One plain transformers forward per candidate, logits at the title's positions only."""
    out = []
    for job in jobs:
        rows = []
        for branch in job.branches:
            ids = torch.from_numpy(np.concatenate([job.prompt.token_ids, branch.token_ids]))[None]
            logits = lm(input_ids=ids, logits_to_keep=len(branch) + 1).logits[0, :-1].float()
            logp = logits.log_softmax(-1)
            rows.append(logp[torch.arange(len(branch)), torch.from_numpy(branch.token_ids)].numpy())
        out.append(rows)
    return out


@torch.inference_mode()
def padded_prefix(lm: Any, jobs: Sequence[Job]) -> list[Scores]:
    """Prefill once, expand the cache to all candidates, one padded batch: the usual quick way."""
    from transformers import DynamicCache

    out = []
    for job in jobs:
        cache = DynamicCache(config=lm.config)
        prefix = torch.from_numpy(job.prompt.token_ids)[None]
        first = lm(input_ids=prefix, past_key_values=cache, logits_to_keep=1)
        cache.batch_repeat_interleave(len(job.branches))
        longest = max(map(len, job.branches))
        batch = torch.zeros(len(job.branches), longest, dtype=torch.long)
        for row, branch in enumerate(job.branches):
            batch[row, : len(branch)] = torch.from_numpy(branch.token_ids)
        # padding stands behind a causal row's end, so it needs no mask
        later = lm(input_ids=batch[:, :-1], past_key_values=cache).logits
        start = first.logits[:, -1:].expand(len(job.branches), -1, -1)
        logp = torch.cat([start, later], dim=1).float().log_softmax(-1)
        picked = logp.gather(2, batch[..., None])[..., 0].numpy()
        out.append([picked[row, : len(branch)] for row, branch in enumerate(job.branches)])
    return out


def timed(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Median seconds over `repeats`, and the last result."""
    seconds, result = [], None
    for _ in range(repeats):
        began = time.perf_counter()
        result = run()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds), result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4)
    parser.add_argument("--prefix", type=int, default=300)
    parser.add_argument("--candidates", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()

    model = Model.create(ModelConfig(), {}, device="cpu", adapter=False)
    jobs = make_jobs(model, options.requests, options.prefix, options.candidates, options.seed)
    lm = stock()
    packed(model, jobs[:1])
    padded_prefix(lm, jobs[:1])
    total = options.requests * options.candidates
    fast, ours = timed(lambda: packed(model, jobs), options.repeats)
    middle, theirs = timed(lambda: padded_prefix(lm, jobs), options.repeats)
    slow, plain = timed(lambda: naive(lm, jobs[:1]), 1)
    slow *= options.requests

    def apart(a: list[Scores], b: list[Scores]) -> float:
        return max(float(np.abs(x - y).max()) for r, s in zip(a, b, strict=False) for x, y in zip(r, s, strict=True))

    result = {
        "packed_candidates_per_s": total / fast,
        "padded_prefix_candidates_per_s": total / middle,
        "naive_candidates_per_s": total / slow,
        "ratio_vs_padded_prefix": middle / fast,
        "ratio_vs_naive": slow / fast,
        "max_difference_vs_padded_prefix": apart(ours, theirs),
        "max_difference_vs_naive": apart(ours[:1], plain),
        "setting": {k: v for k, v in vars(options).items() if k != "json"},
        "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
