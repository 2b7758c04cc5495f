"""Going on from an adapter with new events, users and items; and new events without any training."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from palate.data import Dataset
from palate.errors import BundleError
from palate.model import bundle
from palate.recommender import Recommender
from palate.schema import Event, Request
from palate.train import read_config, run
from palate.train.prepare import prepare
from palate.train.refresh import continued, news
from palate.train.validate import Validator
from test_train_loop import config, lines, quiet  # noqa: F401  (a fixture)

LATER = 990_000_000


def grown(folder: Path, data: Path) -> Path:
    """The tiny data some time later: three events of user 1, a new user with four, and a new item."""
    shutil.copytree(data, folder)
    seen = {
        r["item_id"]
        for r in csv.DictReader((data / "interactions.csv").read_text().splitlines())
        if r["user_id"] == "1"
    }
    fresh = [str(n) for n in range(1, 25) if str(n) not in seen][:2]
    with (folder / "items.csv").open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow([25, "Solaris", 1972, "Sci-Fi Horror", ""])
    with (folder / "interactions.csv").open("a", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerows(["1", item, 4, LATER + n] for n, item in enumerate([*fresh, "25"]))
        rows.writerows(["31", item, 5, LATER + n] for n, item in enumerate(["25", "3", "4", "5"]))
    return folder


@pytest.fixture
def first(config: Path) -> Path:  # noqa: F811
    found = run(config, ["train.max_steps=6"], console=quiet()).bundle
    assert found is not None
    return found


@pytest.fixture
def later(tmp_path: Path, tiny_data: Path) -> Path:
    return grown(tmp_path / "later", tiny_data)


def test_it_says_what_has_come(config: Path, first: Path, later: Path) -> None:  # noqa: F811
    found = news(first, Dataset.open(later))
    events = len(Dataset.open(later).histories.interactions.items)
    assert not found.same_data
    assert found.counts == {"interactions": (events - 7, events), "users": (30, 31), "items": (24, 25)}
    assert (list(found.items), list(found.gone)) == (["25"], [])
    ready = prepare(read_config(config, [f"data={later}", f"train.start={first}"]), device="cpu")
    told = "\n".join(ready.notes)
    assert f"+7 interactions ({events - 7} -> {events}), +1 users (30 -> 31), +1 items (24 -> 25)" in told
    assert "new items: 1 (25); no longer in the catalogue: 0" in told
    assert ready.news is not None
    aligned = ready.news.aligned["behaviour"]
    assert aligned.after < aligned.before
    assert f"rotated onto the adapter's vectors by {aligned.shared} shared items" in told


def test_refitted_vectors_stand_on_the_axes_of_the_adapter(config: Path, first: Path, later: Path) -> None:  # noqa: F811
    """Before any step, items look to the adapter as they did; on axes of their own they would not."""
    ready = prepare(read_config(config, [f"data={later}", f"train.start={first}"]), device="cpu")
    before = bundle.load(first, device="cpu").model
    plain = prepare(read_config(config, [f"data={later}"]), device="cpu").model  # what the encoder itself gives
    assert ready.model.soft is not None
    assert plain.soft is not None
    assert before.soft is not None
    old = before.soft.tables()["behaviour"]
    now, own = ready.model.soft.tables()["behaviour"], plain.soft.tables()["behaviour"]
    shared = old.present & now.present[: len(old.present)]
    norm = np.linalg.norm(old.vectors[shared])
    rows = np.flatnonzero(shared)
    aligned, raw = (np.linalg.norm(t.vectors[rows] - old.vectors[rows]) / norm for t in (now, own))
    assert aligned < raw
    assert now.present[24]  # the new item has a behaviour vector, and so a soft token


def test_it_trains_one_epoch_and_records_the_news(config: Path, first: Path, later: Path, tmp_path: Path) -> None:  # noqa: F811
    changes = [f"data={later}", "train.max_steps=null", "train.epochs=50", "train.validate_every=0"]
    settings = read_config(config, changes[:-1])
    found = continued(settings, first, Dataset.open(later), {"train.epochs"})
    assert found.train.epochs == 50  # what the command says stays
    found = continued(settings, first, Dataset.open(later), ())
    assert (found.train.epochs, found.train.start) == (1.0, str(first))
    assert found.train.run == f"{tmp_path / 'run'}-{Dataset.open(later).fingerprint[:8]}"
    where = [f"data={later}", "train.max_steps=null", "train.validate_every=0", f"train.output={tmp_path / 'second'}"]
    outcome = run(config, where, console=quiet(), onward=first)
    rows = lines(outcome.run)
    assert rows[0]["step"] == 0  # the adapter's own weights are asked before the first step
    assert "valid/NDCG@10" in rows[0]
    assert [r["epoch"] for r in rows if "epoch" in r][-1] == 1.0
    meta = bundle.read_meta(tmp_path / "second")
    assert meta["news"]["counts"]["users"] == {"was": 30, "now": 31}
    assert meta["news"]["new items"] == 1
    assert "start" not in meta["config"]["train"]
    assert str(tmp_path) not in json.dumps(meta["news"])
    # the same command again: trained already; and from what came of it there is nothing new
    assert run(config, where, console=quiet(), onward=first).step == outcome.step
    again = run(config, where, console=quiet(), onward=tmp_path / "second")
    assert (again.total, again.bundle) == (0, tmp_path / "second")


def test_it_keeps_the_adapter_where_training_makes_it_worse(
    config: Path,  # noqa: F811
    first: Path,
    later: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def ranks(self: Validator, model: object) -> list[float]:
        asked.append(1)
        return [float(min(len(asked), 9))] * self.size  # one rank worse at every validation

    monkeypatch.setattr(Validator, "ranks", ranks)
    where = [f"data={later}", f"train.output={tmp_path / 'second'}", "train.max_steps=3", "train.validate_every=1"]
    outcome = run(config, where, console=quiet(), onward=first)
    scores = [r["valid/NDCG@10"] for r in lines(outcome.run) if "valid/NDCG@10" in r]
    assert max(scores[1:]) < scores[0]
    assert outcome.metrics["step"] == 0
    assert outcome.metrics["NDCG@10"]["value"] == pytest.approx(scores[0])
    a, b = (bundle.load(f, merge=False, device="cpu").model for f in (first, tmp_path / "second"))
    weights = dict(b.named_parameters())
    for name, p in a.named_parameters():
        assert np.array_equal(p.detach().float().numpy(), weights[name].detach().float().numpy()), name


def test_no_adapter_there(config: Path, tmp_path: Path) -> None:  # noqa: F811
    with pytest.raises(BundleError, match="expected an adapter bundle"):
        run(config, console=quiet(), onward=tmp_path)


# --- without training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["embedding", "yes_no"])
def test_new_events_count_at_once(first: Path, later: Path, tiny_data: Path, mode: str) -> None:
    """A user's answer changes with an event the adapter never saw, and is that of the same history told in full; also
    where a recommender has answered for the user before and keeps what it computed."""
    rec = Recommender.load(first, data=later, device="cpu")
    events = rec.dataset.histories.events("1")
    old, candidates = events[:-3], ("3", "4", "5")
    assert [e.item_id for e in old] == [e.item_id for e in Dataset.open(tiny_data).histories.events("1")]
    past = rec.score([Request("r", "1", old, candidates)], mode=mode)[0].scores
    now = rec.score([Request("r", "1", (), candidates)], mode=mode)[0].scores
    assert not np.allclose(past, now, atol=1e-4)
    fresh = Recommender.load(first, data=tiny_data, device="cpu")
    told = (*events[:-1],)  # the new item is not in the old catalogue
    rows = [r.score([Request("r", None, told, candidates)], mode=mode)[0].scores for r in (rec, fresh)]
    np.testing.assert_allclose(rows[0], rows[1], atol=1e-4)


def test_a_user_nobody_knew_is_answered(first: Path, later: Path) -> None:
    rec = Recommender.load(first, data=later, device="cpu")
    items = {r.item_id for r in rec.recommend(user="31", k=24)}
    assert not items & {e.item_id for e in rec.dataset.histories.events("31")}
    one, two = (
        rec.score([Request("r", None, tuple(Event(i) for i in history), ("1", "2"))])[0].scores
        for history in (["3", "4"], ["7", "8"])
    )
    assert not np.allclose(one, two, atol=1e-5)
