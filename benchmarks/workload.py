"""What is scored: real users' prompts and real titles, or random tokens of the same lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from palate import prompting
from palate.config import PromptConfig
from palate.data import Dataset
from palate.engine.pack import Job
from palate.errors import RequestError
from palate.recommender.loading import open_data
from palate.schema import Branch, Ints, Prompt, Request, Slot, SlotPlan

TITLE_LENGTHS = {
    2: 24, 3: 282, 4: 434, 5: 319, 6: 228, 7: 134, 8: 77, 9: 44, 10: 28, 11: 23, 12: 20, 13: 16, 14: 16, 15: 9,
    16: 6, 17: 8, 18: 5, 19: 2, 20: 2, 21: 1, 22: 2, 23: 2,
}  # fmt: skip
"""Tokens of a title with its end -> how many titles: MovieLens-100K in SmolLM2's tokens."""


@dataclass(frozen=True)
class Workload:
    """Jobs that read the log-probability of every title token, and how much work they are.

    what: words for the results. distinct: tokens of all prompts and of their candidates merged by shared beginnings;
    logical: tokens of one forward a candidate; reads: distinct positions with logits; targets: (position, token) pairs.
    """

    jobs: list[Job]
    what: str

    @property
    def candidates(self) -> int:
        return sum(len(job.branches) for job in self.jobs)

    def counts(self) -> dict[str, int]:
        distinct = logical = reads = targets = 0
        prompts = sorted(self.jobs, key=lambda job: job.prompt.token_ids.tolist())
        for before, job in pairwise(prompts):
            # what prompts begin with alike counts once
            distinct -= _alike(before.prompt, job.prompt)
        for job in self.jobs:
            # every proper beginning of a title is one input token behind the prompt and one position read
            nodes = {b.token_ids[:n].tobytes() for b in job.branches for n in range(1, len(b))}
            distinct += len(job.prompt) + len(nodes)
            reads += 1 + len(nodes)
            logical += sum(len(job.prompt) + len(b) for b in job.branches)
            targets += sum(len(b) for b in job.branches)
        return {"distinct": distinct, "logical": logical, "reads": reads, "targets": targets}


def dataset(folder: str | None) -> Dataset:
    """The data set of a folder, or MovieLens-100K: fetched and imported into the cache the first time."""
    return open_data(folder, {"data": "ml-100k"})


class RealPrompts:
    """Prompts of real users and branches of real titles, through the shipped `next_item` template."""

    def __init__(
        self, tokenizer: Any, data: Dataset, slots: Callable[[str], SlotPlan] | None = None, longest: int = 8192
    ) -> None:
        # the serializer would drop whole lines to fit a budget; the length here is exact, so `cut` does it
        config = PromptConfig(max_tokens=longest, max_history=longest)
        self.data = data
        self.template = prompting.load("next_item", data.language)
        self.serializer = prompting.Serializer(
            tokenizer, data.catalog, data.wording, data.show, config, slots or (lambda item_id: ())
        )
        self.soft = slots is not None
        every = self.serializer.branches(self.template, Request("titles"), data.catalog.item_ids)
        self.titles = {b.item_id: b for b in every}

    def prompts(self, count: int, prefix: int, seed: int) -> list[tuple[str, Prompt]]:
        """`count` (user id, prompt of exactly `prefix` tokens), the oldest history tokens cut away.

        Users in a seeded order; where they do not suffice, the same users a film earlier, and so on. Raises
        RequestError where nobody's history is long enough.
        """
        rng = np.random.default_rng(seed)
        users = rng.permutation(np.array(self.data.histories.interactions.user_ids, dtype=object)).tolist()
        found: list[tuple[str, Prompt]] = []
        for back in range(1000):
            before = len(found)
            for user in users:
                events = self.data.histories.events(user)
                events = events[: len(events) - back]
                if len(found) == count:
                    return found
                if not events:
                    continue
                # an event takes a token at least, so that more than `prefix` of them are never needed
                prompt = self.serializer.prompt(self.template, Request(user, user, events[-prefix:]), ())
                frame = len(prompt) - (prompt.item_ends[-1] - prompt.start)
                if frame < prefix <= len(prompt):
                    found.append((user, cut(prompt, prefix)))
            if len(found) == before:
                break
        raise RequestError(
            f"expected {count} prompts of {prefix} tokens, the data set's histories give {len(found)}; "
            "lower --prefix or --requests"
        )

    def workload(self, requests: int, prefix: int, candidates: int, seed: int) -> Workload:
        """`requests` jobs with `candidates` titles each, drawn from those the user has not seen."""
        rng = np.random.default_rng([seed, 1])
        ids = np.array(self.data.catalog.item_ids, dtype=object)
        jobs = []
        for user, prompt in self.prompts(requests, prefix, seed):
            seen = {e.item_id for e in self.data.histories.events(user)}
            pool = np.array([i for i in ids if i not in seen], dtype=object)
            if len(pool) < candidates:
                raise RequestError(
                    f"expected {candidates} unseen titles a user, there are {len(pool)}; lower --candidates"
                )
            chosen = rng.choice(pool, size=candidates, replace=False)
            jobs.append(Job(prompt, "tokens", tuple(self.titles[i] for i in chosen)))
        kind = "with soft tokens" if self.soft else "of text"
        return Workload(
            jobs,
            f"{self.data.name}: real users' prompts {kind} cut to {prefix} tokens, {candidates} real unseen titles",
        )


def _alike(a: Prompt, b: Prompt) -> int:
    """How many positions two prompts begin with in common, soft tokens left out of what is common."""
    size = min(len(a), len(b), *(s.start for s in (*a.slots, *b.slots)))
    same = a.token_ids[:size] == b.token_ids[:size]
    return size if same.all() else int(same.argmin())


def cut(prompt: Prompt, size: int) -> Prompt:
    """A prompt of exactly `size` tokens: history tokens are taken out from the oldest on.

    Raises RequestError where the rest is too long, or a soft-token slot would be cut in two.
    """
    first, gone = prompt.start + 1, len(prompt) - size
    end = first + gone
    if gone < 0 or end > (prompt.item_ends[-1] if prompt.item_ends else first) + 1:
        raise RequestError(f"expected a prompt with {size} tokens or more and history to cut, got {len(prompt)} tokens")
    if any(s.start < end < s.start + s.length for s in prompt.slots):
        raise RequestError("expected soft-token slots of one token, so that a prompt can be cut anywhere")
    slots = [s for s in prompt.slots if s.start < first]
    slots += [Slot(s.start - gone, s.length, s.modality, s.item_id) for s in prompt.slots if s.start >= end]
    kept = [(i, e - gone) for i, e in zip(prompt.history, prompt.item_ends, strict=True) if e >= end]
    return Prompt(
        np.concatenate([prompt.token_ids[:first], prompt.token_ids[end:]]),
        tuple(slots),
        tuple(i for i, _ in kept),
        tuple(e for _, e in kept),
        prompt.start,
        prompt.dropped + len(prompt.history) - len(kept),
    )


def random_workload(
    vocabulary: int, requests: int, prefix: int, candidates: int, seed: int, title: int | None = None
) -> Workload:
    """Random token ids: prompts of `prefix` tokens, titles as long as real ones, or of `title` tokens each.

    Random titles begin alike far less often than real ones, so fewer tokens are shared: the packed way is at a
    disadvantage against real text.
    """
    rng = np.random.default_rng(seed)
    lengths = np.array(list(TITLE_LENGTHS))
    share = np.array(list(TITLE_LENGTHS.values()), dtype=float)
    jobs = []
    for request in range(requests):
        sizes = np.full(candidates, title) if title else rng.choice(lengths, size=candidates, p=share / share.sum())
        prompt = Prompt(rng.integers(0, vocabulary, size=prefix))
        jobs.append(
            Job(
                prompt, "tokens", tuple(random_title(rng, vocabulary, f"{request}-{n}", s) for n, s in enumerate(sizes))
            )
        )
    how = f"{title} tokens each" if title else "the lengths of MovieLens-100K's titles"
    return Workload(jobs, f"random token ids: prompts of {prefix} tokens, {candidates} titles of {how}")


def random_title(rng: np.random.Generator, vocabulary: int, name: str, size: int) -> Branch:
    """A title of `size` random tokens, the last one the end of the text."""
    ids: Ints = rng.integers(0, vocabulary - 1, size=size)
    ids[-1] = vocabulary - 1
    return Branch(name, ids)


def synthetic_titles(
    vocabulary: int, count: int, seed: int, words: Sequence[Sequence[int]] = (), end: int | None = None
) -> tuple[Ints, Ints]:
    """`count` made-up titles end to end: (tokens int64 [total], indptr int64 [count + 1]).

    A title is one to six words, drawn as words are in a language (frequency falls with rank), and an end token.
    words: the token ids of each word, most frequent first; none: 20,000 random words of one to three tokens.
    """
    rng = np.random.default_rng(seed)
    if not words:
        words = [rng.integers(0, vocabulary - 1, size=s).tolist() for s in rng.integers(1, 4, size=20_000)]
    table = np.concatenate([*map(np.asarray, words), [vocabulary - 1 if end is None else end]]).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum([len(w) for w in words])]).astype(np.int64)
    sizes = np.append(np.diff(starts), 1)
    rank = 1 / (np.arange(len(words)) + 10.0)
    lengths = rng.integers(1, 7, size=count) + 1
    stops = np.cumsum(lengths)
    drawn = rng.choice(len(words), size=int(stops[-1]), p=rank / rank.sum())
    drawn[stops - 1] = len(words)  # the end token's place in the table
    spans = sizes[drawn]
    ends = np.cumsum(spans)
    at = np.repeat(starts[drawn] - (ends - spans), spans) + np.arange(ends[-1])
    return table[at], np.concatenate([[0], ends[stops - 1]])


def catalogue_words(real: RealPrompts) -> tuple[list[list[int]], int]:
    """Words of the catalogue's titles as token ids, most frequent first, and the token that ends a title."""
    from collections import Counter

    count: Counter[str] = Counter()
    for item_id in real.titles:
        count.update(real.data.catalog[item_id].title.split())
    encoded = real.serializer.encoder.content([f" {word}" for word, _ in count.most_common()])
    return [ids.tolist() for ids in encoded], int(next(iter(real.titles.values())).token_ids[-1])
