"""The privacy benchmark: its log-probabilities are the model's, its attack finds what there is to find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import privacy

from facade import tiny_bundle
from palate import Recommender, prompting
from palate.engine.pack import concat
from palate.errors import ConfigError
from palate.evaluate import protocol
from palate.schema import Request


@pytest.fixture(scope="module")
def rec(tiny_base: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    folder = tiny_bundle(tmp_path_factory.mktemp("privacy") / "tiny", tiny_base, tiny_data)
    return Recommender.load(folder, data=tiny_data, device="cpu")


def test_an_event_is_foretold_from_those_before_it(rec: Recommender) -> None:
    events = protocol("loo-full").split(rec.dataset.histories.interactions).train
    found = privacy.foretold(rec, events)
    assert np.isfinite(found).all()
    template, user = prompting.load("sequence"), 3
    told = rec.dataset.histories.events(events.user_ids[user])
    sequence = events.sequence(user)
    for place in (0, 2, len(sequence) - 1):
        prompt = rec.serializer.prompt(template, Request("r", None, tuple(told[:place])))
        with torch.no_grad():
            read = prompt.item_ends[-1] if place else prompt.start
            row = rec.model(concat([prompt]))[[read]]
            logp = (rec.model.queries(row) @ rec.model.item_vectors().T).log_softmax(1)[0]
        assert found[events.indptr[user] + place] == pytest.approx(float(logp[sequence[place]]), abs=1e-4)
    means = privacy.by_user(found, events)
    assert means[user] == pytest.approx(found[events.indptr[user] : events.indptr[user + 1]].mean())


def test_the_attack_finds_what_is_there_and_no_more() -> None:
    rng = np.random.default_rng(3)
    members = np.arange(400) < 300
    blind = privacy.attacked(rng.standard_normal(400), members)
    assert blind["low"] < 0.5 < blind["high"]
    sees = privacy.attacked(members + 0.01 * rng.standard_normal(400), members)
    assert sees["auc"] == 1
    assert sees["hits at 5% false alarms"] == 1
    assert (sees["members"], sees["others"]) == (300, 100)


def test_an_adapter_of_all_users_is_asked_about_events(rec: Recommender) -> None:
    rec.meta["training"] = {}
    with pytest.raises(ConfigError, match="expected an adapter trained with"):
        privacy.left_out(rec, rec.dataset.histories.interactions.user_ids)


def test_the_picture(tmp_path: Path) -> None:
    told = {"value": 0.1, "low": 0.08, "high": 0.12, "n": 943}
    attack = {"auc": 0.55, "low": 0.5, "high": 0.6, "members": 754, "others": 189, "hits at 5% false alarms": 0.06}
    rows = [
        {"NDCG@10": told, "NDCG@10 of users left out": told, "attack": attack, "privacy": p}
        for p in ({"epsilon": 1.0, "noise": 5.0}, {"epsilon": 8.0, "noise": 1.1}, None)
    ]
    rows[1]["attack with reference"] = attack
    assert privacy.picture(tmp_path / "p.png", rows, told).stat().st_size > 10_000
    table = privacy.table(rows)
    assert len(table.splitlines()) == 5
    assert "| inf | 0.00 |" in table
