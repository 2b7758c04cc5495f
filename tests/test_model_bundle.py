"""The bundle: what is saved comes back the same, loads in plain peft, and refuses what does not fit."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from palate.config import LoraConfig, ModelConfig
from palate.engine.pack import concat
from palate.errors import BundleError, ConfigError, FeatureError, PalateWarning, SlotError
from palate.model import Model, bundle
from palate.model.load import pick_device
from palate.schema import Features, Prompt, Slot

IDS = ("1", "2", "3")


def tables(width: int = 6) -> dict[str, Features]:
    rng = np.random.default_rng(0)
    present = np.array([True, True, False])
    return {
        m: Features(m, IDS, rng.normal(size=(3, width)).astype(np.float32) * present[:, None], present, f"{m}:v1")
        for m in ("image", "text")
    }


def tiny(base: Path, **changes: object) -> Model:
    config = ModelConfig(
        base=f"path:{base}", dtype="float32", hidden=8, matching=8, lora=LoraConfig(rank=2)
    ).model_copy(update=changes)
    model = Model.create(config, tables(), device="cpu", seed=3)
    with torch.no_grad():
        for name, p in model.trainable().items():
            if "lora_B" in name:
                p.normal_(std=0.02)
    return model


@pytest.fixture
def saved(tiny_base: Path, tmp_path: Path) -> tuple[Model, Path]:
    model = tiny(tiny_base)
    folder = bundle.save(
        tmp_path / "adapters" / "mine", model, {"templates": {"next_item": "abc"}, "training": {"seed": 3}}
    )
    return model, folder


def hidden(model: Model, *, soft: bool) -> torch.Tensor:
    slots = (Slot(1, 1, "image", "1"), Slot(2, 1, "text", "2")) if soft else ()
    with torch.inference_mode():
        return model(concat([Prompt(np.array([4, 0, 0, 9, 8]), slots)]))


def test_round_trip(saved: tuple[Model, Path]) -> None:
    model, folder = saved
    loaded = bundle.load(folder, device="cpu")
    torch.testing.assert_close(hidden(loaded.model, soft=True), hidden(model, soft=True), atol=0.05, rtol=0.05)
    torch.testing.assert_close(loaded.model.item_vectors(), model.item_vectors(), atol=0.02, rtol=0.05)
    assert loaded.meta["training"] == {"seed": 3}
    assert "rank 2" in (folder / "README.md").read_text()
    assert not [p for p in folder.parent.iterdir() if p != folder]


def test_measured_numbers_go_onto_the_card(saved: tuple[Model, Path]) -> None:
    row = {"system": "mine", "protocol": "loo-20 v1, test", "metric": "HR@1", "value": 0.5, "low": 0.4, "high": 0.6}
    bundle.record(saved[1], [row | {"n": 943, "seed": 1}])
    bundle.record(saved[1], [row | {"n": 943, "seed": 1, "value": 0.51}])
    assert [r["value"] for r in bundle.read_meta(saved[1])["metrics"]] == [0.51]
    assert (
        "| mine | loo-20 v1, test | HR@1 | 0.510 | 0.400 to 0.600 | 943 | 1 |" in (saved[1] / "README.md").read_text()
    )
    assert bundle.load(saved[1], device="cpu").model.has_matching


def test_saving_what_was_loaded_changes_nothing(saved: tuple[Model, Path], tmp_path: Path) -> None:
    _, folder = saved
    first = bundle.load(folder, device="cpu", merge=False).model
    second = bundle.load(bundle.save(tmp_path / "again", first, {}), device="cpu", merge=False).model
    assert torch.equal(hidden(first, soft=True), hidden(second, soft=True))


def test_plain_peft_loads_it_with_the_same_logits(saved: tuple[Model, Path], tiny_base: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    _, folder = saved
    plain = AutoModelForCausalLM.from_pretrained(tiny_base, dtype=torch.float32)
    with warnings.catch_warnings():
        # PEFT still asks for an attribute that transformers 5 renamed
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        tuned = PeftModel.from_pretrained(plain, str(folder)).eval()
    mine = bundle.load(folder, device="cpu").model
    ids = torch.tensor([[4, 7, 9, 9, 8]])
    with torch.inference_mode():
        theirs = tuned(input_ids=ids).logits[0]
        ours = mine.logits(mine(concat([Prompt(ids[0].numpy())])))
        with tuned.disable_adapter():
            untuned = tuned(input_ids=ids).logits[0]
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(untuned, theirs, atol=1e-4)


def test_no_machine_path_is_saved(saved: tuple[Model, Path]) -> None:
    config = json.loads((saved[1] / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == json.loads((saved[1] / "palate.json").read_text())["base"]


def test_another_base_is_refused(saved: tuple[Model, Path], tiny_base: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_base, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 1e-3}))
    with pytest.raises(BundleError, match=r"was trained on base .* but .* load it on its own base"):
        bundle.load(saved[1], device="cpu", base=f"path:{other}")


def test_a_copy_of_the_same_base_is_fine(saved: tuple[Model, Path], tiny_base: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_base, tmp_path / "copy")
    assert bundle.load(saved[1], device="cpu", base=f"path:{copy}").model.has_matching


@pytest.mark.parametrize("name", bundle.FILES)
def test_a_missing_file_is_named(saved: tuple[Model, Path], name: str) -> None:
    (saved[1] / name).unlink()
    with pytest.raises(BundleError, match=f"found no {name}"):
        bundle.load(saved[1], device="cpu")


def test_damaged_weights_are_refused(saved: tuple[Model, Path]) -> None:
    from safetensors.torch import load_file, save_file

    path = saved[1] / "projectors.safetensors"
    state = load_file(path)
    name = "matching.query.weight"
    save_file(state | {name: torch.full_like(state[name], float("nan"))}, path)
    with pytest.raises(BundleError, match=f"{name} holds NaN"):
        bundle.load(saved[1], device="cpu")
    path.write_bytes(b"not safetensors")
    with pytest.raises(BundleError, match="damaged"):
        bundle.load(saved[1], device="cpu")


def test_changed_templates_and_encoders_are_named() -> None:
    meta = {"templates": {"next_item": "a" * 64}, "fingerprints": {"image": "lite0"}}
    bundle.check_templates(meta, {"next_item": "a" * 64, "chat": "b"})
    with pytest.raises(BundleError, match="'next_item' has changed"):
        bundle.check_templates(meta, {"next_item": "c" * 64})
    bundle.check_encoders(meta, {"image": "lite0"})
    with pytest.raises(BundleError, match="image encoder differs"):
        bundle.check_encoders(meta, {"image": "siglip"})


def test_an_untuned_base_is_no_bundle(tiny_base: Path, tmp_path: Path) -> None:
    base = Model.create(ModelConfig(base=f"path:{tiny_base}", dtype="float32"), {}, device="cpu", adapter=False)
    with pytest.raises(BundleError, match="untuned base"):
        bundle.save(tmp_path / "x", base, {})
    with pytest.raises(BundleError, match="embedding mode needs"):
        base.item_vectors()
    with pytest.raises(SlotError, match="carries no projectors"):
        hidden(base, soft=True)


def test_items_are_realigned_and_added(tiny_base: Path) -> None:
    soft = tiny(tiny_base).soft
    assert soft is not None
    before = soft.item_vectors()
    soft.align(("3", "9", "1"))
    assert soft.slots("9") == ()
    assert soft.slots("1") == (("image", 1), ("text", 1))
    torch.testing.assert_close(soft.item_vectors()[2], before[0])
    soft.add_item("new", {"image": np.ones(6, dtype=np.float32)})
    assert soft.slots("new") == (("image", 1),)
    assert soft.item_vectors().shape[0] == 4
    with pytest.raises(FeatureError, match="expected 6 finite numbers"):
        soft.add_item("bad", {"image": np.ones(5, dtype=np.float32)})
    with pytest.raises(FeatureError, match="this adapter reads"):
        soft.add_item("bad", {"sound": np.ones(5, dtype=np.float32)})
    assert "bad" not in soft.item_ids


def test_same_seed_same_weights(tiny_base: Path) -> None:
    config = ModelConfig(base=f"path:{tiny_base}", dtype="float32", hidden=8, matching=8)
    a, b = (Model.create(config, tables(), device="cpu", seed=4).trainable_state() for _ in range(2))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[n], b[n]) for n in a)


def test_trainable_state_goes_back(tiny_base: Path) -> None:
    a, b = tiny(tiny_base), tiny(tiny_base)
    with torch.no_grad():
        for p in a.trainable().values():
            p.add_(0.1)
    b.load_trainable_state(a.trainable_state())
    assert torch.equal(hidden(a, soft=True), hidden(b, soft=True))
    with pytest.raises(BundleError, match="names differ"):
        b.load_trainable_state({})


def test_soft_tokens_have_the_size_of_token_embeddings(tiny_base: Path) -> None:
    model = tiny(tiny_base)
    assert model.soft is not None
    norm = model.lm.get_input_embeddings().weight.norm(dim=1).mean()
    got = model.soft.vectors("image", ["1", "2"]).norm(dim=-1)
    torch.testing.assert_close(got, norm.expand_as(got), rtol=0.01, atol=0.01)


def test_a_wrong_device_is_one_clear_line() -> None:
    with pytest.raises(ConfigError, match="expected a device such as 'cpu'"):
        pick_device("toaster")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="torch sees no CUDA device"):
            pick_device("cuda:0")


@pytest.fixture
def wide(tmp_path: Path, tiny_base: Path) -> Path:
    """A bundle on a base wide enough for bitsandbytes, whose blocks hold 64 weights of a row."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes has no build for this platform")
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=400, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(tmp_path / "base")
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(tmp_path / "base")
    return bundle.save(tmp_path / "wide", tiny(tmp_path / "base"), {})


def close_but_not_equal(folder: Path, small: Model) -> bool:
    a, b = hidden(bundle.load(folder, device="cpu").model, soft=True), hidden(small, soft=True)
    near = torch.nn.functional.cosine_similarity(a, b.float(), dim=-1).min() > 0.9
    return bool(near) and not torch.equal(a, b.float())


def test_nf4_runs_on_the_cpu_and_stays_close(wide: Path) -> None:
    assert close_but_not_equal(wide, bundle.load(wide, device="cpu", quantization="nf4").model)


def test_int8_runs_on_the_cpu_and_says_once_that_it_is_slow(wide: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.warns(PalateWarning, match="int8 on a CPU works but is several times slower"):
        small = bundle.load(wide, device="cpu", quantization="int8").model
    assert close_but_not_equal(wide, small)
    assert "MatMul8bitLt" not in caplog.text
