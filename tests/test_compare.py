"""`palate compare`: the arms of a comparison, trained alike and evaluated in one table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from palate.apps.arms import arms
from palate.apps.cli import build
from palate.errors import ConfigError
from palate.train import read_config


@pytest.fixture
def config(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> Path:
    model = {"base": f"path:{tiny_base}", "dtype": "float32", "lora": {"rank": 4}, "hidden": 16, "matching": 16}
    values: dict[str, Any] = {
        "name": "tiny",
        "data": str(tiny_data),
        "features": {"text": {"options": {"max_chars": 50}}, "behaviour": {"options": {"dims": 4}}},
        "prompt": {"max_tokens": 1000, "max_sequence": 12},
        "model": model,
        "train": {"max_steps": 2, "batch_tokens": 1200, "validate_users": 0, "protocol": "cold-items:share=0.2:seed=3"},
    }
    file = tmp_path / "tiny.yaml"
    file.write_text(yaml.safe_dump(values, sort_keys=False))
    return file


def test_a_grid_is_every_value_with_every_set_and_nothing_else_differs(config: Path) -> None:
    found = arms(config, ["train.epochs=2"], ["model.fusion=feature,model"], "behaviour; all")
    assert [a.name for a in found] == [
        "tiny-feature-behaviour", "tiny-feature-text+behaviour", "tiny-model-behaviour", "tiny-model-text+behaviour"
    ]  # fmt: skip
    configs = [read_config(config, a.overrides) for a in found]
    assert [(c.model.fusion, *c.features) for c in configs] == [
        ("feature", "behaviour"), ("feature", "text", "behaviour"), ("model", "behaviour"),
        ("model", "text", "behaviour"),
    ]  # fmt: skip
    assert configs[1].features == read_config(config).features
    assert {str(c.train.run) for c in configs} == {str(a.folder) for a in found}
    own = {"name", "features", "model", "train"}
    assert len({json.dumps(c.model_dump(exclude=own)) for c in configs}) == 1
    assert {c.train.epochs for c in configs} == {2}


@pytest.mark.parametrize(
    ("vary", "modalities", "told"),
    [
        ([], None, "expected at least two settings to compare"),
        (["model.fusion"], None, "expected KEY=VALUE,VALUE such as model.fusion=feature,model, got 'model.fusion'"),
        (["model.fusion=feature,modle"], None, "model.fusion"),
        (["train.lrr=1,2"], None, "did you mean 'lr'"),
        ([], "text; image", "the config has no features called 'image'"),
        ([], "text;", 'expected sets such as "text; text,image; all"'),
        (["train.lr=0.1,0.1"], None, "expected settings that differ"),
    ],
)
def test_a_mistake_is_told_before_anything_is_trained(
    config: Path, vary: list[str], modalities: str | None, told: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        arms(config, [], vary, modalities)
    assert told in str(caught.value)


def test_levels_of_fusion_side_by_side_in_one_command(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Feature level, model level, and decision level; a second call trains nothing again."""
    monkeypatch.chdir(tmp_path)
    words = [
        "compare",
        str(config),
        "features={behaviour: {options: {dims: 4}}}",
        "--vary",
        "model.fusion=feature,model",
    ]
    words += ["--fuse", "ease", "--against", "popularity", "-o", str(tmp_path / "out.json"), "--json"]
    first = CliRunner().invoke(build(), words)
    assert first.exit_code == 0, first.output
    table = json.loads((tmp_path / "out.json").read_text())
    names = [s["name"] for s in table["systems"]]
    wanted = {"tiny-feature (embedding)", "tiny-model (embedding)", "fused (z-scores)", "fused (reciprocal ranks)"}
    assert wanted | {"popularity"} <= set(names)
    assert table["protocol"] == "cold-items"
    weights = [
        (tmp_path / "runs" / n / n / "adapter_model.safetensors").read_bytes() for n in ("tiny-feature", "tiny-model")
    ]
    again = CliRunner().invoke(build(), words)
    assert again.exit_code == 0, again.output
    repeated = json.loads((tmp_path / "out.json").read_text())
    assert [s["metrics"] for s in repeated["systems"]] == [s["metrics"] for s in table["systems"]]
    assert weights[0] == (tmp_path / "runs/tiny-feature/tiny-feature/adapter_model.safetensors").read_bytes()
