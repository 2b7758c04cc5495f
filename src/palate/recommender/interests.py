"""Interests: what a prompt has no room for of a long history, summed up in one line of real attributes.

    mostly Drama and Comedy from the 1990s; often Ridley Scott (director); rates Sci-Fi high

An attribute is named for what it adds over the catalogue: a person whose history is half drama, in a catalogue that is
half drama, is not said to like drama. Each attribute's part in the relative entropy of the history against the
catalogue, p log(p / q), ranks it, with p drawn towards q as if PRIOR more events had been ordinary ones (Dirichlet
smoothing; Zhai and Lafferty, 2004), so that a few events make no taste.

The line is a function of the events and the catalogue alone: training makes it from the part of the train history
before the one shown, serving from the events before the window, by the same code.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2b

from palate.prompting.text import sanitize
from palate.recommender.fields import Field, profile, sampled
from palate.recommender.filters import number
from palate.recommender.reasons import NAMES
from palate.schema import Event, Item

CALLED = {"zh": "兴趣"}
"""What the line is called among the profile; else `interests`."""
LEAST = 5
"""Fewer events make no line, and fewer rated ones no word on ratings."""
PRIOR = 5.0
LIFT = 1.2
"""An attribute is at least this many times as frequent as in the catalogue."""
BROAD, DECADE, NARROW = 0.15, 0.3, 3
"""Least share of the events of a genre and of a decade, and fewest items of a name."""
SURE = 2.5
"""Standard errors by which ratings of an attribute differ from the person's mean: some twenty are looked at."""
CHARS = 60
"""An attribute is cut to this many characters."""
KEPT = 20_000
"""Lines and item attributes remembered."""

Tags = Mapping[str, tuple[str, ...]]


@dataclass
class _Count:
    """One field over the events. told: events that have it; tags: events a tag; items: distinct items a tag."""

    told: int = 0
    tags: Counter[str] = field(default_factory=Counter)
    items: dict[str, set[str]] = field(default_factory=dict)

    def add(self, tags: Iterable[str], item_id: str) -> None:
        self.told += 1
        for tag in tags:
            self.tags[tag] += 1
            self.items.setdefault(tag, set()).add(item_id)


class Interests:
    """Sums up events. The catalogue is read with the first line; lines are remembered by the hash of their events.

    catalog: what attributes are compared with; items: where events' items are looked up, None for the catalogue.
    """

    def __init__(self, catalog: Mapping[str, Item], items: Mapping[str, Item] | None = None, language: str = "en"):
        self.catalog, self.items, self.language = catalog, catalog if items is None else items, language
        self._lines: OrderedDict[bytes, str] = OrderedDict()
        self._tags: dict[str, Tags] = {}

    def __call__(self, events: Sequence[Event]) -> dict[str, str]:
        """{"interests": the line} for events, oldest first; {} where there is nothing particular to say."""
        line = self.line(events)
        return {CALLED.get(self.language, "interests"): line} if line else {}

    def line(self, events: Sequence[Event]) -> str:
        """The line alone; empty where there is nothing particular to say."""
        key = _digest(events)
        if key in self._lines:
            self._lines.move_to_end(key)
        else:
            self._lines[key] = self._made(events)
            if len(self._lines) > KEPT:
                self._lines.popitem(last=False)
        return self._lines[key]

    # --- the catalogue ------------------------------------------------------------------------------

    @cached_property
    def fields(self) -> dict[str, Field]:
        """The fields whose values recur: tags, and years."""
        found = profile(sampled(self.catalog))
        return {n: f for n, f in found.items() if f.is_year or (f.kind == "tags" and len(f.tags))}

    @cached_property
    def shares(self) -> dict[str, dict[str, float]]:
        """Field -> tag -> share of the items that have the field."""
        counts = {name: _Count() for name in self.fields}
        for item in sampled(self.catalog):
            for name, tags in self._split(item).items():
                counts[name].add(tags, "")
        return {n: {tag: k / c.told for tag, k in c.tags.items()} for n, c in counts.items() if c.told}

    def _split(self, item: Item) -> Tags:
        found = {}
        for name, info in self.fields.items():
            text = item.text.get(name, "")
            tags: tuple[str, ...] = _decade(text) if info.is_year else tuple(dict.fromkeys(info.split(text)))
            if tags:
                found[name] = tags
        return found

    def _told(self, item_id: str) -> Tags:
        if item_id not in self._tags:
            if len(self._tags) >= KEPT:
                self._tags.clear()
            self._tags[item_id] = self._split(self.items[item_id])
        return self._tags[item_id]

    # --- the line -----------------------------------------------------------------------------------

    def _made(self, events: Sequence[Event]) -> str:
        known = [e for e in events if e.item_id in self.items]
        if len(known) < LEAST:
            return ""
        counts = {name: _Count() for name in self.fields}
        for event in known:
            for name, tags in self._told(event.item_id).items():
                counts[name].add(tags, event.item_id)
        genres = [self._best(counts, [n], BROAD)[:2] for n, f in self.fields.items() if f.kind == "tags" and f.broad]
        broad = max(genres, key=lambda best: sum(gain for gain, _, _ in best), default=[])
        decade = self._best(counts, [n for n, f in self.fields.items() if f.is_year], DECADE)[:1]
        names = self._best(counts, [n for n, f in self.fields.items() if len(f.tags) > NAMES * len(self.catalog)], 0.0)
        often = [(n, t) for _, n, t in names if len(counts[n].items[t]) >= NARROW][:1]
        write = _chinese if self.language == "zh" else _english
        return write(
            [t for _, _, t in broad],
            [t for _, _, t in decade],
            often,
            *self._rated(known, broad[0][1] if broad else ""),
        )

    def _best(self, counts: Mapping[str, _Count], names: Iterable[str], share: float) -> list[tuple[float, str, str]]:
        """(part of the relative entropy, field, tag), largest first: tags of at least this share of the events."""
        found = []
        for name in names:
            count = counts[name]
            for tag, n in count.tags.items():
                usual = self.shares.get(name, {}).get(tag, 0.0)
                if count.told < LEAST or n < max(2.0, share * count.told):
                    continue
                # an attribute the catalogue's sample lacks is as rare as one item
                usual = usual or 1 / max(1, len(self.catalog))
                likely = (n + PRIOR * usual) / (count.told + PRIOR)
                if likely >= LIFT * usual:
                    found.append((-likely * math.log(likely / usual), name, tag))
        return [(-gain, name, tag) for gain, name, tag in sorted(found)]

    def _rated(self, events: Sequence[Event], field: str) -> tuple[str, str]:
        """The tags of a field this person rates high and low, empty where no difference is sure."""
        rated = [(e, e.rating) for e in events if e.rating is not None and math.isfinite(e.rating)]
        if len(rated) < LEAST:
            return "", ""
        mean = sum(r for _, r in rated) / len(rated)
        spread = math.sqrt(sum((r - mean) ** 2 for _, r in rated) / len(rated))
        if not spread:
            return "", ""
        sums: dict[str, list[float]] = {}
        for event, rating in rated:
            for tag in self._told(event.item_id).get(field, ()):
                sums.setdefault(tag, []).append(rating - mean)
        errors = {t: sum(d) / math.sqrt(len(d)) / spread for t, d in sums.items() if len(d) >= LEAST}
        ranked = sorted(errors, key=lambda t: (-errors[t], t))
        high = ranked[0] if ranked and errors[ranked[0]] >= SURE else ""
        low = ranked[-1] if ranked and errors[ranked[-1]] <= -SURE else ""
        return high, low


def _digest(events: Sequence[Event]) -> bytes:
    state = blake2b(digest_size=16)
    for event in events:
        state.update(f"{len(event.item_id)} {event.item_id} {event.rating}\n".encode(errors="replace"))
    return state.digest()


def _decade(text: str) -> tuple[str, ...]:
    year = number(text)
    return () if year is None or not math.isfinite(year) else (f"{int(year) // 10 * 10}",)


def _clean(text: str) -> str:
    return sanitize(text, CHARS)


def _english(broad: Sequence[str], decade: Sequence[str], often: Sequence[tuple[str, str]], high: str, low: str) -> str:
    parts = []
    if broad or decade:
        when = f"from the {decade[0]}s" if decade else ""
        parts.append(" ".join(p for p in ("mostly", " and ".join(map(_clean, broad)), when) if p))
    parts += [f"often {_clean(tag)} ({_clean(name.replace('_', ' '))})" for name, tag in often]
    rates = [f"{_clean(tag)} {how}" for tag, how in ((high, "high"), (low, "low")) if tag]
    if rates:
        parts.append("rates " + " and ".join(rates))
    return "; ".join(parts)


def _chinese(broad: Sequence[str], decade: Sequence[str], often: Sequence[tuple[str, str]], high: str, low: str) -> str:
    parts = []
    if broad or decade:
        when = [f"{decade[0]}年代"] if decade else []
        parts.append("多为" + "、".join([*map(_clean, broad), *when]))
    parts += [f"常有{_clean(tag)}（{_clean(name)}）" for name, tag in often]
    parts += [f"对{_clean(tag)}评分{how}" for tag, how in ((high, "高"), (low, "低")) if tag]
    return "；".join(parts)
