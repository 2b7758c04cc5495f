"""What stands beside the language model, as tables: soft tokens of every item, and the matching head.

soft_tokens.safetensors   KIND.vectors [N, k, D] in the model's dtype, KIND.present bool [N]; metadata: item_ids, kinds
matching.safetensors      norm.weight, norm.bias [D], query.weight [E, D], query.bias [E], items [N, E], float32
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from palate.errors import BundleError
from palate.model import Model
from palate.schema import SlotPlan

SOFT, MATCHING = "soft_tokens.safetensors", "matching.safetensors"
_ROWS = 4096
"""Items projected at once."""


@torch.no_grad()
def write(model: Model, folder: Path) -> dict[str, Any]:
    """Write both files for the items the bundle holds; returns facts. Raises BundleError without soft tokens."""
    from safetensors.torch import save_file

    soft = model.soft
    if soft is None:
        raise BundleError("expected an adapter with projectors, got a model without soft tokens")
    ids = list(soft.item_ids)
    plans = [dict(soft.slots(i)) for i in ids]
    kinds = list(dict.fromkeys(kind for plan in plans for kind in plan))
    tensors: dict[str, torch.Tensor] = {}
    for kind in kinds:
        here = [n for n, plan in enumerate(plans) if kind in plan]
        table = torch.zeros((len(ids), soft.length(kind), _width(model)), dtype=model.dtype)
        for part in _parts(here):
            table[part] = soft.vectors(kind, [ids[n] for n in part]).to(model.dtype)
        tensors[f"{kind}.vectors"] = table
        tensors[f"{kind}.present"] = torch.tensor([kind in plan for plan in plans])
    named = {"item_ids": json.dumps(ids), "kinds": json.dumps([[k, soft.length(k)] for k in kinds])}
    save_file(tensors, folder / SOFT, named)
    head = soft.matching
    save_file(
        {
            "norm.weight": head.norm.weight.float(),
            "norm.bias": head.norm.bias.float(),
            "query.weight": head.query.weight.float(),
            "query.bias": head.query.bias.float(),
            "items": model.item_vectors().float().contiguous(),
        },
        folder / MATCHING,
        {"item_ids": named["item_ids"], "eps": str(head.norm.eps)},
    )
    return {"file": SOFT, "items": len(ids), "kinds": {k: soft.length(k) for k in kinds}, "matching": MATCHING}


def _width(model: Model) -> int:
    return int(model.lm.get_input_embeddings().weight.shape[1])


def _parts(rows: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(rows), _ROWS):
        yield rows[start : start + _ROWS]


class SoftTable:
    """Soft tokens of a written export, read from the file as they are asked for.

    item_ids: in table order. Raises BundleError where the file is damaged.
    """

    def __init__(self, file: Path) -> None:
        from safetensors import safe_open

        try:
            with safe_open(file, framework="pt") as opened:
                facts = opened.metadata() or {}
                self.item_ids: tuple[str, ...] = tuple(json.loads(facts["item_ids"]))
                self.kinds: tuple[tuple[str, int], ...] = tuple((k, int(n)) for k, n in json.loads(facts["kinds"]))
                self._present = {k: opened.get_tensor(f"{k}.present").numpy() for k, _ in self.kinds}
        except Exception as error:
            raise BundleError(f"{file}: expected the soft tokens of an export, cannot read them: {error}") from error
        self._file = file
        self._row = {item: n for n, item in enumerate(self.item_ids)}

    def slots(self, item_id: str) -> SlotPlan:
        """The soft tokens an item gets: ((kind, how many), ...); () for an item the export does not know."""
        row = self._row.get(item_id)
        return () if row is None else tuple((k, n) for k, n in self.kinds if self._present[k][row])

    def vectors(self, kind: str, item_id: str) -> np.ndarray[Any, Any]:
        """An item's soft tokens of a kind: float32 [k, D]."""
        from safetensors import safe_open

        with safe_open(self._file, framework="pt") as opened:
            row = opened.get_slice(f"{kind}.vectors")[self._row[item_id] : self._row[item_id] + 1]
        found: np.ndarray[Any, Any] = row[0].float().numpy()
        return found
