"""SASRec, a small transformer over item numbers: shared ground for the retriever and the encoder of that name.

    network = sasrec.fit(train, SasRecOptions(width=64))
    network.scores([history])       float32 [1, N]

`sequential.sasrec` loads torch: import it where it is used. This module does not.
"""

from __future__ import annotations

from pydantic import Field

from palate.config import Config


class SasRecOptions(Config):
    """Of the network (width, layers, heads, dropout, length: how many items it reads back) and of its training."""

    width: int = Field(64, ge=2)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    dropout: float = Field(0.3, ge=0, lt=1)
    length: int = Field(100, ge=1)
    epochs: int = Field(60, ge=1)
    lr: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    batch: int = Field(64, ge=1)
    """Sequences a step."""
    seed: int = 1
