"""How far each way is from one-at-a-time float32 scoring, in log-probability per token."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from benchmarks import baselines, bases, workload
from benchmarks.bases import Base
from palate.engine.pack import Job, concat
from palate.engine.runner import Runner
from palate.model import Model
from palate.schema import Prompt, Slot

Scores = baselines.Scores


def apart(ours: Scores, reference: Scores) -> dict[str, float]:
    """Largest, mean and root mean square absolute difference, and of how many tokens.

    The largest of few tokens is a noisy number; the root mean square is steadier where two ways are compared.
    """
    differences = np.concatenate(
        [np.abs(a - b) for mine, theirs in zip(ours, reference, strict=True) for a, b in zip(mine, theirs, strict=True)]
    )
    return {
        "max": float(differences.max()),
        "mean": float(differences.mean()),
        "rms": float(np.sqrt(np.square(differences, dtype=np.float64).mean())),
        "tokens": len(differences),
    }


def packed(model: Model, jobs: Sequence[Job], max_tokens: int | None = None) -> Scores:
    """Palate's way, nothing kept from an earlier call."""
    return [output.tokens for output in Runner(model, max_tokens).run(jobs)]


@torch.inference_mode()
def one_at_a_time(model: Model, jobs: Sequence[Job], plain: bool = False) -> Scores:
    """Prompts with soft tokens, one candidate a forward: through Palate's model, which is the reference in float32; or
    (plain) through the causal LM as transformers and PEFT run it, given the same embeddings.
    """
    out: Scores = []
    for job in jobs:
        rows = []
        size = len(job.prompt)
        for branch in job.branches:
            ids = np.concatenate([job.prompt.token_ids, branch.token_ids])
            moved = [Slot(s.start + size, s.length, s.modality, s.item_id) for s in branch.slots]
            pack = concat([Prompt(ids, (*job.prompt.slots, *moved))])
            if plain:
                called = model.lm(inputs_embeds=model.embed(pack)[None], use_cache=False)
                logits = called.logits[0, size - 1 : -1].float()
            else:
                logits = model.logits(model(pack)[size - 1 : -1])
            logp = logits.log_softmax(-1)
            targets = torch.from_numpy(branch.token_ids).to(logp.device)
            text = np.ones(len(branch), dtype=bool)
            for slot in branch.slots:
                text[slot.start : slot.start + slot.length] = False
            rows.append(logp.gather(1, targets[:, None])[:, 0].cpu().numpy()[text])
        out.append(rows)
    return out


def measure(base: Base, work: workload.Workload, options: argparse.Namespace) -> dict[str, Any]:
    """The parity block. The jobs are a sample of the workload; every comparison is over the same tokens."""
    count = options.parity_requests * options.parity_candidates
    jobs = baselines.thin(baselines.whole(work.jobs, options.parity_requests), count)
    exact = bases.load(options, "float32")
    reference = baselines.naive(exact.lm, jobs)
    found: dict[str, Any] = {
        "reference": "stock transformers, float32, one candidate a forward",
        "requests": len(jobs),
        "candidates": sum(len(j.branches) for j in jobs),
        "packed_float32": apart(packed(exact.model, jobs), reference),
        # how far float32 itself goes when only the order of sums changes
        "padded_prefix_float32": apart(baselines.padded_prefix(exact.lm, jobs), reference),
        "padded_batch_float32": apart(baselines.padded_batch(exact.lm, jobs, 16), reference),
    }
    del exact
    low = base.dtype
    if low != "float32":
        found |= {
            f"packed_{low}": apart(packed(base.model, jobs), reference),
            f"naive_{low}": apart(baselines.naive(base.lm, jobs), reference),
            f"padded_prefix_{low}": apart(baselines.padded_prefix(base.lm, jobs), reference),
            f"padded_batch_{low}": apart(baselines.padded_batch(base.lm, jobs, 16), reference),
        }
        found["packed_no_worse_than_naive"] = found[f"packed_{low}"]["max"] <= found[f"naive_{low}"]["max"]
    found["soft"] = _soft(base, options) if options.soft else "left out by --no-soft"
    return found


def _soft(base: Base, options: argparse.Namespace) -> dict[str, Any] | str:
    """The same for prompts whose history carries soft tokens, through the adapter."""
    if options.model_shape:
        return "left out: random weights have no adapter"
    data = workload.dataset(options.data)
    low = base.dtype
    model = bases.adapter(options, data.catalog.item_ids, low)
    if isinstance(model, str):
        return f"left out: {model}"
    assert model.soft is not None
    real = workload.RealPrompts(model.tokenizer, data, model.soft.slots)
    size, each = options.parity_requests, options.parity_candidates
    work = real.workload(size, options.prefix, each, options.seed)
    found: dict[str, Any] = {
        "reference": "Palate's model, float32, one candidate a forward",
        "what": work.what,
        "soft_tokens": sum(s.length for j in work.jobs for s in j.prompt.slots),
    }
    lows: dict[str, Scores] = {}
    if low != "float32":
        lows = {
            "packed": packed(model, work.jobs),
            "naive": one_at_a_time(model, work.jobs, plain=True),
            "one_at_a_time": one_at_a_time(model, work.jobs),
        }
        model.float()  # the same weights, computed more exactly
    reference = one_at_a_time(model, work.jobs)
    found["packed_float32"] = apart(packed(model, work.jobs), reference)
    if lows:
        found |= {f"{way}_{low}": apart(scores, reference) for way, scores in lows.items()}
        found["packed_no_worse_than_naive"] = found[f"packed_{low}"]["max"] <= found[f"naive_{low}"]["max"]
    return found
