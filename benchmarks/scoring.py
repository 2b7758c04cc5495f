"""Score candidate titles packed, and as users would otherwise: what is faster, how exact, in how much memory.

    python -m benchmarks.scoring --json FILE
    python -m benchmarks.scoring --only parity --requests 8
    python -m benchmarks.scoring --device cuda --model-shape qwen3-0.6b --prefix 120 --candidates 10 --title-tokens 18

A score is the log-probability of each token of a title behind a real user's prompt (see benchmarks/README.md).
Every way scores the same requests; slow ways score a sample of them and are counted per candidate. Ways take turns
within each round; medians over rounds, ratios from this run alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks import baselines, bases, engines, measure, memory, options, parity, profiling, workload
from benchmarks.bases import Base
from benchmarks.workload import Workload
from palate.engine.pack import Job
from palate.engine.runner import Runner
from palate.model.hardware import DTYPES

SECTIONS = ("speed", "parity", "latency", "memory")
BATCHES = (4, 16, 64)
ROW = 512
"""Tokens in a row of the dense yardstick."""


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = options.parser(__doc__)
    add = parser.add_argument
    add("--requests", type=int, default=64)
    add("--candidates", type=int, default=100)
    add("--title-tokens", type=int, help="with --model-shape: every title as long as this")
    add("--max-tokens", type=int, help="token budget of a pack; Palate chooses where none is named")
    add("--only", type=lambda text: options.sections(text, SECTIONS), default=set(SECTIONS), help=",".join(SECTIONS))
    add("--seconds", type=float, default=30.0, help="a slow way's sample takes about this long a round")
    add("--naive-requests", type=int, help="whole requests for the naive and padded-batch ways, instead of --seconds")
    add("--latency-requests", type=int, help="30 on a CPU, 200 on CUDA where not named")
    add("--parity-requests", type=int, default=4)
    add("--parity-candidates", type=int, default=20)
    add("--memory-candidates", type=int, default=10_000)
    add("--memory-budgets", type=int, nargs="+", default=[2048, 8192])
    add("--soft", action=argparse.BooleanOptionalAction, default=True, help="parity of soft-token prompts too")
    add("--engines", action=argparse.BooleanOptionalAction, default=True, help="other engines, where installed")
    add("--profile", action="store_true", help="say where the packed run's time goes")
    flags = parser.parse_args(argv)
    bases.check(flags)
    return flags


def prepare(base: Base, flags: argparse.Namespace) -> Workload:
    """The requests of this run."""
    size = (flags.requests, flags.prefix, flags.candidates, flags.seed)
    if flags.model_shape:
        return workload.random_workload(base.vocabulary, *size, title=flags.title_tokens)
    return workload.RealPrompts(base.model.tokenizer, workload.dataset(flags.data)).workload(*size)


# --- speed ------------------------------------------------------------------------------------------


class Contender:
    """One way of scoring, with the part of the workload it scores in a round."""

    def __init__(self, run: Callable[[Sequence[Job]], Any], jobs: Sequence[Job], note: str = "") -> None:
        self.run, self.jobs, self.note = run, jobs, note

    @property
    def candidates(self) -> int:
        return sum(len(job.branches) for job in self.jobs)


def contenders(
    base: Base, work: Workload, flags: argparse.Namespace, others: Mapping[str, engines.Engine]
) -> dict[str, Contender]:
    """All ways with their samples; each is warmed up on a few candidates, which also says how fast it is."""
    few = [Job(j.prompt, j.read, j.branches[:2]) for j in baselines.whole(work.jobs, 2)]
    one = baselines.whole(work.jobs, 1)

    def sample(run: Callable[[Sequence[Job]], Any], trial: Sequence[Job], whole: bool) -> Sequence[Job]:
        run(trial)
        seconds, _ = measure.timed(lambda: run(trial), base.device)
        each = seconds / sum(len(j.branches) for j in trial)
        affordable = max(2, int(flags.seconds / each))
        if whole:
            return baselines.whole(work.jobs, max(1, affordable // flags.candidates))
        if flags.naive_requests:
            return baselines.whole(work.jobs, flags.naive_requests)
        return baselines.thin(work.jobs, affordable)

    def naive(jobs: Sequence[Job]) -> baselines.Scores:
        return baselines.naive(base.lm, jobs)

    def padded_prefix(jobs: Sequence[Job]) -> baselines.Scores:
        return baselines.padded_prefix(base.lm, jobs)

    size = _batch_size(base, work, flags)

    def padded_batch(jobs: Sequence[Job]) -> baselines.Scores:
        return baselines.padded_batch(base.lm, jobs, size)

    # on CUDA the whole run once: kernels are compiled for each size of pack
    parity.packed(base.model, work.jobs if base.device.type == "cuda" else work.jobs[:2], flags.max_tokens)
    found = {
        "packed": Contender(lambda jobs: parity.packed(base.model, jobs, flags.max_tokens), work.jobs),
        "naive": Contender(naive, sample(naive, few, False)),
        "padded_batch": Contender(padded_batch, sample(padded_batch, one, False), f"best of {BATCHES}: {size} rows"),
        "padded_prefix": Contender(padded_prefix, sample(padded_prefix, one, True)),
    }
    for name, engine in others.items():
        found[name] = Contender(engine.score, sample(engine.score, one, True), engine.note)
    return found


def _batch_size(base: Base, work: Workload, flags: argparse.Namespace) -> int:
    """The fastest of BATCHES, by one batch each; a size whose one batch would take all of --seconds is not tried."""
    rates: dict[int, float] = {}
    for size in BATCHES:
        if rates and min(rates.values()) * size > flags.seconds:
            break
        jobs = baselines.thin(work.jobs, size)
        run = partial(baselines.padded_batch, base.lm, jobs, size)
        if base.device.type == "cuda" or not rates:
            run()  # the first call chooses kernels and workspaces
        rates[size] = measure.timed(run, base.device)[0] / sum(len(j.branches) for j in jobs)
    return min(rates, key=lambda size: rates[size])


def speed(base: Base, work: Workload, flags: argparse.Namespace) -> dict[str, Any]:
    """Candidates a second, tokens a second, memory, and the ratios."""
    others, said = engines.find(base, work) if flags.engines else ({}, {"all": "left out by --no-engines"})
    ways = contenders(base, work, flags, others)
    counts = work.counts()
    rows, share = _dense_rows(base, work, counts, flags)
    runs: dict[str, Callable[[], Any]] = {n: (lambda c=c: c.run(c.jobs)) for n, c in ways.items()}  # type: ignore[misc]
    runs["dense"] = lambda: [baselines.dense(base.lm, part, share) for part in rows]
    seconds = measure.interleaved(runs, flags.repeats, base.device)
    rates = {n: c.candidates / measure.median(seconds[n]) for n, c in ways.items()}
    table = {
        n: {
            "candidates_per_s": rates[n],
            "logical_tokens_per_s": rates[n] * counts["logical"] / work.candidates,
            "seconds": seconds[n],
            "sampled_candidates": c.candidates,
            **({"note": c.note} if c.note else {}),
        }
        for n, c in ways.items()
    }
    wall = measure.median(seconds["packed"])
    dense = sum(part.size for part in rows) / measure.median(seconds["dense"])
    per_s = counts["distinct"] / wall
    shapes = [(2048, base.width, int(getattr(base.lm.config, "intermediate_size", 4 * base.width)))]
    peak = measure.matmul_peak(base.device, DTYPES[base.dtype], shapes)
    flops = 2 * base.body * counts["distinct"] + 2 * base.width * base.vocabulary * counts["reads"]
    return {
        **{f"ratio_vs_{n}": rates["packed"] / rates[n] for n in ways if n != "packed"},
        "fraction_of_dense": per_s / dense,
        "matmul_peak_flops": peak["flops"],
        "fraction_of_matmul_peak": flops / wall / peak["flops"],
        "distinct_tokens_per_s": per_s,
        "logical_tokens_per_s": counts["logical"] / wall,
        "dense_tokens_per_s": dense,
        "contenders": table,
        "engines": said,
        "matmul_shapes": peak["shapes"],
        "dense_seconds": seconds["dense"],
    }


def _dense_rows(
    base: Base, work: Workload, counts: dict[str, int], flags: argparse.Namespace
) -> tuple[list[np.ndarray], float]:
    """Batches [B, 512] of the workload's own tokens, as many as the packed run has or as --seconds allows; and the
    share of positions with logits, as in the packed run."""
    share = counts["reads"] / counts["distinct"]
    ids = [x for j in work.jobs for x in (j.prompt.token_ids, *(b.token_ids for b in j.branches))]
    flat = np.concatenate(ids)
    count = max(1, counts["distinct"] // ROW)
    tokens = np.resize(flat, (count, ROW))
    height = max(1, Runner(base.model, flags.max_tokens).max_tokens // ROW)
    baselines.dense(base.lm, tokens[:height], share)
    took, _ = measure.timed(lambda: baselines.dense(base.lm, tokens[:height], share), base.device)
    batches = [tokens[n : n + height] for n in range(0, count, height)]
    return batches[: max(1, int(flags.seconds / took))], share


# --- latency and the rest ---------------------------------------------------------------------------


def latency(base: Base, work: Workload, flags: argparse.Namespace) -> dict[str, Any]:
    """One request at a time, each another user, on a warm machine: P50 and P99 in milliseconds."""
    cuda = base.device.type == "cuda"
    count = flags.latency_requests or (200 if cuda else 30)
    runner = Runner(base.model, flags.max_tokens)
    ways: dict[str, Callable[[Job], Any]] = {
        "packed": lambda job: runner.run([job]),
        "padded_prefix": lambda job: baselines.padded_prefix(base.lm, [job]),
    }
    found = {}
    for name, run in ways.items():
        # the packed way answers all; the other stops where it takes too long
        jobs = [work.jobs[n % len(work.jobs)] for n in range(count)]
        for job in jobs[: 10 if cuda else 1]:
            run(job)
        seconds: list[float] = []
        for job in jobs:
            seconds.append(measure.timed(lambda job=job, run=run: run(job), base.device)[0])  # type: ignore[misc]
            if name != "packed" and sum(seconds) > flags.seconds:
                break
        found[name] = measure.quantiles(seconds)
    return {"p50_ms": found["packed"]["p50_ms"], "p99_ms": found["packed"]["p99_ms"], "latency": found}


def run(flags: argparse.Namespace) -> dict[str, Any]:
    """All sections asked for, as one mapping of JSON values."""
    result: dict[str, Any] = {}
    base = bases.load(flags)
    work = prepare(base, flags)
    if "speed" in flags.only:
        result |= speed(base, work, flags)
    if "latency" in flags.only:
        result |= latency(base, work, flags)
    if "parity" in flags.only:
        result["parity"] = parity.measure(base, work, flags)
    if flags.profile:
        result["profile"] = profiling.profile(
            partial(parity.packed, base.model, work.jobs, flags.max_tokens), base.device, base.vocabulary
        )
    facts = {"workload": work.what, **work.counts(), "candidates": work.candidates, "requests": len(work.jobs)}
    about = {"base": base.facts(), "machine": measure.machine(base.device), "setting": options.setting(flags)}
    budget = Runner(base.model, flags.max_tokens).max_tokens
    del base  # the memory runs are processes of their own and need room
    if "memory" in flags.only:
        result["memory_10000"] = memory.budgets(flags, flags.memory_budgets)
        result["peak_bytes_of_a_request"] = memory.ways(flags)
    return {**result, "work": facts, "max_tokens": budget, **about}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run and write; returns the results."""
    return options.finished(run, arguments(argv))


if __name__ == "__main__":
    sys.exit(options.guarded(main))
