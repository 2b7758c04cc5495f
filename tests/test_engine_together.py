"""Requests that begin alike as one tree: the same numbers, one forward, every shared position run once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.engine.pack import Job, Read
from palate.engine.runner import Output, Runner
from palate.engine.together import Together, fold
from palate.model import Model
from palate.schema import Branch, Prompt, Slot
from tiny import adapted

Piece = int | str
"""A token, or the item whose soft tokens stand there."""


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Model:
    return adapted(tiny_base, soft_tokens=2)


def tokens(pieces: list[Piece]) -> tuple[np.ndarray, tuple[Slot, ...]]:
    ids: list[int] = []
    slots = []
    for piece in pieces:
        if isinstance(piece, str):
            slots.append(Slot(len(ids), 2, "image", piece))
            ids += [2, 2]
        else:
            ids.append(piece)
    return np.array(ids, dtype=np.int64), tuple(slots)


def job(read: Read, prompt: list[Piece], branches: list[list[Piece]]) -> Job:
    ids, slots = tokens(prompt)
    made = tuple(Branch(str(n), *tokens(b)) for n, b in enumerate(branches))
    ends = (len(ids) - 1,) if prompt[-1:] != [7] else (len(ids) - 2,)  # a query may be read before the prompt's end
    return Job(Prompt(ids, slots, ("x",), ends), read, made, (5, 6) if read == "labels" else ())


def values(output: Output) -> np.ndarray:
    return np.concatenate([output.query, output.labels.ravel(), *output.tokens])


def counted(model: Model, sizes: list[int]) -> Callable[[], None]:
    handle = model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    return handle.remove


def distinct(jobs: list[Job]) -> int:
    """Positions that differ in what stands before them, counted the slow way."""
    seen = set()
    for one in jobs:
        for branch in one.branches or (Branch("", np.empty(0, dtype=np.int64)),):
            stream: list[object] = [*one.prompt.token_ids.tolist(), *branch.token_ids.tolist()]
            for slot in (*one.prompt.slots, *(s.shifted(len(one.prompt)) for s in branch.slots)):
                stream[slot.start : slot.start + 2] = [(slot.item_id, 0), (slot.item_id, 1)]
            stop = len(stream) - (one.read == "tokens")
            if one.read == "query":
                stop = one.query_at + 1
            seen |= {tuple(stream[: n + 1]) for n in range(stop)}
    return len(seen)


pieces = st.lists(st.integers(3, 9) | st.sampled_from("abc"), min_size=1, max_size=6)


@settings(max_examples=15, deadline=None)
@given(
    st.sampled_from(["tokens", "labels", "query"]),
    st.lists(pieces, min_size=2, max_size=5),
    st.lists(pieces, min_size=1, max_size=3),
)
def test_the_tree_gives_what_each_job_gives_alone(
    model: Model, read: Read, prompts: list[list[Piece]], branches: list[list[Piece]]
) -> None:
    behind = [] if read == "query" else [[*b, 4] for b in branches]
    jobs = [job(read, [1, 3, *p, 8], behind) for p in prompts]
    alone = [Runner(model).run([one])[0] for one in jobs]
    sizes: list[int] = []
    stop = counted(model, sizes)
    found = Together(model).run(jobs)
    stop()
    assert sizes == [distinct(jobs)]
    for got, wanted in zip(found, alone, strict=True):
        np.testing.assert_allclose(values(got), values(wanted), atol=2e-5)


def test_labels_without_branches_and_a_query_before_the_end(model: Model) -> None:
    for read in ("labels", "query"):
        jobs = [job(read, [1, 3, *p, 4, 7], []) for p in ([5], ["a"], [5, "b"], [5])]
        for got, one in zip(Together(model).run(jobs), jobs, strict=True):
            np.testing.assert_allclose(values(got), values(Runner(model).run([one])[0]), atol=2e-5)


def test_what_is_not_folded(model: Model) -> None:
    query, labels = job("query", [1, 3], []), job("labels", [1, 4], [])
    assert fold([query], 100) is None  # nothing is shared
    assert fold([query, labels], 100) is None  # they read different things
    assert fold([query, job("query", [4, 3], [])], 100) is None  # no common beginning
    assert fold([query, query], 1) is None  # too large
    packed = fold([query, query], 100)
    assert packed is not None
    assert len(packed.pack) == 2


def test_over_the_budget_the_usual_runner_takes_over(model: Model) -> None:
    jobs = [job("query", [1, 3, *range(10, 30), n], []) for n in range(5, 9)]
    sizes: list[int] = []
    stop = counted(model, sizes)
    found = Together(model, max_tokens=23).run(jobs)
    stop()
    assert len(sizes) > 1
    assert max(sizes) <= 23
    for got, one in zip(found, jobs, strict=True):
        np.testing.assert_allclose(values(got), values(Runner(model).run([one])[0]), atol=2e-5)


def test_out_of_memory_falls_back(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [job("query", [1, 3, n], []) for n in (5, 6)]
    wanted = Runner(model).run(jobs)
    forward, failed = Model.forward, list[bool]()

    def once(self: Model, *args: object) -> torch.Tensor:
        if not failed:
            failed.append(True)
            raise torch.OutOfMemoryError("no room")
        return forward(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Model, "forward", once)
    for got, one in zip(Together(model).run(jobs), wanted, strict=True):
        np.testing.assert_allclose(got.query, one.query, atol=2e-5)

    def broken(self: Model, *args: object) -> torch.Tensor:
        raise RuntimeError("not about memory")

    monkeypatch.setattr(Model, "forward", broken)
    with pytest.raises(RuntimeError, match="not about memory"):
        Together(model).run(jobs)
