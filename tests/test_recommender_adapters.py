"""Several adapters on one base: each answers as if alone, the base is there once, nothing leaks between them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from facade import toy_features
from palate import Event, Recommender, Request, prompting
from palate.apps import cli
from palate.apps.scoring import Job, score_file
from palate.config import LoraConfig, ModelConfig
from palate.data import Dataset
from palate.engine.modes.embedding import Embedding
from palate.engine.modes.likelihood import Likelihood
from palate.engine.prefix import PrefixCache
from palate.engine.runner import Runner
from palate.errors import BundleError, ConfigError, DataError, RequestError, TooManyRejects
from palate.features.encoders import ContentEncoder, Encoded
from palate.model import Model, bundle
from palate.model.shared import attach
from palate.recommender import newitems
from palate.schema import Item

MODES = ["embedding", "likelihood", "yes_no", "letters", "generate", "rating"]
Make = Callable[..., Path]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path, tiny_data: Path) -> Make:
    """Bundles with LoRA weights that matter; keyword arguments change the model's config."""
    place, dataset = tmp_path_factory.mktemp("adapters"), Dataset.open(tiny_data)

    def build(name: str, seed: int, meta: dict[str, Any] | None = None, only: str = "", **changes: Any) -> Path:
        config = ModelConfig(base=f"path:{tiny_base}", dtype="float32", hidden=16, matching=8).model_copy(
            update={"lora": LoraConfig(rank=4), **changes}
        )
        tables = {m: t for m, t in toy_features(dataset).items() if only in (m, "")}
        model = Model.create(config, tables, device="cpu", seed=seed)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter, weight in model.trainable().items():
                if "lora_B" in parameter:
                    weight.normal_(std=0.3)
        names = ("sequence", "next_item", "yes_no", "letters")
        told = {
            "name": name,
            "data": {"name": dataset.name},
            "encoders": {},
            "templates": {n: prompting.load(n, "en").hash for n in names},
            "prompt": {"max_tokens": 700, "max_history": 20},
        }
        return bundle.save(place / name, model, told | (meta or {}))

    return build


@pytest.fixture(scope="module")
def folders(make: Make) -> dict[str, Path]:
    """Two adapters alike in nothing but their base: `b` has its own rank, targets, fusion, modality and budget."""
    lora = LoraConfig(rank=2, alpha=16, targets=["q_proj", "down_proj"])
    return {
        "a": make("a", 1),
        "b": make("b", 2, {"prompt": {"max_history": 4}}, "behaviour", lora=lora, fusion="feature", soft_tokens=2),
    }


def load(path: Any, data: Path, **options: Any) -> Recommender:
    return Recommender.load(path, data=data, device="cpu", **options)


@pytest.fixture(scope="module")
def alone(folders: dict[str, Path], tiny_data: Path) -> dict[str, Recommender]:
    return {name: load(folder, tiny_data) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def both(folders: dict[str, Path], tiny_data: Path) -> Recommender:
    return load(folders, tiny_data)


@pytest.fixture
def fresh(folders: dict[str, Path], tiny_data: Path) -> Recommender:
    return load(folders, tiny_data)


def request(number: int, adapter: str) -> Request:
    history = tuple(Event(str(1 + (number + n) % 20)) for n in range(6))
    return Request(f"r{number}", None, history, ("21", "3", "22", "9"), adapter=adapter)


def values(rec: Recommender, requests: list[Request], mode: str) -> np.ndarray:
    return np.stack([s.scores for s in rec.score(requests, mode)])


# --- the same as alone ------------------------------------------------------------------------------


def test_any_thread_may_ask(both: Recommender, alone: dict[str, Recommender]) -> None:
    """A thread's adapter is in force while its call runs, whoever else calls."""
    asked = [request(n, "ab"[n % 2]) for n in range(24)]
    want = {r.request_id: values(alone[r.adapter], [replace(r, adapter="")], "likelihood") for r in asked}
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda r: (r.request_id, values(both, [r], "likelihood")), asked * 3))
    for request_id, scores in found:
        np.testing.assert_allclose(scores, want[request_id], atol=1e-4)


@pytest.mark.parametrize("mode", MODES)
def test_mixed_requests_score_as_each_adapter_does_alone(
    both: Recommender, alone: dict[str, Recommender], mode: str
) -> None:
    asked = [request(n, name) for n, name in enumerate(["a", "b", "b", "", "b", "a"])]
    own = [alone[r.adapter or "a"].score(_unnamed(r), mode)[0] for r in asked]
    found = both.score(asked, mode)
    assert [s.request_id for s in found] == [r.request_id for r in asked]
    np.testing.assert_allclose([s.scores for s in found], [s.scores for s in own], atol=1e-5)
    # the two would not have agreed by themselves
    assert np.abs(values(both, [request(1, "a")], mode) - values(both, [request(1, "b")], mode)).max() > 1e-3


def _unnamed(asked: Request) -> Request:
    return Request(asked.request_id, None, asked.history, asked.candidates)


@pytest.mark.parametrize("mode", ["embedding", "generate", "likelihood"])
def test_recommending_by_turns(both: Recommender, alone: dict[str, Recommender], mode: str) -> None:
    """Item vectors, tries and reasons kept for one adapter never answer for the other."""
    for turn in range(4):
        name = "ab"[turn % 2]
        found = both.recommend(history=["Alien", "Heat"], k=5, mode=mode, adapter=name)
        own = alone[name].recommend(history=["Alien", "Heat"], k=5, mode=mode)
        assert [(r.item_id, r.reason) for r in found] == [(r.item_id, r.reason) for r in own]
        np.testing.assert_allclose([r.score for r in found], [r.score for r in own], atol=1e-5)


def test_one_cache_of_prefixes_serves_both(fresh: Recommender, alone: dict[str, Recommender]) -> None:
    prefixes = PrefixCache()
    for rec in fresh.adapters.values():
        rec.runner = Runner(rec.model, prefixes=prefixes)
    own = {name: values(alone[name], [_unnamed(request(1, ""))], "likelihood") for name in "ab"}
    for name in "abab":
        np.testing.assert_allclose(values(fresh, [request(1, name)], "likelihood"), own[name], atol=1e-5)
    found = prefixes.stats.found
    assert found > 0
    fresh.using("b").model.soft.add_item("1", {"behaviour": np.ones(5, np.float32)})  # type: ignore[union-attr]
    values(fresh, [request(1, "a")], "likelihood")
    assert prefixes.stats.found > found  # what is known of `a` has outlived a change of `b`


def test_values_kept_by_a_mode_belong_to_one_adapter(both: Recommender, alone: dict[str, Recommender]) -> None:
    """One Mode object for both: its item vectors and unconditional scores are kept apart, and not lost by a switch."""
    for mode in (Embedding(), Likelihood(calibration=0.5)):
        for name in "abab":
            rec, asked = both.using(name), [_unnamed(request(2, ""))]
            found = mode.scores(rec.runner, rec.serializer, asked)[0].scores
            own = mode.scores(alone[name].runner, alone[name].serializer, asked)[0].scores
            np.testing.assert_allclose(found, own, atol=1e-5)
    vectors = Embedding()
    first = vectors.item_vectors(both.using("a").runner)
    values(both, [request(1, "b")], "likelihood")
    assert vectors.item_vectors(both.using("a").runner) is first


def test_explain_and_chat_with_a_chosen_adapter(both: Recommender, alone: dict[str, Recommender]) -> None:
    found = both.using("b").explain("Aliens", history=["Alien", "Heat"])
    own = alone["b"].explain("Aliens", history=["Alien", "Heat"])
    assert found.score == pytest.approx(own.score, abs=1e-5)
    assert both.using("b").chat(history=["Alien"]).rec is both.using("b")
    assert both.using("b").using("a") is both
    assert [*both.adapters] == ["a", "b"]


# --- memory -----------------------------------------------------------------------------------------


def test_the_base_is_in_memory_once(folders: dict[str, Path], tiny_data: Path) -> None:
    rec = load(folders["a"], tiny_data, merge=False)
    assert not rec._several  # one adapter: no cycle of references
    before = {_base_name(n): p.data_ptr() for n, p in rec.model.lm.named_parameters() if "lora_" not in n}
    rec.add_adapter("b", folders["b"])
    for name in "abba":
        values(rec, [request(1, name)], "likelihood")
        model = rec.using(name).model
        after = {_base_name(n): p.data_ptr() for n, p in model.lm.named_parameters() if "lora_" not in n}
        assert after == before
        assert not any(p.requires_grad for p in model.lm.parameters())
    assert rec.using("b").model.tokenizer is rec.model.tokenizer
    assert rec.using("b").pool is rec.pool
    assert rec.using("b").shelf is rec.shelf


def _base_name(name: str) -> str:
    return name.replace(".base_layer", "")


def test_a_second_adapter_is_saved_as_itself(both: Recommender, alone: dict[str, Recommender], tmp_path: Path) -> None:
    second = both.using("b")
    again = bundle.load(bundle.save(tmp_path / "b", second.model, second.meta), device="cpu", merge=False)
    rec = Recommender(again.model, both.dataset, again.meta)
    own = values(alone["b"], [_unnamed(request(3, ""))], "likelihood")
    np.testing.assert_allclose(values(rec, [_unnamed(request(3, ""))], "likelihood"), own, atol=1e-5)


# --- mistakes ---------------------------------------------------------------------------------------


def test_unknown_names(both: Recommender, alone: dict[str, Recommender], folders: dict[str, Path]) -> None:
    with pytest.raises(RequestError, match=r"request 'r1': no adapter is called 'films'; choose one of: a, b"):
        both.score([request(0, "a"), request(1, "films")])
    with pytest.raises(RequestError, match=r"no adapter is called 'bb'; did you mean 'b'\?"):
        both.recommend(history=["Alien"], adapter="bb")
    with pytest.raises(RequestError, match="no adapter is called 'b'; choose one of: a"):
        alone["a"].score(request(0, "b"))
    assert alone["a"].score(request(0, "a"))
    with pytest.raises(RequestError, match="expected a name no adapter has, got 'b'; taken: a, b"):
        both.add_adapter("b", folders["b"])


def test_merged_lora_is_no_base_for_another(folders: dict[str, Path], tiny_data: Path, tiny_base: Path) -> None:
    rec = load(folders["a"], tiny_data, merge=True)
    with pytest.raises(BundleError, match="LoRA is merged into the base; load it with merge=False"):
        rec.add_adapter("b", folders["b"])
    with pytest.raises(ConfigError, match="merge=True adds one adapter's LoRA into the base, got 2"):
        load(folders, tiny_data, merge=True)
    with pytest.raises(BundleError, match="to an untuned base; load an adapter first"):
        load(tiny_base, tiny_data).add_adapter("b", folders["b"])
    with pytest.raises(ConfigError, match="a mapping of names to bundle folders, got no name"):
        load({}, tiny_data)


def test_what_does_not_fit_is_refused_and_changes_nothing(
    fresh: Recommender, folders: dict[str, Path], make: Make, tiny_base: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    before = values(fresh, [request(1, "a"), request(1, "b")], "likelihood")

    def copy(name: str, **changes: Any) -> Path:
        folder = shutil.copytree(folders["b"], tmp_path / name)
        meta = json.loads((folder / "palate.json").read_text())
        (folder / "palate.json").write_text(json.dumps(meta | changes))
        return folder

    def damage(name: str, file: str, part: str) -> Path:
        folder = copy(name)
        state = load_file(folder / file)
        key = next(k for k in state if part in k)
        save_file(state | {key: state[key] * float("nan")}, folder / file)
        return folder

    model = json.loads((folders["b"] / "palate.json").read_text())["model"]
    wrong = {
        "trained on base .* load it on its own base": copy("base", base_sha256="0" * 64),
        "prompt template 'yes_no' has changed": copy("template", templates={"yes_no": "0" * 64}),
        "prompt: unknown key": copy("prompt", prompt={"max_histroy": 3}),
        "expected a base with quantization='nf4'": copy("nf4", model=model | {"quantization": "nf4"}),
        "expected a base with layers=1": copy("cut", model=model | {"layers": 1}),
        "lora_A.* holds NaN": damage("lora", "adapter_model.safetensors", "lora_A"),
        "projectors.safetensors: .* holds NaN": damage("soft", "projectors.safetensors", "weight"),
        "damaged or belong to another base": copy("width", model=model | {"hidden": 12}),
        "expected an adapter bundle to add, got the base model": tiny_base,
    }
    for n, (message, folder) in enumerate(wrong.items()):
        with pytest.raises((BundleError, ConfigError), match=message):
            fresh.add_adapter(f"c{n}", folder)
    assert [*fresh.adapters] == ["a", "b"]
    assert [*fresh.model.lm.peft_config] == ["default", "adapter-1"]
    np.testing.assert_allclose(values(fresh, [request(1, "a"), request(1, "b")], "likelihood"), before, atol=1e-5)


def test_the_data_set_must_be_said_where_bundles_differ(
    folders: dict[str, Path], make: Make, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = make("other", 3, {"data": {"name": "books"}})
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "tiny").symlink_to(tiny_data)
    with pytest.raises(DataError, match=r"different data sets \(a on tiny, o on books\); name one with data="):
        Recommender.load({"a": folders["a"], "o": other}, device="cpu")
    assert [*Recommender.load(folders, device="cpu").adapters] == ["a", "b"]


def test_one_option_for_all_adapters(make: Make, folders: dict[str, Path], tiny_data: Path) -> None:
    """Trained on bases held in different ways: what is said at load holds for both."""
    short = make("short", 4, layers=1)
    with pytest.raises(BundleError, match=r"expected a base with layers=1, .* load all adapters with one layers="):
        load({"a": folders["a"], "short": short}, tiny_data)
    with pytest.warns(UserWarning, match="LoRA weights of layers 1 to 1 are left out"):
        rec = load({"a": folders["a"], "short": short}, tiny_data, layers=1)
    own = values(load(short, tiny_data), [_unnamed(request(1, ""))], "likelihood")
    np.testing.assert_allclose(values(rec, [request(1, "short")], "likelihood"), own, atol=1e-5)


def test_attach_below_the_facade(folders: dict[str, Path], tiny_data: Path) -> None:
    first = bundle.load(folders["a"], device="cpu", merge=False)
    second = attach(first.model, folders["b"], items=["3", "1"])
    assert second.model.lm is first.model.lm
    assert second.model.soft is not None
    assert second.model.soft.item_ids == ("3", "1")
    assert first.model.soft is not None
    assert len(first.model.soft.item_ids) == 24


# --- new items --------------------------------------------------------------------------------------


class Size(ContentEncoder):
    """A toy image encoder: how many bytes the file has."""

    name = "size"
    width = 6
    calls = 0

    def identity(self, item: Item) -> bytes | None:
        return item.media["image"].read_bytes() if "image" in item.media else None

    def encode(self, items: Any) -> Encoded:
        Size.calls += 1
        size = len(items[0].media["image"].read_bytes())
        return Encoded(np.full((1, 6), size / 1000, np.float32), np.ones(1, bool), [])


def test_every_adapter_learns_a_new_item(make: Make, tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(newitems, "build", lambda configs: {m: Size(None, m) for m in configs})
    monkeypatch.setattr(Size, "fingerprint", "toy-image")
    told = {"encoders": {"image": {"encoder": "size"}}}
    paths = {n: make(f"seeing-{n}", 10 + i, told) for i, n in enumerate("pqr")}
    paths["blind"] = make("blind", 13, None, "behaviour")
    rec = load({n: paths[n] for n in ("p", "blind", "q")}, tiny_data)
    values(rec, [request(1, "p"), request(1, "q")], "embedding")  # item vectors are kept from before
    new = rec.using("q").add_item("Red", {"genres": "Drama"}, tiny_data / "posters" / "1.jpg")
    assert Size.calls == 1  # p and q were trained with one encoder
    rec.add_adapter("r", paths["r"])
    asked = Request("r", None, (Event("3"), Event(new)), ("1", new))
    for name in rec.adapters:
        single = load(paths[name], tiny_data)
        single.add_item("Red", {"genres": "Drama"}, tiny_data / "posters" / "1.jpg")
        kinds = [kind for kind, _ in rec.using(name).model.soft.slots(new)]  # type: ignore[union-attr]
        assert kinds == ([] if name == "blind" else ["image"])
        for mode in ("embedding", "likelihood"):
            found = rec.using(name).score(asked, mode)[0].scores
            np.testing.assert_allclose(found, single.score(asked, mode)[0].scores, atol=1e-5)


# --- candidate files --------------------------------------------------------------------------------

LONG = """request_id,item_id,adapter
x,1,b
x,2,b
y,2,
y,1,
z,5,a
z,6,b
z,7,a
"""


def _scores(path: Path) -> list[tuple[str, str, float]]:
    return [(r["request_id"], r["item_id"], r["score"]) for r in map(json.loads, path.read_text().splitlines())]


def test_a_candidate_file_chooses_adapters(both: Recommender, alone: dict[str, Recommender], tmp_path: Path) -> None:
    long, rows, out = tmp_path / "long.csv", tmp_path / "rows.jsonl", tmp_path / "out.jsonl"
    long.write_text(LONG)
    summary = score_file(both, Job(long, out, max_rejects=1))
    assert (summary.rows, summary.rejected) == (6, 1)
    assert "the request's first row has 'a'; expected one adapter" in Path(str(summary.rejects_file)).read_text()
    found = _scores(out)
    assert [(r, i) for r, i, _ in found] == [(r, i) for r, i in zip("xxyyzz", "122157", strict=True)]
    for name, who, at, items in (("b", "x", 0, ("1", "2")), ("a", "y", 2, ("2", "1")), ("a", "z", 4, ("5", "7"))):
        own = alone[name].score(Request(who, None, (), items))[0].scores
        np.testing.assert_allclose([score for *_, score in found[at : at + 2]], own, atol=1e-5)
    rows.write_text(
        "".join(
            json.dumps({"request_id": r, "candidates": ["1", "2"], "adapter": a}) + "\n"
            for r, a in [("x", "b"), ("y", "a")]
        )
    )
    score_file(both, Job(rows, out))
    np.testing.assert_allclose([s for *_, s in _scores(out)][:2], [s for *_, s in found][:2], atol=1e-5)
    rows.write_text(json.dumps({"request_id": "x", "candidates": ["1"], "adapter": "films"}) + "\n")
    with pytest.raises(TooManyRejects, match="line 1, column adapter: no adapter is called 'films'; choose one of: a"):
        score_file(alone["a"], Job(rows, out))


def test_palate_score_takes_several_adapters(
    folders: dict[str, Path], tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "c.csv"
    table.write_text("request_id,item_id,adapter\nx,1,\ny,1,second\nz,1,a\n")
    where = ["--data", str(tiny_data), "--device", "cpu", "-o", str(tmp_path / "s.jsonl")]
    assert cli.run(["score", str(table), "-a", str(folders["a"]), "-a", f"second={folders['b']}", *where]) == 0
    first, second, named = (score for *_, score in _scores(tmp_path / "s.jsonl"))
    assert first == named != second
    assert cli.run(["score", str(table), "-a", str(folders["a"]), "-a", str(folders["a"]), *where]) == 2
    assert "expected NAME=PATH with a name of its own each" in capsys.readouterr().err
    assert cli.run(["score", str(table), "-a", f"second={folders['a']}", *where, "--max-rejects", "1"]) == 0
