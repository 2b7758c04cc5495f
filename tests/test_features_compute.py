"""Features end to end: compute, new items, the stored table, a modality added in one file, the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from palate.config import EncoderConfig
from palate.errors import ConfigError, FeatureError
from palate.features import (
    FeatureStore,
    Problem,
    compute,
    encode_item,
    encoders_meta,
    load_features,
    save_features,
)
from palate.features import encoders as encoders_package
from palate.schema import Features, Interactions, Item

LOUDNESS = '''
"""A modality from outside, in one file."""

import hashlib
import numpy as np
from palate.features.encoders import ContentEncoder, Encoded, Unusable


class Loudness(ContentEncoder):
    name = "loudness"
    width = 2

    def identity(self, item):
        path = item.media.get(self.modality)
        if path is None:
            return None
        if not path.exists():
            raise Unusable("there is no such file")
        return hashlib.sha256(path.read_bytes()).digest()

    def encode(self, items):
        sizes = [len(i.media[self.modality].read_bytes()) for i in items]
        vectors = np.array([[s, -s] for s in sizes], dtype=np.float32)
        return Encoded(vectors, np.ones(len(items), dtype=bool), [])
'''


@pytest.fixture
def loudness(tmp_path: Path) -> Iterator[None]:
    """Drop one file into the encoders package, as a plug-in does."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "loudness.py").write_text(LOUDNESS)
    encoders_package.__path__.append(str(folder))
    yield
    encoders_package.__path__.remove(str(folder))
    sys.modules.pop("palate.features.encoders.loudness", None)


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    made = []
    for n in range(4):
        path = tmp_path / f"{n}.wav"
        path.write_bytes(b"x" * (10 + n))
        made.append(Item(f"i{n}", f"item {n}", media={"loudness": path} if n else {}))
    return made


def interactions(item_ids: Sequence[str]) -> Interactions:
    flat = np.array([0, 1, 1, 2, 0, 2], dtype=np.int64)
    return Interactions(
        user_ids=("a", "b", "c"),
        item_ids=tuple(item_ids),
        indptr=np.array([0, 2, 4, 6]),
        items=flat,
        timestamps=np.arange(6.0),
        ratings=np.full(6, np.nan, dtype=np.float32),
    )


@pytest.mark.usefixtures("loudness")
def test_a_modality_added_in_one_file_goes_all_the_way(items: list[Item], tmp_path: Path) -> None:
    config = {"loudness": EncoderConfig(), "behaviour": EncoderConfig(options={"dims": 2})}
    train = interactions([i.item_id for i in items])
    items[3].media["loudness"].unlink()  # type: ignore[attr-defined]
    store = FeatureStore(tmp_path / "cache")
    made = compute(items, train, config, store=store, progress=False)
    table = made.tables["loudness"]
    assert table.present.tolist() == [False, True, True, False]
    np.testing.assert_array_equal(table.vectors, [[0, 0], [11, -11], [12, -12], [0, 0]])
    assert table.item_ids == ("i0", "i1", "i2", "i3")
    report = made.report["loudness"]
    assert (report.present, report.missing, report.failed, report.computed, report.hits) == (2, 1, 1, 2, 0)
    assert made.problems == [Problem("i3", "loudness", str(items[3].media["loudness"]), "there is no such file")]
    assert made.tables["behaviour"].present.tolist() == [True, True, True, False]
    again = compute(items, train, config, store=store, progress=False).report
    assert (again["loudness"].hits, again["behaviour"].hits) == (2, 3)
    assert again["behaviour"].computed == 0
    meta = encoders_meta(config, made.tables)
    assert meta["loudness"]["content"] is True
    assert meta["behaviour"] == {
        "encoder": "behaviour",
        "source": None,
        "options": {"dims": 2},
        "content": False,
        "fingerprint": made.tables["behaviour"].fingerprint,
    }
    alone = encoders_meta(config)
    assert alone["loudness"]["fingerprint"] == table.fingerprint
    assert alone["behaviour"]["fingerprint"] is None
    json.dumps(meta)


@pytest.mark.usefixtures("loudness")
def test_a_new_item_gets_content_vectors_only(items: list[Item], tmp_path: Path) -> None:
    config = {"loudness": EncoderConfig(), "behaviour": EncoderConfig()}
    found = encode_item(items[2], config)
    assert set(found) == {"loudness"}
    np.testing.assert_array_equal(found["loudness"], [12, -12])
    store = FeatureStore(tmp_path / "cache")
    np.testing.assert_array_equal(encode_item(items[2], config, store=store)["loudness"], [12, -12])
    assert encode_item(items[0], encoders_package.build(config)) == {}
    items[2].media["loudness"].unlink()  # type: ignore[attr-defined]
    with pytest.raises(FeatureError, match=r"item 'i2', loudness \(.*2\.wav\): there is no such file"):
        encode_item(items[2], config)
    problems: list[Problem] = []
    assert encode_item(items[2], config, problems=problems) == {}
    assert [p.item_id for p in problems] == ["i2"]


def test_mistakes_are_named(items: list[Item]) -> None:
    with pytest.raises(ConfigError, match=r"no encoder is called 'imgae'; did you mean 'image'\?"):
        compute(items, None, {"imgae": EncoderConfig()}, progress=False)
    with pytest.raises(FeatureError, match="modality 'behaviour' learns from interactions"):
        compute(items, None, {"behaviour": EncoderConfig()}, progress=False)
    with pytest.raises(FeatureError, match="distinct ids"):
        compute([items[0], items[0]], None, {"text": EncoderConfig()}, progress=False)


def table(present: Sequence[bool], scale: float = 1.0, modality: str = "image") -> Features:
    rng = np.random.default_rng(0)
    vectors = (rng.standard_normal((len(present), 3)) * scale).astype(np.float32)
    mask = np.array(present, dtype=bool)
    vectors[~mask] = 0
    ids = tuple(f"é{n}" for n in range(len(present)))
    return Features(modality, ids, vectors, mask, f"{modality}-abc")


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=20), st.sampled_from([1e-3, 1.0, 1e4, 1e9]))
def test_saved_tables_come_back(tmp_path_factory: pytest.TempPathFactory, present: list[bool], scale: float) -> None:
    path = tmp_path_factory.mktemp("t") / "deep" / "f.safetensors"
    tables = {"image": table(present, scale), "text": table([True] * len(present), modality="text")}
    save_features(path, tables)
    back = load_features(path)
    assert list(back) == ["image", "text"]
    for modality, kept in tables.items():
        got = back[modality]
        assert (got.item_ids, got.fingerprint, got.modality) == (kept.item_ids, kept.fingerprint, modality)
        np.testing.assert_array_equal(got.present, kept.present)
        assert got.vectors.dtype == np.float32
        np.testing.assert_allclose(got.vectors, kept.vectors, rtol=1e-3, atol=1e-7)
    assert [p.name for p in path.parent.iterdir()] == ["f.safetensors"]


def test_wrong_tables_and_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FeatureError, match="tables of the same items"):
        save_features(tmp_path / "x", {"a": table([True]), "b": table([True, True])})
    with pytest.raises(FeatureError, match="expected a feature file at"):
        load_features(tmp_path / "none")
    (tmp_path / "text").write_text("hello, this is no safetensors file at all")
    with pytest.raises(FeatureError, match="not a safetensors file"):
        load_features(tmp_path / "text")
    from safetensors.numpy import save_file

    save_file({"a": np.zeros(3)}, tmp_path / "other")
    with pytest.raises(FeatureError, match="format palate-features-1, got None"):
        load_features(tmp_path / "other")
    facts = {"format": "palate-features-1", "fingerprints": '{"image": "x"}'}
    ids = np.frombuffer(b'["a", "b"]', dtype=np.uint8).copy()
    broken = {"item_ids": ids, "image/vectors": np.zeros((2, 3)), "image/present": np.array([True, False])}
    save_file(broken, tmp_path / "broken", metadata=facts)
    with pytest.raises(FeatureError, match="modality 'image' is incomplete"):
        load_features(tmp_path / "broken")


# --- the command ------------------------------------------------------------------------------------


def application() -> typer.Typer:
    from palate.apps.commands.features import register

    app = typer.Typer()
    register(app)
    app.callback()(lambda: None)
    return app


def test_command_reports_and_writes(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    out = tmp_path / "f.safetensors"
    call = ["features", str(tiny_data), "--modality", "behaviour"]
    done = CliRunner().invoke(application(), [*call, "-o", str(out), "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    facts = json.loads(done.stdout)
    report = facts["modalities"]["behaviour"]
    assert report["present"] + report["missing"] == 24
    assert report["computed"] == report["present"] > 0
    assert facts["problems"] == []
    assert load_features(out)["behaviour"].fingerprint == report["fingerprint"]
    second = CliRunner().invoke(application(), call, catch_exceptions=False)
    assert "behaviour" in second.stdout
    with pytest.raises(ConfigError, match=r"--modality: there is no 'imgae'; did you mean 'image'\?"):
        CliRunner().invoke(application(), ["features", str(tiny_data), "--modality", "imgae"], catch_exceptions=False)


def test_command_takes_encoders_from_a_run_config(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    config = tmp_path / "run.yaml"
    config.write_text(
        "name: x\ndata: y\nfeatures: {taste: {encoder: behaviour, options: {dims: 3}}}\n", encoding="utf-8"
    )
    done = CliRunner().invoke(
        application(), ["features", str(tiny_data), "--config", str(config), "--json"], catch_exceptions=False
    )
    assert json.loads(done.stdout)["modalities"]["taste"]["width"] == 6


@pytest.mark.weights
def test_command_with_the_default_encoders(tiny_data: Path) -> None:
    done = CliRunner().invoke(application(), ["features", str(tiny_data), "--json"], catch_exceptions=False)
    facts = json.loads(done.stdout)["modalities"]
    assert {m: facts[m]["width"] for m in facts} == {"behaviour": 256, "image": 1280, "text": 384}
    assert (facts["image"]["present"], facts["image"]["missing"]) == (2, 22)
    assert facts["text"]["present"] == 24
