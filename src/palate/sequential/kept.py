"""Fitted networks, kept in the cache folder: the encoder, the retriever and a teacher ask for the same one."""

from __future__ import annotations

import hashlib
import json
import uuid
import warnings
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from palate.schema import Interactions
from palate.sequential import SasRecOptions
from palate.sequential.sasrec import SasRec, fit
from palate.sources import cache_dir

VERSION = 1
"""Goes up when the code would fit another network from the same options and events."""


def fitted(train: Interactions, options: SasRecOptions) -> SasRec:
    """The network `fit` gives, from the cache where it was fitted before on the same events."""
    path = _place(train, options)
    if path.is_file():
        try:
            network = SasRec(len(train.item_ids), options)
            network.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            warnings.warn(f"{path}: damaged cache file, SASRec is fitted again: {error}", stacklevel=2)
        else:
            network.eval()
            return network
    network = fit(train, options)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{uuid.uuid4().hex}.partial")
    save_file({name: weight.contiguous() for name, weight in network.state_dict().items()}, partial)
    partial.replace(path)
    return network


def _place(train: Interactions, options: SasRecOptions) -> Path:
    told = json.dumps([VERSION, train.digest, options.model_dump()], sort_keys=True)
    return cache_dir() / "sequential" / f"sasrec-{hashlib.sha256(told.encode()).hexdigest()[:24]}.safetensors"
