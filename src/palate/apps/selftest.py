"""The engine tried on this machine: packed scores beside stock transformers', one candidate at a time."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

TOLERANCE = 1e-4
"""Largest difference of one token's log-probability in float32, as the tests hold it."""
PREFIXES, CANDIDATES, LENGTH = 3, 12, 40


def engine(device: str = "cpu") -> str:
    """What was compared, in a line. A random model of two layers: nothing is fetched, and no data of anybody read.

    Raises RuntimeError where packed scores are not those of one forward a candidate, or depend on candidates' order.
    """
    from palate.engine.pack import Job
    from palate.engine.runner import Runner

    mine, stock = _models(device)
    jobs = _jobs()
    began = time.perf_counter()
    packed = [output.tokens for output in Runner(mine).run(jobs)]
    seconds = time.perf_counter() - began
    apart = max(
        float(np.abs(ours - _alone(stock, job.prompt, branch, device)).max())
        for job, outputs in zip(jobs, packed, strict=True)
        for branch, ours in zip(job.branches, outputs, strict=True)
    )
    if not apart <= TOLERANCE:
        raise RuntimeError(
            f"{device}: packed scores differ by {apart:.1e} from one forward a candidate, at most {TOLERANCE:.0e} "
            "expected; please report it with `palate doctor --json`"
        )
    turned = [Job(j.prompt, "tokens", j.branches[::-1]) for j in jobs[::-1]]
    again = [output.tokens[::-1] for output in Runner(mine).run(turned)][::-1]
    moved = max(
        float(np.abs(a - b).max()) for x, y in zip(packed, again, strict=True) for a, b in zip(x, y, strict=True)
    )
    if not moved <= TOLERANCE:
        raise RuntimeError(f"{device}: scores move by {moved:.1e} with the order of candidates; please report it")
    count = sum(len(j.branches) for j in jobs)
    return f"{device}: {count} candidates packed in {1000 * seconds:.0f} ms, {apart:.0e} from one forward each"


def _models(device: str) -> tuple[Any, Any]:
    """The same random weights twice: under Palate's attention, and as transformers has them."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from palate.config import ModelConfig
    from palate.model import Model
    from palate.model.attention import register

    config = LlamaConfig(
        vocab_size=512, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
    )  # fmt: skip
    made = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            made.append(LlamaForCausalLM(config).to(device=device, dtype=torch.float32).eval())
    made[0].set_attn_implementation(register())
    return Model(made[0], None, None, ModelConfig(dtype="float32"), ""), made[1]


def _jobs() -> list[Any]:
    """Prompts of several lengths with candidates that begin alike, repeat and begin one another."""
    from palate.engine.pack import Job
    from palate.schema import Branch, Prompt

    rng = np.random.default_rng(0)
    titles = [rng.integers(3, 9, rng.integers(1, 7)) for _ in range(CANDIDATES)]
    branches = tuple(Branch(str(n), title.astype(np.int64)) for n, title in enumerate(titles))
    return [Job(Prompt(rng.integers(3, 512, LENGTH + 7 * n)), "tokens", branches) for n in range(PREFIXES)]


def _alone(stock: Any, prompt: Any, branch: Any, device: str) -> np.ndarray:
    """Log-probabilities of a branch's tokens by one forward of its own."""
    import torch

    ids = torch.as_tensor(np.concatenate([prompt.token_ids, branch.token_ids]), device=device)[None]
    with torch.no_grad():
        logp = stock(input_ids=ids).logits[0].float().log_softmax(-1)
    first = len(prompt.token_ids)
    rows = torch.arange(first - 1, ids.shape[1] - 1, device=device)
    found: np.ndarray = logp[rows, ids[0, first:]].cpu().numpy()
    return found
