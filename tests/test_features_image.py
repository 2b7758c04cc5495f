"""The image encoder: any transformers vision model, bad files reported, the default one's vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from palate.config import EncoderConfig
from palate.errors import ConfigError, FeatureError
from palate.features.encoders.image import ImageEncoder
from palate.features.picture import decode, read_bounded
from palate.schema import Item


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "weights" not in request.keywords:
        monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Random vision models of three kinds: a transformer, a dual encoder, a convolutional network."""
    import torch
    from transformers import CLIPConfig, CLIPModel, ResNetConfig, ResNetModel, ViTConfig, ViTModel

    torch.manual_seed(0)
    small = {
        "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    }  # fmt: skip
    vision = {**small, "image_size": 32, "patch_size": 8}
    words = {**small, "vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
    networks = {
        "vit": ViTModel(ViTConfig(**vision)),
        "clip": CLIPModel(CLIPConfig(text_config=words, vision_config=vision, projection_dim=12)),
        "resnet": ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8, 20], depths=[1, 1])),
    }
    folders = {}
    for name, network in networks.items():
        folders[name] = tmp_path_factory.mktemp(name)
        network.save_pretrained(folders[name])
        facts = {
            "image_processor_type": "ViTImageProcessor", "size": {"height": 32, "width": 32},
            "do_resize": True, "do_rescale": True, "do_normalize": True,
            "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
        }  # fmt: skip
        (folders[name] / "preprocessor_config.json").write_text(json.dumps(facts))
    return folders


def pictures(folder: Path, count: int) -> list[Item]:
    rng = np.random.default_rng(3)
    items = []
    for n in range(count):
        path = folder / f"{n}.png"
        Image.fromarray(rng.integers(0, 256, (20 + n, 50, 3), dtype=np.uint8)).save(path)
        items.append(Item(str(n), f"item {n}", media={"image": path}))
    return items


def encoder(folder: Path, **options: object) -> ImageEncoder:
    return ImageEncoder(EncoderConfig(source=f"path:{folder}", options={"device": "cpu", **options}))


@pytest.mark.parametrize(("name", "width"), [("vit", 16), ("clip", 12), ("resnet", 20)])
def test_vectors_are_the_models_own(models: dict[str, Path], tmp_path: Path, name: str, width: int) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModel

    items = pictures(tmp_path, 5)
    made = encoder(models[name], batch=2).encode(items)
    assert made.vectors.shape == (5, width)
    assert made.vectors.dtype == np.float32
    assert made.present.all()
    assert made.problems == []
    processor = AutoImageProcessor.from_pretrained(models[name], backend="pil")
    network = AutoModel.from_pretrained(models[name]).eval()
    with torch.no_grad():
        for item, vector in zip(items, made.vectors, strict=True):
            pixels = processor(Image.open(item.media["image"]), return_tensors="pt")["pixel_values"]
            if name == "clip":
                hidden = network.vision_model(pixel_values=pixels).pooler_output
                wanted = network.visual_projection(hidden)
            else:
                wanted = network(pixel_values=pixels).pooler_output
            np.testing.assert_allclose(vector, wanted.flatten().numpy(), atol=1e-4)


def test_mean_pooling_averages_the_last_hidden_state(models: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from transformers import AutoImageProcessor, AutoModel

    (item,) = pictures(tmp_path, 1)
    made = encoder(models["vit"], pooling="mean").encode([item]).vectors[0]
    processor = AutoImageProcessor.from_pretrained(models["vit"], backend="pil")
    with torch.no_grad():
        pixels = processor(Image.open(item.media["image"]), return_tensors="pt")["pixel_values"]
        states = AutoModel.from_pretrained(models["vit"]).eval()(pixel_values=pixels).last_hidden_state
    np.testing.assert_allclose(made, states.mean(dim=1)[0].numpy(), atol=1e-5)


def test_batch_size_and_workers_do_not_change_vectors(models: dict[str, Path], tmp_path: Path) -> None:
    items = pictures(tmp_path, 7)
    one = encoder(models["vit"], batch=1, workers=1)
    many = encoder(models["vit"], batch=4, workers=5)
    np.testing.assert_allclose(one.encode(items).vectors, many.encode(items).vectors, atol=1e-5)
    assert one.fingerprint == many.fingerprint
    half = encoder(models["vit"], dtype="bfloat16")
    assert half.fingerprint != one.fingerprint
    np.testing.assert_allclose(half.encode(items).vectors, one.encode(items).vectors, atol=0.1)


def test_bad_files_cost_their_item_only(models: dict[str, Path], tmp_path: Path) -> None:
    items = pictures(tmp_path, 6)
    (tmp_path / "1.png").write_text("I am a text file")
    (tmp_path / "3.png").write_bytes((tmp_path / "3.png").read_bytes()[:200])
    (tmp_path / "5.png").unlink()
    made = encoder(models["vit"], batch=2).encode(items)
    assert made.present.tolist() == [True, False, True, False, True, False]
    assert not made.vectors[~made.present].any()
    assert [p.item_id for p in made.problems] == ["1", "3", "5"]
    assert made.problems[0].file.endswith("1.png")
    assert "not a picture" in made.problems[0].reason
    assert "no such file" in made.problems[2].reason
    clean = encoder(models["vit"]).encode([items[0], items[2], items[4]])
    np.testing.assert_allclose(made.vectors[made.present], clean.vectors, atol=1e-5)


def test_a_whole_batch_of_bad_files(models: dict[str, Path], tmp_path: Path) -> None:
    items = pictures(tmp_path, 3)
    for item in items:
        item.media["image"].write_bytes(b"")
    made = encoder(models["vit"], batch=2).encode(items)
    assert not made.present.any()
    assert len(made.problems) == 3


def test_the_modality_names_the_medium(models: dict[str, Path], tmp_path: Path) -> None:
    (item,) = pictures(tmp_path, 1)
    config = EncoderConfig(encoder="image", source=f"path:{models['vit']}")
    cover = ImageEncoder(config, "cover")
    assert cover.identity(item) is None
    assert cover.identity(Item("x", "x", media={"cover": item.media["image"]})) is not None


def test_wrong_sources_and_options_are_named(models: dict[str, Path], tiny_base: Path, tmp_path: Path) -> None:
    (item,) = pictures(tmp_path, 1)
    with pytest.raises(ConfigError, match=r"features\.image\.options: unknown key 'bach'; did you mean 'batch'\?"):
        encoder(models["vit"], bach=3)
    with pytest.raises(ConfigError, match="expected a device such as 'cpu'"):
        encoder(models["vit"], device="toaster").encode([item])
    with pytest.raises(FeatureError, match=r"config\.json, found none"):
        encoder(tmp_path).encode([item])
    with pytest.raises(FeatureError, match="expected a vision model with an image processor"):
        encoder(tiny_base).encode([item])
    wrong = tmp_path / "w.pth"
    wrong.write_bytes(b"not a checkpoint")
    with pytest.raises(FeatureError, match="expected the EfficientNet-Lite0 state dict"):
        encoder(wrong).encode([item])
    other = tmp_path / "w.bin"
    other.write_bytes(b"x")
    with pytest.raises(FeatureError, match=r"got the file 'w\.bin'"):
        encoder(other).encode([item])


def test_timm_is_asked_for_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    (item,) = pictures(tmp_path, 1)
    (tmp_path / "config.json").write_text('{"architecture": "resnet10t"}')
    with pytest.raises(FeatureError, match=r"pip install 'palate\[media\]'"):
        encoder(tmp_path).encode([item])


CANONICAL = {0: 0.0, 7: 0.0115, 29: 1.3674, 71: 2.2015, 113: 4.8295, 226: 2.0018, 245: 1.6452, 284: 0.4311}
"""Some of the default encoder's 1,280 values for `gradient`, measured once with the plain forward pass."""


def gradient(path: Path) -> Path:
    """A picture any machine makes the same: red grows to the right, green down, blue along both."""
    x, y = np.meshgrid(np.arange(224), np.arange(224))
    Image.fromarray(np.stack([x, y, (x + y) // 2], axis=-1).astype(np.uint8)).save(path)
    return path


@pytest.mark.weights
def test_default_encoder_gives_its_canonical_vector(tmp_path: Path) -> None:
    item = Item("g", "gradient", media={"image": gradient(tmp_path / "g.png")})
    default = ImageEncoder()
    made = default.encode([item])
    assert made.vectors.shape == (1, 1280)
    assert default.fingerprint == ImageEncoder(EncoderConfig(options={"batch": 7})).fingerprint
    np.testing.assert_allclose(made.vectors[0, list(CANONICAL)], list(CANONICAL.values()), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(made.vectors[0]), 12.5898, atol=2e-3)


@pytest.mark.weights
def test_default_encoder_equals_a_plain_forward_pass(tmp_path: Path) -> None:
    """The packed path against the architecture's own pipeline, one picture at a time."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    items = pictures(tmp_path, 3)
    made = ImageEncoder(EncoderConfig(options={"device": "cpu"}))
    network = EfficientNet.from_name("efficientnet-lite0")
    assert made.weights is not None
    network.load_state_dict(torch.load(made.weights, weights_only=True))
    network.eval()
    for item, vector in zip(items, made.encode(items).vectors, strict=True):
        image = decode(read_bounded(item.media["image"], 10**7))
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        square = image.crop((left, top, left + side, top + side)).resize((224, 224), Image.Resampling.BICUBIC)
        pixels = (torch.tensor(np.asarray(square)).permute(2, 0, 1)[None].float() - 127) / 128
        with torch.no_grad():
            wanted = network.extract_features(pixels).mean(dim=(2, 3))[0]
        np.testing.assert_allclose(vector, wanted.numpy(), atol=1e-3)
