"""Tags: what a sound is, by an audio classifier of transformers (AST, wav2vec 2.0, Whisper ...)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from palate.config import Config
from palate.errors import FeatureError
from palate.features.captioners import Captioned, Captioner, one_line
from palate.features.container import MAX_BYTES
from palate.features.device import pick, quiet
from palate.features.encoders._audition import Transformers, Window
from palate.features.files import file_identity
from palate.features.problem import Unusable
from palate.features.sound import MAX_SECONDS, decode
from palate.schema import Floats, Item


class TagsOptions(Config):
    """k: tags written at most. floor: a class below this probability is not named. max_seconds: only the
    first so many seconds count. batch: clips a forward pass (0: 4 on a CPU, 32 on a GPU). workers: decoding
    threads (0: one per core). max_bytes: a larger file costs that item's tags.
    """

    k: int = Field(3, ge=1)
    floor: float = Field(0.1, ge=0, lt=1)
    max_seconds: float = Field(MAX_SECONDS, gt=0, le=3600)
    batch: int = Field(0, ge=0)
    workers: int = Field(0, ge=0)
    device: str = "auto"
    max_bytes: int = Field(MAX_BYTES, ge=1)


class Tags(Captioner):
    """The k most probable classes of a sound by name, such as "Dog, Bark". A film is heard too."""

    name = "tags"
    medium = "audio"
    example = "hub:MIT/ast-finetuned-audioset-10-10-0.4593"
    Options = TagsOptions
    options: TagsOptions

    @cached_property
    def listener(self) -> Listener:
        assert self.weights is not None  # a source is required
        return Listener(self.weights, pick(self.options.device))

    def identity(self, item: Item) -> bytes | None:
        path = item.media.get(self.modality)
        return None if path is None else file_identity(path, self.options.max_bytes)

    def caption(self, items: Sequence[Item]) -> Captioned:
        o, listener = self.options, self.listener

        def hear(item: Item) -> Any:
            samples = decode(item.media[self.modality], listener.rate, o.max_seconds, max_bytes=o.max_bytes)
            if not len(samples):
                raise Unusable("its sound track has no samples")
            return listener.prepare(samples)

        batch = o.batch or (4 if pick(o.device) == "cpu" else 32)
        return self.in_batches(items, hear, self._words, batch, o.workers)

    def _words(self, clips: list[Any]) -> list[str]:
        return [self._line(chances) for chances in self.listener.forward(clips)]

    def _line(self, chances: Floats) -> str:
        best = np.argsort(-chances, kind="stable")[: self.options.k]
        return one_line(", ".join(self.listener.names[n] for n in best if chances[n] >= self.options.floor))


class Listener(Transformers):
    """An audio classifier. `forward`: probabilities float32 [n, C] over `names`; those of the windows of a long
    clip are averaged.
    """

    def __init__(self, folder: Path, device: str):
        import torch
        from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

        self.dtype, self.device = torch.float32, device
        try:
            with quiet():
                self.extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
                network = AutoModelForAudioClassification.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True, dtype=self.dtype
                )
            self.rate = int(self.extractor.sampling_rate)
        except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
            raise FeatureError(
                f"expected an audio classifier with a feature extractor and safetensors at {folder}; "
                f"{' '.join(str(error).split())[:300]}"
            ) from None
        self.network = network.eval().to(device)
        self.window = self._window()
        config = network.config
        self.names: list[str] = [str(config.id2label[n]) for n in range(config.num_labels)]
        self.width = len(self.names)
        self.many = config.problem_type == "multi_label_classification"  # a class does not exclude another

    def _vectors(self, windows: list[Window]) -> Floats:
        import torch

        with torch.no_grad():
            inputs = {k: torch.cat([w.inputs[k] for w in windows]).to(self.device) for k in windows[0].inputs}
            logits = self.network(**inputs).logits.float()
            chances = logits.sigmoid() if self.many else logits.softmax(dim=-1)
        found: Floats = chances.cpu().numpy()
        return found
