"""Raw scoring: a prompt of the caller's own and items behind it, as SGLang's /v1/score and vLLM's generative scoring.

What is scored is the next token after query + item (or item + query): the probability of each label among all tokens,
or among the labels. Without labels it is the mean log-probability of the item's own tokens. All items of a query share
its forward pass, and queries of one batch a pack.

Text is read with special tokens off and each part by itself: no text can open a turn, and a word never spans query and
item. Who needs markup sends token ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from palate.engine.pack import Job
from palate.engine.runner import Runner
from palate.errors import RequestError
from palate.prompting.encode import TextEncoder
from palate.schema import Branch, Floats, Ints, Prompt

Raw = str | list[int]


@dataclass(frozen=True)
class RawText:
    """One raw request; see the module."""

    query: Raw
    items: Sequence[Raw]
    labels: tuple[int, ...] | None = None
    softmax: bool = False
    item_first: bool = False


@dataclass(frozen=True)
class RawScores:
    """values: float32 [C, L], L labels (1 without). tokens: read, each shared one once."""

    values: Floats
    tokens: int


def score_raw(runner: Runner, encoder: TextEncoder, texts: Sequence[RawText]) -> list[RawScores]:
    """Scores of raw requests. Raises RequestError for empty texts, ids outside the vocabulary and too long prompts."""
    plans = [_jobs(runner, encoder, text) for text in texts]
    outputs = iter(runner.run([job for jobs in plans for job in jobs]))
    scores = []
    for text, jobs in zip(texts, plans, strict=True):
        tokens = [branch for _ in jobs for branch in next(outputs).tokens]
        scores.append(RawScores(_values(text, tokens), sum(map(_size, jobs))))
    return scores


def _jobs(runner: Runner, encoder: TextEncoder, text: RawText) -> list[Job]:
    query = _ids(runner, encoder, text.query, "query")
    items = [_ids(runner, encoder, item, f"items.{n}") for n, item in enumerate(text.items)]
    limit = int(getattr(runner.model.lm.config, "max_position_embeddings", 1 << 30))
    longest = len(query) + max(map(len, items)) + 1
    if longest > limit:
        raise RequestError(
            f"expected query and item of at most {limit:,} tokens together, got {longest:,}; shorten them"
        )
    if text.labels is None:
        if text.item_first:
            raise RequestError("item_first needs label_token_ids: without them the item itself is what is scored")
        return [Job(Prompt(query), "tokens", tuple(Branch(str(n), ids) for n, ids in enumerate(items)))]
    labels = _ids(runner, encoder, list(text.labels), "label_token_ids")
    if not text.item_first:
        branches = [Branch(f"{n}:{t}", np.append(ids, t)) for n, ids in enumerate(items) for t in labels]
        return [Job(Prompt(query), "tokens", tuple(branches))]
    ends = tuple(Branch(str(t), np.array([t], dtype=np.int64)) for t in labels)
    return [Job(Prompt(np.concatenate([ids, query])), "tokens", ends) for ids in items]


def _values(text: RawText, tokens: Sequence[Floats]) -> Floats:
    if text.labels is None:
        return np.array([[t.mean(dtype=np.float64)] for t in tokens], dtype=np.float32)
    logs = np.array([t[-1] for t in tokens], dtype=np.float64).reshape(len(text.items), len(text.labels))
    values = np.exp(logs)
    if text.softmax:
        values /= values.sum(axis=1, keepdims=True)
    return np.asarray(values, dtype=np.float32)


def _ids(runner: Runner, encoder: TextEncoder, text: Raw, where: str) -> Ints:
    """Token ids of a text, or given ones, checked."""
    ids: Any = encoder.content([text])[0] if isinstance(text, str) else text
    if not len(ids):
        raise RequestError(f"{where}: expected at least one token, got an empty text")
    if not isinstance(text, str):  # before they are an array: JSON's numbers may be larger than any int64
        size = runner.model.lm.get_input_embeddings().weight.shape[0]
        wrong = next((i for i in ids if not 0 <= i < size), None)
        if wrong is not None:
            raise RequestError(f"{where}: expected token ids from 0 to {size - 1}, got {str(wrong)[:40]}")
    return np.asarray(ids, dtype=np.int64)


def _size(job: Job) -> int:
    return len(job.prompt) + sum(map(len, job.branches))
