"""Audio backends: what hears for the audio encoder. Each prepares a clip in a thread and runs a batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterable
from math import ceil
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from palate.errors import FeatureError
from palate.features import acoustics
from palate.features.device import quiet
from palate.schema import Floats

MAX_WINDOW = 30.0
"""Seconds a network hears at once where its own limit is not told: attention grows with the square."""
MIN_WINDOW = 0.1
"""Seconds below which a clip is filled up with silence: convolutions need something to slide over."""


class Backend(ABC):
    """prepare: mono samples at `rate` to whatever `forward` batches (called in threads). forward: float32
    [n, width].
    """

    width: int
    rate: int

    @abstractmethod
    def prepare(self, samples: Floats) -> Any: ...

    @abstractmethod
    def forward(self, batch: list[Any]) -> Floats: ...


class Acoustics(Backend):
    """Statistics of the sound, without weights (`palate.features.acoustics`)."""

    width: ClassVar[int] = acoustics.WIDTH  # type: ignore[misc]
    rate: ClassVar[int] = acoustics.RATE  # type: ignore[misc]

    def prepare(self, samples: Floats) -> Any:
        return acoustics.describe(samples, self.rate)

    def forward(self, batch: list[Any]) -> Floats:
        return np.stack(batch)


class Window(NamedTuple):
    """One network input (name -> tensor [1, ...]), how much of it is sound and not filling (0 to 1), and its
    weight in the clip's mean.
    """

    inputs: dict[str, Any]
    filled: float
    weight: float


class Transformers(Backend):
    """Any audio encoder of transformers: CLAP, Whisper, AST, wav2vec 2.0, HuBERT, WavLM ...

    A clip longer than the network hears at once is cut in equal windows, whose vectors are averaged. The vector
    of a window is `get_audio_features` where the model has it, else the pooler's output, else (or with pooling
    "mean") the mean of the last hidden state over the part that is sound; of Whisper the encoder's. Windows are
    batched with those of their own length only, so that nothing depends on what else is in the batch.
    """

    def __init__(self, folder: Path, dtype: str, device: str, pooling: str):
        import torch
        from transformers import AutoFeatureExtractor, AutoModel

        self.dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[dtype]
        self.device, self.pooling = device, pooling
        try:
            with quiet():
                self.extractor = AutoFeatureExtractor.from_pretrained(folder, local_files_only=True)
                network, loaded = AutoModel.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True, dtype=self.dtype, output_loading_info=True
                )
            heard = not network.config.is_encoder_decoder
            _complete(key for key in loaded["missing_keys"] if heard or not key.startswith("decoder."))
            self.rate = int(self.extractor.sampling_rate)
            self.network = network.eval().to(device)
            self.window = self._window()
            self.width = int(self.forward([self.prepare(np.zeros(self.rate, np.float32))]).shape[1])
        except (OSError, ValueError, KeyError, ImportError, AttributeError, TypeError, RuntimeError) as error:
            raise FeatureError(
                f"expected an audio model with a feature extractor and safetensors at {folder}; "
                f"{' '.join(str(error).split())[:300]}"
            ) from None

    def _window(self) -> int:
        """Samples that the network hears at once."""
        facts = self.extractor
        known = [getattr(facts, name, None) for name in ("nb_max_samples", "n_samples")]  # CLAP, Whisper
        if hasattr(facts, "num_mel_bins") and hasattr(facts, "max_length"):  # AST: frames of 10 ms
            known.append(int(facts.max_length) * self.rate // 100)
        return next((int(n) for n in known if n), round(MAX_WINDOW * self.rate))

    def prepare(self, samples: Floats) -> list[Window]:
        least = round(MIN_WINDOW * self.rate)
        pieces = np.array_split(samples, max(1, ceil(len(samples) / self.window)))
        return [self._heard(np.pad(p, (0, max(0, least - len(p)))), len(p)) for p in pieces]

    def _heard(self, samples: Floats, sound: int) -> Window:
        inputs = self.extractor(samples, sampling_rate=self.rate, return_tensors="pt")
        fills_up = hasattr(self.extractor, "n_samples")  # Whisper's: silence up to 30 s
        filled = min(1.0, len(samples) / self.window) if fills_up else 1.0
        return Window(dict(inputs), filled, max(sound, 1))

    def forward(self, batch: list[Any]) -> Floats:
        windows = [w for clip in batch for w in clip]
        of = np.repeat(np.arange(len(batch)), [len(clip) for clip in batch])
        alike = defaultdict(list)
        for n, window in enumerate(windows):
            alike[tuple((k, tuple(v.shape)) for k, v in window.inputs.items())].append(n)
        parts: dict[int, Floats] = {}
        for rows in alike.values():
            for start in range(0, len(rows), len(batch)):
                some = rows[start : start + len(batch)]
                parts.update(zip(some, self._vectors([windows[n] for n in some]), strict=True))
        vectors = np.stack([parts[n] for n in range(len(windows))])
        weights = np.array([w.weight for w in windows], dtype=np.float64)
        weights /= np.bincount(of, weights)[of]
        whole = np.zeros((len(batch), vectors.shape[1]), dtype=np.float64)
        np.add.at(whole, of, vectors * weights[:, None])
        return whole.astype(np.float32)

    def _vectors(self, windows: list[Window]) -> Floats:
        import torch

        with torch.no_grad():
            inputs = {k: torch.cat([torch.as_tensor(w.inputs[k]) for w in windows]) for k in windows[0].inputs}
            inputs = {
                k: v.to(self.device, self.dtype) if v.is_floating_point() else v.to(self.device)
                for k, v in inputs.items()
            }
            if self.pooling == "auto" and hasattr(self.network, "get_audio_features"):
                out = self.network.get_audio_features(**inputs)
            else:
                out = self._encoder()(**inputs)
            pooled: Floats = self._pool(out, [w.filled for w in windows]).float().cpu().numpy()
            return pooled

    def _encoder(self) -> Any:
        """The part that hears: of CLAP its audio tower, of Whisper and other encoder-decoders the encoder."""
        if hasattr(self.network, "audio_model"):
            return self.network.audio_model
        return self.network.get_encoder() if self.network.config.is_encoder_decoder else self.network

    def _pool(self, out: Any, filled: list[float]) -> Any:
        import torch

        if isinstance(out, torch.Tensor):
            return out.flatten(1)
        pooled = getattr(out, "pooler_output", None)
        if pooled is not None and self.pooling == "auto":
            return pooled.flatten(1)
        states = out.last_hidden_state
        if states.dim() == 4:  # CLAP's Swin tower: [n, width, frequency, time]
            return states.flatten(2).mean(dim=2)
        return torch.stack(
            [s[: max(1, ceil(len(s) * f))].float().mean(dim=0) for s, f in zip(states, filled, strict=True)]
        )


def _complete(missing: Iterable[str]) -> None:
    """Raises ValueError where weights are missing, which transformers would draw at random."""
    lacking = sorted(key for key in missing if "masked_spec_embed" not in key)  # that one is for training only
    if lacking:
        raise ValueError(f"the checkpoint lacks {len(lacking)} of the model's tensors, such as {lacking[0]!r}")


def load(weights: Path | None, dtype: str, device: str, pooling: str) -> Backend:
    """The backend for a source's files; the one without weights where there is no source."""
    if weights is None:
        return Acoustics()
    if not (weights / "config.json").is_file():
        raise FeatureError(f"expected a model folder with config.json, found none at {weights}")
    return Transformers(weights, dtype, device, pooling)
