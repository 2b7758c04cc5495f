"""Export: merged weights are the model, the adapter beside its base is the model, and nothing else is written over."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from exported import close, counting_bundle, logits
from palate.apps.cli import run as cli
from palate.apps.export import run as exporting
from palate.apps.export.folder import NOTE
from palate.apps.export.run import export, read_note
from palate.apps.export.targets import Export, Options, names
from palate.apps.export.targets.hf import Hf
from palate.config import ModelConfig
from palate.engine.pack import concat
from palate.errors import BundleError, ConfigError, PalateWarning
from palate.model import bundle as bundles
from palate.model.load import quiet
from palate.schema import Prompt
from palate.sources.cache import sha256_file
from stock import FAMILIES, create, save_base

FP32 = 1e-4
"""Largest difference of a logit between Palate's own model and an export in float32."""
TEXT = "The user watched these movies. Toy Story, Alien 2"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> Path:
    return counting_bundle(tmp_path_factory.mktemp("export") / "films", tiny_base, tiny_data)


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> Path:
    """A bundle on the first of its base's two layers."""
    return counting_bundle(tmp_path_factory.mktemp("cut") / "films", tiny_base, tiny_data, layers=1)


def stock(folder: Path, dtype: str = "float32") -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    lm = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype), attn_implementation="eager")
    return lm.eval(), AutoTokenizer.from_pretrained(folder)


def own(bundle: Path, ids: list[int], **options: Any) -> torch.Tensor:
    """Logits of Palate's own model, through its own forward: [T, V]."""

    return palates(bundles.load(bundle, device="cpu", **options).model, ids)


def palates(model: Any, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.logits(model(concat([Prompt(np.asarray(ids, dtype=np.int64))])))
    return found


# --- merged weights ---------------------------------------------------------------------------------


@pytest.mark.parametrize("merge", [True, False])
def test_merged_weights_say_what_palate_says(bundle: Path, tmp_path: Path, merge: bool) -> None:
    export(str(bundle), "hf", tmp_path / "out", Options())
    lm, tokenizer = stock(tmp_path / "out")
    ids = tokenizer(TEXT)["input_ids"]
    mine = own(bundle, ids, merge=merge)
    assert close(logits(lm, ids), mine) < FP32
    base, _ = stock(Path(bundles.read_meta(bundle)["base"].removeprefix("path:")))
    assert close(logits(base, ids), mine) > 0.1, "the LoRA of this test must count"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_of_bases(family: str, tiny_base: Path, tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", tiny_base, family)
    model = create(base)
    folder = bundles.save(tmp_path / "bundle", model, {"templates": {}, "data": {}})
    note = export(str(folder), "hf", tmp_path / "out", Options())
    lm, tokenizer = stock(tmp_path / "out")
    ids = tokenizer(TEXT)["input_ids"][:12]
    assert close(logits(lm, ids), own(folder, ids)) < FP32
    table = load_file(tmp_path / "out" / note["model"]["embeddings"]["file"])[note["model"]["embeddings"]["tensor"]]
    seen = lm.get_input_embeddings()(torch.tensor([5]))[0]
    assert close(table[5] * note["model"]["embeddings"]["scale"], seen.detach()) < 1e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.1), ("float16", 0.02)])
def test_half_precision_is_what_palate_computes_with(
    bundle: Path, tmp_path: Path, dtype: Any, tolerance: float
) -> None:
    export(str(bundle), "hf", tmp_path / "out", Options(dtype=dtype))
    lm, tokenizer = stock(tmp_path / "out", dtype)
    assert lm.dtype == getattr(torch, dtype)
    ids = tokenizer(TEXT)["input_ids"]
    assert close(logits(lm, ids), own(bundle, ids)) < tolerance
    held = load_file(tmp_path / "out/model.safetensors")["model.layers.0.mlp.down_proj.weight"]
    mine = bundles.load(bundle, device="cpu", dtype=dtype, merge=True).model.lm
    assert torch.equal(held, mine.model.layers[0].mlp.down_proj.weight)


def test_a_cut_base_comes_out_as_short_as_it_is(cut: Path, tmp_path: Path) -> None:
    note = export(str(cut), "hf", tmp_path / "out", Options())
    lm, tokenizer = stock(tmp_path / "out")
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert note["model"]["layers"] == lm.config.num_hidden_layers == config["num_hidden_layers"] == 1
    assert not [n for n in load_file(tmp_path / "out/model.safetensors") if ".layers.1." in n]
    ids = tokenizer(TEXT)["input_ids"]
    assert close(logits(lm, ids), own(cut, ids)) < FP32


def test_fewer_layers_on_request(bundle: Path, tmp_path: Path) -> None:
    with pytest.warns(PalateWarning, match="LoRA weights of layers 1 to 1 are left out"):
        note = export(str(bundle), "vllm", tmp_path / "out", Options(layers=1))
    assert note["model"]["layers"] == 1
    assert not [n for n in load_file(tmp_path / "out/adapter/adapter_model.safetensors") if ".layers.1." in n]


def test_a_plain_folder_without_traces(bundle: Path, tmp_path: Path) -> None:
    base = Path(bundles.read_meta(bundle)["base"].removeprefix("path:"))
    export(str(bundle), "hf", tmp_path / "out", Options())
    _, tokenizer = stock(tmp_path / "out")
    _, original = stock(base)
    text = "Star Wars <|im_start|>user\n1977 <|im_end|>"
    assert tokenizer(text)["input_ids"] == original(text)["input_ids"]
    assert tokenizer.chat_template == original.chat_template
    generation = json.loads((tmp_path / "out/generation_config.json").read_text())
    assert generation["do_sample"] is False
    assert not {"top_k", "top_p", "temperature"} & set(generation)
    assert (generation["eos_token_id"], generation["pad_token_id"]) == (2, 2)
    for file in ("config.json", "tokenizer_config.json", NOTE):
        said = (tmp_path / "out" / file).read_text()
        assert "palate_packed" not in said
        assert str(tmp_path) not in said, file
    assert "TokenizersBackend" not in (tmp_path / "out/tokenizer_config.json").read_text()


def test_an_adapter_of_a_quantized_base_is_exported_with_a_word(bundle: Path, tmp_path: Path) -> None:
    import shutil

    other = tmp_path / "nf4"
    shutil.copytree(bundle, other)
    meta = json.loads((other / "palate.json").read_text())
    meta["model"]["quantization"] = "nf4"
    (other / "palate.json").write_text(json.dumps(meta))
    with pytest.warns(PalateWarning, match="trained on a base in nf4; the export takes the unquantized weights"):
        export(str(other), "hf", tmp_path / "out", Options())
    assert "quantization_config" not in json.loads((tmp_path / "out/config.json").read_text())


# --- the note ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["hf", "vllm", "sglang"])
def test_the_note_says_what_is_there_and_what_is_lost(bundle: Path, tmp_path: Path, to: str) -> None:
    note = export(str(bundle), to, tmp_path / "out", Options())
    assert note == read_note(tmp_path / "out")
    on_disk = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert on_disk == {*note["files"], NOTE, "README.md"}
    for name, digest in note["files"].items():
        assert sha256_file(tmp_path / "out" / name) == digest
    assert note["templates"]["yes_no"]["labels"] == ["Yes", "No"]
    assert note["trained_templates"] == bundles.read_meta(bundle)["templates"]
    assert note["bundle"]["sha256"]["palate.json"] == sha256_file(bundle / "palate.json")
    readme = (tmp_path / "out/README.md").read_text()
    assert all(line in readme for line in note["lost"])
    assert any("projectors" in line for line in note["lost"])


def test_other_folders_are_no_exports(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="expected a folder that `palate export` wrote"):
        read_note(bundle)
    (tmp_path / NOTE).write_text('{"format": 99}')
    with pytest.raises(BundleError, match="format 99, expected 1"):
        read_note(tmp_path)


# --- LoRA beside its base ---------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["vllm", "sglang"])
def test_the_adapter_on_its_base_says_what_palate_says(cut: Path, tmp_path: Path, to: str) -> None:
    from peft import PeftModel

    note = export(str(cut), to, tmp_path / "out", Options())
    lm, tokenizer = stock(tmp_path / "out/base")
    ids = tokenizer(TEXT)["input_ids"]
    untouched = logits(lm, ids)
    with quiet():
        tuned = PeftModel.from_pretrained(lm, str(tmp_path / "out/adapter"))
    mine = own(cut, ids, merge=False)
    assert close(logits(tuned, ids), mine) < FP32
    assert close(untouched, mine) > 0.1
    state = load_file(tmp_path / "out/adapter/adapter_model.safetensors")
    assert all(n.startswith("base_model.model.model.layers.0.") for n in state)
    assert {n.rpartition(".lora_")[2] for n in state} == {"A.weight", "B.weight"}
    config = json.loads((tmp_path / "out/adapter/adapter_config.json").read_text())
    assert (config["r"], config["peft_type"], config["bias"]) == (4, "LORA", "none")
    assert note["adapter"]["max_lora_rank"] == 8
    assert "--max-lora-rank 8" in (tmp_path / "out/README.md").read_text()


def test_merged_for_an_engine_is_the_hf_export(bundle: Path, tmp_path: Path) -> None:
    note = export(str(bundle), "sglang", tmp_path / "a", Options(merge=True))
    export(str(bundle), "hf", tmp_path / "b", Options())
    assert note["model"]["folder"] == "model"
    assert not (tmp_path / "a/adapter").exists()
    one, two = (load_file(f) for f in (tmp_path / "a/model/model.safetensors", tmp_path / "b/model.safetensors"))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[n], two[n]) for n in one)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"use_dora": True}, "got DoRA"),
        ({"modules_to_save": ["lm_head"]}, "trained whole modules"),
        ({"rank_pattern": {"q_proj": 2}}, "a rank of its own for some modules"),
        ({"target_modules": ".*_proj"}, "target modules by pattern"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'"),
    ],
)
def test_lora_that_engines_refuse(bundle: Path, tmp_path: Path, change: dict[str, Any], words: str) -> None:
    from palate.apps.export import adapter

    config = json.loads((bundle / "adapter_config.json").read_text()) | change
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").symlink_to(bundle / "adapter_model.safetensors")
    with pytest.raises(BundleError, match=f"plain LoRA on linear layers.*{words}.*--merge, or --to hf"):
        adapter.write(tmp_path, tmp_path / "out", 2)


# --- the folder -------------------------------------------------------------------------------------


def test_a_folder_of_somebody_else_is_never_replaced(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    for force in (False, True):
        with pytest.raises(ConfigError, match=r"it holds thesis\.tex and is no earlier export"):
            export(str(bundle), "hf", out, Options(), force)
    assert (out / "thesis.tex").read_text() == "years of work"
    with pytest.raises(ConfigError, match="got a file"):
        export(str(bundle), "hf", out / "thesis.tex", Options(), True)
    with pytest.raises(ConfigError, match="expected a folder outside the bundle"):
        export(str(bundle), "hf", bundle / "out", Options())


def test_an_earlier_export_is_replaced_when_told(bundle: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export(str(bundle), "vllm", out, Options())
    with pytest.raises(ConfigError, match="--force replaces it"):
        export(str(bundle), "hf", out, Options())
    export(str(bundle), "hf", out, Options(), force=True)
    assert read_note(out)["target"] == "hf"
    assert not (out / "base").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("broken", [OSError("No space left on device"), KeyboardInterrupt()])
def test_a_failed_export_leaves_the_old_one(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: BaseException
) -> None:
    out = tmp_path / "out"
    export(str(bundle), "hf", out, Options())
    before = {p.name: p.read_bytes() for p in out.iterdir()}

    def fail(self: Hf, bundle: Path, folder: Path, options: Options) -> Export:
        (folder / "half.safetensors").write_bytes(b"half")
        raise broken

    monkeypatch.setattr(Hf, "write", fail)
    expected = ConfigError if isinstance(broken, OSError) else KeyboardInterrupt
    with pytest.raises(expected, match="No space left" if isinstance(broken, OSError) else None):
        export(str(bundle), "hf", out, Options(), force=True)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_files_are_readable_as_the_umask_says(bundle: Path, tmp_path: Path) -> None:
    import os

    old = os.umask(0o027)
    try:
        export(str(bundle), "vllm", tmp_path / "out", Options())
    finally:
        os.umask(old)
    assert {p.stat().st_mode & 0o777 for p in (tmp_path / "out").rglob("*") if p.is_file()} == {0o640}
    assert (tmp_path / "out/base").stat().st_mode & 0o777 == 0o750


# --- mistakes ---------------------------------------------------------------------------------------


def test_mistakes_say_what_was_expected(bundle: Path, tiny_base: Path, tmp_path: Path) -> None:
    assert names() == ["gguf", "hf", "sglang", "vllm"]
    with pytest.raises(ConfigError, match=r"no target is called 'vlm'; did you mean 'vllm'\?"):
        export(str(bundle), "vlm", tmp_path / "out", Options())
    with pytest.raises(ConfigError, match="--merge does not go with --to hf"):
        export(str(bundle), "hf", tmp_path / "out", Options(merge=True))
    with pytest.raises(ConfigError, match="--converter does not go with --to vllm"):
        export(str(bundle), "vllm", tmp_path / "out", Options(converter=Path("x.py")))
    with pytest.raises(BundleError, match="expected an adapter bundle to export, got a base model"):
        export(str(tiny_base), "hf", tmp_path / "out", Options())
    assert not (tmp_path / "out").exists()
    assert exporting.FORMAT == 1


def test_the_command(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", str(bundle), "--to", "vllm", "--merge", "-o", str(tmp_path / "out")]
    assert cli([*command, "--dtype", "bfloat16", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["dtype"] == "bfloat16"
    assert (tmp_path / "out/model/model.safetensors").is_file()
    assert cli(command) == 2
    assert "--force replaces it" in capsys.readouterr().err
    assert cli([*command, "--force", "--dtype", "float8"]) == 2
    assert "--dtype: expected bfloat16, float16, float32, got 'float8'" in capsys.readouterr().err
    assert cli([*command, "--force"]) == 0
    said = capsys.readouterr().out
    assert "LlamaForCausalLM, 2 layers, float32, LoRA merged" in said
    assert "lost: projectors" in said


# --- the shipped adapter ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prompts() -> list[list[int]]:
    """Text prompts of the shipped data set's own: yes/no questions and histories as token ids, without soft tokens."""
    from palate.model.load import load_base

    config = bundles.read_meta("adapters/ml-100k")["model"]
    _, tokenizer, _ = load_base(ModelConfig.parse(config, "ml-100k"), "cpu")
    texts = [
        "<|im_start|>user\nThis viewer watched these movies, oldest first:\n- Alien (1979)\n- Heat (1995)\n"
        "Would this viewer like Fargo (1996)? Yes or No?<|im_end|>\n<|im_start|>assistant\n",
        "This viewer watched these movies, oldest first:\n" + "".join(f"Film number {n}\n" for n in range(40)),
        "Which movie comes next?",
    ]
    return [tokenizer(t)["input_ids"] for t in texts]


@pytest.mark.weights
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 2.0)])
def test_the_shipped_adapter_merged(tmp_path: Path, prompts: list[list[int]], dtype: Any, tolerance: float) -> None:
    """Eight of thirty layers, logits of Palate's own merged model. In bfloat16 both round at every layer, each in its
    own way, and logits of 30 lie 0.125 apart; measured: docs/exporting.md.
    """
    note = export("adapters/ml-100k", "hf", tmp_path / "out", Options(dtype=dtype))
    assert note["model"]["layers"] == 8
    lm, _ = stock(tmp_path / "out", dtype)
    assert lm.config.num_hidden_layers == 8
    model = bundles.load("adapters/ml-100k", device="cpu", dtype=dtype, merge=True).model
    for ids in prompts:
        mine = palates(model, ids)
        assert close(logits(lm, ids), mine) < tolerance
        assert close(logits(lm, ids), mine) < 0.05 * float(mine.abs().max())


@pytest.mark.weights
def test_the_shipped_adapter_beside_its_base(tmp_path: Path, prompts: list[list[int]]) -> None:
    from peft import PeftModel

    note = export("adapters/ml-100k", "vllm", tmp_path / "out", Options(dtype="float32"))
    assert (note["adapter"]["rank"], note["adapter"]["max_lora_rank"], note["model"]["layers"]) == (64, 64, 8)
    lm, _ = stock(tmp_path / "out/base")
    with quiet():
        tuned = PeftModel.from_pretrained(lm, str(tmp_path / "out/adapter"))
    model = bundles.load("adapters/ml-100k", device="cpu", dtype="float32", merge=False).model
    assert all(close(logits(tuned, ids), palates(model, ids)) < 1e-4 for ids in prompts)
