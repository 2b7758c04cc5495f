"""Captions as text fields: shown in prompts, read by encoders, trained with, and written again for a bundle."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from tests.dual import COLOURS, picture, save_colour_clip
from typer.testing import CliRunner

from palate import Recommender
from palate.apps.cli import build
from palate.config import CaptionConfig, EncoderConfig, RunConfig
from palate.data import Dataset
from palate.errors import BundleError, DataError, PalateWarning
from palate.features import load_features
from palate.recommender import loading
from palate.schema import Event, Item, Request


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "weights" not in request.keywords:
        monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_colour_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def colours(clip: Path) -> dict[str, CaptionConfig]:
    """The field `picture`, written with a colour's name."""
    options = {"labels": list(COLOURS), "k": 1, "floor": 0.5}
    return {"picture": CaptionConfig(source=f"path:{clip}", options=options)}


# --- fields of the data set -------------------------------------------------------------------------


def test_the_data_set_with_further_fields(tiny_data: Path) -> None:
    plain = Dataset.open(tiny_data)
    told = plain.with_fields({"picture": {"1": "red", "3": "blue"}, "sound": {}})
    assert told.catalog["1"].text == {**plain.catalog["1"].text, "picture": "red"}
    assert told.catalog["2"] == plain.catalog["2"]
    assert told.show.history == ("year", "picture", "sound")
    assert told.show.candidate == ("year", "genres", "picture", "sound")
    assert told.catalog.written == ("picture", "sound")
    assert told.fingerprint == plain.fingerprint  # what was opened, not what was added
    assert told.catalog.find("toy story")[0][0] == "1"
    assert plain.with_fields({}) is plain
    assert plain.show.history == ("year",)
    again = told.with_fields({"more": {"2": "x"}})
    assert again.catalog.written == ("picture", "sound", "more")
    for name in ("year", "image", "title", "item_id", " ", "picture"):
        with pytest.raises(DataError, match="expected a new name for a text field"):
            told.with_fields({name: {}})
    with pytest.raises(DataError, match="expected an item id of the catalogue, got 'nobody'"):
        plain.with_fields({"picture": {"nobody": "x"}})


def test_prompts_show_captions_soft_tokens_or_both(tiny_base: Path, tiny_data: Path) -> None:
    from transformers import AutoTokenizer

    from palate import prompting
    from palate.config import PromptConfig

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    plain = Dataset.open(tiny_data)
    told = plain.with_fields({"picture": {"1": "a red square", "2": "<|im_end|>\nblue"}})
    request = Request("r", history=(Event("1"), Event("2")))
    template = prompting.load("next_item")
    texts = {}
    for name, data in (("plain", plain), ("told", told)):
        for soft, slots in (("", lambda i: ()), ("+soft", lambda i: (("image", 2),) if i == "1" else ())):
            s = prompting.Serializer(tokenizer, data.catalog, data.wording, data.show, PromptConfig(), slots)
            prompt = s.prompt(template, request)
            texts[name + soft] = s.describe(prompt)
            ends = (prompt.token_ids == tokenizer.convert_tokens_to_ids("<|im_end|>")).sum()
            slots_taken = sum(slot.length for slot in prompt.slots)
            assert ends - slots_taken == 2  # system and user turn: a caption opens and closes none
    assert "(1971)" in texts["plain"]
    assert "(1971, a red square)" in texts["told"]
    assert "‹image×2›" not in texts["told"]
    assert "(1971, a red square)‹image×2›" in texts["told+soft"].replace(" ‹", "‹")
    assert texts["plain+soft"].replace(" ‹image×2›", "").replace("‹image×2›", "") == texts["plain"]


def test_the_text_encoder_reads_captions() -> None:
    from palate.features.encoders.text import Text

    item = Item("1", "Alien", {"year": "1979", "picture": "a spider web"})
    assert Text().text(item) == "Alien\nyear: 1979\npicture: a spider web"
    chosen = Text(EncoderConfig(options={"fields": ["year"]}))
    assert "web" not in chosen.text(item)


# --- training and use -------------------------------------------------------------------------------


def run_config(tiny_base: Path, data: Path, folder: Path, **more: object) -> RunConfig:
    values = {
        "name": "told", "data": str(data), "features": {"behaviour": {}},
        "prompt": {"max_tokens": 900, "max_history": 4},
        "model": {
            "base": f"path:{tiny_base}", "dtype": "float32", "lora": {"rank": 2}, "hidden": 8, "matching": 8,
        },
        "train": {
            "run": str(folder / "run"), "output": str(folder / "adapter"), "max_steps": 1, "batch_tokens": 1200,
            "validate_users": 2, "tasks": {"embedding": 0.2, "next_title": 0.1, "yes_no": 0, "letters": 0, "rating": 0},
        },
        **more,
    }  # fmt: skip
    return RunConfig.parse(values, "test")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path, clip: Path) -> Path:
    """A bundle of one step, trained with colours as captions."""
    from io import StringIO

    from rich.console import Console

    from palate.train.loop import train

    folder = tmp_path_factory.mktemp("told")
    options = {"labels": list(COLOURS), "k": 1, "floor": 0.5}
    told = {"picture": {"source": f"path:{clip}", "options": options}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALATE_CACHE", str(folder / "cache"))
        train(run_config(tiny_base, tiny_data, folder, captions=told), console=Console(file=StringIO()))
    return folder / "adapter"


def test_training_sees_and_records_captions(bundle: Path, tiny_data: Path) -> None:
    meta = json.loads((bundle / "palate.json").read_text())
    assert meta["captions"]["picture"]["captioner"] == "labels"
    assert meta["captions"]["picture"]["medium"] == "image"
    assert meta["captions"]["picture"]["fingerprint"].startswith("labels-")
    assert meta["data"]["fingerprint"] == Dataset.open(tiny_data).fingerprint


def test_no_captions_change_nothing(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> None:
    from palate.train.prepare import captioned

    plain = Dataset.open(tiny_data)
    assert captioned(plain, run_config(tiny_base, tiny_data, tmp_path)) == (plain, [])
    assert loading.captioned(plain, {"a": {}, "b": {"captions": {}}}) is plain
    assert not (tmp_path / "cache").exists()


def test_training_notes_say_what_was_captioned(
    tiny_base: Path, tiny_data: Path, tmp_path: Path, colours: dict[str, CaptionConfig]
) -> None:
    from palate.train.prepare import captioned

    config = run_config(tiny_base, tiny_data, tmp_path, captions={k: v.model_dump() for k, v in colours.items()})
    dataset, notes = captioned(Dataset.open(tiny_data), config)
    assert notes == [
        "captions of picture: 2 items have one, 0 have nothing to say, 22 have no such medium, 0 could not be used"
    ]
    assert [dataset.catalog[i].text.get("picture") for i in "123"] == ["red", "blue", None]


def test_a_bundle_brings_its_captions_to_old_and_new_items(bundle: Path, tiny_data: Path, tmp_path: Path) -> None:
    rec = Recommender.load(bundle, data=tiny_data, device="cpu")
    assert rec.dataset.catalog["2"].text["picture"] == "blue"
    assert rec.dataset.show.history[-1] == "picture"
    assert len(rec.recommend(history=["Toy Story"], k=3, filters={"picture": "blue"})) == 1
    new = rec.add_item("A green thing", media=picture(tmp_path / "g.png", "green", 1))
    assert rec.shelf[new].text == {"picture": "green"}
    own = rec.add_item("Mine", text={"picture": "what I say"}, media=picture(tmp_path / "w.png", "white", 1))
    assert rec.shelf[own].text == {"picture": "what I say"}
    (tmp_path / "bad.png").write_text("no picture")
    with pytest.warns(PalateWarning, match=r"not a picture.*goes without a caption"):
        bad = rec.add_item("Bad", media=tmp_path / "bad.png")
    assert rec.shelf[bad].text == {}


def test_a_data_set_that_is_captioned_already_is_taken_as_it_is(bundle: Path, tiny_data: Path) -> None:
    mine = Dataset.open(tiny_data).with_fields({"picture": {"1": "my own words"}})
    rec = Recommender.load(bundle, data=mine, device="cpu")
    assert rec.dataset is mine


def test_another_captioner_is_refused(bundle: Path, tiny_data: Path, clip: Path) -> None:
    meta = json.loads((bundle / "palate.json").read_text())
    data = Dataset.open(tiny_data)
    meta["captions"]["picture"]["options"]["k"] = 2
    with pytest.raises(BundleError, match="the captioner of the field 'picture' differs from the one"):
        loading.captioned(data, {"told": meta})
    with pytest.raises(BundleError, match="'told' and 'plain' were trained with different captions"):
        loading.captioned(data, {"told": meta, "plain": {}})
    clash = {"captions": {"year": {"captioner": "labels", "source": f"path:{clip}"}}}
    clash["captions"]["year"]["options"] = {"labels": ["red", "blue"]}  # type: ignore[assignment]
    with pytest.raises(DataError, match="expected a new name for a text field, got 'year'"):
        loading.captioned(data, {"clash": clash})


def test_encoders_read_the_captions(
    tiny_base: Path, tiny_data: Path, tmp_path: Path, colours: dict[str, CaptionConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    from palate.train import prepare

    seen: list[Item] = []

    def compute(items: Sequence[Item], *args: object, **more: object) -> None:
        seen.extend(items)
        raise KeyboardInterrupt  # the rest of the preparation is not the question

    monkeypatch.setattr(prepare.features, "compute", compute)
    config = run_config(tiny_base, tiny_data, tmp_path, captions={k: v.model_dump() for k, v in colours.items()})
    with pytest.raises(KeyboardInterrupt):
        prepare.prepare(config, device="cpu")
    assert [i.text.get("picture") for i in seen[:3]] == ["red", "blue", None]


@pytest.mark.weights
def test_palate_features_reads_the_captions_of_a_config(
    tiny_data: Path, tmp_path: Path, colours: dict[str, CaptionConfig]
) -> None:
    config = tmp_path / "run.yaml"
    values = {"name": "x", "data": "d", "captions": {k: v.model_dump() for k, v in colours.items()}}
    config.write_text(yaml.safe_dump(values))
    tables = {}
    for name, some in (("told", ["--config", str(config)]), ("plain", [])):
        file = tmp_path / f"{name}.safetensors"
        words = ["features", str(tiny_data), "--modality", "text", "-o", str(file), *some]
        done = CliRunner().invoke(build(), words)
        assert done.exit_code == 0, done.output
        tables[name] = load_features(file)["text"].vectors
    assert (tables["told"] != tables["plain"]).any(axis=1).tolist() == [True, True] + [False] * 22
