"""Decision-level fusion under a protocol: weights from validation alone, scores computed once, one command."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from palate.apps.commands import evaluate as command
from palate.errors import ConfigError
from palate.evaluate import evaluate, fused, protocol
from palate.evaluate.baselines import RecommenderSystem, features_for
from palate.evaluate.bench import Bench
from palate.evaluate.fused import FusedSystem, Kept, learn, padded
from palate.model import bundle
from palate.retrieve.fuse import METHODS, NORMALISE
from planted import planted_bundle, planted_data
from test_evaluate_protocol import random_interactions

FULL, TWENTY = protocol("loo-full"), protocol("loo-20")
DATA = random_interactions(users=60)


class Seer:
    """Noise, and `skill` on top of the positive of each case; counts what it is asked."""

    batch = 7

    def __init__(self, name, skill, seed=0, parts=("valid", "test")):
        self.name, self.skill, self.seed, self.parts = name, skill, seed, parts
        self.asked = []

    def score(self, cases):
        self.asked += [(c.user, c.positive) for c in cases]
        rows = []
        for case in cases:
            listed = case.items(60)
            rng = np.random.default_rng([self.seed, case.user, case.positive])
            rows.append((rng.standard_normal(len(listed)) + self.skill * (listed == case.positive)).astype(np.float32))
        return rows


def dataset(data=DATA):
    histories = SimpleNamespace(interactions=data, events=lambda u: ())
    return SimpleNamespace(name="toy", fingerprint="ab" * 32, histories=histories, users={})


def test_weights_find_the_useful_parts_and_the_mixture_is_better():
    parts = [Seer("noise", 0.0, 1), Seer("good", 2.0, 2), Seer("fair", 1.5, 3)]
    learned = learn(parts, FULL, DATA, METHODS, seed=1)
    assert [one.method for one in learned] == ["zscore", "reciprocal_rank"]
    for one in learned:
        weights = dict(zip(one.parts, one.weights, strict=True))
        assert weights["good"] > weights["noise"]
        assert sum(one.weights) == pytest.approx(1, abs=1e-5)
        assert (one.metric, one.n, one.protocol, one.seed) == ("NDCG@10", 60, "loo-full/1", 1)
    result = evaluate(dataset(), [*parts, *[FusedSystem(parts, one) for one in learned]], FULL)
    value = {s.name: s.metrics["NDCG@10"].value for s in result.systems}
    assert value["fused (z-scores)"] > max(value[p.name] for p in parts)
    assert "learned on the validation items of 60 users" in result.system("fused (z-scores)").about["note"]


def test_a_mixture_is_the_weighted_sum_of_normalised_rows():
    parts = [Seer("a", 1.0, 1), Seer("b", 1.0, 2)]
    for one in learn(parts, TWENTY, DATA, METHODS, seed=1):
        case = TWENTY.cases(DATA)[4]
        rows = [NORMALISE[one.method](p.score([case])[0][None])[0] for p in parts]
        by_hand = one.weights[0] * rows[0] + one.weights[1] * rows[1]
        np.testing.assert_allclose(FusedSystem(parts, one).score([case])[0], by_hand, atol=1e-5)


def test_weights_are_learned_on_validation_only():
    """A planted leak: parts that see the test item, test items that change; neither moves a weight."""
    cheat, honest = Seer("cheat", 0.0, 1), Seer("honest", 1.5, 2)
    before = learn([cheat, honest], FULL, DATA, METHODS, seed=1)
    tests = {(c.user, c.positive) for c in FULL.cases(DATA)}
    assert not tests & set(cheat.asked)
    items = DATA.items.copy()
    items[DATA.indptr[1:] - 1] = (items[DATA.indptr[1:] - 1] + 17) % 60
    changed = replace(DATA, items=items)
    assert learn([cheat, honest], FULL, changed, METHODS, seed=1) == before
    assert learn([cheat, honest], TWENTY, changed, METHODS, 1) == learn([cheat, honest], TWENTY, DATA, METHODS, 1)


def test_the_first_metric_says_what_the_weights_raise():
    (one, _) = learn([Seer("a", 1.0, 1), Seer("b", 1.0, 2)], TWENTY, DATA, METHODS, seed=1)
    assert one.metric == "NDCG@1"  # the hit rate at 1


def test_scores_are_computed_once(monkeypatch):
    inner = Seer("a", 1.0)
    kept, other = Kept(inner), Kept(Seer("b", 1.0, 2))
    learned = learn([kept, other], FULL, DATA, METHODS, seed=1)
    systems = [kept, other, *[FusedSystem([kept, other], one) for one in learned]]
    again = evaluate(dataset(), systems, FULL)
    assert len(inner.asked) == len(set(inner.asked)) == 120
    plain = [Seer("a", 1.0), Seer("b", 1.0, 2)]
    direct = evaluate(dataset(), [*plain, *[FusedSystem(plain, one) for one in learned]], FULL)
    for one in direct.systems:
        np.testing.assert_array_equal(one.ranks, again.system(one.name).ranks)
    monkeypatch.setattr(fused, "CELLS", 200)  # no room: everything is asked anew, nothing is wrong
    tight = Kept(Seer("a", 1.0))
    cases = FULL.cases(DATA)[:10]
    for _ in range(2):
        for mine, theirs in zip(tight.score(cases), inner.score(cases), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    assert len(tight.system.asked) > 10


def test_what_a_part_does_not_propose_stays_out():
    class Half(Seer):
        def score(self, cases):
            return [np.where(c.items(60) % 2, -np.inf, row) for c, row in zip(cases, super().score(cases), strict=True)]

    parts = [Seer("a", 1.0), Half("half", 1.0, 2)]
    case = FULL.cases(DATA)[0]
    for one in learn(parts, FULL, DATA, METHODS, seed=1):
        row = FusedSystem(parts, one).score([case])[0]
        assert np.isneginf(row[case.items(60) % 2 == 1]).all()
        assert np.isfinite(row[case.items(60) % 2 == 0]).all()


def test_rows_of_several_lengths():
    table = padded([np.array([1.0, 2.0], np.float32), np.array([3.0], np.float32)])
    assert table.tolist() == [[1, 2], [3, -np.inf]]


def test_mistakes():
    part = Seer("a", 1.0)
    for parts in ([part], [part, part], []):
        with pytest.raises(ConfigError, match="two systems or more, each once"):
            learn(parts, FULL, DATA, METHODS, seed=1)
    with pytest.raises(ConfigError, match=r"mode 'fused' fits its retrievers on all events.*--fuse"):
        RecommenderSystem(None, dataset(), "fused", "x")
    with pytest.raises(ConfigError, match="--fuse mixes an adapter with retrievers, or two retrievers; got popularity"):
        Bench(dataset(), FULL).fused([], ["popularity"])


def test_an_adapters_own_vectors_are_used_before_any_are_computed(monkeypatch):
    monkeypatch.setattr("palate.features.compute", lambda *a, **k: SimpleNamespace(tables={"text": "computed"}))
    own = {"image": "the adapter's"}
    data = SimpleNamespace(catalog={i: i for i in DATA.item_ids})
    assert features_for("dense", data, DATA, own) == own
    assert features_for("dense:modality=text", data, DATA, own) == {"text": "computed"}
    assert features_for("ease", data, DATA, own) == {}


# --- the command --------------------------------------------------------------------------------------


@pytest.fixture
def run():
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    return lambda *words: CliRunner().invoke(app, ["evaluate", *map(str, words)])


def test_command_end_to_end(run, tmp_path, tiny_base):
    data = planted_data(tmp_path / "data")
    folder = planted_bundle(tmp_path / "mine", tiny_base, data)
    words = [
        data.folder,
        "-a",
        folder,
        "--fuse",
        "ease:recency=10,dense:modality=image",
        "--against",
        "popularity,ease",
    ]
    done = run(*words, "--json", "--record")
    assert done.exit_code == 0, done.output
    plain = json.loads(done.stdout)
    names = [s["name"] for s in plain["systems"]]
    assert set(names[:2]) == {"fused (z-scores)", "fused (reciprocal ranks)"}
    assert names[2:] == ["mine (embedding)", "popularity", "ease", "ease:recency=10", "dense:modality=image"]
    assert plain["differences"][0]["a"] == names[0]
    about = {s["name"]: s["about"] for s in plain["systems"] if "about" in s}
    assert about[names[0]]["validation"] >= about[names[1]]["validation"]
    weights = about[names[0]]["weights"]
    decision = bundle.read_meta(folder)["decision"]
    assert decision["parts"] == ["adapter", "ease:recency=10", "dense:modality=image"]
    assert decision["weights"] == list(weights.values())
    assert (decision["mode"], decision["part"], decision["n"]) == ("embedding", "valid", 40)
    assert names[0] in (folder / "README.md").read_text()
    report = tmp_path / "run.md"
    done = run(data.folder, "--fuse", "ease:recency=10,ease", "--against", "", "-o", report)
    assert done.exit_code == 0, done.output
    assert "ease:recency=10, " in report.read_text()
    assert "learned on the validation items of 40 users" in report.read_text()


def test_a_mixture_may_be_a_baseline(run, tmp_path, tiny_base):
    data = planted_data(tmp_path / "data")
    folder = planted_bundle(tmp_path / "mine", tiny_base, data)
    mixture = "ease:recency=10+popularity"
    done = run(
        data.folder, "-a", folder, "--against", f"{mixture},ease:recency=10", "--fuse", "ease", "--json", "--record"
    )
    assert done.exit_code == 0, done.output
    systems = {s["name"]: s for s in json.loads(done.stdout)["systems"]}
    assert list(systems)[2:] == ["mine (embedding)", mixture, "ease:recency=10", "ease"]
    assert list(systems[mixture]["about"]["weights"]) == ["ease:recency=10", "popularity"]
    assert "validation" not in systems[mixture]["about"]  # a baseline never stands for the system asked about
    assert bundle.read_meta(folder)["decision"]["parts"] == ["adapter", "ease"]


def test_drawn_lists_are_learned_by_likelihood(monkeypatch):
    asked = []
    plain, drawn = fused.fit_weights, fused.fit_likelihood
    monkeypatch.setattr(fused, "fit_weights", lambda *a, **k: asked.append("ndcg") or plain(*a, **k))
    monkeypatch.setattr(fused, "fit_likelihood", lambda *a, **k: asked.append("likelihood") or drawn(*a, **k))
    parts = [Seer("good", 2.0), Seer("noise", 0.0, 1)]
    for setting in (FULL, TWENTY):
        [found] = learn(parts, setting, DATA, ["zscore"], 1)
        assert found.weights[0] > found.weights[1]
    assert asked == ["ndcg", "likelihood"]


def test_command_mistakes(run, tmp_path):
    data = planted_data(tmp_path / "data")
    for words, error in {
        ("--fuse", "eas"): "no baseline is called 'eas'; did you mean 'ease'",
        ("--fuse", "ease", "--against", ""): "or two retrievers; got ease",
        ("--fuse", "ease", "--record"): "name the adapter with -a",
        ("--against", "ease+eas"): "no baseline is called 'eas'; did you mean 'ease'",
        ("--against", "ease+ease"): "a mixture takes each baseline once, got 'ease+ease'",
    }.items():
        done = run(data.folder, *words)
        assert isinstance(done.exception, ConfigError)
        assert error in str(done.exception)
