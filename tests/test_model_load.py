"""How a base is held: precision, depth, merged LoRA, quantization, several devices. Each changes what it says only."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from palate.config import LoraConfig, ModelConfig, RunConfig
from palate.engine.pack import concat
from palate.errors import BundleError, ConfigError, PalateWarning
from palate.model import Model, bundle, hardware, load, quantize
from palate.model.hardware import inference_dtype, native, pick_device, pick_dtype
from palate.schema import Features, Prompt, Slot

CPU = torch.device("cpu")
IDS = ("1", "2", "3")


@pytest.fixture
def bf16(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool | None], None]:
    """Say whether the CPU multiplies bfloat16."""
    return lambda answer: monkeypatch.setattr(hardware, "cpu_bf16", lambda: answer)


def create(base: Path, *, adapter: bool = True, **changes: Any) -> Model:
    """A model with LoRA that counts and one item table."""
    made = {"dtype": "float32", "hidden": 8, "matching": 8, "lora": LoraConfig(rank=2), **changes}
    vectors = np.random.default_rng(0).normal(size=(3, 6)).astype(np.float32)
    tables = {"image": Features("image", IDS, vectors, np.ones(3, dtype=bool), "image:v1")}
    config = ModelConfig(base=f"path:{base}", **made)
    model = Model.create(config, tables if adapter else {}, device="cpu", seed=3, adapter=adapter)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        for name, p in model.trainable().items():
            if "lora_B" in name:
                p.normal_(std=0.05)
    return model


@pytest.fixture
def folder(tiny_base: Path, tmp_path: Path) -> Path:
    return bundle.save(tmp_path / "mine", create(tiny_base), {})


def hidden(model: Model, soft: bool = True) -> torch.Tensor:
    slots = (Slot(1, 1, "image", "1"),) if soft else ()
    with torch.inference_mode():
        return model(concat([Prompt(np.array([4, 5, 6, 9, 8]), slots)])).float()


# --- precision ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("flags", "says"), [("flags : sse avx512_bf16", True), ("flags : sse avx2", False)])
def test_the_cpu_says_whether_it_has_bfloat16(monkeypatch: pytest.MonkeyPatch, flags: str, says: bool) -> None:
    monkeypatch.setattr(Path, "read_text", lambda *a, **k: flags)
    assert hardware.cpu_bf16() is says


def test_auto_is_bfloat16_only_where_it_is_native(bf16: Callable[[bool | None], None]) -> None:
    for answer, expected in ((True, torch.bfloat16), (False, torch.float32), (None, torch.float32)):
        bf16(answer)
        assert pick_dtype("auto", CPU) == expected
        assert pick_dtype("bfloat16", CPU) == torch.bfloat16
        assert not native("float16", CPU)
    with pytest.raises(ConfigError, match="expected auto, bfloat16, float16 or float32, got 'half'"):
        pick_dtype("half", CPU)


@pytest.mark.parametrize(("major", "expected"), [(7, torch.float32), (8, torch.bfloat16)])
def test_auto_on_cuda_goes_by_capability(monkeypatch: pytest.MonkeyPatch, major: int, expected: torch.dtype) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (major, 5))
    assert pick_dtype("auto", torch.device("cuda")) == expected


@pytest.mark.parametrize(
    ("asked", "trained", "has", "expected"),
    [
        (None, "bfloat16", False, torch.float32),
        (None, "bfloat16", True, torch.bfloat16),
        (None, "float32", True, torch.float32),  # trained in float32 on purpose
        (None, "float16", True, torch.float32),
        (None, "auto", True, torch.bfloat16),
        ("auto", "float32", True, torch.bfloat16),
        ("bfloat16", "float32", False, torch.bfloat16),
    ],
)
def test_inference_is_as_trained_where_that_is_native(
    bf16: Callable[[bool | None], None], asked: str | None, trained: str, has: bool, expected: torch.dtype
) -> None:
    bf16(has)
    assert inference_dtype(asked, trained, CPU) == expected


def test_precision_is_chosen_when_loading(tiny_base: Path, tmp_path: Path, bf16: Callable[[bool | None], None]) -> None:
    bf16(False)
    made = bundle.save(tmp_path / "mine", create(tiny_base, dtype="bfloat16"), {})
    plain = bundle.load(made, device="cpu").model
    assert plain.dtype == torch.float32
    assert plain.config.dtype == "bfloat16"  # what it was trained in is not forgotten
    assert bundle.load(made, device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16
    bf16(True)
    assert bundle.load(made, device="cpu").model.dtype == torch.bfloat16
    assert bundle.load(made, device="cpu", dtype="float32").model.dtype == torch.float32
    assert Model.create(ModelConfig(base=f"path:{tiny_base}"), {}, device="cpu", adapter=False).dtype == torch.bfloat16


def test_training_takes_what_auto_came_to(tiny_base: Path, bf16: Callable[[bool | None], None]) -> None:
    from palate.train.loop import _precision
    from palate.train.prepare import identify

    run = RunConfig(name="x", data="x", model=ModelConfig(base=f"path:{tiny_base}"))
    data: Any = SimpleNamespace(fingerprint="f")
    for has, expected, name in ((False, "no", "float32"), (True, "bf16", "bfloat16")):
        bf16(has)
        assert _precision(run) == expected
        model = Model.create(run.model, {}, device="cpu", adapter=False)
        assert identify(run, data, model, {}, 1)["model.dtype"] == name


# --- depth --------------------------------------------------------------------------------------------

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text")


def small(name: str, tokenizer_of: Path, folder: Path) -> Path:
    """A random base of an architecture, four layers deep, with a sliding window where it knows one."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(2)
    config = AutoConfig.for_model(
        name, vocab_size=400, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, sliding_window=4, tie_word_embeddings=True, pad_token_id=2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer_of).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_first_layers_are_the_base_without_the_others(name: str, tiny_base: Path, tmp_path: Path) -> None:
    base = small(name, tiny_base, tmp_path / name)
    cut = create(base, adapter=False, layers=3)
    whole = create(base, adapter=False)
    assert cut.base_digest == whole.base_digest
    assert len(cut.lm.model.layers) == cut.lm.config.num_hidden_layers == 3
    by_hand = whole.lm
    by_hand.model.layers = by_hand.model.layers[:3]
    by_hand.config.num_hidden_layers = 3
    by_hand.set_attn_implementation("eager")
    with torch.inference_mode():
        expected = by_hand(input_ids=torch.tensor([[4, 5, 6, 9, 8]])).logits[0]
        got = cut.logits(hidden(cut, soft=False))
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_layers_that_are_not_there_are_an_error(tiny_base: Path) -> None:
    with pytest.raises(ConfigError, match=r"layers: expected 1 to 2, as many as path:.* has, got 3"):
        create(tiny_base, layers=3)
    with pytest.raises(ConfigError, match="greater than or equal to 1, got 0"):
        ModelConfig.parse({"layers": 0}, "x")


def test_a_base_that_cannot_be_cut_says_so() -> None:
    from palate.model import depth

    shared = SimpleNamespace(num_hidden_layers=4, num_kv_shared_layers=2)
    with pytest.raises(ConfigError, match="shares keys and values between its last layers"):
        depth.shorten(SimpleNamespace(get_text_config=lambda: shared), 2, "odd")
    with pytest.raises(ConfigError, match="keep 2 in `layers`, found none under that name"):
        depth.check_cut(SimpleNamespace(), 2, "odd")
    with pytest.raises(ConfigError, match="keep 2 in `layers`, found 3"):
        depth.check_cut(SimpleNamespace(layers=[1, 2, 3]), 2, "odd")


def test_a_short_base_is_trained_saved_and_loaded_short(tiny_base: Path, tmp_path: Path) -> None:
    model = create(tiny_base, layers=1)
    made = bundle.save(tmp_path / "short", model, {})
    assert bundle.read_meta(made)["model"]["layers"] == 1
    again = bundle.load(made, device="cpu").model
    assert len(again.lm.model.layers) == 1
    torch.testing.assert_close(hidden(again), hidden(model), atol=0.05, rtol=0.05)
    with pytest.raises(BundleError, match=r"was trained on the first 1 layers, got 2; expected no more"):
        bundle.load(made, device="cpu", layers=2)


def test_lora_of_cut_layers_is_left_out_only_when_asked_for(folder: Path) -> None:
    with pytest.warns(PalateWarning, match="LoRA weights of layers 1 to 1 are left out, because layers=1 was asked"):
        cut = bundle.load(folder, device="cpu", layers=1).model
    whole = bundle.load(folder, device="cpu", merge=False).model
    by_hand = whole.lm.get_base_model()
    by_hand.model.layers = by_hand.model.layers[:1]
    by_hand.config.num_hidden_layers = 1
    torch.testing.assert_close(hidden(cut), hidden(whole), atol=1e-5, rtol=1e-5)
    meta = bundle.read_meta(folder)
    bundle._write_meta(folder, "mine", {**meta, "model": {**meta["model"], "layers": 1}})
    with pytest.raises(BundleError, match="says its base has 1 layers, but holds LoRA weights of 2; load it with"):
        bundle.load(folder, device="cpu")


# --- merging ------------------------------------------------------------------------------------------


def test_merged_and_apart_agree_and_only_one_has_lora(folder: Path) -> None:
    apart, merged = (bundle.load(folder, device="cpu", merge=m).model for m in (False, "auto"))
    torch.testing.assert_close(hidden(merged), hidden(apart), atol=1e-5, rtol=1e-5)
    assert apart.merged is False
    assert merged.merged is True
    assert not hasattr(merged.lm, "peft_config")
    assert not [n for n, _ in merged.lm.named_modules() if "lora" in n]
    assert type(merged.lm).__name__ == "LlamaForCausalLM"


def test_the_sum_is_taken_in_float32_and_rounded_once(folder: Path, tiny_base: Path) -> None:
    from safetensors.torch import load_file

    merged = bundle.load(folder, device="cpu", dtype="bfloat16").model
    lora = load_file(folder / "adapter_model.safetensors")
    name = "model.layers.1.self_attn.q_proj"
    a, b = (lora[f"base_model.model.{name}.lora_{x}.weight"].float() for x in "AB")
    base = create(tiny_base, adapter=False, dtype="bfloat16").lm.get_submodule(name).weight.float()
    scale = merged.config.lora.alpha / merged.config.lora.rank
    got = merged.lm.get_submodule(name).weight
    assert got.dtype == torch.bfloat16
    assert torch.equal(got, (base + scale * (b @ a)).bfloat16())


def test_a_merged_model_is_neither_saved_nor_trained(folder: Path, tmp_path: Path) -> None:
    merged = bundle.load(folder, device="cpu").model
    with pytest.raises(BundleError, match="LoRA is merged into its base; load it with merge=False"):
        bundle.save(tmp_path / "again", merged, {})
    with pytest.raises(BundleError, match="cannot be trained; load it with merge=False"):
        merged.trainable_state()
    assert not (tmp_path / "again").exists()


def test_lora_on_tied_embeddings_stays_apart(tiny_base: Path, tmp_path: Path) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Model has `tie_word_embeddings=True`")  # PEFT's own doubt
        made = bundle.save(tmp_path / "tied", create(tiny_base, lora=LoraConfig(rank=2, targets=["lm_head"])), {})
        with pytest.raises(ConfigError, match="tied to the embeddings cannot be merged; use merge=False"):
            bundle.load(made, device="cpu", merge=True)
        assert bundle.load(made, device="cpu", merge=False).model.has_matching


def test_a_wrong_merge_is_named(folder: Path) -> None:
    with pytest.raises(ConfigError, match="merge: expected 'auto', True or False, got 'yes'"):
        bundle.load(folder, device="cpu", merge="yes")  # type: ignore[arg-type]


def test_values_kept_for_a_merged_model_follow_its_tables(folder: Path) -> None:
    from palate.engine.state import ModelCache

    merged = bundle.load(folder, device="cpu").model
    kept: ModelCache[int] = ModelCache()
    kept.put(merged, 7)
    hidden(merged)
    assert kept.get(merged) == 7
    assert merged.soft is not None
    merged.soft.add_item("new", {"image": np.ones(6, dtype=np.float32)})
    assert kept.get(merged) is None


# --- quantization -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base wide enough for bitsandbytes, whose blocks hold 64 weights of a row."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes has no build for this platform")
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=400, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(folder)
    return folder


@pytest.mark.filterwarnings("ignore:int8 on a CPU:palate.errors.PalateWarning")
@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantized_in_place_or_as_it_is_read_is_the_same(wide: Path, kind: Any) -> None:
    read = create(wide, adapter=False, quantization=kind)
    whole = create(wide, adapter=False)
    exact = hidden(whole, soft=False)
    quantize.quantize(whole.lm, kind)
    assert torch.equal(hidden(whole, soft=False), hidden(read, soft=False))
    assert not torch.equal(hidden(read, soft=False), exact)
    assert type(whole.lm.lm_head) is torch.nn.Linear


def test_lora_beside_and_inside_nf4(wide: Path, tmp_path: Path) -> None:
    made = bundle.save(tmp_path / "mine", create(wide), {})
    exact = hidden(bundle.load(made, device="cpu").model)
    apart = bundle.load(made, device="cpu", quantization="nf4").model
    inside = bundle.load(made, device="cpu", quantization="nf4", merge=True).model
    assert (apart.merged, inside.merged) == (False, True)
    for small_one in (apart, inside):
        near = torch.nn.functional.cosine_similarity(hidden(small_one), exact, dim=-1)
        assert near.min() > 0.9
        assert small_one.dtype == torch.float32  # nf4 computes in what was picked
    assert not torch.equal(hidden(apart), hidden(inside))
    linear = inside.lm.model.layers[0].self_attn.q_proj
    assert type(linear).__name__ == "Linear4bit"
    assert linear.compute_dtype == torch.float32


@pytest.mark.parametrize("kind", ["int4", "fp8"])
def test_torchao_where_it_cannot_work(
    kind: Any, folder: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantize, "find_spec", lambda name: None if name == "torchao" else find_spec(name))
    with pytest.raises(ConfigError, match=f"quantization '{kind}' needs torchao; run `pip install torchao`"):
        bundle.load(folder, device="cpu", quantization=kind)
    monkeypatch.setattr(quantize, "find_spec", lambda name: True)
    needs = {"int4": "8.0", "fp8": "8.9"}[kind]
    with pytest.raises(ConfigError, match=f"compute capability {needs} or more, got the device cpu; use nf4 or none"):
        bundle.load(folder, device="cpu", quantization=kind)
    monkeypatch.setattr(quantize, "capability", lambda device: (9, 0))
    with pytest.raises(ConfigError, match=r"computes in bfloat16, got torch\.float32; use dtype='bfloat16'"):
        bundle.load(folder, device="cpu", quantization=kind)
    with pytest.raises(ConfigError, match="is for inference; train on nf4, int8 or none"):
        create(tiny_base, quantization=kind)


def test_torchao_on_an_older_gpu_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantize, "find_spec", lambda name: True)
    monkeypatch.setattr(quantize, "capability", lambda device: (8, 6))
    with pytest.raises(ConfigError, match=r"'fp8': expected a CUDA device of compute capability 8.9 or more, got 8.6"):
        quantize.check("fp8", torch.bfloat16, torch.device("cuda"))
    quantize.check("int4", torch.bfloat16, torch.device("cuda"))


@pytest.mark.filterwarnings("ignore")
def test_torchao_quantizes_every_linear_but_head_and_lora(wide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """int4 and fp8 need a GPU; an 8-bit configuration of the same library goes the same way on a CPU."""
    ao = pytest.importorskip("torchao.quantization", reason="torchao is an optional package")
    monkeypatch.setattr(quantize, "_torchao_config", lambda kind: ao.Int8WeightOnlyConfig())
    model = create(wide)
    exact = hidden(model)
    quantize.quantize(model.lm, "int4")
    near = torch.nn.functional.cosine_similarity(hidden(model), exact, dim=-1)
    assert 0.99 < near.min() < 1
    plain = {n for n, m in model.lm.named_modules() if hasattr(m, "weight") and type(m.weight) is torch.nn.Parameter}
    assert all("lora" in n or "norm" in n or "embed" in n or "lm_head" in n for n in plain)


# --- several devices ----------------------------------------------------------------------------------


def test_balanced_needs_several_devices(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for found in (0, 1):
        monkeypatch.setattr(torch.cuda, "is_available", lambda found=found: found > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda found=found: found)
        with pytest.raises(ConfigError, match=f"over two CUDA devices or more, torch sees {found}; use device='auto'"):
            Model.create(ModelConfig(base=f"path:{tiny_base}"), {}, device="balanced", adapter=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device("balanced") == torch.device("cuda:0")


def test_a_base_spread_by_a_device_map_computes_the_same(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two places that one CPU has: memory, and a disk that the second layer is fetched from for each forward."""
    places = {
        "model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.layers.0": "cpu", "model.layers.1": "disk",
        "model.norm": "cpu", "lm_head": "cpu",
    }  # fmt: skip
    here = create(tiny_base, adapter=False)
    monkeypatch.setattr(load, "_map", lambda *a: places)
    spread = create(tiny_base, adapter=False)
    assert spread.lm.model.layers[1].self_attn.q_proj.weight.device.type == "meta"
    assert spread.device == CPU
    a, b = hidden(here, soft=False), hidden(spread, soft=False)
    torch.testing.assert_close(a, b)
    some = torch.tensor([3, 7])
    torch.testing.assert_close(here.logits(a), spread.logits(b))
    torch.testing.assert_close(here.logits(a, some), spread.logits(b, some))
