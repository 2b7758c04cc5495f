"""Cold users: held out with all their events, asked by their own history, and only of adapters that never saw them."""

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
from palate.data.coldusers import cold_users, held_out_users
from palate.data.splits import LEAST, held_out_record, leave_one_out
from palate.errors import BundleError, ConfigError, DataError
from palate.evaluate import protocol
from palate.evaluate.cold import check_held_out
from palate.retrieve import build
from planted import planted_bundle, planted_data
from test_evaluate_protocol import interactions, random_interactions

COLD = protocol("cold-users:share=0.3")
sequences = st.lists(st.lists(st.integers(0, 11), max_size=9), min_size=2, max_size=12)


def record_of(user_ids, share, seed):
    return held_out_record(user_ids, held_out_users(user_ids, share, seed), share, seed, "users")


@settings(deadline=None, max_examples=80)
@given(sequences, st.floats(0.1, 0.6), st.integers(0, 50))
def test_nothing_of_a_held_out_user_is_left(rows, share, seed):
    data = interactions(rows, items=12)
    if not round(share * len(rows)):
        with pytest.raises(DataError, match="users holds out none; expected a larger share"):
            cold_users(data, share=share, seed=seed)
        return
    held, loo = set(held_out_users(data.user_ids, share, seed).tolist()), leave_one_out(data)
    if not any(len(loo.train.sequence(u)) for u in range(len(rows)) if u not in held):
        with pytest.raises(DataError, match="users leaves no event to train on"):
            cold_users(data, share=share, seed=seed)
        return
    split = cold_users(data, share=share, seed=seed)
    assert len(held) == round(share * len(rows))
    for user, row in enumerate(rows):
        if user not in held:
            assert split.train.sequence(user).tolist() == loo.train.sequence(user).tolist()
            assert (split.valid[user], split.test[user]) == (loo.valid[user], -1)
            continue
        assert not len(split.train.sequence(user))
        assert split.valid[user] == -1
        asked = len(row) >= LEAST
        assert split.test[user] == (row[-1] if asked else -1)
        if asked:
            assert split.test_history(user).tolist() == row[:-1]
    kept = [(n, t) for u in range(len(rows)) if u not in held for n, t in enumerate(loo.train.sequence(u).tolist())]
    assert split.train.items.tolist() == [item for _, item in kept]
    assert split.train.timestamps.tolist() == [float(n) for n, _ in kept]  # the builder numbers each user's events


def test_the_draw_depends_on_ids_and_seed_alone():
    data = random_interactions()
    turned = data.user_ids[::-1]
    for seed in (1, 2):
        named = [{ids[u] for u in held_out_users(ids, 0.25, seed).tolist()} for ids in (data.user_ids, turned)]
        assert named[0] == named[1]
        assert len(named[0]) == 10
    assert held_out_users(data.user_ids, 0.25, 1).tolist() != held_out_users(data.user_ids, 0.25, 2).tolist()
    assert set(held_out_users(data.user_ids, 0.25, 1).tolist()) < set(held_out_users(data.user_ids, 0.5, 1).tolist())


def test_mistakes_in_the_draw():
    for share in (0, 1, -0.1, float("nan")):
        with pytest.raises(DataError, match="a share of the users between 0 and 1"):
            cold_users(random_interactions(), share=share)
    with pytest.raises(ConfigError, match=r"'cold-users' has no option 'shar'; did you mean 'share'\?"):
        protocol("cold-users:shar=0.2")


def test_the_protocol_asks_held_out_users_and_validates_on_the_others():
    data = random_interactions()
    held = {data.user_ids[u] for u in held_out_users(data.user_ids, 0.3, 1).tolist()}
    test, valid = COLD.cases(data), COLD.cases(data, part="valid")
    assert {c.user_id for c in test} == held
    assert {c.user_id for c in valid} == set(data.user_ids) - held
    assert COLD.label == "cold-users/1:share=0.3:seed=1"
    assert COLD.policy == "all unseen items"
    for case in test:
        assert [*case.history.tolist(), case.positive] == data.sequence(case.user).tolist()
        assert not set(case.items(60).tolist()) & set(case.history.tolist())
        assert [e.item_id for e in case.request(data).history] == [f"i{i}" for i in case.history.tolist()]


def test_a_held_out_users_events_change_nothing_that_is_fitted():
    data = random_interactions()
    users = np.repeat(np.arange(len(data)), np.diff(data.indptr))
    theirs = np.isin(users, held_out_users(data.user_ids, 0.3, 1))
    changed = replace(data, items=np.where(theirs, 59 - data.items, data.items))
    one, other = COLD.split(data), COLD.split(changed)
    np.testing.assert_array_equal(one.train.items, other.train.items)
    np.testing.assert_array_equal(one.valid, other.valid)
    assert not np.array_equal(one.test, other.test)
    histories = [c.history for c in COLD.cases(data)]
    rows = [build("ease").fit(split.train).scores(histories) for split in (one, other)]
    np.testing.assert_array_equal(*rows)


def test_an_adapter_must_have_been_trained_without_these_users():
    data = random_interactions()
    record = record_of(data.user_ids, 0.3, 1)
    assert record["users"] == 12

    def check(found, asked=COLD, events=data):
        check_held_out({"training": {"held_out_users": found}} if found else {"training": {}}, asked, events, "mine")

    check(record)
    check_held_out({}, COLD, data, "base")  # an untuned base has seen nobody
    with pytest.raises(BundleError, match=r"trained with all users.*`train.protocol: cold-users:share=0.3:seed=1`"):
        check(None)
    with pytest.raises(BundleError, match=r"another draw of them; .* --protocol cold-users:share=0.3:seed=1"):
        check(record, asked=protocol("cold-users:share=0.3:seed=2"))
    other = replace(data, user_ids=tuple(f"x{u}" for u in data.user_ids))
    with pytest.raises(BundleError, match="the users have changed since; train it again"):
        check(record, events=other)


def test_command_end_to_end(tmp_path, tiny_base):
    app = typer.Typer()
    app.callback()(lambda: None)
    command.register(app)
    data = planted_data(tmp_path / "data")
    record = {"held_out_users": record_of(data.histories.interactions.user_ids, 0.2, 1)}
    good = planted_bundle(tmp_path / "good", tiny_base, data, {"training": record})
    bad = planted_bundle(tmp_path / "bad", tiny_base, data)
    words = ["evaluate", str(data.folder), "--protocol", "cold-users:share=0.2", "--json"]
    done = CliRunner().invoke(app, [*words, "-a", str(bad)])
    assert isinstance(done.exception, BundleError)
    assert "bad was trained with all users" in str(done.exception)
    done = CliRunner().invoke(app, [*words, "-a", str(good), "--against", "popularity"])
    assert done.exit_code == 0, done.output
    plain = json.loads(done.stdout)
    assert plain["n"] == 8
    assert plain["protocol_options"] == {"share": 0.2, "seed": 1}
    metrics = {s["name"]: s["metrics"] for s in plain["systems"]}
    # the planted taste is in the pictures, which tell more of an unknown user's last item than popularity does
    assert metrics["good (embedding)"]["AUC"]["value"] > metrics["popularity"]["AUC"]["value"]
