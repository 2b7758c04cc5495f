"""Captioners: labels, sentences and sound tags from real loading code; tiny random weights unless marked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests import captioner_models as made
from tests.drawings import DRAWINGS, draw
from tests.dual import COLOURS, picture, save_colour_clip

from palate.config import CaptionConfig
from palate.errors import ConfigError, FeatureError
from palate.features.captioners import PACKAGE, Captioner, build, one_line
from palate.features.captioners.caption import QUESTION, Caption
from palate.features.captioners.labels import Labels
from palate.features.captioners.tags import Tags
from palate.features.space import TextTower
from palate.registry import plugins
from palate.schema import Item


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "weights" not in request.keywords:
        monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> dict[str, Path]:
    """Random image-to-text models of three kinds: with a prompt's beginning, with a chat, with neither."""
    return {
        "blip": made.blip(tmp_path_factory.mktemp("blip")),
        "llava": made.llava(tmp_path_factory.mktemp("llava"), tiny_base),
        "pair": made.pair(tmp_path_factory.mktemp("pair")),
    }


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_colour_clip(tmp_path_factory.mktemp("clip"))


def pictures(folder: Path, count: int = 6) -> list[Item]:
    colours = list(COLOURS)[:count]
    return [Item(c, c, media={"image": picture(folder / f"{c}.png", c, n)}) for n, c in enumerate(colours)]


def captioner(name: str, source: Path, **options: object) -> Captioner:
    config = CaptionConfig(captioner=name, source=f"path:{source}", options=options)
    return build({"picture": config})["picture"]


def test_the_folder_is_the_registry() -> None:
    assert plugins(PACKAGE, Captioner) == {"caption": Caption, "labels": Labels, "tags": Tags}  # type: ignore[type-abstract]


@pytest.mark.parametrize("name", ["blip", "llava", "pair"])
def test_captions_are_greedy_and_the_same_in_any_batch(writers: dict[str, Path], name: str, tmp_path: Path) -> None:
    items = pictures(tmp_path)
    alone = captioner("caption", writers[name], max_new_tokens=8, batch=1)
    together = captioner("caption", writers[name], max_new_tokens=8, batch=4, workers=3)
    one, many = alone.caption(items), together.caption(items)
    assert one == many == alone.caption(items)
    assert one.problems == []
    assert all(text == one_line(text or "") for text in one.texts)
    assert any(one.texts)
    assert alone.fingerprint == together.fingerprint


def test_a_caption_is_what_transformers_generates(writers: dict[str, Path], tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    items = pictures(tmp_path, 4)
    texts = captioner("caption", writers["blip"], max_new_tokens=8).caption(items).texts
    processor = AutoProcessor.from_pretrained(writers["blip"])
    network = AutoModelForImageTextToText.from_pretrained(writers["blip"]).eval()
    for item, text in zip(items, texts, strict=True):
        inputs = processor(images=Image.open(item.media["image"]), return_tensors="pt")
        with torch.no_grad():
            ids = network.generate(**inputs, do_sample=False, max_new_tokens=8)
        assert text == processor.batch_decode(ids, skip_special_tokens=True)[0]
    assert len(set(texts)) > 1


def test_a_chat_model_is_asked_and_its_question_cut_off(writers: dict[str, Path], tmp_path: Path) -> None:
    (item,) = pictures(tmp_path, 1)
    chat = captioner("caption", writers["llava"], max_new_tokens=6)
    assert isinstance(chat, Caption)
    asked = chat.writer._inputs([Image.open(item.media["image"])])
    prompt = chat.writer.tokenizer.decode(asked["input_ids"][0])
    assert prompt.count("<image>") == 4  # 2 x 2 patches
    assert f"{QUESTION}<|im_end|>" in prompt
    assert prompt.endswith("assistant\n")
    text = chat.caption([item]).texts[0]
    assert text
    assert "assistant" not in text
    other = captioner("caption", writers["llava"], max_new_tokens=6, prompt="Which colour?")
    assert other.fingerprint != chat.fingerprint


def test_the_length_of_a_caption_is_bounded(writers: dict[str, Path], tmp_path: Path) -> None:
    items = pictures(tmp_path)
    words = [
        len((t or "").split()) for t in captioner("caption", writers["blip"], max_new_tokens=3).caption(items).texts
    ]
    assert max(words) <= 3


def test_bad_pictures_cost_their_item_only(writers: dict[str, Path], tmp_path: Path) -> None:
    items = pictures(tmp_path)
    items[1].media["image"].write_text("no picture")
    items[5].media["image"].write_bytes(b"")
    done = captioner("caption", writers["pair"], max_new_tokens=4, batch=2).caption(items)
    assert [t is None for t in done.texts] == [False, True, False, False, False, True]
    assert [p.item_id for p in done.problems] == [items[1].item_id, items[5].item_id]
    assert "not a picture" in done.problems[0].reason
    assert captioner("caption", writers["pair"]).identity(Item("x", "no media")) is None


@pytest.mark.parametrize("many", [False, True])
def test_tags_are_the_classifiers_own(tmp_path: Path, many: bool) -> None:
    import torch
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    from palate.features.sound import decode

    folder = made.audio_classifier(tmp_path / "ast", many)
    items = [Item(str(h), "x", media={"audio": made.tone(tmp_path / f"{h}.wav", h)}) for h in (100, 440, 3000)]
    tags = captioner("tags", folder, floor=0.0, k=1, batch=2)
    assert isinstance(tags, Tags)
    done = tags.caption(items)
    network = AutoModelForAudioClassification.from_pretrained(folder).eval()
    extractor = AutoFeatureExtractor.from_pretrained(folder)
    for item, text in zip(items, done.texts, strict=True):
        inputs = extractor(decode(item.media["audio"], 16_000), sampling_rate=16_000, return_tensors="pt")
        with torch.no_grad():
            logits = network(**inputs).logits[0]
        wanted = logits.sigmoid() if many else logits.softmax(0)
        heard = tags.listener.forward([tags.listener.prepare(decode(item.media["audio"], 16_000))])[0]
        np.testing.assert_allclose(heard, wanted.numpy(), atol=1e-5)
        assert text == ["Dog", "Bark loud", "Siren"][int(wanted.argmax())]


def test_a_long_sound_is_heard_in_windows_and_silence_says_nothing(tmp_path: Path) -> None:
    folder = made.audio_classifier(tmp_path / "ast")
    long = Item("long", "x", media={"audio": made.tone(tmp_path / "long.wav", 440, 3.4)})
    bad = Item("bad", "x", media={"audio": tmp_path / "bad.wav"})
    bad.media["audio"].write_text("not a sound")
    done = captioner("tags", folder, floor=0.0).caption([long, bad])
    assert sorted((done.texts[0] or "").split(", ")) == ["Bark loud", "Dog", "Siren"]
    assert done.texts[1] is None
    assert [p.item_id for p in done.problems] == ["bad"]
    assert captioner("tags", folder, floor=0.99).caption([long]).texts == [""]


def test_labels_of_anyones_own_by_a_shared_space(clip: Path, tmp_path: Path) -> None:
    items = pictures(tmp_path, 10)
    labels = captioner("labels", clip, labels=list(COLOURS), k=2, floor=0.5)
    assert labels.caption(items).texts == list(COLOURS)
    other = captioner("labels", clip, labels=["red", "blue"], k=2, floor=0.5)
    assert other.caption(items[:1]).texts == ["red"]
    assert other.fingerprint != labels.fingerprint
    assert captioner("labels", clip, labels=["red", "red"], k=2, floor=0.1).caption(items[:1]).texts == ["red"]


def test_a_text_tower_reads_as_its_model_was_trained_to(clip: Path, tmp_path: Path) -> None:
    """CLIP with a mask and the longest text's length, SigLIP at full length without one; long texts are cut."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    siglip = made.siglip(tmp_path / "siglip")
    texts = ["red", "a photo of the large blue chair", "a dog on the grass " * 20]
    for folder, padding, length in ((clip, False, 12), (siglip, "max_length", 16)):
        tower = TextTower(folder, "cpu")
        vectors = tower.vectors(texts, batch=2)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        network, read = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
        assert tower.scale == pytest.approx(float(network.logit_scale.detach().exp()))
        for text, vector in zip(texts, vectors, strict=True):
            ids = read(text, padding=padding, max_length=length, truncation=True, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                wanted = network.get_text_features(input_ids=ids).pooler_output[0]
            np.testing.assert_allclose(vector, wanted / wanted.norm(), atol=1e-5)


def test_labels_share_the_vectors_of_the_image_encoder(clip: Path, tmp_path: Path) -> None:
    from palate.config import EncoderConfig
    from palate.features import compute

    items = pictures(tmp_path, 3)
    captioner("labels", clip, labels=list(COLOURS)).caption(items)
    result = compute(items, None, {"image": EncoderConfig(source=f"path:{clip}")}, progress=False)
    assert result.report["image"].hits == 3


def test_wrong_configs_and_sources_are_named(tiny_base: Path, clip: Path, tmp_path: Path) -> None:
    items = pictures(tmp_path, 1)
    with pytest.raises(ConfigError, match="no captioner is called 'lables'; did you mean 'labels'"):
        build({"picture": CaptionConfig(captioner="lables")})
    with pytest.raises(ConfigError, match=r"captions\.picture\.options: unknown key 'flor'; did you mean 'floor'"):
        captioner("labels", clip, flor=1)
    with pytest.raises(ConfigError, match=r"captions\.picture\.source: expected a model .*blip-image-captioning"):
        build({"picture": CaptionConfig(captioner="caption")})
    with pytest.raises(ConfigError, match="key 'prompt'"):
        captioner("labels", clip, prompt="no place for the name")
    with pytest.raises(FeatureError, match="expected an image-to-text model"):
        captioner("caption", tiny_base).caption(items)
    with pytest.raises(FeatureError, match="expected an audio classifier"):
        captioner("tags", tiny_base).caption(items)
    vit = tmp_path / "vit"
    from transformers import ViTConfig, ViTModel

    ViTModel(ViTConfig(**made.VISION)).save_pretrained(vit)
    (vit / "preprocessor_config.json").write_text((clip / "preprocessor_config.json").read_text())
    with pytest.raises(FeatureError, match="expected a model with a text tower"):
        captioner("labels", vit, labels=["red", "blue"]).caption(items)


@given(st.text(max_size=80))
def test_one_line_is_one_clean_line(text: str) -> None:
    line = one_line(text, 40)
    assert line == one_line(line, 40)
    assert len(line) <= 40
    assert line.isprintable() or not line
    assert line == " ".join(line.split())


@pytest.mark.weights
def test_the_default_labels_name_what_is_drawn(tmp_path: Path) -> None:
    """Class names and indices agree: ImageNet's numbers of these classes are well known."""
    items = draw(tmp_path)
    labels = Labels(CaptionConfig(options={"k": 1}))
    chances, present, problems = labels.probabilities(items)
    assert problems == []
    assert present.all()
    best = {item.item_id: int(row.argmax()) for item, row in zip(items, chances, strict=True)}
    assert best == {name: index for name, (_, index, _) in DRAWINGS.items()}
    texts = dict(zip(best, labels.caption(items).texts, strict=True))
    assert texts["clock"] == "analog clock"
    assert texts["lights"] == "traffic light"
    np.testing.assert_allclose(chances.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(chances[:2], _by_the_network_itself(labels, items[:2]), atol=2e-4)


def _by_the_network_itself(labels: Labels, items: list[Item]) -> np.ndarray:
    """Class probabilities of a plain forward pass through the classifier."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    assert labels.weights is not None
    network.load_state_dict(torch.load(labels.weights, weights_only=True))
    sized = [Image.open(i.media["image"]).resize((224, 224), Image.Resampling.BICUBIC) for i in items]
    pixels = (torch.from_numpy(np.stack([np.asarray(i) for i in sized])).permute(0, 3, 1, 2).float() - 127) / 128
    with torch.no_grad():
        return np.asarray(network.eval()(pixels).softmax(dim=1).numpy())


@pytest.mark.weights
def test_the_classes_of_the_default_cannot_be_chosen(tmp_path: Path) -> None:
    labels = Labels(CaptionConfig(options={"labels": ["cat", "dog"]}))
    with pytest.raises(FeatureError, match="cannot be chosen; name a source with a text tower"):
        labels.caption(draw(tmp_path)[:1])
