"""What a user would write with stock transformers: one forward each, padded batches, an expanded prefix cache.

Each takes a transformers causal LM and jobs, and gives for every job the log-probability of each title token.
All compute logits only where a title stands, and in float32 from there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palate.engine.pack import Job

Scores = list[list[np.ndarray]]
"""For each job and candidate: float32, the log-probability of each title token."""

LOGIT_ROWS = 1024
"""Rows of logits computed at once."""


@torch.inference_mode()
def naive(lm: Any, jobs: Sequence[Job]) -> Scores:
    """(a) One plain forward per candidate."""
    out: Scores = []
    for job in jobs:
        rows = []
        for branch in job.branches:
            ids = torch.from_numpy(np.concatenate([job.prompt.token_ids, branch.token_ids]))[None].to(lm.device)
            logits = lm(input_ids=ids, use_cache=False, logits_to_keep=len(branch) + 1).logits[0, :-1].float()
            picked = logits.log_softmax(-1).gather(1, ids[0, -len(branch) :, None])[:, 0]
            rows.append(picked.cpu().numpy())
        out.append(rows)
    return out


@torch.inference_mode()
def padded_batch(lm: Any, jobs: Sequence[Job], size: int) -> Scores:
    """(b) Whole rows of prompt and candidate, `size` at a time, padded on the right.

    Padding stands behind a causal row's end, so it needs no mask.
    """
    pairs = [(n, c) for n, job in enumerate(jobs) for c in range(len(job.branches))]
    out: Scores = [[np.empty(0, dtype=np.float32)] * len(job.branches) for job in jobs]
    for start in range(0, len(pairs), size):
        part = pairs[start : start + size]
        rows = [np.concatenate([jobs[n].prompt.token_ids, jobs[n].branches[c].token_ids]) for n, c in part]
        titles = [jobs[n].branches[c].token_ids for n, c in part]
        batch = _padded(rows).to(lm.device)
        hidden = lm.base_model(input_ids=batch, use_cache=False).last_hidden_state
        at = np.concatenate(
            [
                r * batch.shape[1] + len(row) - len(t) - 1 + np.arange(len(t))
                for r, (row, t) in enumerate(zip(rows, titles, strict=True))
            ]
        )
        picked = _logprobs(lm, hidden.flatten(0, 1), at, np.concatenate(titles))
        for (n, c), values in zip(part, _split(picked, titles), strict=True):
            out[n][c] = values
    return out


@torch.inference_mode()
def padded_prefix(lm: Any, jobs: Sequence[Job]) -> Scores:
    """(c) The prompt once, its cache expanded to all candidates, one batch padded on the right: the usual quick way."""
    from transformers import DynamicCache

    out: Scores = []
    for job in jobs:
        titles = [b.token_ids for b in job.branches]
        cache = DynamicCache(config=lm.config)
        prefix = torch.from_numpy(job.prompt.token_ids)[None].to(lm.device)
        first = lm.base_model(input_ids=prefix, past_key_values=cache).last_hidden_state[0, -1:]
        cache.batch_repeat_interleave(len(titles))
        batch = _padded([t[:-1] for t in titles]).to(lm.device)
        hidden = first
        if batch.shape[1]:
            later = lm.base_model(input_ids=batch, past_key_values=cache).last_hidden_state
            hidden = torch.cat([first, later.flatten(0, 1)])
        # a title's first token is read at the prompt's end, the others in its own row
        at = np.concatenate(
            [np.concatenate([[0], 1 + r * batch.shape[1] + np.arange(len(t) - 1)]) for r, t in enumerate(titles)]
        )
        out.append(_split(_logprobs(lm, hidden, at, np.concatenate(titles)), titles))
    return out


@torch.inference_mode()
def dense(lm: Any, tokens: np.ndarray, reads: float) -> None:
    """The yardstick: a plain forward of rows [B, L], with float32 log-softmax at a share `reads` of all positions."""
    batch = torch.from_numpy(tokens).to(lm.device)
    hidden = lm.base_model(input_ids=batch, use_cache=False).last_hidden_state.flatten(0, 1)
    at = np.linspace(0, tokens.size - 1, max(1, round(reads * tokens.size))).astype(np.int64)
    _logprobs(lm, hidden, at, tokens.ravel()[at])


def _logprobs(lm: Any, hidden: Tensor, at: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """log p(target | row): a row's logits once, however many targets it has; rows in chunks."""
    rows, place = np.unique(at, return_inverse=True)
    order = np.argsort(place, kind="stable")
    out = np.empty(len(at), dtype=np.float32)
    bounds = np.searchsorted(place[order], np.arange(0, len(rows) + LOGIT_ROWS, LOGIT_ROWS))
    head = lm.get_output_embeddings()
    for chunk, start in enumerate(range(0, len(rows), LOGIT_ROWS)):
        picks = order[bounds[chunk] : bounds[chunk + 1]]
        logits = head(hidden[torch.from_numpy(rows[start : start + LOGIT_ROWS]).to(hidden.device)]).float()
        logp = logits.log_softmax(-1)
        row, token = (torch.from_numpy(x).to(hidden.device) for x in (place[picks] - start, targets[picks]))
        out[picks] = logp[row, token].cpu().numpy()
    return out


def _padded(rows: Sequence[np.ndarray]) -> Tensor:
    out = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for n, row in enumerate(rows):
        out[n, : len(row)] = torch.from_numpy(row)
    return out


def _split(values: np.ndarray, titles: Sequence[np.ndarray]) -> list[np.ndarray]:
    return np.split(values, np.cumsum([len(t) for t in titles])[:-1])


def thin(jobs: Sequence[Job], candidates: int) -> list[Job]:
    """About `candidates` candidates of the workload, spread over its requests: a sample for a slow way."""
    total = sum(len(job.branches) for job in jobs)
    if candidates >= total:
        return list(jobs)
    picked = list(_spread(jobs, max(1, min(len(jobs), candidates))))
    each = max(1, candidates // len(picked))
    return [Job(job.prompt, job.read, job.branches[:each]) for job in picked]


def _spread(jobs: Sequence[Job], count: int) -> Iterator[Job]:
    """`count` jobs, evenly spaced."""
    for n in range(count):
        yield jobs[n * len(jobs) // count]


def whole(jobs: Sequence[Job], count: int) -> list[Job]:
    """`count` whole requests, evenly spaced."""
    return list(_spread(jobs, max(1, min(len(jobs), count))))
