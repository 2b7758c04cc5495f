"""Feature tables in a file: float16 safetensors, small enough to ship inside an adapter bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from palate.errors import FeatureError
from palate.schema import Features

FORMAT = "palate-features-1"
HALF_MAX = 65_504.0


def save_features(path: str | Path, tables: Mapping[str, Features], made: str = "") -> None:
    """Write tables of the same items: per modality the present rows as float16 and a mask, and the item ids
    once. made: a run manifest as JSON, kept among the file's metadata.

    Rounding to float16 costs at most 1 part in 2,048 of a value; a table with values over 65,504 stays
    float32. Written whole or not at all. Raises FeatureError where the tables do not share their items.
    """
    from safetensors.numpy import save

    ids = {t.item_ids for t in tables.values()}
    if len(ids) != 1:
        raise FeatureError(f"expected feature tables of the same items in the same order, got {len(ids)} orders")
    arrays: dict[str, Any] = {"item_ids": np.frombuffer(json.dumps(list(ids.pop())).encode(), dtype=np.uint8).copy()}
    for modality, table in tables.items():
        rows = table.vectors[table.present]
        fits = float(np.abs(rows).max(initial=0.0)) <= HALF_MAX
        arrays[f"{modality}/vectors"] = rows.astype(np.float16 if fits else np.float32)
        arrays[f"{modality}/present"] = table.present
    prints = json.dumps({m: t.fingerprint for m, t in tables.items()})
    tokens = json.dumps({m: t.tokens for m, t in tables.items()})
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    facts = {"format": FORMAT, "fingerprints": prints, "tokens": tokens, **({"manifest": made} if made else {})}
    temporary.write_bytes(save(arrays, metadata=facts))
    temporary.replace(path)


def load_features(path: str | Path) -> dict[str, Features]:
    """Read what `save_features` wrote: modality -> Features, vectors float32 [N, F].

    Raises FeatureError where the file is missing, not such a file, or inconsistent.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise FeatureError(f"expected a feature file at {path}, found none; write one with `palate features`")
    try:
        with safe_open(path, framework="numpy") as file:
            facts = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (safe_open is no mapping)
    except SafetensorError as error:
        raise FeatureError(f"{path}: not a safetensors file: {error}") from None
    if facts.get("format") != FORMAT:
        raise FeatureError(f"{path}: expected a file of format {FORMAT}, got {facts.get('format')!r}")
    ids = tuple(json.loads(arrays["item_ids"].tobytes()))
    tokens = json.loads(facts.get("tokens", "{}"))  # files of the first version have none: one token a row
    return {
        m: replace(_table(path, m, ids, f, arrays), tokens=tokens.get(m, 1))
        for m, f in json.loads(facts["fingerprints"]).items()
    }


def _table(path: Path, modality: str, ids: tuple[str, ...], fingerprint: str, arrays: Mapping[str, Any]) -> Features:
    rows, present = arrays.get(f"{modality}/vectors"), arrays.get(f"{modality}/present")
    if rows is None or present is None or len(present) != len(ids) or int(present.sum()) != len(rows):
        raise FeatureError(f"{path}: the table of modality {modality!r} is incomplete; write the file again")
    vectors = np.zeros((len(ids), rows.shape[1]), dtype=np.float32)
    vectors[present] = rows
    return Features(modality, ids, vectors, present.astype(bool), fingerprint)
