"""What a run's scores depend on, so that work of another run is never taken for its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import palate
from palate.apps.candidates import chunks
from palate.apps.candidates.tables import Table
from palate.errors import DataError

if TYPE_CHECKING:
    from palate.model import Model
    from palate.recommender import Recommender


def identity(
    rec: Recommender, tables: Sequence[Table], modes: Sequence[str], top_k: int | None, new_items: Path | None
) -> dict[str, Any]:
    """Everything the rows of an output follow from, as JSON."""
    files = json.dumps([[t.path, t.size, t.stamp] for t in tables])
    return {
        "palate": palate.__version__,
        "input": hashlib.sha256(files.encode("utf-8", "surrogatepass")).hexdigest(),
        "chunks": [chunks.WEIGHT, chunks.REQUESTS, chunks.HISTORY],
        "modes": list(modes),
        "top_k": top_k,
        "new_items": hashlib.sha256(new_items.read_bytes()).hexdigest() if new_items else None,
        "data": rec.dataset.fingerprint,
        "adapters": {name: weights(one.model) for name, one in rec.adapters.items()},
        "prompts": {name: repr(one.config) for name, one in rec.adapters.items()},
    }


def weights(model: Model) -> str:
    """A checksum of a model as it is held: base, adapter, item tables, precision. Another sum for other weights."""
    state = hashlib.sha256()
    with torch.inference_mode():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            data = tensor.detach().contiguous().reshape(-1)
            size = data.element_size()
            plain = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[size]
            state.update(int(data.view(plain).sum(dtype=torch.int64)).to_bytes(8, "little", signed=True))
    return state.hexdigest()


def check_same(found: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    """Raises DataError that names what differs between an unfinished run and this one."""
    words = {
        "palate": "another version of palate", "input": "other candidate tables", "chunks": "chunks of another size",
        "modes": "other modes", "top_k": "another --top-k", "new_items": "other new items", "data": "another data set",
        "adapters": "another adapter, base or precision", "prompts": "other prompts",
    }  # fmt: skip
    differs = [text for key, text in words.items() if found.get(key) != wanted[key]]
    if differs:
        raise DataError(
            f"{folder}: the unfinished run there is of {', '.join(differs)}; throw it away with --restart, or name "
            "another output with -o"
        )
