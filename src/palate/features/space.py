"""The text tower of a dual encoder (CLIP, SigLIP, CLAP): texts as vectors in the space of its pictures or sounds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from palate.errors import FeatureError
from palate.features.device import quiet
from palate.schema import Floats

SCALE = 100.0
"""What cosines are multiplied by before the softmax where the model does not say: CLIP's own upper bound."""


class TextTower:
    """Texts to unit vectors; loaded from a folder for transformers or sentence-transformers.

    scale: what the model was trained to multiply cosines by (Radford et al., 2021). Raises FeatureError where
    the source has no text tower that shares a space with its media.
    """

    def __init__(self, folder: Path, device: str):
        self.device, self.scale = device, SCALE
        self.transformer = None
        try:
            with quiet():
                if (folder / "modules.json").is_file():
                    from sentence_transformers import SentenceTransformer

                    self.transformer = SentenceTransformer(str(folder), device=device, local_files_only=True)
                    return
                self._load(folder)
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise _no_tower(folder, " ".join(str(error).split())[:300]) from None

    def _load(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        network = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True, dtype=torch.float32)
        if not hasattr(network, "get_text_features"):
            raise ValueError(f"a {type(network).__name__} reads no text")
        self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.network: Any = network.eval().to(self.device)
        for name in ("logit_scale", "logit_scale_a"):  # CLAP calls that of its sounds logit_scale_a
            if hasattr(network, name):
                self.scale = float(getattr(network, name).detach().exp().mean())
        config = network.config.text_config
        offset = 2 if "roberta" in str(config.model_type) or network.config.model_type == "clap" else 0
        positions = int(getattr(config, "max_position_embeddings", 512)) - offset
        self.longest = min(positions, int(self.tokenizer.model_max_length))
        # SigLIP was trained on texts padded to the full length, without a mask for the padding
        self.padded = str(network.config.model_type).startswith("siglip")

    @torch.no_grad()
    def vectors(self, texts: Sequence[str], batch: int = 64) -> Floats:
        """float32 [n, W], unit length; a text longer than the tower reads is cut."""
        if self.transformer is not None:
            rows = self.transformer.encode(
                list(texts), convert_to_numpy=True, normalize_embeddings=True, show_progress_bar=False
            )
            return np.asarray(rows, dtype=np.float32)
        parts = [self._batch(list(texts[n : n + batch])) for n in range(0, len(texts), batch)]
        return np.concatenate(parts)

    def _batch(self, texts: list[str]) -> Floats:
        padding = "max_length" if self.padded else "longest"
        tokens = self.tokenizer(texts, padding=padding, truncation=True, max_length=self.longest, return_tensors="pt")
        names = ("input_ids",) if self.padded else ("input_ids", "attention_mask")
        out = self.network.get_text_features(**{k: tokens[k].to(self.device) for k in names})
        pooled = out if isinstance(out, torch.Tensor) else out.pooler_output
        return unit(pooled.float().cpu().numpy())


def unit(rows: Floats) -> Floats:
    """Rows scaled to length 1; a zero row stays zero."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.maximum(lengths, 1e-12), dtype=np.float32)


def _no_tower(folder: Path, why: str) -> FeatureError:
    return FeatureError(
        f"expected a model with a text tower in the space of its media (CLIP, SigLIP, CLAP) at {folder}; {why}"
    )
