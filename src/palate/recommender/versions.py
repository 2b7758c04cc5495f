"""Items as they would be without something: without a text field, or without a modality.

A version is an item like any other, under an id no item has, so serializer, engine and modes need not know of it. It
lives beside the recommender, on a model that shares all weights and holds feature rows for a few items only. The
recommender's own tables, caches and items are not touched, so nothing has to be put back, whatever goes wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from palate.model import Model
from palate.schema import Item, SlotPlan

if TYPE_CHECKING:
    from palate.recommender import Recommender

TITLE = "title"
"""The name of the title among the text fields."""


class Versions:
    """Items of a recommender and versions of them; `serializer` writes both.

    Its token budget is twice the recommender's, so that a version whose text is longer by a word pushes nothing out
    of the prompt: pass histories that fit the recommender's own.
    """

    def __init__(self, rec: Recommender, item_ids: Iterable[str]) -> None:
        self._rec = rec
        self._soft = rec.model.soft
        self.items: dict[str, Item] = {i: rec.shelf[i] for i in item_ids}
        self._origin: dict[str, tuple[str, str]] = {}
        config = rec.config.model_copy(update={"max_tokens": 2 * rec.config.max_tokens})
        self.serializer = rec.serializer.over(self.items, self.slots, config)

    def modalities(self, item_id: str) -> tuple[str, ...]:
        """The modalities the adapter has vectors of for an item or a version."""
        item, without = self._origin.get(item_id, (item_id, ""))
        return () if self._soft is None else tuple(m for m in self._soft.has(item) if m != without)

    def slots(self, item_id: str) -> SlotPlan:
        """The soft tokens an item or a version gets."""
        return () if self._soft is None else self._soft.plan(self.modalities(item_id))

    def without_field(self, item_id: str, field: str) -> str:
        """The item's version without a text field; the item itself where it has none.

        A title is never empty, so the domain's noun ("movie") takes its place.
        """
        item = self.items[item_id]
        if field == TITLE:
            return self._add(replace(item, title=self._rec.dataset.wording.item), f"no {TITLE}")
        if not item.text.get(field, "").strip():
            return item_id
        rest = {name: text for name, text in item.text.items() if name != field}
        return self._add(replace(item, text=rest), f"no field {field}")

    def without_modality(self, item_id: str, modality: str) -> str:
        """The item's version without a modality; the item itself where it has none."""
        if modality not in self.modalities(item_id):
            return item_id
        return self._add(self.items[item_id], f"no modality {modality}", modality)

    def _add(self, item: Item, what: str, modality: str = "") -> str:
        name = f"{item.item_id} ({what})"
        while name in self._rec.shelf:
            name += "'"
        self.items[name] = replace(item, item_id=name)
        self._origin[name] = (item.item_id, modality)
        return name

    def origin(self, item_id: str) -> str:
        """The shelf's id of an item or a version."""
        return self._origin.get(item_id, (item_id, ""))[0]

    def model(self, item_ids: Iterable[str]) -> Model:
        """The recommender's model with feature rows for these items and versions, in this order, and no others."""
        own = self._rec.model
        if own.soft is None:
            return own
        rows = {i: self._origin.get(i, (i, "")) for i in dict.fromkeys(item_ids)}
        soft = own.soft.versions({i: (item, (without,)) for i, (item, without) in rows.items()})
        return Model(own.lm, own.tokenizer, soft, own.config, own.base_digest, own.adapter)
