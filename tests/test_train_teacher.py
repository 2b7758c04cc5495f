"""Soft targets: what they are made of, what they never say, and that a model learns from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from palate.config import RunConfig, TeacherConfig
from palate.errors import ConfigError
from palate.retrieve import build
from palate.schema import Interactions
from palate.train import teacher
from palate.train.prepare import prepare
from palate.train.step import TrainingStep
from test_train_loop import config, quiet, run  # noqa: F401  (a fixture)

NOBODY = np.empty(0, dtype=np.int64)


def interactions(sequences: list[list[int]], items: int = 9) -> Interactions:
    flat = np.array([i for s in sequences for i in s], dtype=np.int64)
    return Interactions(
        user_ids=tuple(f"u{n}" for n in range(len(sequences))),
        item_ids=tuple(f"i{n}" for n in range(items)),
        indptr=np.cumsum([0, *map(len, sequences)]).astype(np.int64),
        items=flat,
        timestamps=np.arange(len(flat), dtype=np.float64),
        ratings=np.full(len(flat), np.nan, dtype=np.float32),
    )


TRAIN = interactions([[0, 1, 2, 3], [1, 2, 4], [0, 2, 5], [6, 1]])


def test_each_row_is_a_distribution_over_what_the_history_leaves() -> None:
    made = teacher.make(TRAIN, TeacherConfig(retrievers={"ease:penalty=1": 2.0}, top=4), {}, NOBODY)
    assert made.items.shape == made.chances.shape == (12, 4)
    np.testing.assert_allclose(made.chances.float().sum(1), 1, atol=2e-3)
    assert (made.chances[:, :-1] >= made.chances[:, 1:]).all()
    for user in range(4):
        start, stop = TRAIN.indptr[user], TRAIN.indptr[user + 1]
        for event in range(start, stop):
            assert not set(made.items[event].tolist()) & set(TRAIN.items[start:event].tolist())


def test_it_is_the_softmax_of_the_weighted_zscores() -> None:
    weights = {"ease:penalty=1": 1.5, "popularity": 0.5}
    made = teacher.make(TRAIN, TeacherConfig(retrievers=weights, top=9), {}, NOBODY)
    event, history = 3, TRAIN.items[0:3]
    total = np.zeros(9)
    for name, weight in (("ease", 1.5), ("popularity", 0.5)):
        row = build(name, **({"penalty": 1} if name == "ease" else {})).fit(TRAIN).scores([history])[0]
        total += weight * (row - row.mean()) / row.std()
    want = np.exp(total)
    want[history] = 0
    got = np.zeros(9)
    got[made.items[event]] = made.chances[event].float()
    np.testing.assert_allclose(got, want / want.sum(), atol=2e-3)


def test_folds_teach_by_those_who_have_not_seen_it() -> None:
    taught = TeacherConfig(retrievers={"ease:penalty=1": 1.0}, top=9, folds=2)
    made = teacher.make(TRAIN, taught, {}, NOBODY)
    for fold in (0, 1):
        rest = teacher.without(TRAIN, fold, 2)
        kept = [TRAIN.sequence(u).tolist() if u % 2 != fold else [] for u in range(4)]
        assert [s.tolist() for s in rest.sequences()] == kept
        fitted = build("ease", penalty=1).fit(rest)
        for user in range(fold, 4, 2):
            event = int(TRAIN.indptr[user]) + 2
            history = TRAIN.items[TRAIN.indptr[user] : event] if event < TRAIN.indptr[user + 1] else None
            if history is not None:
                row = fitted.scores([history])[0]
                row[history] = -np.inf
                assert made.items[event, 0] == row.argmax()


def test_what_a_user_did_does_not_reach_their_own_targets() -> None:
    taught = TeacherConfig(retrievers={"transition:penalty=1": 1.0}, top=9, folds=4)
    other = interactions([[0, 1, 2, 8], [1, 2, 4], [0, 2, 5], [6, 1]])
    made, changed = teacher.make(TRAIN, taught, {}, NOBODY), teacher.make(other, taught, {}, NOBODY)
    # the first user's last event is another one: what they were taught is the same, what others are taught is not
    assert torch.equal(made.chances[:4], changed.chances[:4])
    assert not torch.equal(made.items[4:], changed.items[4:])


def test_more_folds_than_users_leave_none_to_learn_from() -> None:
    alone = interactions([[0, 1, 2]])
    with pytest.raises(ConfigError, match="expected at least 2 users for 2 folds, got 1"):
        teacher.make(alone, TeacherConfig(retrievers={"ease": 1.0}, folds=2), {}, NOBODY)


def test_teachers_that_read_times_are_told_them() -> None:
    taught = TeacherConfig(retrievers={"transition:penalty=1": 1.0}, top=9)
    late = replace(TRAIN, timestamps=TRAIN.timestamps * 1_000)
    made, slow = teacher.make(TRAIN, taught, {}, NOBODY), teacher.make(late, taught, {}, NOBODY)
    assert not torch.equal(made.chances, slow.chances)


def test_items_that_come_again_may_be_taught_again() -> None:
    again = interactions([[0, 1, 0, 1], [0, 1, 0], [1, 0, 1, 0]], 3)
    made = teacher.make(again, TeacherConfig(retrievers={"popularity": 1.0}, top=2), {}, NOBODY)
    assert set(made.items[3].tolist()) == {0, 1}


def test_withheld_items_have_no_chance() -> None:
    made = teacher.make(TRAIN, TeacherConfig(retrievers={"popularity": 1.0}, top=9), {}, np.array([1, 2]))
    for row, chances in zip(made.items, made.chances, strict=True):
        assert not chances[(row == 1) | (row == 2)].any()
    logp = torch.log_softmax(torch.zeros(12, 9).index_fill(1, torch.tensor([1, 2]), -torch.inf), 1)
    assert torch.isfinite(made.loss(torch.arange(12), logp)).all()


def test_the_loss_is_cross_entropy_against_the_distribution() -> None:
    made = teacher.make(TRAIN, TeacherConfig(retrievers={"ease": 1.0}, top=9), {}, NOBODY)
    events = torch.tensor([0, 5, 11])
    logp = torch.randn(3, 9, generator=torch.Generator().manual_seed(1)).log_softmax(1)
    whole = torch.zeros(3, 9).scatter(1, made.items[events].long(), made.chances[events].float())
    torch.testing.assert_close(made.loss(events, logp), -(whole * logp).sum(1))
    entropy = -(whole * whole.clamp_min(1e-30).log()).sum(1)
    assert (made.loss(events, logp) >= entropy - 1e-2).all()


def test_a_wrong_teacher_is_named() -> None:
    with pytest.raises(ConfigError, match=r"no retriever is called 'eese'; did you mean 'ease'"):
        teacher.make(TRAIN, TeacherConfig(retrievers={"eese": 1.0}), {}, NOBODY)
    with pytest.raises(ConfigError, match=r"key 'retrievers': dictionary should have at least 1 item"):
        TeacherConfig.parse({"retrievers": {}}, "x")


TAUGHT = "train.teacher={retrievers: {popularity: 1.0}, share: 0.75, top: 5}"


def test_the_embedding_loss_is_the_share_of_both(config: Path) -> None:  # noqa: F811
    from palate.train import read_config
    from palate.train.collate import Position, Stream

    ready = prepare(read_config(config, [TAUGHT, "train.tasks.embedding=1"]), device="cpu")
    assert ready.teacher is not None
    batch = Stream(ready.mixture, 1200, Position()).next()
    items = np.asarray(ready.mixture.tasks[0].material.train.items)
    np.testing.assert_array_equal(items[batch.events], batch.targets)
    ready.model.eval()
    with torch.no_grad():
        hard = TrainingStep(ready.model)(batch)[batch.embedding]
        soft = TrainingStep(ready.model, NOBODY, ready.teacher, 1.0)(batch)[batch.embedding]
        both = TrainingStep(ready.model, NOBODY, ready.teacher, 0.75)(batch)[batch.embedding]
    torch.testing.assert_close(both, 0.25 * hard + 0.75 * soft)
    assert not torch.isclose(hard, soft)


def test_a_run_with_a_teacher_resumes_and_refuses_another(config: Path) -> None:  # noqa: F811
    first = run(config, [TAUGHT, "train.max_steps=4"], console=quiet())
    assert first.step == 4
    with pytest.raises(ConfigError, match=r"teacher"):
        run(config, [TAUGHT.replace("0.75", "0.5"), "train.max_steps=4"], console=quiet())
    assert isinstance(RunConfig.load(config), RunConfig)
