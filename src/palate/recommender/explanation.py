"""An explanation as data: what moved a score and by how much; as text, as a table, as JSON, as a page."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palate.schema import Wording

UNITS = {
    "embedding": "log-probability of this {item} among a sample of the catalogue",
    "letters": "log-probability of this {item} among those listed",
    "yes_no": "log-odds of a yes",
    "likelihood": "mean log-probability of a token of the title",
    "rating": "points of the rating",
}
"""Mode -> what one unit of a value is (natural logarithms)."""
TIMES = ("embedding", "letters", "yes_no")
"""Modes in whose unit exp(value) says how many times as likely."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """One history item: how much the score falls without it, and the tags it shares with the item.

    share: the part of all that moved in its group, 0 to 1; image: its picture file, if it has one.
    """

    item_id: str
    title: str
    value: float
    shared: tuple[tuple[str, str], ...]
    share: float = 0.0
    image: Path | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """One thing that was left out: how much the score falls without it.

    name: of the field or modality, or the id of a history item; of: "item", "history" or "person"; label: its name
    for people; share: |value| as a part of all |values| of its group, 0 to 1.
    """

    name: str
    of: str
    label: str
    value: float
    share: float = 0.0


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why an item fits a history: how much the score falls when one thing at a time is left out.

    contributions: the history items; fields: text fields as far as the prompt writes them; modalities: those of the
    item and those of the history. Largest value first. together: how much the score falls without any history, None
    where there is none. A value is a difference of scores in mode `mode`, in its `unit`; one smaller than `rounding`
    is not told apart from the arithmetic of the model's dtype. notes: what was not measured, and why.

    Values do not add up to the score: two things that say the same each cost little when they are left out alone, and
    two that need each other each cost all. They say what this model makes of its input, not what causes a taste.
    """

    item_id: str
    title: str
    mode: str
    score: float
    reason: str
    contributions: tuple[Contribution, ...]
    fields: tuple[Part, ...] = ()
    modalities: tuple[Part, ...] = ()
    together: float | None = None
    rounding: float = 0.0
    notes: tuple[str, ...] = ()
    details: tuple[tuple[str, str], ...] = ()
    image: Path | None = None
    wording: Wording = field(default_factory=Wording)

    @property
    def unit(self) -> str:
        """What a value of 1 means, in words."""
        return UNITS.get(self.mode, "score").replace("{item}", self.wording.item)

    @property
    def groups(self) -> dict[str, tuple[Part, ...]]:
        """history, fields, modalities: everything that was left out, in one form."""
        history = tuple(map(_part, self.contributions))
        return {"history": history, "fields": self.fields, "modalities": self.modalities}

    def strongest(self, most: int) -> tuple[Contribution, ...]:
        """The history items that moved the score most, for or against; largest value first."""
        kept = sorted(self.contributions, key=lambda c: -abs(c.value))[:most]
        return tuple(c for c in self.contributions if c in kept)

    def counts(self, value: float) -> bool:
        """Whether a value is more than rounding."""
        return abs(value) > self.rounding

    def times(self, value: float) -> float | None:
        """How many times as likely the item is with the thing as without it; None where the unit does not say."""
        return math.exp(value) if self.mode in TIMES and value < 100 else None

    # --- forms --------------------------------------------------------------------------------------

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON. The keys are stable:

        item_id, title, mode, score, unit, rounding, reason, together (null without a history), notes (texts);
        contributions: [{item_id, title, value, share, shared: [{field, tag}]}], the history items;
        groups: {history, fields, modalities: [{name, of, label, value, share}]}, see `Part`.
        """
        return {
            "item_id": self.item_id,
            "title": self.title,
            "mode": self.mode,
            "score": self.score,
            "unit": self.unit,
            "rounding": self.rounding,
            "reason": self.reason,
            "together": self.together,
            "notes": list(self.notes),
            "contributions": [
                {
                    "item_id": c.item_id,
                    "title": c.title,
                    "value": c.value,
                    "share": c.share,
                    "shared": [{"field": field, "tag": tag} for field, tag in c.shared],
                }
                for c in self.contributions
            ],
            "groups": {
                group: [
                    {"name": p.name, "of": p.of, "label": p.label, "value": p.value, "share": p.share} for p in parts
                ]
                for group, parts in self.groups.items()
            },
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False, indent=2)

    def to_html(self) -> str:
        """One self-contained page: pictures embedded, no scripts, nothing fetched."""
        from palate.recommender.page import page

        return page(self)

    def _repr_html_(self) -> str:
        from palate.recommender.page import fragment

        return fragment(self)

    def __str__(self) -> str:
        lines = [f"{self.title}: {self.reason}"]
        for one in self.strongest(10):
            shared = ", ".join(tag for _, tag in one.shared[:3])
            lines.append(f"  {one.value:+8.3f}  {one.title}" + (f"  ({shared})" if shared else ""))
        for name in ("fields", "modalities"):
            lines += [f"  {p.value:+8.3f}  {p.label}" for p in self.groups[name]]
        return "\n".join(lines)

    def __rich__(self) -> Any:
        from rich.console import Group
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        history = self.strongest(15)
        groups = {"history": [_part(c) for c in history], "fields": self.fields, "modalities": self.modalities}
        top = max((abs(p.value) for parts in groups.values() for p in parts), default=0.0) or 1.0
        shared = [", ".join(tag for _, tag in c.shared[:3]) for c in history]
        table = Table(title=None, box=None, pad_edge=False, show_header=False)
        table.add_column(justify="right")
        for _ in range(3):
            table.add_column()
        for group, parts in groups.items():
            if parts:
                table.add_row("", "", f"[dim]{group}[/]", "")
            for n, one in enumerate(parts):
                bar = "█" * max(1, round(12 * abs(one.value) / top)) if self.counts(one.value) else "·"
                colour = "dim" if bar == "·" else "green" if one.value >= 0 else "red"
                beside = shared[n] if group == "history" else ""
                table.add_row(f"{one.value:+.3f}", f"[{colour}]{bar}[/]", escape(one.label), Text(beside, style="dim"))
        head = f"[bold]{escape(self.title)}[/bold]  {escape(self.reason)}"
        foot = Text("\n".join([f"Each number: {self.unit}, with it less without it.", *self.notes]), style="dim")
        return Group(head, table, foot) if table.row_count else head


def _part(one: Contribution) -> Part:
    return Part(one.item_id, "history", one.title, one.value, one.share)
