"""Systems through a protocol, the report in three forms, the pictures and the command."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from typer.testing import CliRunner

from palate.apps.commands import evaluate as command
from palate.apps.plots import learning_curve, system_bars
from palate.config import PromptConfig
from palate.errors import BundleError, ConfigError, DataError
from palate.evaluate import evaluate, per_user
from palate.evaluate.baselines import RecommenderSystem, base_of, baseline, features_for, parse
from palate.evaluate.report import (
    check_output,
    difference_table,
    differences,
    facts,
    to_json,
    to_markdown,
    to_table,
    write,
)
from palate.evaluate.run import best
from palate.schema import Event, Scores
from test_evaluate_protocol import FULL, TWENTY, interactions, random_interactions

DATA = random_interactions(users=60)


def dataset(data=DATA):
    def events(user_id):
        row = data.sequence(data.user_index[user_id])
        return tuple(Event(data.item_ids[i]) for i in row)

    histories = SimpleNamespace(interactions=data, events=events)
    return SimpleNamespace(name="toy", fingerprint="ab" * 32, histories=histories, users={"u0": {"age": "20"}})


class Fixed:
    """A system that answers by a function of the case."""

    batch = 16

    def __init__(self, name, answer):
        self.name = name
        self.answer = answer

    def score(self, cases):
        return [np.asarray(self.answer(c, c.items(60)), dtype=np.float32) for c in cases]


ORACLE = Fixed("oracle", lambda case, items: items == case.positive)
BLIND = Fixed("blind", lambda case, items: np.zeros(len(items)))
WORST = Fixed("worst | last", lambda case, items: items != case.positive)


@pytest.fixture(scope="module")
def result():
    return evaluate(dataset(), [ORACLE, BLIND, WORST], TWENTY)


def test_oracle_blind_and_worst_are_told_apart(result):
    values = {s.name: {m: i.value for m, i in s.metrics.items()} for s in result.systems}
    assert values["oracle"] == dict.fromkeys(TWENTY.metrics, 1.0)
    assert values["blind"]["AUC"] == 0.5
    assert values["blind"]["HR@1"] == 0
    assert values["worst | last"]["AUC"] == 0
    assert result.system("worst | last").ranks.tolist() == [20.0] * 60
    assert result.n == 60
    assert result.left_out == 0
    assert result.short_lists == 0
    assert all(s.valid == 1 for s in result.systems)
    assert all(s.seconds >= 0 for s in result.systems)
    assert set(result.sizes.tolist()) == {20}


def test_the_ten_best_of_each_case_are_kept(result):
    cases = TWENTY.cases(DATA)
    assert result.positives.tolist() == [c.positive for c in cases]
    assert result.system("oracle").top.shape == (60, 10)
    for n, case in enumerate(cases):
        others = sorted(set(case.candidates.tolist()) - {case.positive})
        assert result.system("oracle").top[n].tolist() == [case.positive, *others[:9]]  # ties: catalogue order
        assert result.system("blind").top[n].tolist() == sorted(case.candidates.tolist())[:10]
        assert result.system("worst | last").top[n].tolist() == others[:10]


def test_what_was_not_proposed_is_not_among_the_best():
    few = Fixed("few", lambda case, items: np.where(items % 20 == 0, -items, -np.inf))
    found = evaluate(dataset(), [few], FULL)
    for case, top in zip(FULL.cases(DATA), found.systems[0].top.tolist(), strict=True):
        proposed = [i for i in case.items(60).tolist() if i % 20 == 0]
        assert top == [*proposed, *[-1] * (10 - len(proposed))]


@settings(deadline=None)
@given(arrays(np.float32, st.integers(1, 30), elements=st.sampled_from([-np.inf, 0.0, 1.0, 2.0])), st.integers(1, 12))
def test_best_equals_a_sort_of_everything(scores, k):
    items = np.random.default_rng(len(scores)).permutation(100)[: len(scores)]
    order = sorted((n for n in range(len(scores)) if scores[n] > -np.inf), key=lambda n: (-scores[n], items[n]))
    assert best(scores, items, k).tolist() == items[order[:k]].tolist()


def test_full_ranking_counts_unseen_only():
    full = evaluate(dataset(), [WORST], FULL)
    seen = np.array([len(set(c.history.tolist())) for c in FULL.cases(DATA)])
    assert (full.system("worst | last").ranks == 60 - seen).all()
    assert full.values("worst | last", "AUC").sum() == 0


def test_batches_users_and_progress():
    calls = []
    some = evaluate(dataset(), [ORACLE], TWENTY, users=20, progress=lambda *a: calls.append(a))
    assert some.n == 20
    assert some.left_out == 0  # not drawn is not left out
    assert calls == [("oracle", 16, 20), ("oracle", 20, 20)]


def test_not_proposed_counts_as_invalid_and_last():
    half = Fixed("half", lambda case, items: np.where(items % 2 == 0, 1.0, -np.inf))
    found = evaluate(dataset(), [half], TWENTY).systems[0]
    assert found.valid == 0
    odd = [c.positive % 2 == 1 for c in TWENTY.cases(DATA)]
    assert (found.ranks[odd] > 1).all()


def test_broken_systems_are_named():
    nan = Fixed("nan", lambda case, items: np.where(items == items[0], np.nan, 0))
    with pytest.raises(DataError, match=r"nan, user 'u0': .*NaN in list 0, candidate 0"):
        evaluate(dataset(), [nan], TWENTY)
    with pytest.raises(DataError, match="short, user 'u0': expected 20 scores"):
        evaluate(dataset(), [Fixed("short", lambda case, items: np.zeros(3))], TWENTY)
    with pytest.raises(ConfigError, match="its own name"):
        evaluate(dataset(), [ORACLE, ORACLE], TWENTY)
    with pytest.raises(ConfigError, match="its own name"):
        evaluate(dataset(), [], TWENTY)

    class Lazy(Fixed):
        def score(self, cases):
            return []

    with pytest.raises(DataError, match="expected scores for 16 cases, got 0"):
        evaluate(dataset(), [Lazy("lazy", None)], TWENTY)


def test_compare_and_unknown_system(result):
    found = result.compare("oracle", "blind", "AUC")
    assert (found.diff, found.low, found.high) == (0.5, 0.5, 0.5)
    with pytest.raises(ConfigError, match="'orakle'; did you mean 'oracle'"):
        result.system("orakle")


def test_popularity_baseline_equals_counting_by_hand():
    train = TWENTY.split(DATA).train
    found = evaluate(dataset(), [baseline("popularity", train)], TWENTY).systems[0]
    counts = np.bincount(train.items, minlength=60)
    expected = []
    for case in TWENTY.cases(DATA):
        others = counts[[i for i in case.candidates if i != case.positive]]
        own = counts[case.positive]
        expected.append(1 + (others > own).sum() + (others == own).sum() / 2)
    assert found.ranks.tolist() == expected


def test_parse_baselines():
    assert parse("ease:penalty=500:recency=10") == ("ease", {"penalty": 500, "recency": 10})
    assert parse("ease:penalty=1e2:recency=none") == ("ease", {"penalty": 100.0, "recency": None})
    with pytest.raises(ConfigError, match="no baseline is called 'populrity'; did you mean 'popularity'"):
        parse("populrity")
    assert parse("gru4rec:epochs=3") == ("gru4rec", {"epochs": 3})
    with pytest.raises(ConfigError, match="no option 'penaltie'; did you mean 'penalty'"):
        parse("ease:penaltie=3")
    with pytest.raises(ConfigError, match="expected options as name:option=value, got 'recency'"):
        parse("ease:recency")


class Echo:
    """A stand-in recommender: the item's number is its score; it answers in reverse and may skip one."""

    config = PromptConfig()
    meta: ClassVar = {}

    def __init__(self, skip=None):
        self.skip = skip
        self.seen = []

    def score(self, requests, mode=None):
        self.seen += [(r, mode) for r in requests]
        answers = []
        for r in requests:
            ids = tuple(i for i in reversed(r.candidates) if i != self.skip)
            answers.append(Scores(r.request_id, r.user_id, ids, np.array([float(i[1:]) for i in ids], np.float32)))
        return answers


def test_recommender_system_matches_scores_by_item():
    echo = Echo()
    system = RecommenderSystem(echo, dataset(), "yes_no", "echo")
    cases = TWENTY.cases(DATA)[:5]
    for case, scores in zip(cases, system.score(cases), strict=True):
        assert scores.tolist() == case.candidates.tolist()
    request, mode = echo.seen[0]
    assert mode == "yes_no"
    assert request.profile == {"age": "20"}
    assert len(request.history) == len(cases[0].history)
    skipping = RecommenderSystem(Echo(skip=f"i{cases[0].candidates[4]}"), dataset(), None, "echo")
    assert skipping.score(cases[:1])[0][4] == -np.inf


def test_recommender_system_refuses_answers_out_of_order():
    class Shuffled(Echo):
        def score(self, requests, mode=None):
            return super().score(requests, mode)[::-1]

    with pytest.raises(DataError, match="one answer a request, in order"):
        RecommenderSystem(Shuffled(), dataset(), None, "echo").score(TWENTY.cases(DATA)[:3])


def test_a_real_recommender_on_a_tiny_base(tiny_base, tiny_data):
    """Every candidate gets a finite score, and the ranks do not depend on how many users go together."""
    from palate.data import Dataset
    from palate.recommender import Recommender

    data = Dataset.open(tiny_data)
    recommender = Recommender.load(f"path:{tiny_base}", data=data)
    systems = [RecommenderSystem(recommender, data, "likelihood", f"by {n}", batch=n) for n in (1, 6)]
    result = evaluate(data, systems, TWENTY, users=6)
    assert [s.valid for s in result.systems] == [1, 1]
    assert len(set(result.systems[0].ranks.tolist())) > 1
    assert result.systems[0].ranks.tolist() == result.systems[1].ranks.tolist()


def test_base_of(tmp_path):
    assert base_of(None) == "smollm2-135m-instruct"
    assert base_of("path:some/where") == "path:some/where"
    (tmp_path / "palate.json").write_text('{"base": "path:somewhere"}')
    assert base_of(tmp_path) == "path:somewhere"
    (tmp_path / "palate.json").write_text("[]")
    with pytest.raises(BundleError, match="expected JSON with the key 'base'"):
        base_of(tmp_path)


def test_dense_gets_its_features_and_others_none(tmp_path, monkeypatch):
    asked = []

    def compute(items, train, config):
        asked.append((list(items), dict(config)))
        return SimpleNamespace(tables={"text": "a table"})

    monkeypatch.setattr("palate.features.compute", compute)
    data = SimpleNamespace(catalog={i: f"item {i}" for i in DATA.item_ids})
    assert features_for("ease", data, DATA) == {}
    assert asked == []
    assert features_for("dense:modality=text", data, DATA) == {"text": "a table"}
    assert list(asked[0][1]) == ["text"]
    assert asked[0][0][5] == "item i5"
    for text in ("tiger", "vbpr", "vbpr:modality=text"):
        features_for(text, data, DATA)
    assert [list(config) for _, config in asked[1:]] == [["text"], ["image"], ["text"]]


def test_json_repeats_every_number(result, tmp_path):
    plain = json.loads(write(result, tmp_path / "deep" / "run.json").read_text())
    assert plain["protocol"] == "loo-20"
    assert plain["protocol_version"] == 1
    assert (plain["n"], plain["seed"]) == (60, 1)
    assert plain["data_fingerprint"] == "ab" * 32
    assert plain["candidate_hash"] == result.candidates
    assert plain["candidate_policy"] == "the positive and 19 uniform unseen items"
    for system in plain["systems"]:
        for metric, found in system["metrics"].items():
            assert found["value"] == pytest.approx(per_user(metric, system["ranks"], plain["sizes"]).mean())
            assert found["low"] <= found["value"] <= found["high"]
    assert "ranks" not in json.loads(to_json(result))["systems"][0]
    assert "top" not in json.loads(to_json(result))["systems"][0]
    assert plain["positives"] == [DATA.item_ids[c.positive] for c in TWENTY.cases(DATA)]
    oracle = next(s for s in plain["systems"] if s["name"] == "oracle")
    assert [ids[0] for ids in oracle["top"]] == plain["positives"]
    assert {len(ids) for ids in oracle["top"]} == {10}
    assert len(plain["differences"]) == 2 * len(TWENTY.metrics)
    assert plain["versions"].keys() >= {"python", "torch", "numpy"}
    assert "command" not in plain
    write(result, tmp_path / "again.json", "palate evaluate 'a b'")
    again = json.loads((tmp_path / "again.json").read_text())
    assert again.pop("manifest")["seeds"] == {"evaluation": 1}
    assert again == {**plain, "command": "palate evaluate 'a b'"}
    assert differences(result, "blind")[0]["a"] == "blind"


def test_markdown_is_a_table_and_states_its_terms(result, tmp_path):
    text = write(result, tmp_path / "run.md").read_text()
    assert text == to_markdown(result)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == "| system | HR@1 | HR@5 | NDCG@10 | MRR | AUC | valid | seconds |"
    assert rows[2].startswith("| oracle | 1.000 [1.000, 1.000] |")
    assert r"worst \| last" in text
    assert "oracle - blind | +1.000 [+1.000, +1.000], p < 0.001" in text
    for term in ("loo-20/1", "n = 60 users", "seed 1", result.candidates[:16], "ababab", "95%"):
        assert term in text
    with pytest.raises(ConfigError, match=r"ending in .md or .json, got 'a.txt'"):
        check_output("a.txt")


def test_short_lists_and_left_out_users_are_reported():
    terms = facts(evaluate(dataset(), [ORACLE], TWENTY))
    assert "left out" not in terms
    assert "Shorter" not in terms
    few = interactions([[0, 1], [2, 3, 4], list(range(50))])
    result = evaluate(dataset(few), [ORACLE], TWENTY)
    assert result.sizes.tolist() == [20, 11]
    assert "nothing known before it: 1." in facts(result)
    assert "too few unseen items: 1." in facts(result)


def test_tables_render(result, capsys):
    from rich.console import Console

    console = Console(width=120)
    console.print(to_table(result))
    console.print(difference_table(result))
    out = capsys.readouterr().out
    assert "oracle" in out
    assert "1.000" in out
    assert "n = 60 users" in out
    assert "p < 0.001" in out
    assert difference_table(evaluate(dataset(), [ORACLE], TWENTY)) is None


def test_card_rows_carry_all_a_public_number_needs(result):
    from palate.evaluate.report import card_rows

    rows = card_rows(result, metrics=1)
    assert [r["system"] for r in rows] == [s.name for s in result.systems]
    first, metric = rows[0], result.protocol.metrics[0]
    found = result.systems[0].metrics[metric]
    assert first == {
        "system": result.systems[0].name, "protocol": f"{result.protocol.label}, {result.part}", "metric": metric,
        "value": found.value, "low": found.low, "high": found.high, "n": result.n, "seed": result.seed,
    }  # fmt: skip


def is_picture(path):
    from PIL import Image

    with Image.open(path) as image:
        image.load()
        return image.format == "PNG" and min(image.size) > 200 and len(image.convert("RGB").getcolors(10**6)) > 20


def test_pictures(result, tmp_path):
    assert is_picture(system_bars(tmp_path / "plots" / "bars.png", result))
    assert is_picture(system_bars(tmp_path / "auc.png", result, "AUC", title="AUC"))
    curve = [(n, 5.0 / n) for n in range(1, 50)]
    assert is_picture(learning_curve(tmp_path / "a.png", curve, [(10, 0.01), (40, 0.05)], caption="n = 943 users"))
    assert is_picture(learning_curve(tmp_path / "b.png", curve[:1]))
    with pytest.raises(DataError, match="has training logged a step"):
        learning_curve(tmp_path / "c.png", [])


@pytest.fixture
def run():
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    return lambda *words: CliRunner().invoke(app, ["evaluate", *map(str, words)])


def test_command_json_and_markdown(run, tiny_data, tmp_path):
    done = run(tiny_data, "--against", "popularity,ease:penalty=10", "--json", "--users", 12)
    assert done.exit_code == 0, done.output
    plain = json.loads(done.stdout)
    assert [s["name"] for s in plain["systems"]] == ["popularity", "ease:penalty=10"]
    assert plain["n"] == 12
    assert len(plain["data_fingerprint"]) >= 16
    done = run(tiny_data, "--protocol", "loo-full", "-o", tmp_path / "run.md")
    assert done.exit_code == 0, done.output
    assert "popularity" in (tmp_path / "run.md").read_text()
    assert "written to" in done.stdout


def test_command_takes_adapters_modes_and_the_untuned_base(run, tiny_data, monkeypatch):
    from palate.recommender import Recommender

    loaded = []

    def load(path, data=None):
        loaded.append((str(path), data.name))
        echo = Echo()
        echo.score = lambda requests, mode: [
            Scores(r.request_id, r.user_id, r.candidates, np.arange(len(r.candidates), dtype=np.float32))
            for r in requests
        ]
        echo.default_mode, echo.meta = "embedding", {}
        return echo

    monkeypatch.setattr(Recommender, "load", load)
    done = run(tiny_data, "-a", "adapters/mine", "--mode", "embedding,yes_no", "--untuned", "--json", "--against", "")
    assert isinstance(done.exception, BundleError)  # --untuned asks the bundle which base it has
    done = run(tiny_data, "-a", "adapters/mine", "--mode", "embedding,yes_no", "--json")
    assert done.exit_code == 0, done.output
    names = [s["name"] for s in json.loads(done.stdout)["systems"]]
    assert names == ["mine (embedding)", "mine (yes_no)", "popularity"]
    done = run(tiny_data, "--untuned", "--json")
    assert [s["name"] for s in json.loads(done.stdout)["systems"]] == [
        "untuned base (likelihood)",
        "popularity",
    ]
    done = run(tiny_data, "-a", "adapters/mine", "--json")
    assert json.loads(done.stdout)["systems"][0]["name"] == "mine (embedding)"
    assert loaded[-2:] == [("smollm2-135m-instruct", "tiny"), ("adapters/mine", "tiny")]


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--against", "eas"], "no baseline is called 'eas'; did you mean 'ease'"),
        (["--protocol", "loo"], "no protocol is called 'loo'"),
        (["-o", "out.txt"], "ending in .md or .json"),
        (["--against", ""], "nothing to evaluate"),
        (["--record"], "name the adapter with -a"),
    ],
)
def test_command_mistakes(run, tiny_data, words, error):
    done = run(tiny_data, *words)
    assert isinstance(done.exception, ConfigError)
    assert error in str(done.exception)


def test_command_help_has_an_example(run):
    assert "palate evaluate data/ml-100k" in run("--help").output
