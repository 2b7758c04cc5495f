"""The precision benchmark: what it measures is what is there, on a tiny bundle in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import precision

from facade import tiny_bundle
from palate.errors import ConfigError
from palate.model import Model
from palate.recommender import Recommender


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("adapters") / "tiny", tiny_base, tiny_data)


def test_a_whole_run(folder: Path, tiny_data: Path) -> None:
    flags = ["--adapter", str(folder), "--data", str(tiny_data), "--device", "cpu", "--users", "6"]
    flags += ["--reference", "fp32", "--precisions", "fp32-unmerged,bf16", "--layers", "1", "--modes", "likelihood"]
    result = precision.run(precision.arguments(flags))
    assert result["reference_dtype"] == "float32"
    assert result["users"] == 6
    assert "validation" in result["protocol"]
    rows = {r["name"]: r for r in result["modes"]["likelihood"]}
    assert list(rows) == ["fp32", "fp32-unmerged", "bf16", "fp32, 1 layers"]
    own = rows["fp32"]
    assert (own["kendall_tau"], own["top10_overlap"], own["speed_vs_reference"]) == (1, 1, 1)
    assert own["NDCG@10_difference"]["value"] == 0
    assert rows["fp32-unmerged"]["merged"] is False
    assert rows["fp32-unmerged"]["block_bytes"] > own["block_bytes"]  # LoRA is held beside
    assert rows["bf16"]["dtype"] == "bfloat16"
    assert rows["bf16"]["block_bytes"] * 2 == own["block_bytes"]
    assert rows["bf16"]["embedding_bytes"] * 2 == own["embedding_bytes"]
    cut = rows["fp32, 1 layers"]
    assert own["block_bytes"] / 2 == pytest.approx(cut["block_bytes"], rel=0.02)
    assert cut["kendall_tau"] < 1
    assert str(folder) not in str(result)


def test_weights_count_every_byte(folder: Path, tiny_data: Path) -> None:
    model: Model = Recommender.load(folder, data=tiny_data, device="cpu").model
    parameters = sum(p.numel() for p in model.lm.parameters())
    found = precision.weights(model.lm)
    assert sum(found.values()) == 4 * parameters
    assert found["embedding_bytes"] == 4 * model.lm.get_input_embeddings().weight.numel()  # tied: once


def test_nf4_weights_are_counted_with_their_scales() -> None:
    bnb = pytest.importorskip("bitsandbytes.nn", reason="bitsandbytes has no build for this platform")
    from palate.model import quantize

    small = quantize._bitsandbytes(torch.nn.Linear(256, 256, bias=False).requires_grad_(False), "nf4")
    assert isinstance(small, bnb.Linear4bit)
    size = sum(t.numel() * t.element_size() for t in precision._parts(small.weight))
    # half a byte a weight, a byte for each scale of 64, and two code books and their like
    assert 256 * 256 * (0.5 + 1 / 64) < size < 256 * 256 * (0.5 + 1 / 64) + 2000


def test_agreement_of_lists() -> None:
    up = [np.arange(20.0), np.arange(20.0)]
    assert precision.agreement(up, up) == {"kendall_tau": 1, "top10_overlap": 1}
    assert precision.agreement([-s for s in up], up) == {"kendall_tau": -1, "top10_overlap": 0}
    assert precision.agreement([up[0], -up[1]], up) == {"kendall_tau": 0, "top10_overlap": 0.5}


def test_mistakes_are_found_before_anything_is_loaded() -> None:
    with pytest.raises(ConfigError, match="no precision is called 'fp23'; did you mean 'fp32'"):
        precision.plan(precision.arguments(["--precisions", "fp23"]))
    with pytest.raises(ConfigError, match=r"'int4'.*(pip install torchao|CUDA device)"):
        precision.plan(precision.arguments(["--precisions", "int4", "--device", "cpu"]))


def test_cross_measures_every_precision_at_every_depth() -> None:
    flags = ["--device", "cpu", "--reference", "fp32", "--precisions", "fp32,bf16", "--layers", "4,2"]
    assert precision.plan(precision.arguments(flags)) == [("fp32", None), ("bf16", None), ("fp32", 4), ("fp32", 2)]
    assert precision.plan(precision.arguments([*flags, "--cross"])) == [
        ("fp32", None), ("bf16", None), ("fp32", 4), ("bf16", 4), ("fp32", 2), ("bf16", 2),
    ]  # fmt: skip
