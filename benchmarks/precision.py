"""What precision and depth cost: memory, speed, and how far the rankings move.

    python -m benchmarks.precision --json precision.json [--users 64] [--precisions fp32,bf16,nf4,int8] [--layers 6,4]

SmolLM2 with the shipped adapter on MovieLens-100K. Every user's validation item (never a test item) stands among 19
unseen ones, protocol loo-20. Each precision is measured at the whole depth, each depth in the reference's precision;
`--cross` measures every precision at every depth. A precision is fp32, bf16, fp16, auto, nf4, int8, int4 or fp8, with
`-merged` or `-unmerged` behind it to say what becomes of LoRA (else as `Recommender.load` does it).

weights: bytes of the tensors held, the blocks (with LoRA and norms) apart from embeddings and head. candidates/s and
tokens/s: one pass over all lists after a first one to warm up, serialization included; a token is counted once where
candidates share it. tau and top-10: Kendall's tau-b and the shared part of the ten best against the reference's
scores, means over users. NDCG@10: the difference to the reference, with a paired 95% bootstrap interval.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau

from benchmarks import measure, options
from palate.data import Dataset
from palate.engine.runner import Runner
from palate.errors import ConfigError, PalateWarning, did_you_mean
from palate.evaluate import Result, evaluate, protocol
from palate.evaluate.baselines import RecommenderSystem
from palate.evaluate.protocol import EvalCase
from palate.model import quantize
from palate.model.hardware import pick_device, pick_dtype
from palate.recommender import Recommender, loading
from palate.schema import Floats

PRECISIONS: dict[str, dict[str, Any]] = {
    "auto": {"dtype": "auto"},
    "fp32": {"dtype": "float32"},
    "bf16": {"dtype": "bfloat16"},
    "fp16": {"dtype": "float16"},
    **{kind: {"dtype": "auto", "quantization": kind} for kind in ("nf4", "int8", "int4", "fp8")},
}
MERGES = {"": "auto", "-merged": True, "-unmerged": False}
METRIC = "NDCG@10"
TOP = 10
WARM = 2
"""Cases scored before the clock starts: threads, kernels and caches."""


class Variant:
    """One precision at one depth, as a system to evaluate. The model is loaded when asked and let go afterwards."""

    batch = 1_000_000  # all cases in one call: loaded once, measured once

    def __init__(self, precision: str, layers: int | None, mode: str, flags: argparse.Namespace, data: Dataset) -> None:
        self.precision, self.layers, self.mode, self.flags, self.data = precision, layers, mode, flags, data
        self.name = precision if layers is None else f"{precision}, {layers} layers"
        self.how = how(precision)
        self.facts: dict[str, Any] = {}
        self.scores: list[Floats] = []

    def score(self, cases: Sequence[EvalCase]) -> list[Floats]:
        """Scores of all cases; `facts` then holds memory and speed, `scores` the scores."""
        self._measure(cases)
        gc.collect()
        return self.scores

    def _measure(self, cases: Sequence[EvalCase]) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PalateWarning)  # layers left out, int8 slow: what this run is to measure
            rec = Recommender.load(
                self.flags.adapter, data=self.data, device=self.flags.device, layers=self.layers, **self.how
            )
        system = RecommenderSystem(rec, self.data, self.mode, self.name, self.batch)
        system.score(cases[:WARM])
        rec.runner = Runner(rec.model, self.flags.max_tokens)  # no prefix kept from the warm-up
        seconds, self.scores = measure.timed(lambda: system.score(cases), rec.model.device)
        count = sum(map(len, self.scores))
        self.facts = {
            "precision": self.precision,
            "layers": self.layers,
            "dtype": str(rec.model.dtype).removeprefix("torch."),
            "merged": rec.model.merged,
            **weights(rec.model.lm),
            "seconds": seconds,
            "candidates_per_s": count / seconds,
            "tokens": rec.runner.tokens_seen,
            "tokens_per_s": rec.runner.tokens_seen / seconds,
        }


def how(precision: str) -> dict[str, Any]:
    """Options of `Recommender.load` for a precision's name. Raises ConfigError for an unknown one."""
    stem, dash, suffix = precision.partition("-")
    if stem not in PRECISIONS or dash + suffix not in MERGES:
        known = [f"{p}{m}" for p in PRECISIONS for m in MERGES]
        raise ConfigError(f"no precision is called {precision!r}; {did_you_mean(precision, known)}")
    return {**PRECISIONS[stem], "merge": MERGES[dash + suffix]}


def weights(lm: Any) -> dict[str, int]:
    """Bytes held by the weights: `block_bytes`, and `embedding_bytes` (token embeddings and head, tied ones once)."""
    apart = {id(p) for m in (lm.get_input_embeddings(), lm.get_output_embeddings()) for p in m.parameters()}
    sizes = {True: 0, False: 0}
    for parameter in lm.parameters():
        sizes[id(parameter) in apart] += sum(t.numel() * t.element_size() for t in _parts(parameter))
    return {"block_bytes": sizes[False], "embedding_bytes": sizes[True]}


def _parts(parameter: torch.Tensor) -> Iterable[torch.Tensor]:
    """The plain tensors a weight is made of: numbers, scales, zeros, code books."""
    if hasattr(parameter, "__tensor_flatten__"):  # torchao
        names, _ = parameter.__tensor_flatten__()
        for name in names:
            yield from _parts(getattr(parameter, name))
        return
    yield parameter.data
    scales = getattr(parameter, "SCB", None)  # bitsandbytes int8
    if scales is not None:
        yield scales
    state = getattr(parameter, "quant_state", None)  # bitsandbytes nf4, its scales quantized once more
    while state is not None:
        # what it packed for a CPU with AVX-512 BF16 has some of these no longer
        parts = (getattr(state, name, None) for name in ("absmax", "code", "offset"))
        yield from (t for t in parts if isinstance(t, torch.Tensor))
        state = getattr(state, "state2", None)


def agreement(scores: Sequence[Floats], reference: Sequence[Floats]) -> dict[str, float]:
    """Mean Kendall tau-b and mean shared part of the `TOP` best, list by list."""
    taus, shared = [], []
    for mine, theirs in zip(scores, reference, strict=True):
        taus.append(float(kendalltau(mine, theirs).statistic))
        best = [set(np.argsort(-s, kind="stable")[:TOP].tolist()) for s in (mine, theirs)]
        shared.append(len(best[0] & best[1]) / len(best[0]))
    return {"kendall_tau": float(np.mean(taus)), f"top{TOP}_overlap": float(np.mean(shared))}


def plan(flags: argparse.Namespace) -> list[tuple[str, int | None]]:
    """(precision, layers) in order, the reference first; checked before anything is loaded."""
    pairs: list[tuple[str, int | None]] = [(flags.reference, None), *((p, None) for p in flags.precisions)]
    chosen = [flags.reference, *flags.precisions] if flags.cross else [flags.reference]
    pairs += [(p, n) for n in flags.layers for p in chosen]
    device = pick_device(flags.device)
    for precision, _ in pairs:
        options_of = how(precision)
        if "quantization" in options_of:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", PalateWarning)
                quantize.check(options_of["quantization"], pick_dtype(options_of["dtype"], device), device)
    return list(dict.fromkeys(pairs))


def rows(result: Result, variants: Sequence[Variant]) -> list[dict[str, Any]]:
    """A row of numbers for each variant, the reference first."""
    reference = variants[0]
    made = []
    for variant in variants:
        change = result.compare(variant.name, reference.name, METRIC)
        made.append(
            {
                "name": variant.name,
                **variant.facts,
                "speed_vs_reference": variant.facts["candidates_per_s"] / reference.facts["candidates_per_s"],
                **agreement(variant.scores, reference.scores),
                METRIC: result.system(variant.name).metrics[METRIC].value,
                f"{METRIC}_difference": {"value": change.diff, "low": change.low, "high": change.high, "p": change.p},
            }
        )
    return made


def table(mode: str, made: Sequence[dict[str, Any]]) -> Table:
    shown = Table(title=f"{mode}, against {made[0]['name']} ({made[0]['dtype']})", title_justify="left", box=None)
    for column in (
        "",
        "LoRA",
        "blocks MB",
        "embeddings MB",
        "candidates/s",
        "tokens/s",
        "tau",
        "top-10",
        METRIC,
        "diff",
    ):
        shown.add_column(column, justify="left" if column in ("", "LoRA") else "right")
    for row in made:
        change = row[f"{METRIC}_difference"]
        shown.add_row(
            row["name"],
            "merged" if row["merged"] else "apart",
            f"{row['block_bytes'] / 1e6:,.1f}",
            f"{row['embedding_bytes'] / 1e6:,.1f}",
            f"{row['candidates_per_s']:,.1f}",
            f"{row['tokens_per_s']:,.0f}",
            f"{row['kendall_tau']:.4f}",
            f"{row[f'top{TOP}_overlap']:.3f}",
            f"{row[METRIC]:.4f}",
            f"{change['value']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})",
        )
    return shown


def run(flags: argparse.Namespace) -> dict[str, Any]:
    """Measure every variant in every mode, print the tables, return all numbers."""
    pairs = plan(flags)
    target = loading.resolve(flags.adapter)
    data = loading.open_data(flags.data, loading.read_meta(target))
    chosen = protocol("loo-20")
    measured: dict[str, Any] = {}
    for mode in flags.modes:
        variants = [Variant(p, n, mode, flags, data) for p, n in pairs]
        result = evaluate(data, variants, chosen, flags.users, flags.seed, part="valid", progress=_tell)
        measured[mode] = rows(result, variants)
        Console(width=150).print(table(mode, measured[mode]))
    return {
        "reference": flags.reference,
        "reference_dtype": measured[flags.modes[0]][0]["dtype"],
        "protocol": f"{chosen.label}, validation items",
        "users": result.n,
        "candidates_sha256": result.candidates,
        "modes": measured,
        "setting": options.setting(flags),
        "machine": measure.machine(pick_device(flags.device)),
    }


def _tell(name: str, done: int, total: int) -> None:
    print(f"{name}: {done} of {total} lists scored", file=sys.stderr)


def _list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _numbers(text: str) -> list[int]:
    return [int(part) for part in _list(text)]


def arguments(args: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", default="adapters/ml-100k")
    parser.add_argument("--data", help="data set folder; the adapter's own where none is named")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--users", type=int, default=64, help="a seeded draw of this many")
    parser.add_argument("--precisions", type=_list, default=["fp32", "bf16", "nf4", "int8"])
    parser.add_argument("--layers", type=_numbers, default=[], help="depths beside the whole one, such as 6,4")
    parser.add_argument("--reference", default="auto", help="the precision the others are compared with")
    parser.add_argument("--cross", action="store_true", help="every precision at every depth")
    parser.add_argument("--modes", type=_list, default=["likelihood"], help="such as likelihood,embedding")
    parser.add_argument("--max-tokens", type=int, help="tokens a pack; what memory allows where none is said")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser.parse_args(args)


def main() -> None:
    flags = arguments()
    result = run(flags)
    if flags.json is not None:
        flags.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(options.guarded(main))
