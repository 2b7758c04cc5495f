"""Weights of strangers: nothing in them is run, and numbers that are none are refused."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from facade import tiny_bundle
from palate import Recommender
from palate.config import EncoderConfig, ModelConfig
from palate.data import Dataset
from palate.errors import BundleError, ConfigError, FeatureError, SourceError
from palate.features import encoders
from palate.model import bundle
from palate.model.load import load_base


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it-was-run"


@pytest.fixture
def made(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "tiny", tiny_base, tiny_data)


def bomb(file: Path, mark: Path) -> None:
    file.write_bytes(pickle.dumps(Bomb(mark)))


def test_the_bomb_goes_off_where_nobody_looks(mark: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(mark)))  # else the tests below show nothing
    assert mark.exists()


def test_a_pickled_adapter_is_not_read(made: Path, mark: Path) -> None:
    (made / "adapter_model.safetensors").unlink()
    bomb(made / "adapter_model.bin", mark)
    with pytest.raises(BundleError, match=r"found no adapter_model.safetensors"):
        bundle.load(made, device="cpu")
    assert not mark.exists()


def test_a_pickle_beside_the_weights_is_not_looked_at(made: Path, tiny_data: Path, mark: Path) -> None:
    for name in ("adapter_model.bin", "pytorch_model.bin", "training_args.bin", "optimizer.pt", "features.pkl"):
        bomb(made / name, mark)
    Recommender.load(made, data=tiny_data, device="cpu").recommend(history=["1"], k=2)
    assert not mark.exists()


def test_a_base_of_pickled_weights_is_refused(tiny_base: Path, tmp_path: Path, mark: Path) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    for file in folder.glob("*.safetensors*"):
        file.unlink()
    bomb(folder / "pytorch_model.bin", mark)
    with pytest.raises((ConfigError, SourceError), match="safetensors"):
        load_base(ModelConfig(base=f"path:{folder}"), "cpu")
    assert not mark.exists()


def test_code_that_comes_with_a_base_is_not_run(tiny_base: Path, tmp_path: Path, mark: Path) -> None:
    folder = shutil.copytree(tiny_base, tmp_path / "base")
    told = json.loads((folder / "config.json").read_text())
    told["model_type"] = "mine"
    told["auto_map"] = {"AutoConfig": "mine.Mine", "AutoModelForCausalLM": "mine.Model"}
    (folder / "config.json").write_text(json.dumps(told))
    (folder / "mine.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    with pytest.raises(ConfigError, match="expected a causal language model of transformers"):
        load_base(ModelConfig(base=f"path:{folder}"), "cpu")
    assert not mark.exists()


def test_an_encoder_s_checkpoint_is_numbers_alone(tiny_data: Path, tmp_path: Path, mark: Path) -> None:
    bomb(tmp_path / "weights.pth", mark)
    config = EncoderConfig(source=f"path:{tmp_path / 'weights.pth'}")
    items = list(Dataset.open(tiny_data).catalog.values())
    with pytest.raises((FeatureError, ConfigError), match=r"weights.pth|expected"):
        encoders.build({"image": config})["image"].encode(items)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "projectors.safetensors", "features.safetensors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_are_refused(made: Path, name: str, value: float) -> None:
    state = load_file(made / name)
    changed = {n: t.clone() for n, t in state.items()}
    first = next(n for n, t in changed.items() if t.is_floating_point() and t.numel() > 4)
    changed[first].view(-1)[3] = value
    from safetensors import safe_open

    with safe_open(made / name, framework="pt") as file:
        facts = file.metadata()
    save_file(changed, made / name, metadata=facts)
    with pytest.raises(BundleError, match="NaN or infinity"):
        bundle.load(made, device="cpu")


def test_the_shape_of_another_adapter_is_told(made: Path) -> None:
    state = load_file(made / "adapter_model.safetensors")
    first = next(iter(state))
    state[first] = torch.zeros(3, 5)
    save_file(state, made / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BundleError, match="damaged or belong to another base"):
        bundle.load(made, device="cpu")
