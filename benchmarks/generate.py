"""Generate catalogue titles under constraint: Palate's beams, transformers' beams, and scoring every title.

    python -m benchmarks.generate --json FILE
    python -m benchmarks.generate --only validity --beams 50
    python -m benchmarks.generate --device cuda --model-shape qwen3-0.6b --beams 50 --requests 64

Every way answers the same requests with the k most probable titles of the whole catalogue (see
benchmarks/README.md). Ways take turns within each round; medians over rounds, ratios from this run alone.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from benchmarks import bases, masks, measure, options, workload
from benchmarks.bases import Base
from palate.engine.generate import Search, generate
from palate.engine.pack import Job
from palate.engine.runner import Runner
from palate.engine.trie import Trie
from palate.schema import Branch, Prompt

SECTIONS = ("speed", "validity", "million")
Ranked = list[list[int]]
"""For each request: item numbers, best first."""


@dataclass(frozen=True)
class Task:
    """What is generated: prompts, and the catalogue as token sequences and as a trie."""

    prompts: list[Prompt]
    titles: list[np.ndarray]
    trie: Trie
    what: str

    @property
    def end(self) -> int:
        """The token that ends every title."""
        return int(self.titles[0][-1])


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = options.parser(__doc__)
    add = parser.add_argument
    add("--requests", type=int, default=16)
    add("--beams", type=int, default=20)
    add("-k", type=int, default=10)
    add("--only", type=lambda text: options.sections(text, SECTIONS), default=set(SECTIONS), help=",".join(SECTIONS))
    add("--seconds", type=float, default=60.0, help="a slow way's sample takes about this long a round")
    add("--latency-requests", type=int, default=30)
    add("--check-beams", type=int, default=10_000, help="beams whose items are checked against their filters")
    add("--check-prefix", type=int, default=100, help="tokens of a prompt in that check, which is about the legal set")
    add("--items", type=int, default=1_682, help="titles of the catalogue, with --model-shape")
    add("--million", type=int, default=1_000_000, help="titles of the large trie")
    flags = parser.parse_args(argv)
    bases.check(flags)
    return flags


def prepare(base: Base, flags: argparse.Namespace, requests: int, prefix: int) -> Task:
    """Real prompts and the whole real catalogue; random ones for a random base."""
    if flags.model_shape:
        rng = np.random.default_rng(flags.seed)
        prompts = [Prompt(rng.integers(0, base.vocabulary, size=prefix)) for _ in range(requests)]
        tokens, bounds = workload.synthetic_titles(base.vocabulary, flags.items, flags.seed)
        titles = [tokens[a:b] for a, b in pairwise(bounds)]
        return Task(prompts, titles, Trie.build(titles), f"random prompts of {prefix} tokens, synthetic titles")
    data = workload.dataset(flags.data)
    real = workload.RealPrompts(base.model.tokenizer, data)
    prompts = [prompt for _, prompt in real.prompts(requests, prefix, flags.seed)]
    branches = list(real.titles.values())
    what = f"{data.name}: real users' prompts of {prefix} tokens, all {len(branches)} titles"
    return Task(prompts, [b.token_ids for b in branches], Trie.from_branches(branches), what)


# --- the ways ---------------------------------------------------------------------------------------


def palate_beams(base: Base, task: Task, beams: int, k: int, prompts: Sequence[Prompt]) -> Ranked:
    """All requests in one call."""
    found = generate(base.model, prompts, task.trie, beams=beams, k=k)
    return [[item for item, _ in ranked] for ranked in found]


def exhaustive(base: Base, task: Task, k: int, prompts: Sequence[Prompt]) -> Ranked:
    """Every title scored, packed; the k with the highest summed log-probability."""
    branches = tuple(Branch(str(n), t) for n, t in enumerate(task.titles))
    out = []
    for output in Runner(base.model).run([Job(p, "tokens", branches) for p in prompts]):
        sums = np.array([t.sum(dtype=np.float64) for t in output.tokens])
        out.append(np.lexsort((np.arange(len(sums)), -sums))[:k].tolist())
    return out


class TransformersBeams:
    """`generate` of transformers with `prefix_allowed_tokens_fn` over a trie of dicts, a request at a time.

    This is what people write, after GENRE (De Cao et al., 2021). Beams that end in no title are dropped.
    """

    def __init__(self, base: Base, task: Task, beams: int, k: int) -> None:
        self.base, self.task, self.beams, self.k = base, task, beams, min(k, beams)
        self.root: dict[int, Any] = {}
        self.items: dict[tuple[int, ...], list[int]] = {}
        for number, title in enumerate(task.titles):
            tokens = tuple(title.tolist())
            self.items.setdefault(tokens, []).append(number)
            node = self.root
            for token in tokens:
                node = node.setdefault(token, {})
        self.seconds: list[float] = []
        self.lost = 0

    @torch.inference_mode()
    def run(self, prompts: Sequence[Prompt]) -> Ranked:
        out = []
        for prompt in prompts:
            seconds, ranked = measure.timed(partial(self._request, prompt), self.base.device)
            self.seconds.append(seconds)
            out.append(ranked)
        return out

    def _request(self, prompt: Prompt) -> list[int]:
        from transformers import GenerationConfig

        size, end = len(prompt), self.task.end

        def legal(_: int, tokens: torch.Tensor) -> list[int]:
            node = self.root
            for token in tokens[size:].tolist():
                node = node.get(token, {})
            return list(node) or [end]

        ids = torch.from_numpy(prompt.token_ids)[None].to(self.base.device)
        config = GenerationConfig(
            num_beams=self.beams, num_return_sequences=self.k, max_new_tokens=self.task.trie.depth, do_sample=False,
            length_penalty=0.0, eos_token_id=end, pad_token_id=end,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers advises on settings; none of it is about this call
            found = self.base.lm.generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=config, prefix_allowed_tokens_fn=legal
            )
        ranked: list[int] = []
        for row in found[:, size:].tolist():
            stop = row.index(end) + 1 if end in row else len(row)
            items = self.items.get(tuple(row[:stop]), [])
            self.lost += not items
            ranked += items
        return ranked[: self.k]


# --- sections ---------------------------------------------------------------------------------------


def speed(base: Base, flags: argparse.Namespace) -> dict[str, Any]:
    """Requests and beams a second, latency, agreement, and the share of the masks."""
    task = prepare(base, flags, flags.requests, flags.prefix)
    stock = TransformersBeams(base, task, flags.beams, flags.k)
    runs: dict[str, Callable[[Sequence[Prompt]], Ranked]] = {
        "palate": partial(palate_beams, base, task, flags.beams, flags.k),
        "transformers_generate": stock.run,
        "exhaustive": partial(exhaustive, base, task, flags.k),
    }
    samples = {"palate": task.prompts}
    # on CUDA the whole run once: kernels are compiled for each size
    runs["palate"](task.prompts if base.device.type == "cuda" else task.prompts[:1])
    for name in ("transformers_generate", "exhaustive"):
        runs[name](task.prompts[:1])
        one = measure.timed(partial(runs[name], task.prompts[:1]), base.device)[0]
        samples[name] = task.prompts[: max(1, min(len(task.prompts), int(flags.seconds / one)))]
    stock.seconds.clear()
    stock.lost = 0
    answers: dict[str, Ranked] = {}

    def keep(name: str) -> None:
        answers[name] = runs[name](samples[name])

    seconds = measure.interleaved({n: partial(keep, n) for n in runs}, flags.repeats, base.device)
    rates = {n: len(samples[n]) / measure.median(seconds[n]) for n in runs}
    single = []
    for n in range(flags.latency_requests):
        prompt = task.prompts[n % len(task.prompts)]
        single.append(measure.timed(partial(runs["palate"], [prompt]), base.device)[0])
    few = task.prompts[: together(flags)]
    cost = masks.share(partial(runs["palate"], few), base.device, len(few), flags.repeats)
    table = {
        n: {
            "requests_per_s": rates[n],
            "seconds": seconds[n],
            "sampled_requests": len(samples[n]),
            **({} if n == "exhaustive" else {"beams_per_s": rates[n] * flags.beams}),
        }
        for n in runs
    }
    table["transformers_generate"] |= {"latency": measure.quantiles(stock.seconds), "beams_without_a_title": stock.lost}
    return {
        "requests_per_s": rates["palate"],
        "beams_per_s": rates["palate"] * flags.beams,
        "ratio_vs_transformers_generate": rates["palate"] / rates["transformers_generate"],
        "ratio_vs_exhaustive": rates["palate"] / rates["exhaustive"],
        **measure.quantiles(single),
        "share_of_exhaustive_top_k_found": {
            n: _agreement(answers[n], answers["exhaustive"]) for n in ("palate", "transformers_generate")
        },
        "mask_share_of_step_catalogue": cost["share_of_step"],
        "masks_catalogue": cost,
        "contenders": table,
        "work": task.what,
    }


def together(flags: argparse.Namespace) -> int:
    """Requests for the masks' share: few enough that Palate searches them as one group."""
    return max(1, min(4, int(Search().max_rows // flags.beams)))


def _agreement(found: Ranked, best: Ranked) -> float:
    """Mean share of the truly best k items that are in a list."""
    pairs = list(zip(found, best, strict=False))
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in pairs]))


def validity(base: Base, flags: argparse.Namespace) -> dict[str, Any]:
    """Items outside their request's filter, repeated or without a finite score, among `--check-beams` beams.

    The legal set of a request is a Python set of item ids, looked up without the trie.
    """
    task = prepare(base, flags, 32, flags.check_prefix)
    names = [f"item {n}" for n in range(len(task.titles))]
    checked = invalid = requests = searched = 0
    while checked < flags.check_beams:
        part = [task.prompts[n % len(task.prompts)] for n in range(requests, requests + 8)]
        filters = masks.random_masks(len(part), len(names), flags.seed + requests)
        requests += len(part)
        found = generate(base.model, part, task.trie, beams=flags.beams, k=flags.beams, allowed=filters)
        for ranked, mask in zip(found, filters, strict=True):
            legal = {name for n, name in enumerate(names) if mask is None or mask[n]}
            searched += len(legal) > flags.beams
            seen: set[int] = set()
            for item, score in ranked:
                invalid += not (0 <= item < len(names) and names[item] in legal and item not in seen)
                invalid += not np.isfinite(score)
                seen.add(item)
            checked += len(ranked)
            invalid += not ranked  # an allowed item exists, so there must be an answer
    return {
        "invalid_items": int(invalid),
        "beams_checked": checked,
        "validity": {
            "requests": requests,
            "requests_with_more_legal_items_than_beams": searched,
            "filters": "random, one item to all",
            "work": task.what,
        },
    }


def million(base: Base, flags: argparse.Namespace) -> dict[str, Any]:
    """A trie of `--million` synthetic titles: building it, and its masks in a decode step, filters included."""
    facts = masks.fresh(flags.million, base.vocabulary, flags.seed)
    trie, _ = masks.build(flags.million, base.vocabulary, flags.seed)
    prompts = prepare(base, flags, together(flags), flags.prefix).prompts
    half = np.random.default_rng(flags.seed).random(flags.million) < 0.5
    allowed = [half] * len(prompts)
    cost = masks.share(
        lambda: generate(base.model, prompts, trie, beams=flags.beams, k=flags.k, allowed=allowed),
        base.device,
        len(prompts),
        flags.repeats,
    )
    return {
        "mask_share_of_step": cost["share_of_step"],
        "mask_share_of_step_with_filter": cost["share_of_step_with_filter"],
        "trie_1m_seconds": facts["seconds"],
        "trie_1m_bytes": facts["bytes"],
        "trie_1m_peak_bytes": facts["peak_bytes"],
        "million": {**facts, "what": "synthetic titles of one to six words", "masks": cost},
    }


def run(flags: argparse.Namespace) -> dict[str, Any]:
    """All sections asked for, as one mapping of JSON values."""
    base = bases.load(flags)
    result: dict[str, Any] = {}
    for name, section in (("speed", speed), ("validity", validity), ("million", million)):
        if name in flags.only:
            result |= section(base, flags)
    about = {"base": base.facts(), "machine": measure.machine(base.device), "setting": options.setting(flags)}
    return {**result, **about}


def main(argv: Sequence[str] | None = None) -> dict[str, Any]:
    """Run and write; returns the results."""
    return options.finished(run, arguments(argv))


if __name__ == "__main__":
    sys.exit(options.guarded(main))
