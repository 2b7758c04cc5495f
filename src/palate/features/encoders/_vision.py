"""Vision backends: the network behind the image encoder. Each prepares one picture in a thread and runs a
batch.
"""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from functools import cached_property
from math import isqrt
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from PIL import Image

from palate.errors import FeatureError
from palate.features.device import quiet
from palate.features.picture import centre_square, tamed
from palate.schema import Floats

BackendName = Literal["auto", "efficientnet-lite0", "transformers", "timm", "sentence-transformers"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Backend(ABC):
    """prepare: one RGB picture to whatever `forward` batches (called in threads). forward: float32 [n,
    width]. feature_map: the last one before pooling, [n, patch_width, height, width].
    """

    width: int
    side: int = 224
    """Pixels a side that the network sees, as far as known."""

    @abstractmethod
    def prepare(self, image: Image.Image) -> Any: ...

    @abstractmethod
    def forward(self, batch: list[Any]) -> Floats: ...

    @abstractmethod
    def feature_map(self, batch: list[Any]) -> torch.Tensor: ...

    @torch.no_grad()
    def patches(self, batch: list[Any], grid: int) -> Floats:
        """The feature map averaged to grid x grid cells in reading order: float32 [n, grid * grid, patch_width].

        Raises FeatureError where the model has no such map, or a coarser one.
        """
        found = self.feature_map(batch)
        height, width = found.shape[-2:]
        if min(height, width) < grid:
            raise FeatureError(
                f"expected a grid up to {min(height, width)}, as this model sees {height} x {width} patches, got {grid}"
            )
        return _numpy(torch.nn.functional.adaptive_avg_pool2d(found.float(), grid).flatten(2).mT)

    @cached_property
    def patch_width(self) -> int:
        """Length of one patch's vector; a dual encoder's is that of its hidden states."""
        return int(self.patches([self.prepare(Image.new("RGB", (64, 64)))], 1).shape[2])


class EfficientNetLite0(Backend):
    """EfficientNet-Lite0 (Tan and Le, 2019; the Lite variant of TensorFlow), ImageNet weights, pooled 1,280
    wide.

    Input: the centred square, bicubic to 224 px, (x - 127) / 128.
    """

    width: ClassVar[int] = 1280  # type: ignore[misc]

    def __init__(self, weights: Path, dtype: str, device: str):
        from efficientnet_lite_pytorch import EfficientNet

        self.dtype, self.device = DTYPES[dtype], device
        network = EfficientNet.from_name("efficientnet-lite0")
        try:
            network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
        except Exception as error:  # torch.load has no error class of its own for a file that is not a checkpoint
            raise FeatureError(
                f"{weights.name}: expected the EfficientNet-Lite0 state dict, every key in place; "
                f"{' '.join(str(error).split())[:300]}"
            ) from None
        network = _lean(_folded(network.eval()))
        self.network = network.to(device=device, dtype=self.dtype, memory_format=torch.channels_last)

    def prepare(self, image: Image.Image) -> Any:
        size = (self.side, self.side)
        small = centre_square(image).resize(size, Image.Resampling.BICUBIC)
        return np.asarray(small, dtype=np.uint8)

    @torch.no_grad()
    def forward(self, batch: list[Any]) -> Floats:
        return _numpy(self.feature_map(batch).float().mean(dim=(2, 3)))

    @torch.no_grad()
    def feature_map(self, batch: list[Any]) -> torch.Tensor:
        pixels = torch.from_numpy(np.stack(batch)).to(self.device).permute(0, 3, 1, 2)
        pixels = ((pixels.float() - 127.0) / 128.0).to(self.dtype)
        found: torch.Tensor = self.network.extract_features(pixels)
        return found


def _folded(network: Any) -> Any:
    """Every batch norm folded into its convolution: the same function, fewer passes over memory."""
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    pairs = [(network, "_conv_stem", "_bn0"), (network, "_conv_head", "_bn1")]
    for block in network._blocks:
        if hasattr(block, "_expand_conv"):
            pairs.append((block, "_expand_conv", "_bn0"))
        pairs += [(block, "_depthwise_conv", "_bn1"), (block, "_project_conv", "_bn2")]
    for owner, conv, norm in pairs:
        setattr(owner, conv, fuse_conv_bn_eval(getattr(owner, conv), getattr(owner, norm)))
        setattr(owner, norm, torch.nn.Identity())
    return network


def _lean(network: Any) -> Any:
    """Padding done by the convolutions where it is the same on both sides, and activations in place.

    The same function; profiled on two cores, copies into padded tensors took 18% of a forward pass and activations
    another 18%.
    """
    for module in network.modules():
        around = getattr(getattr(module, "static_padding", None), "padding", None)
        if around is not None and around[0] == around[1] and around[2] == around[3]:
            module.padding, module.static_padding = (around[2], around[0]), torch.nn.Identity()
        if isinstance(getattr(module, "_swish", None), torch.nn.ReLU6):
            module._swish.inplace = True
    return network


class Transformers(Backend):
    """Any vision or vision-language model of transformers: CLIP, SigLIP, DINO, ViT, ConvNeXt, ResNet ...

    The vector is `get_image_features` where the model has it, else the pooler's output, else (or with pooling
    "mean") the mean of the last hidden state.
    """

    def __init__(self, folder: Path, dtype: str, device: str, pooling: str):
        from transformers import AutoImageProcessor, AutoModel

        self.dtype, self.device, self.pooling = DTYPES[dtype], device, pooling
        try:
            with quiet():
                self.processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
                network = AutoModel.from_pretrained(
                    folder, local_files_only=True, use_safetensors=True, dtype=self.dtype
                )
            self.network = network.eval().to(device)
            self.side = self._processor_side()
            self.width = int(self.forward([self.prepare(Image.new("RGB", (64, 64)))]).shape[1])
        except (OSError, ValueError, KeyError, ImportError, TypeError, AttributeError) as error:
            raise FeatureError(
                f"expected a vision model with an image processor and safetensors at {folder}; "
                f"{' '.join(str(error).split())[:300]}"
            ) from None

    def _processor_side(self) -> int:
        size = getattr(self.processor, "size", None) or {}
        sides = [v for v in dict(size).values() if isinstance(v, int) and 0 < v <= 4096]
        return max(sides, default=512)

    def prepare(self, image: Image.Image) -> Any:
        return self.processor(images=[tamed(image, self.side)], return_tensors="pt")

    def _inputs(self, batch: list[Any]) -> dict[str, torch.Tensor]:
        inputs = {key: torch.cat([one[key] for one in batch]).to(self.device) for key in batch[0]}
        return {k: v.to(self.dtype) if v.is_floating_point() else v for k, v in inputs.items()}

    @torch.no_grad()
    def forward(self, batch: list[Any]) -> Floats:
        inputs = self._inputs(batch)
        if self.pooling == "auto" and hasattr(self.network, "get_image_features"):
            out = self.network.get_image_features(**inputs)
        else:
            out = getattr(self.network, "vision_model", self.network)(**inputs)
        return _numpy(self._pool(out))

    def _pool(self, out: Any) -> torch.Tensor:
        if isinstance(out, torch.Tensor):
            return out.flatten(1)
        pooled = getattr(out, "pooler_output", None)
        if pooled is not None and self.pooling == "auto":
            return torch.as_tensor(pooled).flatten(1)
        states: torch.Tensor = out.last_hidden_state
        # transformers give [n, tokens, width], convolutional networks [n, width, height, width]
        return states.mean(dim=1) if states.dim() == 3 else states.flatten(2).mean(dim=2)

    @torch.no_grad()
    def feature_map(self, batch: list[Any]) -> torch.Tensor:
        inputs = self._inputs(batch)
        tower = getattr(self.network, "vision_model", self.network)
        try:
            states = tower(**inputs).last_hidden_state
        except (AttributeError, TypeError, ValueError) as error:  # a model that wants text too, or gives no states
            raise _no_map(self.network, " ".join(str(error).split())[:200]) from None
        if states.dim() == 4:
            return torch.as_tensor(states)
        patch, pixels = getattr(tower.config, "patch_size", None), inputs["pixel_values"]
        if patch is None or pixels.dim() != 4:
            raise _no_map(self.network, "its patches have no known places")
        down, across = patch if isinstance(patch, (list, tuple)) else (patch, patch)
        return _laid_out(states, pixels.shape[2] // down, pixels.shape[3] // across, self.network)


class Timm(Backend):
    """Any timm image model, pooled, from a folder with timm's config.json and safetensors."""

    def __init__(self, folder: Path, dtype: str, device: str):
        try:
            timm = importlib.import_module("timm")
            data = importlib.import_module("timm.data")
        except ImportError:
            raise FeatureError(
                "this source needs the package timm, which is not installed; run: pip install 'palate[media]'"
            ) from None
        self.dtype, self.device = DTYPES[dtype], device
        try:
            network = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=0)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise FeatureError(f"timm cannot load the model at {folder}: {error}") from None
        facts = data.resolve_model_data_config(network)
        self.side = int(facts["input_size"][-1])
        self.transform = data.create_transform(**facts, is_training=False)
        self.network = network.eval().to(device=device, dtype=self.dtype)
        self.width = int(network.num_features)

    def prepare(self, image: Image.Image) -> Any:
        return self.transform(tamed(image, self.side))

    @torch.no_grad()
    def forward(self, batch: list[Any]) -> Floats:
        return _numpy(self.network(torch.stack(batch).to(self.device, self.dtype)))

    @torch.no_grad()
    def feature_map(self, batch: list[Any]) -> torch.Tensor:
        states: torch.Tensor = self.network.forward_features(torch.stack(batch).to(self.device, self.dtype))
        if states.dim() == 4:  # Swin and its like keep the channels last
            return states if states.shape[1] == self.network.num_features else states.permute(0, 3, 1, 2)
        grid = getattr(getattr(self.network, "patch_embed", None), "grid_size", None)
        if states.dim() != 3 or grid is None:
            raise _no_map(self.network, "its patches have no known places")
        return _laid_out(states, grid[0], grid[1], self.network)


class SentenceTransformers(Backend):
    """A sentence-transformers model that takes pictures (its CLIP models do)."""

    def __init__(self, folder: Path, device: str):
        from sentence_transformers import SentenceTransformer

        try:
            with quiet():
                self.network = SentenceTransformer(str(folder), device=device, local_files_only=True)
            self.width = int(self.forward([Image.new("RGB", (64, 64))]).shape[1])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise FeatureError(
                f"expected a sentence-transformers model that takes pictures at {folder}; "
                f"{' '.join(str(error).split())[:300]}"
            ) from None

    def prepare(self, image: Image.Image) -> Any:
        return tamed(image, self.side)

    def forward(self, batch: list[Any]) -> Floats:
        return np.asarray(self.network.encode(batch, convert_to_numpy=True, show_progress_bar=False), dtype=np.float32)

    def feature_map(self, batch: list[Any]) -> torch.Tensor:
        raise _no_map(
            self.network, "name the folder of its vision model itself as the source, with backend: transformers"
        )


def load(weights: Path, backend: str, dtype: str, device: str, pooling: str) -> Backend:
    """The backend for a source's files; "auto" tells it from what lies there."""
    chosen = _tell(weights) if backend == "auto" else backend
    if chosen == "efficientnet-lite0":
        return EfficientNetLite0(weights, dtype, device)
    if chosen == "timm":
        return Timm(weights, dtype, device)
    if chosen == "sentence-transformers":
        return SentenceTransformers(weights, device)
    return Transformers(weights, dtype, device, pooling)


def _tell(weights: Path) -> str:
    if weights.is_file():
        if weights.suffix == ".pth":
            return "efficientnet-lite0"
        raise FeatureError(
            "expected a model folder with config.json, or EfficientNet-Lite0's .pth file, "
            f"got the file {weights.name!r}"
        )
    if (weights / "modules.json").is_file():
        return "sentence-transformers"
    config = weights / "config.json"
    if not config.is_file():
        raise FeatureError(f"expected a model folder with config.json, found none at {weights}")
    try:
        facts = json.loads(config.read_text(encoding="utf-8"))
    except ValueError as error:
        raise FeatureError(f"{config}: not valid JSON: {error}") from None
    return "timm" if "architecture" in facts and "model_type" not in facts else "transformers"


def _laid_out(states: torch.Tensor, height: int, width: int, network: Any) -> torch.Tensor:
    """Patch tokens [n, T, C] as a map [n, C, height, width].

    Class, distillation and register tokens come first and are left out. A hierarchical model (Swin), whose patches
    were merged, has fewer tokens than it began with, of the same proportions.
    """
    count = states.shape[1]
    if count < height * width:
        merged = isqrt(height * width // count)
        height, width = height // merged, width // merged
        if height * width != count:
            raise _no_map(network, f"its {count} tokens are no grid of patches")
    return states[:, count - height * width :].mT.reshape(len(states), -1, height, width)


def _no_map(network: Any, why: str) -> FeatureError:
    return FeatureError(
        f"expected a model with a feature map for a grid of patches, got {type(network).__name__}: {why}; leave out "
        "the option grid, or take a ViT, CLIP, Swin or convolutional model"
    )


def _numpy(tensor: torch.Tensor) -> Floats:
    return tensor.float().cpu().numpy()
