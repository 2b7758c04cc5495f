"""Reasons in words, built only from what the catalogue and the history hold: nothing is invented."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from palate.prompting import Show
from palate.recommender.fields import Field, rarity, shared
from palate.recommender.shelf import Shelf
from palate.schema import Wording

if TYPE_CHECKING:
    from palate.recommender.explanation import Explanation

T = TypeVar("T")

RECENT = 50
"""History items looked at for a reason, from the newest."""
TAGS = 3
"""Shared tags named at most."""
NAMES = 0.2
"""A field with more distinct tags than this share of the catalogue holds names: people, brands, makers."""
COMMON = 0.4
"""A tag on more than this share of the catalogue says nothing."""


SAID = {
    "image": "its picture",
    "audio": "its sound",
    "text": "what its text says",
    "behaviour": "who else {verb} it",
}
"""Modality -> what a sentence calls it."""


@dataclass(frozen=True)
class Shared:
    """What an item has in common with one history item: (field, tag), rarest first; weight: summed rarity."""

    item_id: str
    tags: tuple[tuple[str, str], ...]
    weight: float


class Reasoner:
    """Finds shared attributes and writes them as one sentence.

    nearest: (item, others) -> the one of the others the model holds most alike; None for an untuned base.
    """

    def __init__(
        self,
        shelf: Shelf,
        fields: Mapping[str, Field],
        wording: Wording,
        show: Show,
        nearest: Callable[[str, Sequence[str]], str] | None = None,
    ) -> None:
        self.shelf, self.wording, self._nearest = shelf, wording, nearest
        self.fields = {n: f for n, f in fields.items() if f.kind == "tags"}
        self._shown = {*show.history, *show.candidate}
        names = {n for n, f in self.fields.items() if len(f.tags) > NAMES * len(shelf)}
        self._telling = (self._shown | names) & self.fields.keys()

    def common(self, item_id: str, other: str) -> Shared:
        """The telling tags two items share."""
        total = len(self.shelf)
        both = shared(self.shelf[item_id], self.shelf[other], self.fields)
        tags = [
            (rarity(tag, self.fields[field], total), field, tag)
            for field, found in both.items()
            for tag in found
            if self.fields[field].tags.get(tag, 1) <= max(1, COMMON * total)
        ]
        # what the owner shows beside titles, and names of people or brands, before lesser fields
        tags.sort(key=lambda t: (t[1] not in self._telling, -t[0]))
        return Shared(other, tuple((field, tag) for _, field, tag in tags), sum(t[0] for t in tags))

    def reason(self, item_id: str, history: Sequence[str]) -> str:
        """One sentence: the history items an item resembles most, and in what."""
        w = self.wording
        recent = list(dict.fromkeys(h for h in reversed(history[-RECENT:]) if h != item_id))
        if not recent:
            return f"A first guess: no {w.items} {w.verb} so far to go by."
        found = [s for h in recent if (s := self._telling_only(self.common(item_id, h))).tags]
        if not found:
            if self._nearest is not None:
                near = self.shelf[self._nearest(item_id, recent)].title
                return f"Nothing listed in common; to the model it is nearest to {near}, which you {w.verb}."
            several = f"the {len(recent)} {w.items}" if len(recent) > 1 else f"the one {w.item}"
            return f"Ranked by the model from {several} you {w.verb}; they share no listed attribute."
        best = max(found, key=lambda s: (s.tags[0][0] in self._telling, s.weight))
        tags = best.tags[:TAGS]
        twins = [s.item_id for s in found if s is not best and set(tags) <= set(s.tags)][:1]
        return f"Like {self.titles([best.item_id, *twins])}, which you {w.verb}: {self.words(tags)}."

    # --- from measured values -----------------------------------------------------------------------

    def measured(self, found: Explanation) -> str:
        """Why the score is what it is, in words; nothing is named whose value is not above rounding."""
        first = self._from_history(found)
        mine = [(p.value, f"its {p.name}") for p in found.fields if p.of == "item"]
        mine += [
            (p.value, SAID.get(p.name, f"its {p.name}").replace("{verb}", self.wording.verb))
            for p in found.modalities
            if p.of == "item"
        ]
        names = _leading(mine, found.rounding)
        if not names:
            return first
        then = f", then {names[1]}" if len(names) > 1 else ""
        return f"{first} Of what is known about it, {names[0]} speaks for it most{then}."

    def _from_history(self, found: Explanation) -> str:
        w = self.wording
        if found.together is None:
            return f"A first guess: no {w.items} {w.verb} so far to go by."
        leading = _leading([(c.value, c) for c in found.contributions], found.rounding)
        if not leading:
            several = "; together they do" if found.together > found.rounding else ""
            return f"None of the {w.items} you {w.verb} speaks for it alone{several}."
        names, whole = self.titles([c.item_id for c in leading]), ""
        why = f"Mostly because you {w.verb} {names}"
        if found.together <= found.rounding:
            why = f"Of the {w.items} you {w.verb}, {names} {'speaks' if len(leading) == 1 else 'speak'} for it most"
            whole = f" All of them together {'speak against it' if found.counts(found.together) else 'do not move it'}."
        shared = next((c for c in leading if c.shared), None)
        if shared is None:
            return f"{why}.{whole}"
        tags = self.words(shared.shared[:TAGS])
        return f"{why}; it shares {tags}{f' with {shared.title}' if len(leading) > 1 else ''}.{whole}"

    def _telling_only(self, held: Shared) -> Shared:
        """Without the tags of lesser fields, where there are better ones."""
        better = tuple(t for t in held.tags if t[0] in self._telling)
        return Shared(held.item_id, better, held.weight) if better else held

    def titles(self, ids: Sequence[str]) -> str:
        """Titles joined for a sentence."""
        names = [self.shelf[i].title for i in ids]
        return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

    def words(self, tags: Sequence[tuple[str, str]]) -> str:
        """Tags for a sentence; those of fields not shown beside titles are named with their field."""
        groups: dict[str, list[str]] = {}
        for field, tag in tags:
            groups.setdefault(field, []).append(tag)
        return ", ".join(
            ", ".join(found) if field in self._shown else f"{field} {' and '.join(found)}"
            for field, found in groups.items()
        )


def _leading(moved: Sequence[tuple[float, T]], rounding: float) -> list[T]:
    """The one or two things of the largest values: a second one is named if it counts a quarter as much."""
    above = sorted((m for m in moved if m[0] > rounding), key=lambda m: -m[0])[:2]
    return [what for value, what in above if value >= 0.25 * above[0][0]]
