"""Cold items: held out entirely, asked about fairly, and only of adapters that never saw them."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from palate.apps.commands import evaluate as command
from palate.data.splits import cold_items, held_out_items, held_out_record, leave_one_out
from palate.errors import BundleError, ConfigError, DataError
from palate.evaluate import protocol
from palate.evaluate.cold import check_held_out
from palate.evaluate.metrics import at_random, per_user
from palate.evaluate.protocol import candidate_hash
from palate.schema import Event
from planted import planted_bundle, planted_data
from test_evaluate_protocol import interactions, random_interactions

COLD = protocol("cold-items:share=0.3")
sequences = st.lists(st.lists(st.integers(0, 11), max_size=9), min_size=1, max_size=8)


# --- the split ----------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=80)
@given(sequences, st.floats(0.1, 0.6), st.integers(0, 50))
def test_nothing_of_a_held_out_item_is_left(rows, share, seed):
    data = interactions(rows, items=12)
    drawn, loo = set(held_out_items(data.item_ids, share, seed).tolist()), leave_one_out(data)
    if not set(loo.train.items.tolist()) - drawn:
        with pytest.raises(DataError, match="leaves no event to train on"):
            cold_items(data, share=share, seed=seed)
        return
    split = cold_items(data, share=share, seed=seed)
    held = set(split.held_out.tolist())
    assert held == drawn
    assert len(held) == round(share * 12)
    for user, row in enumerate(rows):
        kept = [i for i in loo.train.sequence(user).tolist() if i not in held]
        assert split.train.sequence(user).tolist() == kept
        assert split.valid[user] == (loo.valid[user] if loo.valid[user] not in held else -1)
        cold = [at for at, i in enumerate(row) if i in held]
        if not cold:
            assert split.test[user] == -1
            continue
        assert split.test[user] == row[cold[-1]]
        assert split.test_history(user).tolist() == [i for i in row[: cold[-1]] if i not in held]


def test_the_draw_depends_on_ids_and_seed_alone():
    data = random_interactions()
    turned = replace(data, item_ids=data.item_ids[::-1])
    for seed in (1, 2):
        named = [{d.item_ids[i] for i in cold_items(d, share=0.2, seed=seed).held_out.tolist()} for d in (data, turned)]
        assert named[0] == named[1]
        assert len(named[0]) == 12
    first, other = (cold_items(data, share=0.2, seed=s).held_out.tolist() for s in (1, 2))
    assert first != other
    wider = cold_items(data, share=0.4, seed=1).held_out.tolist()
    assert set(first) < set(wider)


def test_mistakes_in_the_draw():
    data = random_interactions()
    for share in (0, 1, -0.1, float("nan")):
        with pytest.raises(DataError, match="a share of the items between 0 and 1"):
            cold_items(data, share=share)
    with pytest.raises(DataError, match="holds out none; expected a larger share"):
        cold_items(data, share=0.001)


# --- the protocol -------------------------------------------------------------------------------------


def test_candidates_are_held_out_items_the_user_has_not_otherwise_chosen():
    data = random_interactions()
    split = COLD.split(data)
    cases = COLD.cases(data)
    assert 20 < len(cases) <= 40
    for case in cases:
        chosen = set(data.sequence(case.user).tolist()) - {case.positive}
        assert case.candidates.tolist() == [i for i in split.held_out.tolist() if i not in chosen]
        assert case.positive in case.candidates
        assert not set(case.history.tolist()) & set(split.held_out.tolist())
        assert len(case.history)
        np.testing.assert_array_equal(np.flatnonzero(case.allowed(60)), case.candidates)


def test_validation_asks_about_warm_items_among_warm_items():
    data = random_interactions()
    held = set(COLD.split(data).held_out.tolist())
    for case in COLD.cases(data, part="valid"):
        assert case.positive not in held
        assert set(case.candidates.tolist()) == set(range(60)) - held - (set(case.history.tolist()) - {case.positive})


def test_a_request_shows_the_warm_events_with_their_context():
    data = interactions([[5, 6, 7, 8, 9, 5]], items=10)
    for share in (0.2, 0.3, 0.5):
        found = protocol(f"cold-items:share={share}")
        held = found.split(data).held_out.tolist()
        events = [Event(f"i{i}", context={"at": str(n)}) for n, i in enumerate([5, 6, 7, 8, 9, 5])]
        for case in found.cases(data):
            last = max(n for n, i in enumerate([5, 6, 7, 8, 9, 5]) if i in held)
            warm = [e for e in events[:last] if int(e.item_id[1:]) not in held]
            assert list(case.request(data, events).history) == warm
            assert [e.timestamp for e in case.request(data).history] == [float(e.context["at"]) for e in warm]


def test_a_changed_test_event_changes_nothing_that_is_fitted():
    """A planted leak: other held-out items chosen, and chosen more often, leave train and validation as they are."""
    data = random_interactions()
    split = COLD.split(data)
    held = split.held_out
    events = np.flatnonzero(np.isin(data.items, held))
    items = data.items.copy()
    items[events] = held[(np.searchsorted(held, items[events]) + 3) % len(held)]
    changed = replace(data, items=items)
    other = COLD.split(changed)
    np.testing.assert_array_equal(split.train.items, other.train.items)
    np.testing.assert_array_equal(split.valid, other.valid)
    assert not np.array_equal(split.test, other.test)
    lists = [candidate_hash(COLD, COLD.cases(d, part="valid"), d.item_ids) for d in (data, changed)]
    assert lists[0] == lists[1]
    tests = [candidate_hash(COLD, COLD.cases(d), d.item_ids) for d in (data, changed)]
    assert tests[0] != tests[1]


def test_names_options_and_labels():
    assert COLD.label == "cold-items/1:share=0.3:seed=1"
    assert COLD.policy == "all held-out items the user has not otherwise chosen"
    assert protocol("cold-items").options == {"share": 0.1, "seed": 1}
    assert protocol("cold-items:seed=7").options["seed"] == 7
    assert protocol("temporal:test_share=0.3").label == "temporal/1:test_share=0.3"
    for text, error in {
        "cold-items:shar=0.2": r"'cold-items' has no option 'shar'; did you mean 'share'\?",
        "cold-items:seed=0.5": "option 'seed' expected a whole number, got '0.5'",
        "cold-items:share=": "option 'share' expected a number, got ''",
        "loo-full:seed=2": "'loo-full' has no option 'seed'",
        "cold-item": "did you mean 'cold-items'",
    }.items():
        with pytest.raises(ConfigError, match=error):
            protocol(text)


# --- chance -------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=6), st.sampled_from(["HR@10", "NDCG@10", "MRR", "HR@1", "AUC"])
)
def test_chance_is_the_mean_over_all_ranks(sizes, metric):
    by_hand = [per_user(metric, np.arange(1, n + 1), np.full(n, n)).mean() for n in sizes]
    assert at_random(metric, sizes) == pytest.approx(np.mean(by_hand))
    if metric == "HR@10":
        assert at_random(metric, sizes) == pytest.approx(np.mean([min(1, 10 / n) for n in sizes]))


# --- was it trained without? --------------------------------------------------------------------------


def test_an_adapter_must_have_been_trained_without_these_items():
    data = random_interactions()
    record = held_out_record(data.item_ids, COLD.split(data).held_out, 0.3, 1)
    assert record["items"] == 18

    def check(found, asked=COLD, events=data):
        check_held_out({"training": {"held_out_items": found}} if found else {"training": {}}, asked, events, "mine")

    check(record)
    check_held_out({}, COLD, data, "base")  # an untuned base has seen nothing
    check(None, asked=protocol("loo-full"))  # which holds out no items
    with pytest.raises(BundleError, match=r"trained with all items.*`train.protocol: cold-items:share=0.3:seed=1`"):
        check(None)
    with pytest.raises(BundleError, match=r"another draw of them; .* --protocol cold-items:share=0.3:seed=1"):
        check(record, asked=protocol("cold-items:share=0.3:seed=2"))
    other = replace(data, item_ids=tuple(f"x{i}" for i in data.item_ids))
    with pytest.raises(BundleError, match="the items have changed since; train it again"):
        check(record, events=other)


@pytest.fixture
def run():
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    return lambda *words: CliRunner().invoke(app, ["evaluate", *map(str, words)])


def test_command_end_to_end(run, tmp_path, tiny_base):
    data = planted_data(tmp_path / "data")
    events = data.histories.interactions
    held = cold_items(events, share=0.2, seed=1).held_out
    record = {"held_out_items": held_out_record(events.item_ids, held, 0.2, 1)}
    good = planted_bundle(tmp_path / "good", tiny_base, data, {"training": record})
    bad = planted_bundle(tmp_path / "bad", tiny_base, data)
    words = [data.folder, "--protocol", "cold-items:share=0.2", "--json"]
    done = run(*words, "-a", bad)
    assert isinstance(done.exception, BundleError)
    assert "bad was trained with all items" in str(done.exception)
    done = run(*words, "-a", good, "--against", "popularity,ease")
    assert done.exit_code == 0, done.output
    plain = json.loads(done.stdout)
    cases = protocol("cold-items:share=0.2").cases(events)
    assert plain["n"] == len(cases)
    assert plain["protocol_options"] == {"share": 0.2, "seed": 1}
    assert plain["at_random"]["HR@10"] == pytest.approx(np.mean([min(1, 10 / len(c.candidates)) for c in cases]))
    metrics = {s["name"]: s["metrics"] for s in plain["systems"]}
    for blind in ("popularity", "ease"):  # they know nothing of items without events: all tied
        assert metrics[blind]["AUC"]["value"] == 0.5
    assert metrics["good (embedding)"]["AUC"]["value"] != 0.5
