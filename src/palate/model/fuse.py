"""Soft tokens into their slots: positions in the prompt, not entries of the vocabulary."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from palate.errors import SlotError
from palate.model.soft import SoftTokens
from palate.schema import Slot


def fill(embeds: Tensor, slots: Sequence[Slot], soft: SoftTokens | None) -> Tensor:
    """Write soft tokens over the slots' positions: embeds [T, D] -> [T, D], same dtype.

    Each distinct item is projected once. Raises SlotError where a slot's length is not the projector's token
    count, a slot leaves the sequence, or there is no projector at all.
    """
    if not slots:
        return embeds
    if soft is None:
        raise SlotError(f"the prompt has {len(slots)} soft-token slots, but this model carries no projectors")
    kinds: dict[str, list[Slot]] = defaultdict(list)
    for slot in slots:
        if slot.length != soft.length(slot.modality):
            raise SlotError(
                f"slot of item {slot.item_id!r} at {slot.start}: expected {soft.length(slot.modality)} positions "
                f"for {slot.modality}, got {slot.length}"
            )
        if slot.start < 0 or slot.start + slot.length > len(embeds):
            raise SlotError(f"slot of item {slot.item_id!r} at {slot.start} leaves the sequence of {len(embeds)}")
        kinds[slot.modality].append(slot)
    places, tokens = [], []
    for kind, group in kinds.items():
        distinct = sorted({s.item_id for s in group})
        row = {item: n for n, item in enumerate(distinct)}
        vectors = soft.vectors(kind, distinct)
        chosen = torch.tensor([row[s.item_id] for s in group], device=embeds.device)
        starts = torch.tensor([s.start for s in group], device=embeds.device)
        places.append((starts[:, None] + torch.arange(soft.length(kind), device=embeds.device)).flatten())
        tokens.append(vectors[chosen].flatten(0, 1))
    where = torch.cat(places)
    if len(torch.unique(where)) != len(where):
        raise SlotError("two soft-token slots claim the same position")
    return embeds.index_copy(0, where, torch.cat(tokens).to(embeds.dtype))
