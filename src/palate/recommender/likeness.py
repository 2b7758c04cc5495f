"""How alike items are: by the labels they share, or by content vectors where a catalogue has no labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from palate.recommender.fields import Field
from palate.schema import Bools, Features, Floats, Ints, Item

CONTENT = ("text", "image", "video", "audio")
"""Modalities that say what an item is, the first one at hand is used; behaviour says who chose it."""
WIDEST = 4096
"""Most labels a table of items is made over; the commonest are kept."""


@dataclass(frozen=True)
class Alike:
    """The likeness of m items to one another.

    name: what a report calls it. rows: float32 [m, L], 0 or 1 a label, or unit vectors. known: bool [m], items that
    have a label or a vector. labels: whether rows are labels.
    """

    name: str
    rows: Floats
    known: Bools
    labels: bool

    def similarity(self, places: Ints) -> Floats:
        """Of every pair within lists of items: places int64 [..., K] -> float32 [..., K, K], 1 for an item and itself.

        Labels: shared ones by all of both (Jaccard). Vectors: cosine. NaN where either of two items is not known.
        """
        rows = self.rows[places]
        found = rows @ np.swapaxes(rows, -1, -2)
        if self.labels:
            sizes = rows.sum(axis=-1)
            either = sizes[..., :, None] + sizes[..., None, :] - found
            found = found / np.maximum(either, 1.0)
        known = self.known[places]
        both = known[..., :, None] & known[..., None, :]
        same = np.eye(places.shape[-1], dtype=bool)
        return np.where(same, np.float32(1), np.where(both, found, np.float32(np.nan))).astype(np.float32)


def label_field(fields: Mapping[str, Field]) -> Field | None:
    """The field that sorts items into kinds: of those with few different tags over many items (genres, categories;
    not actors), the one that says most; None where there is none.
    """
    broad = [field for field in fields.values() if field.kind == "tags" and field.broad and len(field.tags) > 1]
    return max(broad, key=lambda field: sum(field.tags.values()), default=None)


def by_labels(items: Sequence[Item], field: Field) -> Alike:
    """Likeness by the labels in one text field, small and capital letters alike."""
    sets = [{tag.casefold() for tag in field.split(item.text.get(field.name, ""))} for item in items]
    counts: dict[str, int] = {}
    for tags in sets:
        for tag in tags:
            counts[tag] = counts.get(tag, 0) + 1
    kept = sorted(counts, key=lambda tag: (-counts[tag], tag))[:WIDEST]
    column = {tag: n for n, tag in enumerate(kept)}
    rows = np.zeros((len(items), len(column)), dtype=np.float32)
    for row, tags in zip(rows, sets, strict=True):
        row[[column[tag] for tag in tags if tag in column]] = 1.0
    name = f"labels in {field.name!r}" + ("" if len(kept) == len(counts) else f", the {WIDEST:,} commonest")
    return Alike(name, rows, np.asarray(rows.any(axis=1), dtype=bool), True)


def by_vectors(vectors: Floats, present: Bools, name: str) -> Alike:
    """Likeness by content vectors, float32 [m, F]; present: bool [m], rows that are vectors."""
    rows = np.where(present[:, None], vectors, 0.0).astype(np.float32)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return Alike(name, rows / np.maximum(lengths, 1e-9), np.asarray(lengths[:, 0] > 0), False)


def alike(items: Sequence[Item], fields: Mapping[str, Field], tables: Mapping[str, Features]) -> Alike | None:
    """The likeness of items: by labels where `fields` (what the catalogue's text holds) has some, else by the first
    content table among `tables`; None where there is neither.
    """
    field = label_field(fields)
    if field is not None:
        return by_labels(items, field)
    name = next((m for m in CONTENT if m in tables), None)
    if name is None:
        return None
    table = tables[name]
    place = {i: n for n, i in enumerate(table.item_ids)}
    found = np.array([place.get(item.item_id, -1) for item in items], dtype=np.int64)
    present = (found >= 0) & table.present[found]
    return by_vectors(table.vectors[found], present, f"{name} vectors")
