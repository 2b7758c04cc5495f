"""Patch tokens of the image encoder: a picture as a grid of vectors in reading order, and no change without one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from palate import sources
from palate.config import EncoderConfig
from palate.errors import ConfigError, FeatureError
from palate.features import FeatureStore, compute
from palate.features.encoders.image import ImageEncoder
from palate.schema import Floats, Item

SHIPPED = "image-3c8110fae4627e231e15d90d"
"""The default encoder's fingerprint, as adapters/ml-100k names it."""


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "weights" not in request.keywords:
        monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random vision models of each kind of map, on pictures of 32 x 32 pixels; their hidden states are 16 wide."""
    import torch
    import transformers as t

    torch.manual_seed(0)
    small = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
        "initializer_range": 0.3,
    }  # fmt: skip
    vision = {**small, "image_size": 32, "patch_size": 8}
    words = {**small, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
    networks = {
        "vit": t.ViTModel(t.ViTConfig(**vision)),
        "deit": t.DeiTModel(t.DeiTConfig(**vision)),  # a class and a distillation token
        "registers": t.Dinov2WithRegistersModel(t.Dinov2WithRegistersConfig(**vision, num_register_tokens=4)),
        "clip": t.CLIPModel(t.CLIPConfig(text_config=words, vision_config=vision, projection_dim=12)),
        "siglip": t.SiglipModel(t.SiglipConfig(text_config=words, vision_config=vision)),  # no class token
        "resnet": t.ResNetModel(t.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])),
        "convnext": t.ConvNextModel(t.ConvNextConfig(hidden_sizes=[8, 16], depths=[1, 1], num_stages=2)),
        "swin": t.SwinModel(
            t.SwinConfig(image_size=32, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=2)
        ),
    }
    facts = {
        "image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32},
        "do_resize": True, "do_rescale": True, "do_normalize": True,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    folders = {}
    for name, network in networks.items():
        folders[name] = tmp_path_factory.mktemp(name)
        network.save_pretrained(folders[name])
        (folders[name] / "preprocessor_config.json").write_text(json.dumps(facts))
    return folders


def encoder(folder: Path, **options: object) -> ImageEncoder:
    return ImageEncoder(EncoderConfig(source=f"path:{folder}", options={"device": "cpu", **options}))


def picture(folder: Path, corner: tuple[int, int] | None = None, side: int = 32) -> Item:
    """Grey, with one red quarter in row and column `corner`."""
    pixels = np.full((side, side, 3), 120, dtype=np.uint8)
    if corner:
        row, column = (c * side // 2 for c in corner)
        pixels[row : row + side // 2, column : column + side // 2] = (250, 10, 10)
    name = f"{corner}"
    Image.fromarray(pixels).save(folder / f"{name}.png")
    return Item(name, name, media={"image": folder / f"{name}.png"})


def tokens(made: ImageEncoder, items: list[Item]) -> Floats:
    """float32 [n, T, W]."""
    encoded = made.encode(items)
    assert encoded.problems == []
    return encoded.vectors.reshape(len(items), made.tokens, -1)


CORNERS = [(0, 0), (0, 1), (1, 0), (1, 1)]
KINDS = ["vit", "deit", "registers", "clip", "siglip", "resnet", "convnext", "swin"]


@pytest.mark.parametrize("name", KINDS)
def test_a_coloured_corner_changes_that_corners_token_most(models: dict[str, Path], tmp_path: Path, name: str) -> None:
    made = encoder(models[name], grid=2)
    assert (made.tokens, made.width) == (4, 4 * 16)
    plain, *marked = tokens(made, [picture(tmp_path), *(picture(tmp_path, c) for c in CORNERS)])
    change = np.linalg.norm(np.array(marked) - plain, axis=2)
    assert change.argmax(axis=1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["vit", "registers", "clip"])
def test_patches_are_the_models_hidden_states_without_the_class_token(
    models: dict[str, Path], tmp_path: Path, name: str
) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModel

    item = picture(tmp_path, (0, 1))
    made = tokens(encoder(models[name], grid=4), [item])[0]
    pixels = AutoImageProcessor.from_pretrained(models[name], backend="pil")(
        Image.open(item.media["image"]), return_tensors="pt"
    )["pixel_values"]
    network = AutoModel.from_pretrained(models[name]).eval()
    with torch.no_grad():
        states = getattr(network, "vision_model", network)(pixel_values=pixels).last_hidden_state[0]
    assert made.shape == (16, 16)
    np.testing.assert_allclose(made, states[-16:].numpy(), atol=1e-5)
    halves = tokens(encoder(models[name], grid=2), [item])[0]
    np.testing.assert_allclose(halves[0], made[[0, 1, 4, 5]].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(halves[1], made[[2, 3, 6, 7]].mean(axis=0), atol=1e-5)


def test_a_convolutional_models_patches_average_to_its_pooled_vector(models: dict[str, Path], tmp_path: Path) -> None:
    item = picture(tmp_path, (1, 0))
    pooled = tokens(encoder(models["resnet"]), [item])[0, 0]
    np.testing.assert_allclose(tokens(encoder(models["resnet"], grid=2), [item])[0].mean(axis=0), pooled, atol=1e-5)


def test_batch_order_and_size_do_not_matter(models: dict[str, Path], tmp_path: Path) -> None:
    items = [picture(tmp_path), *(picture(tmp_path, c) for c in CORNERS)]
    one, many = encoder(models["clip"], grid=2, batch=1), encoder(models["clip"], grid=2, batch=4)
    np.testing.assert_allclose(tokens(one, items), tokens(many, items[::-1])[::-1], atol=1e-5)
    assert one.fingerprint == many.fingerprint
    assert len({encoder(models["clip"], **o).fingerprint for o in ({}, {"grid": 2}, {"grid": 3})}) == 3


def test_without_a_grid_the_fingerprint_is_that_of_before(models: dict[str, Path]) -> None:
    """As it was hashed before there was a grid: bundles and caches stay good."""
    made = encoder(models["vit"])
    facts = {
        "encoder": "image",
        "version": 1,
        "weights": sources.digest(models["vit"]),
        "options": {"backend": "auto", "pooling": "auto", "dtype": "float32"},
    }
    wanted = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:24]
    assert made.fingerprint == f"image-{wanted}"
    assert encoder(models["vit"], grid=1).fingerprint == made.fingerprint


def test_tables_carry_the_tokens(models: dict[str, Path], tmp_path: Path) -> None:
    config = {"image": EncoderConfig(source=f"path:{models['vit']}", options={"grid": 2, "device": "cpu"})}
    items = [picture(tmp_path), Item("none", "none")]
    table = compute(items, None, config, store=FeatureStore(tmp_path / "store"), progress=False).tables["image"]
    assert (table.tokens, table.width, table.present.tolist()) == (4, 64, [True, False])


def test_models_without_a_map_say_so(models: dict[str, Path], tmp_path: Path) -> None:
    item = picture(tmp_path)
    with pytest.raises(FeatureError, match="expected a grid up to 4, as this model sees 4 x 4 patches, got 5"):
        encoder(models["vit"], grid=5).encode([item])
    with pytest.raises(ConfigError, match=r"features\.image\.options: key 'grid'"):
        encoder(models["vit"], grid=0)


@pytest.mark.parametrize(
    ("patch", "count", "why"), [(None, 16, "no known places"), (8, 7, "its 7 tokens are no grid"), (8, None, "states")]
)
def test_a_model_without_a_map_is_an_error_that_says_so(
    models: dict[str, Path], tmp_path: Path, patch: int | None, count: int | None, why: str
) -> None:
    import torch

    class Odd(torch.nn.Module):
        config = SimpleNamespace(patch_size=patch)

        def forward(self, pixel_values: torch.Tensor) -> SimpleNamespace:
            if count is None:
                raise ValueError("no hidden states without a text")
            return SimpleNamespace(last_hidden_state=torch.zeros(len(pixel_values), count, 16))

    made = encoder(models["vit"], grid=2)
    made.backend.network = Odd()  # type: ignore[attr-defined]
    with pytest.raises(
        FeatureError, match=rf"feature map for a grid of patches, got Odd: .*{why}.*leave out the option"
    ):
        made.encode([picture(tmp_path)])


def test_sentence_transformers_have_no_map() -> None:
    from palate.features.encoders._vision import SentenceTransformers

    bare = SentenceTransformers.__new__(SentenceTransformers)
    bare.network = object()
    with pytest.raises(FeatureError, match="backend: transformers"):
        bare.patches([], 2)


def test_timm_models_give_their_map(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    from safetensors.torch import save_model

    for name, width in (("vit_tiny_patch16_224", 192), ("resnet10t", 512), ("swin_tiny_patch4_window7_224", 768)):
        folder = tmp_path / name
        folder.mkdir()
        network = timm.create_model(name, num_classes=0)
        save_model(network, str(folder / "model.safetensors"))
        facts = {"architecture": name, "num_classes": 0, "num_features": width, "pretrained_cfg": {"num_classes": 0}}
        (folder / "config.json").write_text(json.dumps(facts))
        made = encoder(folder, grid=7)
        plain, marked = tokens(made, [picture(tmp_path, side=224), picture(tmp_path, (0, 1), side=224)])
        assert plain.shape == (49, width)
        change = np.linalg.norm(marked - plain, axis=1).reshape(7, 7)
        assert change[:3, 4:].mean() > change[4:, :3].mean()


@pytest.mark.weights
def test_the_default_encoder_gives_seven_by_seven_patches(tmp_path: Path) -> None:
    items = [picture(tmp_path, side=224), *(picture(tmp_path, c, side=224) for c in CORNERS)]
    default = ImageEncoder(EncoderConfig(options={"device": "cpu"}))
    assert default.fingerprint == SHIPPED
    made = ImageEncoder(EncoderConfig(options={"device": "cpu", "grid": 7}))
    assert (made.tokens, made.width) == (49, 49 * 1280)
    fine = tokens(made, items)
    np.testing.assert_allclose(fine.mean(axis=1), default.encode(items).vectors, atol=1e-4)
    coarse = tokens(ImageEncoder(EncoderConfig(options={"device": "cpu", "grid": 2})), items)
    change = np.linalg.norm(coarse[1:] - coarse[0], axis=2)
    assert change.argmax(axis=1).tolist() == [0, 1, 2, 3]
