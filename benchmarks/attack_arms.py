"""The defences that attacks are measured against, and one user's list under one of them."""

from __future__ import annotations

import random
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.attack_texts import KINDS, Bait, favourites
from palate import Recommender
from palate.engine.modes import nobody_asks
from palate.engine.modes.letters import Letters
from palate.engine.pack import Job
from palate.prompting import Serializer
from palate.prompting import text as prompting_text
from palate.prompting.encode import TextEncoder
from palate.schema import Ints, Item, Request, Wording

Row = dict[str, Any]


@dataclass(frozen=True)
class Arm:
    """A set of defences. config: options of the prompt config; bare: not even the ones that cannot be turned off, as a
    program would do it that pastes text into the chat markup and reads the whole with special tokens on.
    """

    name: str
    config: Mapping[str, Any]
    bare: bool = False


ARMS = (
    Arm("pasted", {}, bare=True),
    Arm("default", {}),
    Arm("guarded", {"max_title_chars": 100, "quote_titles": True}),
)


@dataclass(frozen=True)
class Victim:
    """One user's list: the request, its positive, the item that is attacked and what with."""

    request: Request
    positive: str
    target: str
    versions: Mapping[str, Item]

    @classmethod
    def of(
        cls, request: Request, positive: str, items: Mapping[str, Item], popular: Sequence[str], wording: Wording
    ) -> Victim:
        """The attacked item is a negative, drawn by the user's id."""
        target = random.Random(request.user_id).choice(sorted(set(request.candidates) - {positive}))
        liked = favourites(items, [e.item_id for e in request.history], "genres")
        bait = Bait(liked, tuple(items[i].title for i in popular), wording)
        return cls(request, positive, target, {name: kind(items[target], bait) for name, kind in KINDS.items()})


class Pasting(TextEncoder):
    """Reads everything as markup."""

    def content(self, texts: Sequence[str]) -> list[Ints]:
        return [self.markup(text) for text in texts]


@contextmanager
def serializer(rec: Recommender, arm: Arm, items: Mapping[str, Item], history: int) -> Iterator[Serializer]:
    """A serializer over `items` under one arm."""
    config = rec.config.model_copy(update={"max_history": history, "max_tokens": 2048, **arm.config})
    made = Serializer(rec.model.tokenizer, items, rec.dataset.wording, rec.dataset.show, config, lambda item_id: ())
    if not arm.bare:
        yield made
        return
    pasting = Pasting(rec.model.tokenizer)
    made.encoder = made._lines._encoder = pasting
    with mock.patch.object(prompting_text, "sanitize", lambda text, limit: text):
        yield made


def measure(rec: Recommender, arm: Arm, mode: str, victim: Victim, history: int) -> list[Row]:
    """Ranks of the attacked item before and after each attack, by raw and by calibrated scores."""
    ids = {kind: f"{victim.target}\x1f{kind}" for kind in victim.versions}
    if mode == "likelihood":
        ids.pop("field")  # the answer is a title alone
    items = ChainMap({ids[k]: victim.versions[k] for k in ids}, rec.shelf)  # type: ignore[arg-type]
    with serializer(rec, arm, items, history) as made:
        scores = _letters if mode == "letters" else _branches
        given = scores(rec, made, mode, victim, ids, True)
        alone = scores(rec, made, mode, victim, ids, False)
    rows = []
    for named, share in (("raw", 0.0), ("calibrated", 1.0)):
        lists = {kind: given[kind] - share * alone[kind] for kind in given}
        at = victim.request.candidates.index(victim.target)
        positive = victim.request.candidates.index(victim.positive)
        before = rank(lists["clean"], at)
        for kind, values in lists.items():
            told = {"mode": mode, "arm": arm.name, "scores": named, "kind": kind, "user": victim.request.user_id}
            row = {**told, "list": len(values), "before": before, "after": rank(values, at)}
            rows.append(row | ({"positive": rank(values, positive)} if kind == "clean" else {}))
    return rows


def rank(scores: Any, at: int) -> float:
    """The place of one candidate, from 1; half a place for each that ties with it."""
    others = np.delete(scores, at)
    return float(1 + (others > scores[at]).sum() + 0.5 * (others == scores[at]).sum())


def _lists(victim: Victim, ids: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """The candidate list, as it is and with each version in the attacked item's place."""
    listed = victim.request.candidates
    return {
        kind: tuple(new if i == victim.target else i for i in listed)
        for kind, new in [("clean", victim.target), *ids.items()]
    }


def _branches(
    rec: Recommender, made: Serializer, mode: str, victim: Victim, ids: Mapping[str, str], known: bool
) -> dict[str, Any]:
    """Scores of each list in the modes whose candidates are branches. Lists with equal prompts are read at once, so
    that what they share is read once: a score is a function of prompt and candidate alone.
    """
    template = rec.mode(mode).template(made)
    asked = victim.request if known else nobody_asks(victim.request)
    labels = made.labels(template) if mode == "yes_no" else ()
    lists = _lists(victim, ids)
    prompts = {kind: made.prompt(template, asked, listed) for kind, listed in lists.items()}
    groups: dict[bytes, list[str]] = {}
    for kind, prompt in prompts.items():
        groups.setdefault(prompt.token_ids.tobytes(), []).append(kind)
    found: dict[str, Any] = {}
    for kinds in groups.values():
        distinct = sorted({i for kind in kinds for i in lists[kind]})
        branches = tuple(made.branches(template, asked, distinct))
        job = Job(prompts[kinds[0]], "labels" if labels else "tokens", branches, labels)
        [output] = rec.runner.run([job])
        values = output.labels[:, 0] - output.labels[:, 1] if labels else [t.mean() for t in output.tokens]
        by = dict(zip(distinct, map(float, values), strict=True))
        found |= {kind: np.array([by[i] for i in lists[kind]]) for kind in kinds}
    return found


def _letters(
    rec: Recommender, made: Serializer, mode: str, victim: Victim, ids: Mapping[str, str], known: bool
) -> dict[str, Any]:
    """Scores of each list in mode letters, two orders each: every list is another prompt."""
    letters = Letters(shuffles=2)
    lists = _lists(victim, ids)
    orders = letters.orders(victim.request)
    asked, turned = [], []
    for listed in lists.values():
        swap = dict(zip(victim.request.candidates, listed, strict=True))
        asked.append(replace(victim.request if known else nobody_asks(victim.request), candidates=listed))
        turned.append([tuple(swap[i] for i in order) for order in orders])
    rows = letters.averaged(rec.runner, made, asked, turned)
    return {kind: np.array(row, dtype=np.float64) for kind, row in zip(lists, rows, strict=True)}
