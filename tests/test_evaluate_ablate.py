"""The modality report: what is hidden is really gone, everything comes back, and the words say what the numbers do."""

from __future__ import annotations

import json

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from palate.apps.commands import evaluate as command
from palate.errors import ConfigError, RequestError
from palate.evaluate import protocol
from palate.evaluate.ablate import FULL, NONE, Ablation, Variant, shuffled, variants
from palate.evaluate.bench import Bench
from palate.evaluate.modalities import study
from palate.evaluate.modality_report import tables, to_json, to_markdown, write
from palate.evaluate.slices import COLD
from palate.recommender import Recommender
from palate.schema import Features, Request
from planted import ITEMS, planted_bundle, planted_data

TWENTY = protocol("loo-20")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return planted_data(tmp_path_factory.mktemp("planted") / "data")


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_base, data):
    return planted_bundle(tmp_path_factory.mktemp("planted") / "bundle", tiny_base, data)


@pytest.fixture(scope="module")
def rec(folder, data):
    return Recommender.load(folder, data=data)


@pytest.fixture(scope="module")
def found(rec, data):
    return study(rec, Bench(data, TWENTY), name="planted (embedding)")


# --- variants -----------------------------------------------------------------------------------------


def test_variants_of_three_one_and_two_modalities():
    names = [v.name for v in variants(("a", "b", "c"), fields=True)]
    assert names == [
        FULL, "without a", "without b", "without c", "a alone", "b alone", "c alone",
        "a shuffled", "b shuffled", "c shuffled", "without text fields", NONE,
    ]  # fmt: skip
    two = variants(("a", "b"), fields=False)
    assert [v.name for v in two] == [
        FULL, "without a (b alone)", "without b (a alone)", "a shuffled", "b shuffled", NONE,
    ]  # fmt: skip
    assert [v.name for v in variants(("a",), fields=False)] == [FULL, f"without a ({NONE})", "a shuffled"]
    assert len({v.sight for v in two}) == len(two)
    assert variants(("a", "b"), fields=False, nothing=False) == two[:-1]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 99))
def test_shuffled_moves_every_present_row_to_another_and_leaves_the_others(present, seed):
    has = np.array(present)
    vectors = (np.arange(len(has) * 2).reshape(-1, 2) + 1).astype(np.float32) * has[:, None]
    table = Features("image", tuple(map(str, range(len(has)))), vectors, has, "f")
    moved = shuffled(table, seed)
    assert moved.present.tolist() == present
    assert (moved.vectors[~has] == 0).all()
    assert sorted(map(tuple, moved.vectors[has].tolist())) == sorted(map(tuple, vectors[has].tolist()))
    if has.sum() > 1:
        assert (moved.vectors[has] != vectors[has]).any(axis=1).all()
    np.testing.assert_array_equal(moved.vectors, shuffled(table, seed).vectors)


# --- hiding and restoring -----------------------------------------------------------------------------


def asked(rec):
    return [Request("r", None, rec.dataset.histories.events("u3")[:4], tuple(f"i{n}" for n in range(20)))]


def test_a_hidden_modality_has_no_slots_and_everything_comes_back(rec):
    soft, serializer = rec.model.soft, rec.serializer
    before, kept = rec.score(asked(rec))[0].scores, {m: (t.vectors.copy(), t.present) for m, t in soft.tables().items()}
    with Ablation(rec, seed=1) as ablation:
        ablation.show(Variant("x", hidden=frozenset(["image"])))
        assert [m for m, _ in soft.slots("i0")] == ["behaviour"]
        hidden = rec.score(asked(rec))[0].scores
        ablation.show(Variant("y", hidden=frozenset(["image", "behaviour"]), fields=False))
        assert soft.slots("i0") == ()
        assert rec.serializer is not serializer
        ablation.show(Variant(FULL))
        np.testing.assert_array_equal(rec.score(asked(rec))[0].scores, before)
        ablation.show(Variant("z", shuffled=frozenset(["image"])))
    assert rec.serializer is serializer
    assert rec.prefixes.stats.nbytes == 0
    for m, table in soft.tables().items():
        np.testing.assert_array_equal(table.vectors, kept[m][0])
        np.testing.assert_array_equal(table.present, kept[m][1])
    np.testing.assert_array_equal(rec.score(asked(rec))[0].scores, before)
    assert not np.array_equal(hidden, before)
    assert len(set(hidden.tolist())) == 1  # the head reads the picture alone: nothing tells items apart now


def test_an_error_in_the_middle_restores_too(rec):
    before = rec.score(asked(rec))[0].scores
    ablation = Ablation(rec, seed=1)
    wrong = Request("r", None, (), ("no such item",))

    def ask():
        with ablation:
            ablation.show(Variant("x", hidden=frozenset(["image"]), fields=False))
            rec.score(wrong)

    with pytest.raises(RequestError, match="no such item"):
        ask()
    np.testing.assert_array_equal(rec.score(asked(rec))[0].scores, before)


def test_text_modes_too_read_no_stale_prefix(rec):
    """Kept keys depend on soft tokens: a prompt of the same tokens with other vectors is another prompt."""
    scores = {}
    rec.score(asked(rec), mode="yes_no")
    with Ablation(rec, seed=1) as ablation:
        for name, variant in {
            "shuffled": Variant("a", shuffled=frozenset(["image"])),
            "full": Variant(FULL),
            "bare": Variant("b", fields=False),
        }.items():
            ablation.show(variant)
            warm = rec.score(asked(rec), mode="yes_no")[0].scores
            rec.prefixes.clear()
            np.testing.assert_allclose(warm, rec.score(asked(rec), mode="yes_no")[0].scores, atol=1e-5)
            scores[name] = warm
    assert not np.allclose(scores["shuffled"], scores["full"], atol=1e-6)
    assert not np.allclose(scores["bare"], scores["full"], atol=1e-6)


def test_feature_level_fusion_hides_by_zero_and_flag(tmp_path, tiny_base, data):
    import torch

    rec = Recommender.load(planted_bundle(tmp_path / "joint", tiny_base, data, fusion="feature"), data=data)
    soft = rec.model.soft
    with Ablation(rec, seed=1) as ablation:
        ablation.show(Variant("x", hidden=frozenset(["image"])))
        assert soft.slots("i0") == (("item", 1),)
        row = soft.inputs("item", torch.tensor([0]))[0]
        assert row[5:11].tolist() == [0] * 6
        assert row[-2:].tolist() == [1, 0]
        ablation.show(Variant("y", hidden=frozenset(["image", "behaviour"])))
        assert soft.slots("i0") == ()
    assert soft.inputs("item", torch.tensor([0]))[0, -2:].tolist() == [1, 1]


def test_an_untuned_base_has_nothing_to_ablate(tiny_base, data):
    rec = Recommender.load(f"path:{tiny_base}", data=data)
    with pytest.raises(ConfigError, match="needs an adapter with item vectors"):
        Ablation(rec, seed=1)


# --- the study ----------------------------------------------------------------------------------------


def test_the_planted_picture_is_found_and_nothing_else(found):
    value = {s.name: s.metrics["HR@5"].value for s in found.result.systems}
    assert list(value) == [
        FULL, "without behaviour (image alone)", "without image (behaviour alone)", "behaviour shuffled",
        "image shuffled",
    ]  # fmt: skip
    assert value[FULL] > 0.6
    assert value["image shuffled"] < value[FULL] - 0.25
    blind = found.result.system("without image (behaviour alone)")
    assert set(blind.ranks.tolist()) == {10.5}  # all candidates alike: the middle
    assert found.result.compare(FULL, "without behaviour (image alone)", "AUC").diff == 0
    about_behaviour, about_image, about_text = found.sentences()
    assert about_behaviour.startswith("behaviour adds nothing that can be told from chance: +0.000 HR@1 [+0.000")
    assert "60 of 60 items have it" in about_behaviour
    assert about_image.startswith("image adds +0.")
    assert "52 of 60 items have it" in about_image
    assert "n = 40" in about_image
    assert "Its own vectors beat those of other items by +0." in about_image
    assert "no text field" in about_text


def test_slices_are_by_train_count(found, data):
    counts = np.bincount(TWENTY.split(data.histories.interactions).train.items, minlength=ITEMS)
    cold = np.array([counts[c.positive] <= COLD for c in TWENTY.cases(data.histories.interactions)])
    assert [s.name for s in found.slices][:2] == ["all", "cold items (<= 5 train events)"]
    assert found.slices[0].n == found.result.n == 40
    assert found.slices[1].mask.tolist() == cold.tolist()
    part = found.slices[1]
    ranks = found.result.system(FULL).ranks[cold]
    assert part.value(found.result, FULL, "HR@1").value == pytest.approx((ranks <= 1).mean())
    assert part.value(found.result, FULL, "HR@1").n == part.n


def test_reports_in_three_forms(found, tmp_path, capsys):
    from rich.console import Console

    Console(width=100).print(tables(found))
    out = capsys.readouterr().out
    for term in ("image shuffled", "all modalities minus ...", "n = 40", "image adds +0.", "as if no item had it"):
        assert term in out
    text = write(found, tmp_path / "study.md").read_text()
    assert text == to_markdown(found)
    assert "| all, n = 40 | HR@1 | HR@5 | all minus it, HR@1 | all minus it, HR@5 |" in text
    assert "candidates " + found.result.candidates[:16] in text
    plain = json.loads(write(found, tmp_path / "study.json").read_text())
    assert plain["ablation"]["present"] == {"behaviour": 60, "image": 52}
    assert len(plain["systems"][0]["ranks"]) == 40
    first = plain["ablation"]["slices"][0]
    d = found.result.compare(FULL, "image shuffled", "HR@1")
    told = first["differences"]["image shuffled"]["HR@1"]
    assert (told["diff"], told["p"], told["n"]) == (d.diff, d.p, 40)
    assert first["values"][FULL]["HR@1"]["n"] == 40
    assert plain["ablation"]["sentences"] == found.sentences()
    assert "ranks" not in json.loads(to_json(found))["systems"][0]


def test_a_modality_that_costs_is_told_so(found):
    """The sentences follow the sign: here the full system is made the worst."""
    from dataclasses import replace

    worst = replace(found.result.systems[0], ranks=np.full(40, 20.0))
    other = [replace(s, ranks=np.full(40, 1.0)) for s in found.result.systems[1:]]
    turned = replace(found, result=replace(found.result, systems=(worst, *other)), fields=False)
    image = turned.sentences()[1]
    assert image.startswith("image costs 1.000 HR@1 [-1.000, -1.000] (p < 0.001, n = 40): the adapter ranks better")
    assert "The vectors of other items do better than its own" in image


# --- the command --------------------------------------------------------------------------------------


@pytest.fixture
def run():
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    return lambda *words: CliRunner().invoke(app, ["evaluate", *map(str, words)])


def test_command_end_to_end(run, data, folder, tmp_path):
    words = [data.folder, "-a", folder, "--ablate", "modalities", "--users", 3]
    done = run(*words, "--protocol", "loo-full", "-o", tmp_path / "a.md")
    assert done.exit_code == 0, done.output
    assert "popularity" in (tmp_path / "a.md").read_text()
    assert "written to" in done.stdout
    done = run(*words, "--mode", "yes_no", "--against", "", "--json", "-o", tmp_path / "a.json")
    assert done.exit_code == 0, done.output
    plain = json.loads(done.stdout)
    assert plain["ablation"]["text_fields"] is True
    assert "without text fields" in [s["name"] for s in plain["systems"]]
    assert any(line.startswith("text fields in the prompt add") for line in plain["ablation"]["sentences"])
    assert (tmp_path / "a.json").is_file()


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--ablate", "modality", "-a", "x"], "--ablate: expected 'modalities', got 'modality'"),
        (["--ablate", "modalities"], "one adapter in one mode, got 0 adapters"),
        (["--ablate", "modalities", "-a", "x", "--mode", "yes_no,embedding"], "1 adapters and 2 modes"),
        (["--ablate", "modalities", "-a", "x", "--fuse", "ease"], "does not go with --fuse"),
        (["--ablate", "modalities", "-a", "x", "--record"], "does not go with --record"),
    ],
)
def test_command_mistakes(run, data, words, error):
    done = run(data.folder, *words)
    assert isinstance(done.exception, ConfigError)
    assert error in str(done.exception)
