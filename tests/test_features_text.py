"""The text encoder: what text an item is, and the vectors of a sentence-transformers folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from palate.config import EncoderConfig
from palate.errors import ConfigError, FeatureError
from palate.features.encoders.text import Text
from palate.schema import Item

ITEM = Item("1", "Toy Story", {"year": "1995", "plot": "", "genres": "Animation Comedy"})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder: a random BERT of one layer, 16 wide, with a character vocabulary."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder, inner = tmp_path_factory.mktemp("st"), tmp_path_factory.mktemp("bert")
    letters = [chr(c) for c in range(33, 127)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *(f"##{c}" for c in letters)]
    (inner / "vocab.txt").write_text("\n".join(words), encoding="utf-8")
    BertTokenizerFast(vocab=str(inner / "vocab.txt")).save_pretrained(inner)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertModel(config).save_pretrained(inner)
    network = Transformer(str(inner), max_seq_length=64)
    SentenceTransformer(modules=[network, Pooling(16)], device="cpu").save_pretrained(str(folder))
    return folder


def encoder(source: object, **options: object) -> Text:
    return Text(EncoderConfig(source=f"path:{source}", options={"device": "cpu", **options}))


def test_text_is_title_and_filled_fields() -> None:
    assert Text().text(ITEM) == "Toy Story\nyear: 1995\ngenres: Animation Comedy"
    assert Text(EncoderConfig(options={"fields": ["genres", "plot"]})).text(ITEM) == (
        "Toy Story\ngenres: Animation Comedy"
    )
    assert Text(EncoderConfig(options={"max_chars": 12})).text(ITEM) == "Toy Story\nye"


def test_identity_follows_the_text() -> None:
    same = Item("other", "Toy Story", ITEM.text)
    assert Text().identity(ITEM) == Text().identity(same)
    assert Text().identity(ITEM) != Text().identity(Item("1", "Toy Story", {}))
    assert Text().identity(Item("1", "")) is None
    assert Text().identity(Item("1", "lone \ud800 surrogate")) is not None


def test_vectors_are_the_models_own(model: Path) -> None:
    from sentence_transformers import SentenceTransformer

    items = [ITEM, Item("2", "Heat"), Item("3", "odd \ud800 \x00 text"), Item("4", "x" * 100_000)]
    text = encoder(model, batch=2)
    made = text.encode(items)
    assert made.vectors.shape == (4, text.width) == (4, 16)
    assert made.present.all()
    np.testing.assert_allclose(np.linalg.norm(made.vectors, axis=1), 1, atol=1e-5)
    plain = SentenceTransformer(str(model), device="cpu")
    wanted = plain.encode([text.text(items[0]), "Heat"], normalize_embeddings=True)
    np.testing.assert_allclose(made.vectors[:2], wanted, atol=1e-5)


def test_fingerprint_covers_weights_and_meaningful_options(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path))
    assert encoder(model).fingerprint == encoder(model, batch=3).fingerprint
    assert encoder(model).fingerprint != encoder(model, max_chars=9).fingerprint
    changed = tmp_path / "changed"
    changed.mkdir()
    for file in model.rglob("*"):
        if file.is_file():
            target = changed / file.relative_to(model)
            target.parent.mkdir(exist_ok=True, parents=True)
            target.write_bytes(file.read_bytes())
    assert encoder(changed).fingerprint == encoder(model).fingerprint
    weights = changed / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\1")
    assert encoder(changed).fingerprint != encoder(model).fingerprint


def test_wrong_sources_and_options_are_named(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match="expected a folder that sentence-transformers loads"):
        encoder(tmp_path).encode([ITEM])
    with pytest.raises(ConfigError, match=r"unknown key 'max_char'; did you mean 'max_chars'\?"):
        encoder(tmp_path, max_char=3)


@pytest.mark.weights
def test_default_encoder_puts_like_near_like() -> None:
    items = [
        Item("1", "a film about space travel"),
        Item("2", "astronauts fly to the moon"),
        Item("3", "a recipe for onion soup"),
    ]
    vectors = Text().encode(items).vectors
    assert vectors.shape == (3, 384)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.15
