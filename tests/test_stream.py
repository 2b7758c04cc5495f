"""A replayed stream: what is asked, what may be known, and that nothing of later slices reaches an earlier answer."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.apps import cli
from palate.data import Dataset
from palate.data.splits import before
from palate.errors import ConfigError, DataError
from palate.evaluate.protocol import EvalCase
from palate.evaluate.stream import Arm, Question, answer, ask, bounds, questions
from palate.evaluate.stream_report import to_json, to_markdown
from palate.schema import Floats, Interactions
from palate.train import read_config
from palate.train.replay import FROZEN, LIVE, UPDATED, Plan, replay
from test_train_loop import config  # noqa: F401  (a fixture)


def stream(seed: int, users: int = 8, items: int = 12, most: int = 12, clock: int = 40) -> Interactions:
    """Random histories without repeats; few distinct times, so that many events share one."""
    rng = np.random.default_rng(seed)
    sequences = [rng.choice(items, rng.integers(0, most), replace=False) for _ in range(users)]
    times = [np.sort(rng.integers(0, clock, len(s))).astype(np.float64) for s in sequences]
    counts = [len(s) for s in sequences]
    total = sum(counts)
    return Interactions(
        tuple(f"u{n}" for n in range(users)),
        tuple(f"i{n}" for n in range(items)),
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        np.concatenate(sequences).astype(np.int64) if total else np.empty(0, dtype=np.int64),
        np.concatenate(times) if total else np.empty(0),
        np.full(total, np.nan, dtype=np.float32),
    )


def same(a: Sequence[Question], b: Sequence[Question]) -> bool:
    def key(q: Question) -> tuple[object, ...]:
        lists = [part.tolist() for c in (q.case, q.frozen) for part in (c.history, c.items(0))]
        return (q.case.user_id, q.case.positive, q.time, q.new, *map(tuple, lists))

    return [key(q) for q in a] == [key(q) for q in b]


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 4), st.integers(1, 4))
def test_a_question_shows_only_what_was_there(seed: int, slices: int, events: int) -> None:
    data = stream(seed)
    try:
        moments = bounds(data, 0.4, slices)
    except DataError:
        return
    for number in range(slices):
        asked = questions(data, moments, number, events=events, seed=seed)
        for q in asked:
            start = int(data.indptr[q.case.user])
            items, times = data.sequence(q.case.user), data.timestamps[start : int(data.indptr[q.case.user + 1])]
            assert moments[number] <= q.time < moments[number + 1]
            assert q.time == times[items.tolist().index(q.case.positive)]
            assert q.case.history.tolist() == items[times < q.time].tolist()
            assert q.frozen.history.tolist() == items[times < moments[0]].tolist()
            assert q.new == (not (times < moments[number]).any())
            assert q.case.times is not None
            assert q.frozen.times is not None
            assert q.case.times.tolist() == times[times < q.time].tolist()
            assert q.frozen.times.tolist() == times[times < moments[0]].tolist()
            for case in (q.case, q.frozen):  # both are asked the same
                assert sorted([*case.items(12).tolist(), *q.case.history.tolist()]) == list(range(12))
                assert case.positive == q.case.positive
        per_user = np.bincount([q.case.user for q in asked], minlength=len(data))
        assert per_user.max(initial=0) <= events
        inside = (data.timestamps >= moments[number]) & (data.timestamps < moments[number + 1])
        active = {int(u) for u in np.repeat(np.arange(len(data)), np.diff(data.indptr))[inside]}
        assert set(np.flatnonzero(per_user)) == active


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10_000), st.integers(0, 2))
def test_later_events_change_no_question(seed: int, number: int) -> None:
    """The same questions where everything from the next slice on is gone, or other items."""
    data = stream(seed)
    try:
        moments = bounds(data, 0.4, 3)
    except DataError:
        return
    late = data.timestamps >= moments[number + 1]
    other = replace(data, items=np.where(late, (data.items + 5) % 12, data.items))
    expected = questions(data, moments, number, events=2, users=4)
    assert same(expected, questions(before(data, moments[number + 1]), moments, number, events=2, users=4))
    assert same(expected, questions(other, moments, number, events=2, users=4))


def test_slices_are_of_about_equal_size_and_whole_seconds() -> None:
    data = stream(1, users=40, items=30, most=20, clock=500)
    moments = bounds(data, 0.5, 4)
    counts = np.histogram(data.timestamps, [-np.inf, *moments])[0]
    assert abs(counts[0] - len(data.items) / 2) <= 4
    assert (np.abs(counts[1:] - len(data.items) / 8) <= 5).all()
    assert all(m == int(m) for m in moments[:-1])


@pytest.mark.parametrize(
    ("base", "slices", "kind", "words"),
    [
        (1.5, 2, ConfigError, "expected a share of the events between 0 and 1, got 1.5"),
        (0.5, 0, ConfigError, "expected at least 1 slice, got 0"),
        (0.5, 30, DataError, "needs events at more different times"),
    ],
)
def test_a_cut_that_does_not_fit_is_said(base: float, slices: int, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        bounds(stream(1), base, slices)


def test_without_times_there_is_no_stream() -> None:
    data = stream(1)
    with pytest.raises(DataError, match="needs events at more different times"):
        bounds(replace(data, timestamps=np.full(len(data.items), np.nan)), 0.5, 2)


class Oracle:
    """Scores items by how often the shown history and the positive's parity say so: a system with a known answer."""

    name, batch = "oracle", 3

    def score(self, cases: Sequence[EvalCase]) -> list[Floats]:
        return [np.array([len(c.history) + (i == c.positive) for i in c.items(12)], dtype=np.float32) for c in cases]


def test_users_weigh_alike_and_groups_part_them() -> None:
    data = stream(3)
    moments = bounds(data, 0.4, 2)
    arms = [Arm("o, a", Oracle()), Arm("o, b", Oracle(), frozen=True)]
    found = [ask(data, moments, n, arms, events=4) for n in range(2)]
    assert all((s.ranks["o, a"] == 1).all() for s in found)
    asked = questions(data, moments, 0, events=4)
    assert (answer(arms[0], asked, 12) == 1).all()
    from palate.evaluate.stream import StreamResult

    ranks = [{"o, a": np.arange(1.0, len(s.users) + 1), "o, b": s.ranks["o, b"]} for s in found]
    result = StreamResult(
        "toy", "f" * 64, 9, 0.4, 1, tuple(replace(s, ranks=r) for s, r in zip(found, ranks, strict=True))
    )
    for group in ("all", "returning", "new"):
        expected: dict[int, list[float]] = {}
        for s in result.slices:
            for user, new, rank in zip(s.users.tolist(), s.new, s.ranks["o, a"], strict=True):
                if group == "all" or (group == "new") == new:
                    expected.setdefault(user, []).append(1 / np.log2(1 + rank) if rank <= 10 else 0.0)
        means = [float(np.mean(v)) for _, v in sorted(expected.items())]
        np.testing.assert_allclose(result.means("o, a", "NDCG@10", group), means)
        value = result.value("o, a", "NDCG@10", group)
        assert (value is None) == (not means)
    assert sum(s.events for s in found) == int((data.timestamps >= moments[0]).sum())
    text = to_markdown(result)
    assert "| o, b - o, a |" in text
    told = json.loads(to_json(result))
    assert told["slices"][0]["ranks"]["o, a"] == ranks[0]["o, a"].tolist()


def test_scores_that_do_not_fit_are_said() -> None:
    class Short(Oracle):
        def score(self, cases: Sequence[EvalCase]) -> list[Floats]:
            return [np.zeros(2, dtype=np.float32) for _ in cases]

    data = stream(3)
    with pytest.raises(DataError, match=r"short: expected \d+ scores, got shape \(2,\)"):
        ask(data, bounds(data, 0.4, 2), 0, [Arm("short", Short())])


# --- with training ----------------------------------------------------------------------------------------

FAST = ["train.max_steps=2", "train.validate_every=1", "train.validate_users=5", "train.checkpoint_every=9"]
FAST += ["train.tasks={embedding: 1.0, next_title: 0, yes_no: 0, letters: 0, rating: 0}"]
PLAN = Plan(base=0.5, slices=2, events=2, against=("ease",))


def altered(folder: Path, data: Path, moment: float) -> Path:
    """The data set with other items in all events from a moment on, at the same times: what was planted, later."""
    shutil.copytree(data, folder)
    rows = list(csv.reader((data / "interactions.csv").read_text().splitlines()))
    seen = {(r[0], r[1]) for r in rows if r[0] != "user_id" and float(r[3]) < moment}
    for row in rows[1:]:
        if float(row[3]) >= moment:
            row[1] = next(str(n) for n in range(24, 0, -1) if (row[0], str(n)) not in seen)
            seen.add((row[0], row[1]))
            row[2] = "5"
    (folder / "interactions.csv").write_text("".join(",".join(row) + "\n" for row in rows))
    return folder


def test_nothing_of_a_later_slice_reaches_an_earlier_answer(
    config: Path,  # noqa: F811
    tiny_data: Path,
    tmp_path: Path,
) -> None:
    """Other events in the second slice: the first slice's answers, of all arms, are the same to the last digit, and the
    second slice's adapters too, since they were trained before it."""
    moments = bounds(Dataset.open(tiny_data).histories.interactions, 0.5, 2)
    other = altered(tmp_path / "other", tiny_data, moments[1])
    found = []
    for name, data in (("a", tiny_data), ("b", other)):
        changes = [*FAST, f"data={data}", f"train.run={tmp_path / name}"]
        found.append(replay(read_config(config, changes), PLAN))
    a, b = found
    assert a.arms == [FROZEN, LIVE, UPDATED, "ease, fitted once", "ease, fitted anew"]
    assert a.slices[0].users.tolist() == b.slices[0].users.tolist()
    for arm in a.arms:
        np.testing.assert_array_equal(a.slices[0].ranks[arm], b.slices[0].ranks[arm])
    assert any(not np.array_equal(a.slices[1].ranks[arm], b.slices[1].ranks[arm]) for arm in a.arms)
    assert a.facts["training"] == b.facts["training"]
    # before any update and any slice, there is one adapter and one fit
    np.testing.assert_array_equal(a.slices[0].ranks[LIVE], a.slices[0].ranks[UPDATED])
    np.testing.assert_array_equal(a.slices[0].ranks["ease, fitted once"], a.slices[0].ranks["ease, fitted anew"])
    weights = [tmp_path / f"{n}-stream" / "slice-1" / "adapter" for n in ("a", "b")]
    files = [(w / "adapter_model.safetensors").read_bytes() for w in weights]
    assert files[0] == files[1]


def test_the_command_writes_a_report_and_a_plot(
    config: Path,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    report, plot = tmp_path / "stream.md", tmp_path / "stream.svg"
    options = ["--slices", "2", "--events", "1", "--against", "popularity", "-o", str(report), "--plot", str(plot)]
    assert cli.run(["replay", str(config), *FAST, *options]) == 0
    assert "slice 2 of 2" in capsys.readouterr().err
    text = report.read_text()
    assert f"| {LIVE} - {FROZEN} |" in text
    assert "popularity, fitted anew" in text
    assert "returning" in text
    assert plot.read_text().startswith("<?xml")
    assert cli.run(["replay", str(config), "--plot", "x.pdf"]) == 2
    assert "expected a file ending in .svg or .png" in capsys.readouterr().err
    assert cli.run(["replay", str(config), "train.protocol=cold-items"]) == 2
    assert "a stream needs train.protocol loo-full or temporal" in capsys.readouterr().err
    assert cli.run(["replay", str(config), "--against", "eese"]) == 2
    assert "did you mean 'ease'?" in capsys.readouterr().err
