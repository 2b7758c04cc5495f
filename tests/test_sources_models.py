"""Digests, hub snapshots and base models (GGUF to a plain folder)."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from palate import sources
from palate.errors import SourceError
from palate.sources import cache, hub
from wheel_index import FOLDER, build_wheel, sha256

# --- digests ----------------------------------------------------------------------------------------


def test_digest_of_file_and_folder(tmp_path: Path, wheel_index: Path) -> None:
    folder = tmp_path / "d"
    (folder / "b").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "z.txt").write_bytes(b"z")
    (folder / "b/a.txt").write_bytes(b"a")
    (folder / ".git/x").write_bytes(b"not content")
    assert sources.digest(folder / "z.txt") == sha256(b"z")
    expected = sha256(f"{sha256(b'a')}  b/a.txt\n{sha256(b'z')}  z.txt\n".encode())
    assert sources.digest(folder) == expected
    (folder / "z.txt").write_bytes(b"y")
    assert sources.digest(folder) != expected
    with pytest.raises(SourceError, match="cannot compute a digest"):
        sources.digest(tmp_path / "gone")


def test_large_files_are_hashed_once(tmp_path: Path, wheel_index: Path, monkeypatch: Any) -> None:
    from palate.sources import digest as module

    large = tmp_path / "large.bin"
    large.write_bytes(b"0" * (1 << 20))
    first = sources.digest(large)
    calls: list[Path] = []
    monkeypatch.setattr(
        sys.modules["palate.sources.digest"], "sha256_file", lambda p: calls.append(p) or cache.sha256_file(p)
    )
    assert module is sources.digest
    assert sources.digest(large) == first == sha256(large.read_bytes())
    assert calls == []
    large.write_bytes(b"1" * (1 << 20))
    assert sources.digest(large) == sha256(large.read_bytes())
    assert calls == [large]


def test_digest_of_a_cache_entry_comes_from_its_manifest(wheel_index: Path, monkeypatch: Any) -> None:
    build_wheel(wheel_index, {"pkg/data/big.bin": b"7" * (1 << 21), "pkg/data/a.txt": b"a"})
    path = sources.fetch(FOLDER)
    read: list[str] = []
    monkeypatch.setattr(
        sys.modules["palate.sources.digest"],
        "sha256_file",
        lambda p: read.append(p.name) or cache.sha256_file(p),
    )
    expected = sha256(f"{sha256(b'a')}  a.txt\n{sha256(b'7' * (1 << 21))}  big.bin\n".encode())
    assert sources.digest(path) == expected
    assert sources.digest(path / "big.bin") == sha256(b"7" * (1 << 21))
    assert read == ["a.txt"]


# --- the hub ----------------------------------------------------------------------------------------


@pytest.fixture
def fake_hub(wheel_index: Path, tmp_path: Path, monkeypatch: Any) -> tuple[Path, list[dict[str, Any]]]:
    """A snapshot folder like the hub client leaves it, and the calls that were made for it."""
    import huggingface_hub

    root = tmp_path / "hub"
    blobs, snapshot = root / "blobs", root / "snapshots/abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    weights = b"w" * 2000
    (blobs / sha256(weights)).write_bytes(weights)
    (snapshot / "model.safetensors").symlink_to(blobs / sha256(weights))
    (snapshot / "config.json").write_text("{}")
    calls: list[dict[str, Any]] = []

    def snapshot_download(repo: str, **options: Any) -> str:
        calls.append({"repo": repo, **options})
        return str(snapshot)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return snapshot, calls


def test_hub_snapshots_are_fetched_once_without_code(fake_hub: Any) -> None:
    snapshot, calls = fake_hub
    source = "hub:org/name@v2"
    assert sources.fetch(source) == sources.fetch(source) == sources.base_model(source) == snapshot
    assert len(calls) == 1
    assert (calls[0]["repo"], calls[0]["revision"]) == ("org/name", "v2")
    assert set(calls[0]["allow_patterns"]) == {
        "*.safetensors",
        "*.json",
        "*.txt",
        "*.jinja",
        "tokenizer.model",
    }
    assert "trust_remote_code" not in calls[0]
    stored = sources.manifest(source)
    assert stored is not None
    assert stored.files["model.safetensors"].sha256 == sha256(b"w" * 2000)
    (snapshot / "config.json").unlink()
    sources.fetch(source)
    assert len(calls) == 2


def test_hub_snapshots_must_be_whole_and_safe(fake_hub: Any) -> None:
    snapshot, _ = fake_hub
    shards = {"weight_map": {"a": "model-1.safetensors", "b": "model.safetensors"}}
    (snapshot / "model.safetensors.index.json").write_text(json.dumps(shards))
    with pytest.raises(SourceError, match=r"snapshot misses model-1\.safetensors"):
        sources.fetch("hub:org/name")
    (snapshot / "model.safetensors.index.json").unlink()
    (snapshot / "model.safetensors").unlink()
    with pytest.raises(SourceError, match="no safetensors weights there"):
        sources.fetch("hub:org/name")


def test_hub_failures_are_source_errors(wheel_index: Path, monkeypatch: Any) -> None:
    import huggingface_hub

    monkeypatch.setenv("PALATE_OFFLINE", "1")
    with pytest.raises(SourceError, match="hub:palate-test/not-there is not cached and cannot be downloaded"):
        sources.fetch("hub:palate-test/not-there")
    monkeypatch.delenv("PALATE_OFFLINE")

    def unreachable(*_: Any, **__: Any) -> str:
        raise ConnectionError("no route\nto the hub")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(SourceError, match="cannot be fetched: no route; check the name"):
        sources.fetch("hub:palate-test/not-there", progress=False)
    assert hub.ALLOWED[0] == "*.safetensors"


# --- base models ------------------------------------------------------------------------------------


def write_gguf(base: Path, out: Path) -> None:
    """The tiny Llama as a GGUF file, laid out as llama.cpp's converter does (rotary halves interleaved)."""
    import gguf
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    raw = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    config, state = model.config, model.state_dict()
    writer = gguf.GGUFWriter(out, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    tokens = sorted(raw["model"]["vocab"], key=raw["model"]["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if t.startswith("<|") else 1 for t in tokens])
    writer.add_token_merges([" ".join(m) for m in raw["model"]["merges"]])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(AutoTokenizer.from_pretrained(base).chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in state.items():
        if name == "lm_head.weight":
            continue
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:
                rows, width = tensor.shape
                tensor = tensor.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)
        writer.add_tensor(names.get_name(name, (".weight",)), tensor.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_gguf_becomes_a_plain_bf16_folder_once(
    tiny_base: Path, tmp_path: Path, wheel_index: Path, monkeypatch: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as levels

    file = tmp_path / "tiny.gguf"
    write_gguf(tiny_base, file)
    before = (levels.get_verbosity(), levels.is_progress_bar_enabled())
    capfd.readouterr()
    folder = sources.base_model(f"path:{file}")
    assert capfd.readouterr().err == ""
    assert (levels.get_verbosity(), levels.is_progress_bar_enabled()) == before
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    assert config["tie_word_embeddings"] is True
    assert config["rms_norm_eps"] == 1e-6
    assert not {"quantization_config", "_name_or_path", "_model_name_or_path"} & set(config)
    ours = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    reference = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.bfloat16).state_dict()
    assert set(ours.state_dict()) == set(reference)
    for name, tensor in ours.state_dict().items():
        assert tensor.dtype is torch.bfloat16
        torch.testing.assert_close(tensor, reference[name], rtol=0, atol=0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    original = AutoTokenizer.from_pretrained(tiny_base)
    assert (tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token_id) == (
        "<|im_end|>",
        "<|im_start|>",
        2,
    )
    assert tokenizer.chat_template == original.chat_template
    assert tokenizer("Toy Story").input_ids == original("Toy Story").input_ids
    assert tokenizer.model_max_length == 2048
    assert tokenizer.tokenize("a 2024") == [*tokenizer.tokenize("a "), "2", "0", "2", "4"]
    text = (folder / "tokenizer_config.json").read_text()
    assert str(tmp_path) not in text
    assert sources.digest(folder) == sha256(file.read_bytes())
    monkeypatch.setattr(sys.modules["palate.sources.gguf"], "convert", None)
    assert sources.base_model(f"path:{file}") == folder
    assert sources.base_model(f"path:{tmp_path}") == folder


def test_base_model_takes_folders_and_refuses_the_rest(tiny_base: Path, tmp_path: Path, wheel_index: Path) -> None:
    assert sources.base_model(f"path:{tiny_base}") == tiny_base
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(SourceError, match=r"expected a model folder or a \.gguf file, got the file 'note.txt'"):
        sources.base_model(f"path:{tmp_path / 'note.txt'}")
    with pytest.raises(SourceError, match=r"expected a folder with config\.json .* has neither"):
        sources.base_model(f"path:{wheel_index}")
    (wheel_index / "a.gguf").write_bytes(b"GGUF")
    shutil.copy(wheel_index / "a.gguf", wheel_index / "b.gguf")
    with pytest.raises(SourceError, match="2 GGUF files; name one of them"):
        sources.base_model(f"path:{wheel_index}")
    with pytest.raises(SourceError, match="cannot read this GGUF file"):
        sources.base_model(f"path:{wheel_index / 'a.gguf'}")
