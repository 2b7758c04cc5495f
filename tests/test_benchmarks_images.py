"""The picture benchmark runs through its main function on random weights and tells the truth about its pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from benchmarks import images
from PIL import Image

from palate.errors import ConfigError


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random EfficientNet-Lite0 weights in the file that the default encoder reads."""
    import torch
    from efficientnet_lite_pytorch import EfficientNet

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "lite0.pth"
    torch.save(EfficientNet.from_name("efficientnet-lite0").state_dict(), path)
    return f"path:{path}"


def test_it_writes_what_it_promises(weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    originals = tmp_path / "originals"
    originals.mkdir()
    for n in range(2):
        Image.effect_noise((60, 90), 40 + n).save(originals / f"{n}.png")
    out = tmp_path / "images.json"
    small = ["--count", "6", "--sample", "4", "--rounds", "2", "--size", "96", "--batch", "2", "--workers", "0"]
    images.main([*small, "--source", weights, "--pictures", str(originals), "--json", str(out)])
    found = json.loads(out.read_text(encoding="utf-8"))
    for key in ("palate", "plain_loop", "dataloader"):
        assert found[f"{key}_images_per_s"] > 0
        assert len(found["rounds"][key]) == 2
    assert found["ratio_vs_plain_loop"] > 0
    assert found["ratio_vs_dataloader"] > 0
    assert (found["second_run_hits"], found["second_run_computed"]) == (6, 0)
    assert found["vectors"]["palate_vs_plain_loop"]["least_cosine"] > 0.9999
    assert found["vectors"]["palate_vs_dataloader"]["largest_difference"] < 1e-3
    assert set(found["costs_ms"]) == {"hash", "read_and_decode", "resize", "forward"}
    assert str(tmp_path) not in out.read_text(encoding="utf-8")


def test_pictures_are_distinct_and_seeded(tmp_path: Path) -> None:
    folders = [tmp_path / name for name in ("a", "b", "c")]
    for folder in folders:
        folder.mkdir()
    a, b, c = (images.pictures(f, 4, None, 64, seed) for f, seed in zip(folders, (1, 1, 2), strict=True))
    contents = [[i.media["image"].read_bytes() for i in made] for made in (a, b, c)]
    assert contents[0] == contents[1] != contents[2]
    assert len(set(contents[0])) == 4
    with Image.open(a[0].media["image"]) as made:
        assert max(made.size) == 64
        assert np.asarray(made).std() > 5


def test_mistakes_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a folder with pictures"):
        images.main(["--count", "5", "--pictures", str(tmp_path)])
    with pytest.raises(ConfigError, match="--sample: expected at least 5, got 3"):
        images.main(["--sample", "3"])
