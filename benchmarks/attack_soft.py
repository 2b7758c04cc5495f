"""Attacks on mode embedding, where a new item's text is read by an encoder and not by the language model."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks.attack_texts import KINDS, Bait, favourites, plot
from palate import Recommender
from palate.evaluate.protocol import SEED, protocol
from palate.prompting.text import sanitize

Row = dict[str, Any]
TARGETS = 8
"""Items that are added anew, as strangers would, and attacked; the means are over them."""
CAPS = {"default": None, "capped": 100}
"""Arms: the encoder reads the text as it is, or clean fields of at most so many characters (plots 300)."""


def measured(adapter: str, data: str, users: int, done: set[tuple[str, ...]]) -> Iterator[list[Row]]:
    """Rows of 64 users after another."""
    rec = Recommender.load(adapter, data=data)
    interactions = rec.dataset.histories.interactions
    cases = protocol("loo-full").cases(interactions, SEED, "valid", users)
    chosen = np.bincount(protocol("loo-full").split(interactions).train.items, minlength=len(interactions.item_ids))
    popular = [interactions.item_ids[i] for i in np.argsort(-chosen, kind="stable")[:3]]
    liked = favourites(rec.shelf, [interactions.item_ids[i] for i in np.argsort(-chosen)[:200]], "genres")
    bait = Bait(liked, tuple(rec.shelf[i].title for i in popular), rec.dataset.wording)
    known = [i for i in interactions.item_ids if rec.shelf[i].text.get("plot")]
    kinds = {"clean": lambda item, bait: item, **KINDS, "plot": plot}
    places: dict[tuple[str, str, int], int] = {}
    for n, target in enumerate(random.Random(SEED).sample(known, TARGETS)):
        for arm, cap in CAPS.items():
            for name, kind in kinds.items():
                item = kind(rec.shelf[target], bait)
                if cap is not None:
                    text = {k: sanitize(v, 300) for k, v in item.text.items()}
                    item = replace(item, title=sanitize(item.title, cap), text=text)
                places[arm, name, n] = len(rec.shelf)
                rec.add_item(item.title, item.text, item.media)
    for start in range(0, len(cases), 64):
        chunk = [c for c in cases[start : start + 64] if ("embedding", "default", c.user_id) not in done]
        requests = [c.request(interactions, rec.dataset.histories.events(c.user_id)) for c in chunk]
        asked = [replace(r, candidates=rec.shelf.item_ids) for r in requests]
        for case, answer in zip(chunk, rec.score(asked) if asked else [], strict=True):
            yield list(_rows(case, np.asarray(answer.scores), places, len(interactions.item_ids)))


def _rows(case: Any, scores: Any, places: dict[tuple[str, str, int], int], items: int) -> Iterator[Row]:
    """One user's mean rank over the targets, among the unseen items, before and after."""
    unseen = scores[:items][case.allowed(items)]
    ranks = {key: 1 + int((unseen > scores[at]).sum()) for key, at in places.items()}
    for arm, kind in dict.fromkeys((arm, kind) for arm, kind, _ in places):
        after = [ranks[arm, kind, n] for n in range(TARGETS)]
        before = [ranks[arm, "clean", n] for n in range(TARGETS)]
        told = {"mode": "embedding", "arm": arm, "scores": "raw", "kind": kind, "user": case.user_id}
        if kind == "clean":
            positive = int((unseen > scores[case.positive]).sum()) + 1
            yield {**told, "list": len(unseen), "positive": positive, "before": before, "after": before}
        else:
            yield {**told, "list": len(unseen), "before": before, "after": after}
