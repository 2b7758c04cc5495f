"""Nothing that is fitted for a protocol knows what the protocol asks.

Data sets that differ only in what is asked about must give, to the bit, the same of everything fitted: `leaks` names
what is not. The check itself is checked: pipelines with a leak planted in them are caught, part by part.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from safetensors import safe_open

from palate import features, retrieve
from palate.data import Dataset
from palate.engine.modes.likelihood import Likelihood
from palate.evaluate import Protocol, evaluate, protocol
from palate.evaluate import protocol as named
from palate.evaluate.baselines import RetrieverSystem
from palate.evaluate.bench import Bench
from palate.evaluate.protocol import SPLITS
from palate.recommender import Recommender
from palate.schema import Event, Interactions, Request
from palate.train import prepare as prepared
from palate.train import read_config, run
from palate.train.prepare import prepare

USERS, LEARNED, KINDS = 24, 14, ("Drama", "Comedy", "Horror", "War")
ORDINARY = [f"i{n}" for n in range(60)]
MARKERS = [f"m{n}" for n in range(USERS)]
"""One a user, whom nobody else chose and nothing in training tells of: to rank it high is to have seen the answer."""
# a share that is rounded up would cut one event more
TEMPORAL = f"temporal:test_share={1 / (LEARNED + 2):.6f}:valid_share={1 / (LEARNED + 1) - 1e-5:.6f}"
"""One event a user in each period; a share rounded up would cut one more."""
COLD = "cold-items:share=0.3:seed=2"
OPTIONS: Mapping[str, dict[str, Any]] = {
    "sasrec": {"epochs": 2, "width": 8},
    "dense": {"modality": "behaviour"},
    "bpr": {"epochs": 3},
    "vbpr": {"epochs": 2, "modality": "behaviour"},
    "gru4rec": {"epochs": 1, "width": 8},
    "cornac-sasrec": {"epochs": 1, "width": 8},
    "tiger": {"epochs": 1, "width": 8, "codes": 4, "modality": "behaviour"},
}
"""What keeps a retriever small; any other plug-in is fitted with its defaults."""

FEW = ("popularity", "ease", "sasrec", "dense")
"""Retrievers that are checked again where the split is another or only the features leak."""

Asked = tuple[str, float, float]
"""A held-out event: item, rating, seconds after the first of its phase."""


def learned(user: int) -> list[str]:
    """Train items: mostly of one kind, so that there is something to say of a person's interests."""
    rng = np.random.default_rng([5, user])
    own = rng.permutation(15)[:10] * 4 + user % 4
    other = rng.permutation(np.setdiff1d(np.arange(60), own))[: LEARNED - 10]
    return [ORDINARY[n] for n in rng.permutation(np.concatenate([own, other]))]


def ordinary(seed: int) -> list[Asked]:
    """For every user one item they have not chosen, seeded, with another rating and time for another seed."""
    found = []
    for user in range(USERS):
        rng = np.random.default_rng([seed, user])
        unseen = sorted(set(ORDINARY) - set(learned(user)))
        found.append((unseen[int(rng.integers(len(unseen)))], float(rng.integers(1, 6)), float(rng.integers(1000))))
    return found


MARKED: list[Asked] = [(marker, 5.0, 3.0 * n) for n, marker in enumerate(MARKERS)]


def write(folder: Path, valid: Sequence[Asked], test: Sequence[Asked]) -> Path:
    """A data set whose users have 14 events to learn from, then one of `valid`, then one of `test`."""
    sequences = []
    for user in range(USERS):
        rng = np.random.default_rng([6, user])
        events = [(item, float(rng.integers(1, 6)), 10.0 * n + user) for n, item in enumerate(learned(user))]
        asked = [(item, rating, phase + t) for (item, rating, t), phase in ((valid[user], 1e4), (test[user], 2e4))]
        sequences.append([*events, *asked])
    return table(folder, sequences)


def table(folder: Path, sequences: Sequence[Sequence[tuple[str, float, float]]]) -> Path:
    folder.mkdir(parents=True)
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as f:
        rows = csv.writer(f)
        rows.writerow(["item_id", "title", "genres"])
        for n, item in enumerate([*ORDINARY, *MARKERS]):
            rows.writerow([item, f"Film {n}", f"{KINDS[n % 4]} {KINDS[(n // 4) % 4]}"])
    with (folder / "interactions.csv").open("w", newline="", encoding="utf-8") as f:
        rows = csv.writer(f)
        rows.writerow(["user_id", "item_id", "rating", "timestamp"])
        for user, events in enumerate(sequences):
            rows.writerows([f"u{user}", item, rating, 880_000_000 + t] for item, rating, t in events)
    text = {"id": "item_id", "title": "title", "text": ["genres"], "path": "items.csv"}
    events = {"path": "interactions.csv", "user": "user_id", "item": "item_id", "rating": "rating"}
    told = {"name": "leaks", "items": text, "interactions": {**events, "timestamp": "timestamp"}}
    (folder / "dataset.yaml").write_text(yaml.safe_dump(told), encoding="utf-8")
    return folder


# --- the check ----------------------------------------------------------------------------------------


def digest(*parts: Any) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(part if isinstance(part, bytes) else np.ascontiguousarray(part).tobytes())
    return state.hexdigest()


def leaks(one: Mapping[str, str], other: Mapping[str, str]) -> set[str]:
    """The parts that are not the same for two data sets that differ in what is asked alone."""
    assert one.keys() == other.keys()
    return {name for name in one if one[name] != other[name]}


class Pipeline:
    """Everything that is fitted on a data set under one protocol, as digests by name. retrievers: those to fit."""

    def __init__(self, base: Path, folder: Path, asked: str, retrievers: Sequence[str] = FEW) -> None:
        self.base, self.folder, self.protocol, self.runs = base, folder, named(asked), itertools.count()
        self.asked, self.retrievers = asked, retrievers

    def config(self, data: Path, **train: Any) -> Path:
        place = self.folder / f"run-{next(self.runs)}"
        place.mkdir(parents=True)
        values = {
            "name": "leaks",
            "data": str(data),
            "features": {"behaviour": {"options": {"dims": 6}}, "sasrec": {"options": OPTIONS["sasrec"]}},
            "prompt": {"max_tokens": 1000, "max_history": 4, "max_sequence": 20, "interests": True},
            "model": {"base": f"path:{self.base}", "dtype": "float32", "lora": {"rank": 2}, "hidden": 8, "matching": 8},
            "train": {
                "run": str(place / "run"),
                "output": str(place / "adapter"),
                "protocol": self.asked,
                "batch_tokens": 1500,
                "tasks": dict.fromkeys(("embedding", "next_title", "yes_no", "letters", "rating"), 1.0),
                "teacher": {"retrievers": {"ease": 1.0, "popularity": 0.5}, "top": 20},
                "lr": 5e-3,
                **train,
            },
        }
        (place / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
        return place / "config.yaml"

    def fitted(self, data: Path) -> dict[str, str]:
        """What is learned from the train split: nothing here may depend on a validation or a test item."""
        ready = prepare(read_config(self.config(data)), device="cpu")
        tables = ready.model.soft.tables()
        found = {f"features {m}": digest(t.vectors, t.present) for m, t in tables.items()}
        found["teacher"] = digest(ready.teacher.items.numpy(), ready.teacher.chances.numpy())
        found |= self._examples(ready)
        train = Bench(ready.dataset, self.protocol).train
        for name in self.retrievers:
            found[f"retriever {name}"] = self._retriever(name, train, tables)
        return found | self._trained(data)

    def _examples(self, ready: Any) -> dict[str, str]:
        told: dict[str, list[Any]] = {}
        # several epochs, since text tasks cut histories at random places
        for epoch, place in itertools.product(range(5), range(ready.mixture.size)):
            example = ready.mixture.example(epoch, place)
            if example is not None:
                slots = repr(example.prompt.slots).encode()
                told.setdefault(example.task, []).extend(
                    [example.prompt.token_ids, slots, example.labels, example.targets, example.events]
                )
        return {f"examples {task}": digest(*parts) for task, parts in told.items()}

    def _retriever(self, name: str, train: Interactions, tables: Mapping[str, Any]) -> str:
        fitted = retrieve.build(name, **OPTIONS.get(name, {})).fit(train, tables)
        # asked about fixed histories: those of the whole data set would themselves tell of its end
        histories = [np.array([train.item_index[i] for i in learned(u)[:9]]) for u in range(USERS)]
        return digest(fitted.scores([*histories, np.empty(0, dtype=np.int64)]))

    def _trained(self, data: Path) -> dict[str, str]:
        """The weights of two steps, and the calibration of titles that they give."""
        outcome = self.run(data, max_steps=2, validate_users=0)
        rec = Recommender.load(outcome.bundle, data=data)
        events = tuple(Event(i) for i in learned(0)[:5])
        requests = [Request("r", None, events, tuple(MARKERS[:4]) + tuple(ORDINARY[:4]))]
        plain, calibrated = (
            Likelihood(calibration=alpha).scores(rec.runner, rec.serializer, requests)[0].scores for alpha in (0.0, 1.0)
        )
        assert np.abs(plain - calibrated).max() > 0
        return {"weights": weights(outcome.bundle), "calibration": digest(plain - calibrated)}

    def chosen(self, data: Path) -> dict[str, str]:
        """What is chosen on validation: this may depend on validation items, and on no test item."""
        bench = Bench(Dataset.open(data), self.protocol)
        systems = bench.fused(bench.baselines(["popularity", "ease", "itemknn"]), ["popularity", "ease", "itemknn"])
        found = {f"weights of {s.name}": digest(repr(s.about).encode()) for s in systems if hasattr(s, "about")}
        outcome = self.run(data, max_steps=4, validate_every=1, patience=2)
        found["best weights"] = weights(outcome.bundle)
        found["early stopping"] = digest(repr((outcome.step, outcome.metrics)).encode())
        return found

    def run(self, data: Path, **train: Any) -> Any:
        return run(self.config(data, **train), console=Console(file=io.StringIO()))


def weights(bundle: Path) -> str:
    """Of all that a bundle keeps in numbers: LoRA, projectors, feature tables."""
    files = sorted(bundle.glob("*.safetensors"))
    assert len(files) >= 3
    parts: list[bytes] = []
    for file in files:  # not their bytes: safetensors writes its metadata in any order
        with safe_open(file, "pt") as opened:
            parts.append(repr(sorted((opened.metadata() or {}).items())).encode())
            parts += [
                opened.get_tensor(key).reshape(-1).view(torch.uint8).numpy().tobytes() for key in sorted(opened.keys())
            ]
    return digest(*parts)


# --- the data sets ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A cache folder of its own: what other runs fitted is not there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PALATE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("data")
    return {
        "marked": write(folder / "marked", ordinary(1), MARKED),
        "other test": write(folder / "other-test", ordinary(1), ordinary(2)),
        "other valid": write(folder / "other-valid", ordinary(3), MARKED),
        "all other": write(folder / "all-other", ordinary(3), ordinary(2)),
    }


@pytest.fixture
def pipeline(tiny_base: Path, tmp_path: Path) -> Callable[..., Pipeline]:
    return lambda asked, retrievers=FEW: Pipeline(tiny_base, tmp_path / "runs", asked, retrievers)


def leaky_split(interactions: Interactions, **options: Any) -> Any:
    """A split that forgets to take out what is asked."""
    from dataclasses import replace

    from palate.data.splits import leave_one_out

    return replace(leave_one_out(interactions), train=interactions)


# --- what must hold -----------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", ["loo-full", TEMPORAL])
def test_nothing_fitted_knows_a_validation_or_a_test_item(
    data: dict[str, Path], pipeline: Callable[..., Pipeline], asked: str
) -> None:
    line = pipeline(asked, retrieve.names() if asked == "loo-full" else FEW)
    events = Dataset.open(data["marked"]).histories.interactions
    split = line.protocol.split(events)
    assert len(split.train.items) == USERS * LEARNED
    assert [events.item_ids[i] for i in split.test] == MARKERS
    found = line.fitted(data["marked"])
    assert {f"retriever {name}" for name in line.retrievers} < found.keys()
    assert {f"examples {t}" for t in ("embedding", "next_title", "yes_no", "letters", "rating")} < found.keys()
    assert leaks(found, line.fitted(data["all other"])) == set()


def test_held_out_items_leave_no_trace_whoever_chose_them(
    data: dict[str, Path], pipeline: Callable[..., Pipeline], tmp_path: Path
) -> None:
    """Under cold-items the events of held-out items are moved to other held-out items."""
    line = pipeline(COLD)
    events = Dataset.open(data["other test"]).histories.interactions
    held = line.protocol.split(events).held_out
    ids, rng = events.item_ids, np.random.default_rng(1)
    cold = {ids[i] for i in held}
    sequences: list[list[list[tuple[str, float, float]]]] = [[], []]
    for user in range(USERS):
        span = slice(int(events.indptr[user]), int(events.indptr[user + 1]))
        rows: list[list[tuple[str, float, float]]] = [[], []]
        fresh = iter(rng.permutation(held))
        for item, rating, t in zip(events.items[span], events.ratings[span], events.timestamps[span], strict=True):
            moved = ids[int(next(fresh))] if ids[item] in cold else ids[item]
            rows[0].append((ids[item], float(rating), float(t) - 880_000_000))
            rows[1].append((moved, float(rating), float(t) - 880_000_000))
        for kept, row in zip(sequences, rows, strict=True):
            kept.append(row)
    one, other = (table(tmp_path / f"cold-{n}", part) for n, part in enumerate(sequences))
    assert sequences[0] != sequences[1]
    assert leaks(line.fitted(one), line.fitted(other)) == set()


def test_what_is_chosen_on_validation_knows_no_test_item(
    data: dict[str, Path], pipeline: Callable[..., Pipeline]
) -> None:
    line = pipeline("loo-full")
    found = line.chosen(data["marked"])
    assert leaks(found, line.chosen(data["other test"])) == set()
    assert "early stopping" in leaks(found, line.chosen(data["other valid"]))  # it does look at validation


def test_the_prompts_checked_do_hold_a_line_on_interests(
    data: dict[str, Path], pipeline: Callable[..., Pipeline]
) -> None:
    ready = prepare(read_config(pipeline("loo-full").config(data["marked"])), device="cpu")
    told = [ready.mixture.example(0, n) for n in range(ready.mixture.size)]
    texts = [ready.model.tokenizer.decode(e.prompt.token_ids) for e in told if e and e.task == "next_title"]
    assert any("interests mostly" in text for text in texts)


# --- planted leaks ------------------------------------------------------------------------------------


def test_a_split_that_leaks_is_caught_in_every_part(
    data: dict[str, Path], pipeline: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So each part of the fingerprint would see a leak: none of them is blind."""
    line = pipeline("loo-full", retrieve.names())
    monkeypatch.setitem(SPLITS, "user", leaky_split)  # type: ignore[misc]
    found = line.fitted(data["marked"])
    assert leaks(found, line.fitted(data["other test"])) == found.keys()


def test_features_fitted_on_all_interactions_are_caught(
    data: dict[str, Path], pipeline: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    line, honest = pipeline("loo-full"), features.compute

    def fitted(folder: Path) -> dict[str, str]:
        everything = Dataset.open(folder).histories.interactions
        monkeypatch.setattr(
            prepared.features, "compute", lambda items, train, *rest, **named: honest(items, everything, *rest, **named)
        )
        return line.fitted(folder)

    found = leaks(fitted(data["marked"]), fitted(data["other test"]))
    assert {"features behaviour", "features sasrec", "weights", "calibration"} <= found
    assert not found & {"retriever ease", "retriever popularity", "retriever sasrec", "teacher"}


def test_a_choice_made_on_test_items_is_caught(
    data: dict[str, Path], pipeline: Callable[..., Pipeline], monkeypatch: pytest.MonkeyPatch
) -> None:
    line, honest = pipeline("loo-full"), Protocol.cases
    monkeypatch.setattr(
        Protocol,
        "cases",
        lambda self, events, seed=1, part="test", users=None: honest(self, events, seed, "test", users),
    )
    found = leaks(line.chosen(data["marked"]), line.chosen(data["other test"]))
    assert "early stopping" in found
    assert any(name.startswith("weights of fused") for name in found)


def test_markers_cannot_be_found_without_a_leak(data: dict[str, Path]) -> None:
    """The same in numbers: who ranks them high has seen them."""
    held, dataset = protocol("loo-full"), Dataset.open(data["marked"])
    events = dataset.histories.interactions
    train, items = held.split(events).train, len(events.item_ids)
    systems = [
        RetrieverSystem(name, retrieve.build("ease", penalty=10).fit(known), items)
        for name, known in (("honest", train), ("leaky", events))
    ]
    honest, leaky = (s.metrics["HR@10"].value for s in evaluate(dataset, systems, held).systems)
    assert honest == 0
    assert leaky > 0.8
