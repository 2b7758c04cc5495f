"""Why this item: leave each history item out in turn and see how much the score falls.

One batch of requests through the packed scorer: the whole history, then the history without each of its
items. Scores of mode `embedding` are turned into log-probabilities over a sample of the catalogue first, so
that contributions of all modes are differences of log-probabilities or of the mode's own score. Leave-one-out
attribution says what this model would have done without an item, not what caused a person's taste.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from palate.schema import Event, Request, Scores

if TYPE_CHECKING:
    from palate.recommender import Recommender

LEAST = 1e-3
"""A smaller contribution is no reason."""
LIMIT = 30
"""Newest history items that are left out in turn; older ones stay and are not weighed."""
REFERENCE = 2000
"""Catalogue items over which mode `embedding` is normalised."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """One history item: how much the score falls without it, and the tags it shares with the item."""

    item_id: str
    title: str
    value: float
    shared: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an item fits a history. contributions: largest first, of the newest LIMIT items."""

    item_id: str
    title: str
    mode: str
    score: float
    reason: str
    contributions: tuple[Contribution, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        plain = asdict(self)
        for one in plain["contributions"]:
            one["shared"] = [{"field": field, "tag": tag} for field, tag in one["shared"]]
        return plain

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2)

    def __str__(self) -> str:
        lines = [f"{self.title}: {self.reason}"]
        for one in self.contributions[:10]:
            shared = ", ".join(tag for _, tag in one.shared[:3])
            lines.append(f"  {one.value:+8.3f}  {one.title}" + (f"  ({shared})" if shared else ""))
        return "\n".join(lines)

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table

        table = Table(title=None, box=None, pad_edge=False)
        for name in ("weight", "", "history", "shared"):
            table.add_column(name, justify="right" if name == "weight" else "left")
        top = max((abs(c.value) for c in self.contributions), default=0.0) or 1.0
        for one in self.contributions[:15]:
            bar = "█" * max(1, round(12 * abs(one.value) / top))
            colour = "green" if one.value >= 0 else "red"
            shared = ", ".join(tag for _, tag in one.shared[:3])
            table.add_row(f"{one.value:+.3f}", f"[{colour}]{bar}[/]", escape(one.title), f"[dim]{escape(shared)}[/]")
        head = f"[bold]{escape(self.title)}[/bold]  {escape(self.reason)}"
        return Group(head, table) if self.contributions else head


def explain(rec: Recommender, item_id: str, request: Request, mode: str | None = None) -> Explanation:
    """Weigh each of the newest LIMIT history items for one item."""
    name = rec.mode(mode).name
    if name == "generate":
        # a beam gives no score to items it never reached; the same text's likelihood is what it climbs
        name = "likelihood"
    # an item already in the history must not explain itself
    history = tuple(e for e in request.history if e.item_id != item_id)[-_window(rec, name) :]
    candidates = (item_id, *_reference(rec, item_id, name))
    whole = replace(request, history=history, candidates=candidates)
    first = max(0, len(history) - LIMIT)
    without = [_without(whole, n) for n in range(first, len(history))]
    scores = rec.mode(name).scores(rec.runner, rec.serializer, [whole, *without])
    values = [_value(s, name) for s in scores]
    found = [
        Contribution(
            event.item_id,
            rec.shelf[event.item_id].title,
            values[0] - value,
            rec.reasoner.common(item_id, event.item_id).tags,
        )
        for event, value in zip(history[first:], values[1:], strict=True)
    ]
    found.sort(key=lambda c: -c.value)
    title = rec.shelf[item_id].title
    return Explanation(item_id, title, name, values[0], _sentence(rec, found, history), tuple(found))


def _window(rec: Recommender, mode: str) -> int:
    """History items the prompt can show: leaving one out must not let an older one in."""
    return max(1, rec.config.max_sequence if mode == "embedding" else rec.config.max_history)


def _without(request: Request, n: int) -> Request:
    history: tuple[Event, ...] = (*request.history[:n], *request.history[n + 1 :])
    return replace(request, request_id=f"{request.request_id} without {n}", history=history)


def _reference(rec: Recommender, item_id: str, mode: str) -> tuple[str, ...]:
    """Other items the mode needs beside the one explained: evenly spaced in the catalogue, so always the
    same.
    """
    size = {"embedding": REFERENCE, "letters": 9}.get(mode, 0)
    ids = [i for i in rec.shelf.item_ids if i != item_id]
    step = max(1, len(ids) // max(1, size))
    return tuple(ids[::step][:size])


def _value(scores: Scores, mode: str) -> float:
    if mode != "embedding":
        return float(scores.scores[0])
    logits = scores.scores.astype(np.float64)
    return float(logits[0] - np.logaddexp.reduce(logits))


def _sentence(rec: Recommender, found: Sequence[Contribution], history: Sequence[Event]) -> str:
    w = rec.dataset.wording
    if not history:
        return f"A first guess: no {w.items} {w.verb} so far to go by."
    leading = [c for c in found if c.value > LEAST][:2]
    if not leading:
        return f"None of the {w.items} you {w.verb} speaks for it; it stands on its own."
    if len(leading) == 2 and leading[1].value < 0.25 * leading[0].value:
        leading = leading[:1]
    names = rec.reasoner.titles([c.item_id for c in leading])
    shared = next((c for c in leading if c.shared), None)
    why = f"Mostly because you {w.verb} {names}"
    if shared is None:
        return why + "."
    tags = rec.reasoner.words(shared.shared[:3])
    return f"{why}; it shares {tags}" + (f" with {shared.title}." if len(leading) > 1 else ".")
