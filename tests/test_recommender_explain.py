"""Why: what is left out is really gone, everything is one pack, and the words say what the numbers say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from explained import ALIENS, HISTORY, MODALITIES, Gone, make, named, tables
from palate import Event, Recommender, Request
from palate.engine.modes.letters import Letters, shuffled
from palate.engine.pack import Job
from palate.engine.together import Together
from palate.errors import RequestError
from palate.model import Model
from palate.recommender import explain as explaining
from palate.recommender.explain import explain
from palate.recommender.explanation import Explanation, Part

REFERENCE = explaining._reference


@pytest.fixture(scope="module", params=["model", "feature"])
def rec(request: pytest.FixtureRequest, tiny_base: Path, tiny_data: Path) -> Recommender:
    return make(tiny_base, tiny_data, request.param)


@pytest.fixture(scope="module")
def one(tiny_base: Path, tiny_data: Path) -> Recommender:
    return make(tiny_base, tiny_data)


@pytest.fixture(autouse=True, scope="module")
def references() -> Iterator[None]:
    """Normalise over items that no test changes: the rows of the reference stay as they are in every variant."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(explaining, "_reference", lambda rec, item, mode: others(rec, item))
        yield


def others(rec: Recommender, item: str) -> tuple[str, ...]:
    return tuple(i for i in rec.shelf.item_ids[:20] if i not in (item, *HISTORY))[:9]


@contextmanager
def without(rec: Recommender, gone: Gone) -> Iterator[None]:
    """As if these items had never had these modalities."""
    soft = rec.model.soft
    assert soft is not None
    soft.set_tables(tables(rec.dataset, gone))
    yield
    soft.set_tables(tables(rec.dataset))


def value(rec: Recommender, history: Sequence[str], mode: str, item: str = ALIENS) -> float:
    """What `explain` calls the score, from `score` alone."""
    events = tuple(map(Event, history))
    if mode != "embedding":
        return float(rec.score(Request("r", None, events, (item,)), mode)[0].scores[0])
    logits = rec.score(Request("r", None, events, (item, *others(rec, item))), mode)[0].scores.astype(np.float64)
    return float(logits[0] - np.logaddexp.reduce(logits))


# --- left out is gone -------------------------------------------------------------------------------


@settings(max_examples=6, deadline=None)
@given(st.sets(st.tuples(st.sampled_from([ALIENS, *HISTORY]), st.sampled_from(MODALITIES))))
@pytest.mark.parametrize("mode", ["embedding", "yes_no"])
def test_a_modality_left_out_is_one_that_was_never_there(rec: Recommender, mode: str, gone: Gone) -> None:
    with without(rec, gone):
        found = rec.explain(ALIENS, history=HISTORY, mode=mode)
        whole = value(rec, HISTORY, mode)
    assert found.score == pytest.approx(whole, abs=1e-4)
    for of, items in (("item", [ALIENS]), ("history", HISTORY)):
        values = named(found.modalities, of)
        assert set(values) == {m for m in MODALITIES if any((i, m) not in gone for i in items)}
        for m, moved in values.items():
            with without(rec, gone | {(i, m) for i in items}):
                assert moved == pytest.approx(whole - value(rec, HISTORY, mode), abs=1e-4), (m, of)


def test_a_field_left_out_is_one_that_was_never_there(one: Recommender, tiny_base: Path, tmp_path: Path) -> None:
    found = one.explain(ALIENS, history=HISTORY, mode="yes_no")
    # what the prompt shows, and only that: of history items the year beside the title
    assert set(named(found.fields, "item")) == {"title", "year", "genres"}
    assert set(named(found.fields, "history")) == {"title", "year"}
    source = Path(one.dataset.folder)
    for column, items, of, name in ((3, [ALIENS], "item", "genres"), (2, HISTORY, "history", "year")):
        folder = tmp_path / name
        shutil.copytree(source, folder)
        rows = [line.split(",") for line in (source / "items.csv").read_text(encoding="utf-8").splitlines()]
        for row in rows:
            row[column] = "" if row[0] in items else row[column]
        (folder / "items.csv").write_text("\n".join(map(",".join, rows)), encoding="utf-8")
        poorer = make(tiny_base, folder)
        expected = value(one, HISTORY, "yes_no") - value(poorer, HISTORY, "yes_no")
        assert named(found.fields, of)[name] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("mode", ["embedding", "likelihood", "yes_no"])
def test_a_history_item_left_out(rec: Recommender, mode: str) -> None:
    found = rec.explain(ALIENS, history=HISTORY, mode=mode)
    whole = value(rec, HISTORY, mode)
    for c in found.contributions:
        rest = [i for i in HISTORY if i != c.item_id]
        assert c.value == pytest.approx(whole - value(rec, rest, mode), abs=1e-4)
    assert found.together == pytest.approx(whole - value(rec, [], mode), abs=1e-4)


def test_a_title_as_the_answer_stays(one: Recommender) -> None:
    found = one.explain(ALIENS, history=HISTORY, mode="likelihood")
    assert named(found.fields, "item") == named(found.modalities, "item") == {}
    assert set(named(found.fields, "history")) == {"title", "year"}
    assert set(named(found.modalities, "history")) == set(MODALITIES)
    assert any("the title cannot be left out" in note for note in found.notes)


def test_what_is_known_of_the_person(one: Recommender) -> None:
    found = one.explain(ALIENS, user="3", mode="yes_no")
    assert set(named(found.fields, "person")) == {"age", "occupation"}
    found = one.explain(ALIENS, history=HISTORY, context={"time_of_day": "evening"})
    assert [p.label for p in found.fields if p.of == "person"] == ["time of day, now"]
    asked = replace(one.request(None, HISTORY), query="something slow")
    assert set(named(explain(one, ALIENS, asked).fields, "person")) == {"query"}


def test_ratings_in_the_history_are_left_out_where_they_are_shown(one: Recommender) -> None:
    history = [Event(i, rating=float(n)) for n, i in enumerate(HISTORY)]
    assert "rating" in named(one.explain(ALIENS, history=history, mode="rating").fields, "history")
    assert "rating" not in named(one.explain(ALIENS, history=history, mode="yes_no").fields, "history")


def test_letters_lists_all_variants_in_the_same_orders(one: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[tuple[str, ...]]] = []
    orders = explaining._SameOrders.orders

    def recorded(self: Any, request: Request) -> list[tuple[str, ...]]:
        asked.append(orders(self, request))
        return asked[-1]

    monkeypatch.setattr(explaining._SameOrders, "orders", recorded)
    found = one.explain(ALIENS, history=HISTORY, mode="letters")
    assert {p.name for p in found.modalities if p.of == "item"} == set(MODALITIES)
    plain = [[tuple(c.split(" (no ")[0] for c in order) for order in each] for each in asked]
    whole = Request("r", None, tuple(map(Event, HISTORY)), plain[0][0])
    assert len(plain) > len(HISTORY)
    assert all(each == shuffled(whole, Letters().shuffles) for each in plain)


# --- one pack ---------------------------------------------------------------------------------------


@pytest.fixture
def packs(monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[Job]]:
    """Sizes of the packs that are run, and the jobs they were laid from."""
    sizes, jobs = list[int](), list[Job]()
    forward, run = Model.forward, Together.run

    def counting(self: Model, pack: Any, *rest: Any) -> Any:
        sizes.append(len(pack))
        return forward(self, pack, *rest)

    def recording(self: Together, given: Any) -> Any:
        jobs.extend(listed := list(given))
        return run(self, listed)

    monkeypatch.setattr(Model, "forward", counting)
    monkeypatch.setattr(Together, "run", recording)
    return sizes, jobs


def test_everything_is_one_pack_and_shared_beginnings_are_read_once(
    rec: Recommender, packs: tuple[list[int], list[Job]]
) -> None:
    sizes, jobs = packs
    found = rec.explain(ALIENS, user="3")
    variants = 2 + len(found.contributions) + sum(p.of == "history" for p in found.modalities)
    assert len(jobs) == variants  # the whole, no history, each item, each modality: the item's own need no prompt
    prefixes = set()
    for job in jobs:
        stream: list[object] = job.prompt.token_ids[: job.query_at + 1].tolist()
        for slot in job.prompt.slots:
            stream[slot.start] = (slot.item_id, slot.modality)
        prefixes |= {tuple(stream[: n + 1]) for n in range(len(stream))}
    assert sizes == [len(prefixes)]
    assert sizes[0] < sum(job.query_at + 1 for job in jobs) / 1.5


@pytest.mark.parametrize("mode", ["likelihood", "yes_no", "letters", "rating"])
def test_other_modes_are_one_call_within_the_budget(
    one: Recommender, packs: tuple[list[int], list[Job]], mode: str
) -> None:
    one.explain(ALIENS, history=HISTORY[:2], mode=mode)
    sizes, jobs = packs
    assert len(jobs) >= 6
    assert max(sizes) <= one.runner.max_tokens
    assert sum(sizes) < sum(len(job.prompt) + sum(map(len, job.branches)) for job in jobs)
    if mode in ("likelihood", "rating"):
        assert len(sizes) == 1


# --- nothing is left behind -------------------------------------------------------------------------


def state(rec: Recommender) -> tuple[Any, ...]:
    soft = rec.model.soft
    assert soft is not None
    kept = {n: (id(b), b._version, b.numpy().tobytes()) for n, b in soft.named_buffers()}
    lines = len(rec.serializer._lines._known)
    return kept, soft.item_ids, rec.shelf.item_ids, lines, replace(rec.prefixes.stats), rec.runner.tokens_seen


@pytest.mark.parametrize("mode", ["embedding", "yes_no"])
def test_the_recommender_stays_as_it_was(rec: Recommender, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    request = Request("r", None, tuple(map(Event, HISTORY)), (ALIENS, "5", "6"))
    rec.prefixes.clear()  # what is found in memory is rounded otherwise than what is run
    before = rec.score(request, mode)[0].scores
    rec.explain(ALIENS, history=HISTORY, mode=mode)  # what is computed once, such as the fields, is there now
    held, vectors = state(rec), rec.ranker.mode("embedding").item_vectors(rec.runner)  # type: ignore[attr-defined]
    first = rec.explain(ALIENS, history=HISTORY, mode=mode)
    assert rec.explain(ALIENS, history=HISTORY, mode=mode) == first

    def broken(self: Together, jobs: Any) -> Any:
        raise RuntimeError("the power went out")

    monkeypatch.setattr(Together, "run", broken)
    with pytest.raises(RuntimeError, match="the power went out"):
        rec.explain(ALIENS, history=HISTORY, mode=mode)
    assert state(rec) == held
    assert rec.ranker.mode("embedding").item_vectors(rec.runner) is vectors  # type: ignore[attr-defined]
    rec.prefixes.clear()
    assert rec.score(request, mode)[0].scores.tobytes() == before.tobytes()


def test_ids_cannot_collide(tiny_base: Path, tiny_data: Path) -> None:
    rec = make(tiny_base, tiny_data)
    plain = rec.explain(ALIENS, history=HISTORY, mode="yes_no")
    for name in ("no modality image", "no field genres", "no title"):
        rec.add_item("Impostor", {"genres": "Horror"}, item_id=f"{ALIENS} ({name})")
    found = rec.explain(ALIENS, history=HISTORY, mode="yes_no")
    assert [p.value for p in found.fields] == pytest.approx([p.value for p in plain.fields], abs=1e-5)
    assert [p.value for p in found.modalities] == pytest.approx([p.value for p in plain.modalities], abs=1e-5)


# --- what is said -----------------------------------------------------------------------------------


def planted(rec: Recommender, reads: str) -> Callable[[], None]:
    """Make the matching head read one modality alone; returns the way back."""
    soft = rec.model.soft
    assert soft is not None
    weight, widths = soft.matching.item.up.weight, list(soft.widths.items())
    kept = weight.detach().clone()
    at, columns = 0, np.zeros(weight.shape[1], dtype=bool)
    for n, (m, width) in enumerate(widths):
        columns[at : at + width] = columns[n - len(widths)] = m == reads
        at += width
    with torch.no_grad():
        weight *= torch.from_numpy(columns)

    def undo() -> None:
        with torch.no_grad():
            weight.copy_(kept)

    return undo


@pytest.mark.parametrize("reads", MODALITIES)
def test_a_head_that_reads_one_modality_is_found_out(rec: Recommender, reads: str) -> None:
    phrases = {"image": "its picture", "behaviour": "who else watched it"}
    undo = planted(rec, reads)
    told = []
    for item in rec.shelf.item_ids[4:16]:
        found = rec.explain(item, history=("1", "2"))
        values = named(found.modalities, "item")
        (other,) = set(MODALITIES) - {reads}
        assert values[other] == pytest.approx(0, abs=1e-5)
        assert not found.counts(values[other])
        assert abs(values[reads]) > 1e-4
        assert phrases[other] not in found.reason
        assert (phrases[reads] in found.reason) == (values[reads] > found.rounding)
        told.append(phrases[reads] in found.reason)
    undo()
    assert 0 < sum(told) < len(told)  # both cases were met


def reason(rec: Recommender, history: Mapping[str, float], together: float | None, **item: float) -> str:
    contributions = tuple(
        explaining.Contribution(i, rec.shelf[i].title, v, rec.reasoner.common(ALIENS, i).tags)
        for i, v in sorted(history.items(), key=lambda h: -h[1])
    )
    parts = tuple(Part(m, "item", m, v) for m, v in item.items())
    found = Explanation(
        ALIENS, "Aliens", "embedding", 0, "", contributions, (), parts, together, 1e-3,
        wording=rec.dataset.wording,
    )  # fmt: skip
    return rec.reasoner.measured(found)


def test_the_reason_claims_what_the_numbers_say(one: Recommender) -> None:
    assert reason(one, {"12": 0.5, "14": 0.3}, 1.0).startswith("Mostly because you watched Alien and Heat")
    assert "Heat" not in reason(one, {"12": 0.5, "14": 0.1}, 1.0)
    assert reason(one, {"12": 1e-4}, 1e-4) == "None of the movies you watched speaks for it alone."
    assert reason(one, {"12": -1.0, "14": 0.0}, 0.4).endswith("speaks for it alone; together they do.")
    against = reason(one, {"12": 0.5}, -0.5)
    assert against.startswith("Of the movies you watched, Alien speaks for it most")
    assert against.endswith("All of them together speak against it.")
    assert reason(one, {"12": 0.5}, 0.0).endswith("All of them together do not move it.")
    assert reason(one, {}, None) == "A first guess: no movies watched so far to go by."
    assert reason(one, {}, None, image=0.5, text=0.2).endswith(
        "Of what is known about it, its picture speaks for it most, then what its text says."
    )
    for nothing in ({"image": 0.0}, {"image": 1e-4}, {"image": -0.5}):
        assert "picture" not in reason(one, {"12": 0.5}, 1.0, **nothing)


def test_shares_and_json(one: Recommender) -> None:
    found = one.explain(ALIENS, user="3", mode="yes_no")
    for group, parts in found.groups.items():
        assert sum(p.share for p in parts) == pytest.approx(1)
        assert all(p.label and 0 <= p.share <= 1 for p in parts), group
        assert [p.value for p in parts] == sorted((p.value for p in parts), reverse=True)
    plain = json.loads(found.to_json())
    assert set(plain) == {
        "item_id", "title", "mode", "score", "unit", "rounding", "reason", "together", "notes", "contributions",
        "groups",
    }  # fmt: skip
    assert set(plain["groups"]) == {"history", "fields", "modalities"}
    assert set(plain["groups"]["fields"][0]) == {"name", "of", "label", "value", "share"}
    assert set(plain["contributions"][0]) == {"item_id", "title", "value", "share", "shared"}


def test_a_long_history_is_weighed_as_far_as_it_is_shown(one: Recommender) -> None:
    ids = [i for i in one.shelf.item_ids if i != ALIENS]
    found = one.explain(ALIENS, history=[ids[n % len(ids)] for n in range(300)])
    assert len(found.contributions) == explaining.LIMIT
    assert any("the newest 30 are weighed one by one" in note for note in found.notes)
    short = one.explain(ALIENS, history=[ids[n % len(ids)] for n in range(300)], mode="yes_no")
    assert 1 < len(short.contributions) <= one.config.max_history


def test_a_line_on_older_items_stays_and_is_weighed(tiny_base: Path, tiny_data: Path) -> None:
    rec = make(tiny_base, tiny_data, prompt={"max_history": 4, "interests": True})
    history = ["4", "10", "16", "22"] * 3 + list(HISTORY)
    found = rec.explain(ALIENS, history=history, mode="yes_no")
    assert len(found.contributions) == len(HISTORY)
    assert found.score == pytest.approx(value(rec, history, "yes_no"), abs=1e-4)
    interests = named(found.fields, "person")["interests"]
    assert interests == pytest.approx(found.score - value(rec, HISTORY, "yes_no"), abs=1e-4)


def test_of_a_fused_score_the_models_part(tiny_base: Path, tiny_data: Path) -> None:
    decision = {"method": "zscore", "mode": "yes_no", "parts": ["adapter", "popularity"], "weights": [0.5, 0.5]}
    found = make(tiny_base, tiny_data, decision=decision).explain(ALIENS, history=HISTORY, mode="fused")
    assert found.mode == "yes_no"
    assert found.notes[0] == "Mode fused mixes the model's score with popularity; explained is the model's part."
    alone = make(tiny_base, tiny_data, decision={**decision, "parts": ["popularity"], "weights": [1.0]})
    with pytest.raises(RequestError, match="mixes popularity and not the model"):
        alone.explain(ALIENS, history=HISTORY, mode="fused")


def test_the_reference_is_spread_over_the_catalogue(one: Recommender, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = one.shelf.item_ids
    assert set(REFERENCE(one, ALIENS, "embedding")) == set(ids) - {ALIENS}
    assert REFERENCE(one, ALIENS, "yes_no") == ()
    monkeypatch.setattr(explaining, "REFERENCE", 5)
    found = REFERENCE(one, ids[0], "embedding")
    assert len(found) == len(set(found)) == 5
    assert ids[0] not in found
    assert ids.index(found[-1]) > len(ids) / 2


def test_an_untuned_base_has_fields_but_no_modalities(tiny_base: Path, tiny_data: Path) -> None:
    found = Recommender.load(f"path:{tiny_base}", data=tiny_data).explain(ALIENS, history=HISTORY, mode="yes_no")
    assert found.modalities == ()
    assert {p.of for p in found.fields} == {"item", "history"}
