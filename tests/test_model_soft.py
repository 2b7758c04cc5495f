"""Soft tokens of items that come after training: added one by one, the tables are as if made at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from facade import tiny_bundle
from palate.config import ModelConfig
from palate.engine.modes.embedding import Embedding
from palate.engine.runner import Runner
from palate.errors import FeatureError
from palate.model import SoftTokens, bundle, soft
from palate.schema import Features


def _tables(n: int) -> dict[str, Features]:
    rng, ids = np.random.default_rng(2), tuple(map(str, range(n)))
    has = rng.random(n) < 0.6
    image = rng.standard_normal((n, 6)).astype(np.float32) * has[:, None]
    text = rng.standard_normal((n, 3)).astype(np.float32)
    return {
        "image": Features("image", ids, image, has, "i"),
        "text": Features("text", ids, text, np.ones(n, bool), "t"),
    }


def test_items_added_one_by_one_are_as_if_there_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """And tables are copied a few times, not once an item."""
    monkeypatch.setattr(soft, "SPARE", 16)
    grown: list[int] = []
    monkeypatch.setattr(SoftTokens, "_grow", _counted(SoftTokens._grow, grown))
    whole, start = _tables(300), _tables(300)
    for m, t in start.items():
        start[m] = Features(m, t.item_ids[:10], t.vectors[:10], t.present[:10], t.fingerprint)
    config = ModelConfig(base="path:none", hidden=8, matching=8)
    growing = SoftTokens(config, start, 16, 1.0).eval()
    for row in range(10, 300):
        vectors = {m: t.vectors[row] for m, t in whole.items() if t.present[row]}
        growing.add_item(str(row), vectors)
        if row % 50 == 0:
            growing.add_item(str(row), {"text": whole["text"].vectors[row]})
            assert len(growing.item_ids) == len(growing.item_vectors()) == row + 1
    assert len(grown) <= 2 * 20
    reference = SoftTokens(config, start, 16, 1.0).eval()
    reference.load_state_dict(growing.state_dict())
    reference.set_tables(whole)
    assert growing.item_ids == whole["text"].item_ids
    torch.testing.assert_close(growing.item_vectors(), reference.item_vectors())
    for m, t in growing.tables().items():
        np.testing.assert_array_equal(t.vectors, whole[m].vectors)
        np.testing.assert_array_equal(t.present, whole[m].present)
    assert all(list(growing.slots(i)) == list(reference.slots(i)) for i in growing.item_ids)
    torch.testing.assert_close(growing.vectors("text", ["299", "3"]), reference.vectors("text", ["299", "3"]))
    with pytest.raises(FeatureError, match="image of item 'x': expected 6 finite numbers"):
        growing.add_item("x", {"text": np.ones(3, np.float32), "image": np.ones(2, np.float32)})
    assert "x" not in growing.item_ids
    growing.align(growing.item_ids[::-1])
    torch.testing.assert_close(growing.item_vectors(), reference.item_vectors().flip(0))


def _counted(grow: Callable[..., None], calls: list[int]) -> Callable[..., None]:
    def counted(self: SoftTokens, modality: str, rows: int) -> None:
        calls.append(rows)
        grow(self, modality, rows)

    return counted


def test_a_bundle_with_added_items_holds_them_alone(tmp_path: Path, tiny_base: Path, tiny_data: Path) -> None:
    """Spare rows stay in memory; and an item without media makes kept item vectors out of date."""
    loaded = bundle.load(tiny_bundle(tmp_path / "few", tiny_base, tiny_data), device="cpu", merge=False)
    model, runner, mode = loaded.model, Runner(loaded.model), Embedding()
    assert model.soft is not None
    assert len(mode.item_vectors(runner)) == 24
    model.soft.add_item("first", {})
    assert len(mode.item_vectors(runner)) == 25
    model.soft.add_item("second", {})
    assert len(mode.item_vectors(runner)) == 26
    model.soft.add_item("second", {"image": np.ones(6, np.float32)})
    again = bundle.load(bundle.save(tmp_path / "more", model, loaded.meta), device="cpu")
    assert again.model.soft is not None
    assert again.model.soft.item_ids[-2:] == ("first", "second")
    torch.testing.assert_close(again.model.item_vectors(), mode.item_vectors(runner), atol=0.02, rtol=0.05)


def _patches(tokens: int) -> dict[str, Features]:
    """Pictures of `tokens` patches, 3 numbers each; item "1" has those of "0" the other way round."""
    ids = ("0", "1", "2")
    rows = np.random.default_rng(4).standard_normal((3, tokens, 3)).astype(np.float32)
    rows[1] = rows[0, ::-1]
    return {"image": Features("image", ids, rows.reshape(3, -1), np.ones(3, bool), "p", tokens)}


def test_each_token_of_a_row_gets_soft_tokens_of_its_own_in_order() -> None:
    tables = _patches(4)
    made = SoftTokens(ModelConfig(base="path:none", hidden=8, matching=8, soft_tokens=2), tables, 16, 1.0).eval()
    scale = made.scales["image"]
    scale.load_state_dict({"mean": torch.zeros(12), "scale": torch.ones(())})  # every patch is scaled alike
    assert list(made.slots("0")) == [("image", 8)]
    found = made.vectors("image", ["0", "1"]).view(2, 4, 2, 16)
    torch.testing.assert_close(found[0], found[1].flip(0))
    joint = SoftTokens(ModelConfig(base="path:none", hidden=8, matching=8, fusion="feature"), tables, 16, 1.0)
    assert list(joint.slots("0")) == [("item", 1)]
    assert joint.vectors("item", ["0"]).shape == (1, 1, 16)
    assert made.tables()["image"].tokens == 4
    with pytest.raises(FeatureError, match="expected 12 numbers an item in 4 tokens, got 12 in 2"):
        made.set_tables({"image": _replaced(tables["image"], 2)})
    with pytest.raises(FeatureError, match="12 numbers an item cannot be 5 tokens of one width"):
        SoftTokens(ModelConfig(base="path:none", hidden=8), {"image": _replaced(tables["image"], 5)}, 16, 1.0)


def _replaced(table: Features, tokens: int) -> Features:
    return Features(table.modality, table.item_ids, table.vectors, table.present, table.fingerprint, tokens)


def test_the_last_token_of_an_item_holds_all_its_modalities() -> None:
    """Queries are read there; the tokens before it hold their own modality alone."""
    tables = _tables(40)
    bare, full = (next(i for i in tables["image"].item_ids if tables["image"].present[int(i)] == has) for has in (0, 1))
    config = ModelConfig(base="path:none", hidden=8, matching=8, soft_tokens=2)
    tokens = SoftTokens(config, tables, 16, 3.0).eval()
    before = {m: tokens.vectors(m, [bare, full] if m == "text" else [full]).detach() for m in ("image", "text")}
    tokens.add_item(full, {"image": -tables["image"].vectors[int(full)]})
    after = tokens.vectors("text", [bare, full])
    torch.testing.assert_close(after[0], before["text"][0])
    torch.testing.assert_close(after[1, 0], before["text"][1, 0])
    assert not torch.allclose(after[1, 1], before["text"][1, 1], atol=0.1)
    torch.testing.assert_close(after.norm(dim=-1), torch.full((2, 2), 3.0))
    torch.testing.assert_close(after[:1], tokens.vectors("text", [bare]))
    tokens.add_item(full, {"image": tables["image"].vectors[int(full)], "text": np.zeros(3, np.float32)})
    torch.testing.assert_close(tokens.vectors("image", [full]), before["image"])
