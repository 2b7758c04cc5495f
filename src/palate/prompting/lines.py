"""Item lines: the token ids and soft-token slots of one item under one template piece, kept once made."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from palate.prompting.encode import TextEncoder, ints
from palate.prompting.template import Template
from palate.prompting.text import MEDIA_MARK, Caps, EventView, ItemView, Placeholder
from palate.schema import Event, Ints, Item, Slot, SlotPlan

_REQUEST = ("profile", "context", "query")
_OWN = ("event", "label", "gap")
Plan = tuple[tuple[str, int], ...]


class Show(Protocol):
    """Which text fields stand beside a title."""

    @property
    def history(self) -> Sequence[str]: ...
    @property
    def candidate(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True)
class ShowFields:
    """A plain Show."""

    history: Sequence[str] = ()
    candidate: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Line:
    """Token ids int64 [T] of one item; slot positions count from the line's first token."""

    token_ids: Ints
    slots: tuple[Slot, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """What a line is made from, besides the template."""

    item_id: str
    event: Event | None = None
    label: str = ""
    gap: str = ""
    """How long after the event before, in words."""


class Lines:
    """Makes lines in batches and remembers them. A line depends only on what its piece mentions."""

    limit = 400_000
    """Lines remembered before all are forgotten and made anew."""

    def __init__(
        self,
        encoder: TextEncoder,
        items: Mapping[str, Item],
        show: Show,
        slots: Callable[[str], SlotPlan],
        caps: Caps,
    ) -> None:
        self._encoder = encoder
        self._items = items
        self._show = show
        self._slots = slots
        self._caps = caps
        # two levels, so that what a whole batch shares is hashed once
        self._known: dict[Hashable, dict[Hashable, Line]] = {}
        self._count = 0

    def clear(self) -> None:
        """Forget all lines: call it when an item's text changed."""
        self._known.clear()
        self._count = 0

    def showing(self, show: Show) -> Lines:
        """Lines of the same items with other fields beside a title."""
        return Lines(self._encoder, self._items, show, self._slots, self._caps)

    def over(self, items: Mapping[str, Item], slots: Callable[[str], SlotPlan], caps: Caps) -> Lines:
        """Lines of other items with the same fields beside a title."""
        return Lines(self._encoder, items, self._show, slots, caps)

    def make(
        self,
        template: Template,
        piece: str,
        entries: Sequence[Entry],
        values: Mapping[str, object],
        tail: Ints | None = None,
    ) -> list[Line]:
        """One line an entry. values: the request's variables; tail: ids appended to every line."""
        uses = template.uses(piece)
        shared = (
            template.hash,
            piece,
            values["wording"],
            *(_frozen(values[v]) for v in _REQUEST if v in uses),
        )
        known = self._known.setdefault(shared, {})
        media = "media" in uses
        plans: list[Plan] = [tuple(self._slots(e.item_id)) if media else () for e in entries]
        varied = not uses.isdisjoint(_OWN)
        own = [_own(e, uses) for e in entries] if varied else [()] * len(entries)
        keys = [(e.item_id, plan, o) for e, plan, o in zip(entries, plans, own, strict=True)]
        missing = {k: n for n, k in enumerate(keys) if k not in known}
        if missing:
            self._count += len(missing)
            if self._count > self.limit:
                self.clear()
                missing = {k: n for n, k in enumerate(keys)}
                known = self._known.setdefault(shared, {})
                self._count = len(missing)
            made = self._fill(template, piece, [(entries[n], plans[n]) for n in missing.values()], values, tail)
            known.update(zip(missing, made, strict=True))
        return [known[k] for k in keys]

    def _fill(
        self,
        template: Template,
        piece: str,
        entries: list[tuple[Entry, Plan]],
        values: Mapping[str, object],
        tail: Ints | None,
    ) -> list[Line]:
        """Render all, tokenise all in one call, then put the slots in."""
        fields = self._show.history if piece == "history_item" else self._show.candidate
        split: list[list[str]] = []
        for entry, plan in entries:
            media = Placeholder(MEDIA_MARK, True) if any(n for _, n in plan) else ""
            view = ItemView.of(self._items[entry.item_id], fields, self._caps, quote=piece != "answer")
            event = EventView.of(entry.event, self._caps.field)
            own = {**values, "item": view, "event": event, "label": entry.label, "gap": entry.gap, "media": media}
            split.append(template.render(piece, own).split(MEDIA_MARK))
        encoded = iter(self._encoder.content([text for texts in split for text in texts]))
        lines = []
        for (entry, plan), texts in zip(entries, split, strict=True):
            parts = [next(encoded) for _ in texts]
            lines.append(self._line(entry.item_id, plan, parts, tail))
        return lines

    def _line(self, item_id: str, plan: Sequence[tuple[str, int]], parts: list[Ints], tail: Ints | None) -> Line:
        ids: list[Ints] = []
        slots: list[Slot] = []
        at = 0
        for n, part in enumerate(parts):
            ids.append(part)
            at += len(part)
            for modality, length in plan if n < len(parts) - 1 else ():
                if length:
                    slots.append(Slot(at, length, modality, item_id))
                    ids.append(np.full(length, self._encoder.pad, dtype=np.int64))
                    at += length
        if tail is not None:
            ids.append(tail)
        return Line(np.concatenate(ids) if ids else ints([]), tuple(slots))


def _own(entry: Entry, uses: frozenset[str]) -> tuple[Hashable, ...]:
    own: tuple[Hashable, ...] = ()
    if "event" in uses and entry.event is not None:
        own = (str(entry.event.rating), tuple(entry.event.context.items()), entry.event.review)
    return (*own, entry.label, entry.gap)


def _frozen(value: object) -> Hashable:
    return tuple(value.items()) if isinstance(value, Mapping) else str(value)
