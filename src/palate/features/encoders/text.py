"""Text encoder: title and text fields through sentence-transformers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from pydantic import Field

from palate.config import Config
from palate.errors import FeatureError
from palate.features.device import pick, quiet
from palate.features.encoders import ContentEncoder, Encoded
from palate.schema import Item


class TextOptions(Config):
    """fields: which text fields, in order; None: all. max_chars: the whole text is cut to this length."""

    fields: list[str] | None = None
    max_chars: int = Field(4_000, ge=1)
    batch: int = Field(64, ge=1)
    device: str = "auto"


class Text(ContentEncoder):
    """Sentence embeddings (Reimers and Gurevych, 2019); default all-MiniLM-L6-v2, 384 wide, unit length."""

    name = "text"
    default_source = "all-minilm-l6-v2"
    Options = TextOptions
    options: TextOptions

    def text(self, item: Item) -> str:
        """The title, then a line "field: value" for each field that is not empty."""
        names = list(item.text) if self.options.fields is None else self.options.fields
        lines = [item.title, *(f"{n}: {item.text[n]}" for n in names if item.text.get(n, "").strip())]
        return "\n".join(lines).strip()[: self.options.max_chars]

    def identity(self, item: Item) -> bytes | None:
        text = self.text(item)
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() if text else None

    @cached_property
    def model(self) -> Any:
        with quiet():
            from sentence_transformers import SentenceTransformer

            try:
                return SentenceTransformer(
                    str(self.weights),
                    device=pick(self.options.device),
                    local_files_only=True,
                    model_kwargs={"use_safetensors": True},
                )
            except (OSError, ValueError, KeyError) as error:
                raise FeatureError(
                    f"{self.source}: expected a folder that sentence-transformers loads, with safetensors; "
                    f"{' '.join(str(error).split())[:300]}"
                ) from None

    @cached_property
    def width(self) -> int:
        return int(self.model.get_embedding_dimension())

    def encode(self, items: Sequence[Item]) -> Encoded:
        texts = [self.text(i).encode("utf-8", "replace").decode() for i in items]
        vectors = self.model.encode(
            texts,
            batch_size=self.options.batch,
            convert_to_numpy=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
        rows = np.asarray(vectors, dtype=np.float32).reshape(len(items), self.width)
        present = np.array([bool(t) for t in texts], dtype=bool)
        rows[~present] = 0.0
        return Encoded(rows, present, [])
