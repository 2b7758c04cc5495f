"""Pack sizes from the memory at hand, halved where it runs out; host work one step ahead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from palate.config import ModelConfig
from palate.engine import budget as budgets
from palate.engine.ahead import ahead
from palate.engine.budget import Budget
from palate.engine.pack import Job
from palate.engine.runner import Runner
from palate.errors import BudgetError, PalateError, PalateWarning, RequestError
from palate.model import Memory, Model
from palate.schema import Branch, Pack, Prompt


@pytest.fixture
def model(tiny_base: Path) -> Model:
    return Model.create(ModelConfig(base=f"path:{tiny_base}", dtype="float32"), {}, device="cpu", adapter=False)


def jobs(count: int = 9) -> list[Job]:
    rng = np.random.default_rng(1)
    make = lambda n: rng.integers(3, 60, n)  # noqa: E731  # shorter than a function that is used twice
    branches = [tuple(Branch(str(n), make(5)) for n in range(30)) for _ in range(count)]
    return [Job(Prompt(make(50 + 10 * n)), "tokens", b) for n, b in enumerate(branches)]


class Small:
    """A model on a device where a pack of more than `limit` tokens does not fit."""

    def __init__(self, model: Model, limit: int, error: Exception) -> None:
        self.forward, self.limit, self.error, self.sizes = model.forward, limit, error, list[int]()

    def __call__(self, pack: Pack, memory: list[Memory | None] | None = None) -> torch.Tensor:
        self.sizes.append(len(pack))
        if len(pack) > self.limit:
            raise self.error
        return self.forward(pack, memory)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    ],
)
def test_out_of_memory_halves_the_budget_and_changes_no_score(
    model: Model, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    want = Runner(model, 4096).run(jobs())
    small = Small(model, 600, error)
    monkeypatch.setattr(model, "forward", small)
    runner = Runner(model, 2048)
    with pytest.warns(PalateWarning, match="out of memory in a pack of .* at most (1024|512)"):
        got = runner.run(iter(jobs()))
    assert runner.max_tokens == 512
    assert max(small.sizes[2:]) <= 512
    for a, b in zip(got, want, strict=True):
        for x, y in zip(a.tokens, b.tokens, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)
    runner.run(jobs(1))
    assert runner.max_tokens == 512, "a smaller budget is kept"


def test_halving_ends(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "forward", Small(model, 10, MemoryError()))
    with (
        pytest.warns(PalateWarning, match="out of memory"),
        pytest.raises(PalateError, match="out of memory in a pack of 256 tokens; use a smaller base"),
    ):
        Runner(model, 1024).run(jobs())


def test_other_errors_are_not_taken_for_memory(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "forward", Small(model, 10, RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        Runner(model).run(jobs())


def test_the_budget_follows_free_memory(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    class Free:
        available = 10**12

    monkeypatch.setattr(budgets.psutil, "virtual_memory", lambda: Free)
    roomy = Budget.of(model, None).tokens
    cost = budgets.bytes_per_token(model.lm.config, 4)
    Free.available = 4 * cost * 600
    assert Budget.of(model, None).tokens == 512 < roomy
    Free.available = 0
    assert Budget.of(model, None).tokens == budgets.LEAST
    assert Budget.of(model, 77).tokens == 77
    with pytest.raises(RequestError, match="max_tokens: expected 1 or more, got 0"):
        Budget.of(model, 0)


def test_only_a_budget_that_was_chosen_refuses_a_long_prompt(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(budgets.MOST, "cpu", 256)
    rng = np.random.default_rng(2)
    branches = tuple(Branch(str(n), rng.integers(3, 60, 5)) for n in range(40))
    long = Job(Prompt(rng.integers(3, 60, 300)), "tokens", branches)
    with pytest.raises(BudgetError, match=r"a prompt of 300 tokens .* does not fit a pack of 256"):
        Runner(model, 256).run([*jobs(1), long])
    got, want = Runner(model).run([*jobs(1), long]), Runner(model, 4096).run([*jobs(1), long])
    for a, b in zip(got, want, strict=True):
        for x, y in zip(a.tokens, b.tokens, strict=True):
            np.testing.assert_allclose(x, y, atol=1e-5)


@pytest.mark.parametrize("threaded", [False, True])
def test_ahead_keeps_order_and_errors(threaded: bool) -> None:
    def source() -> Iterator[int]:
        yield from range(5)
        raise ValueError("the sixth is bad")

    with ahead(source(), threaded) as items:
        assert [next(items) for _ in range(5)] == list(range(5))
        with pytest.raises(ValueError, match="the sixth is bad"):
            next(items)
    assert not any(t.name.startswith("palate-ahead") for t in threading.enumerate())


def test_ahead_prepares_the_next_item_while_one_is_in_use() -> None:
    made = [threading.Event() for _ in range(3)]

    def source() -> Iterator[int]:
        for n, event in enumerate(made):
            event.set()
            yield n

    with ahead(source(), threaded=True) as items:
        assert next(items) == 0
        assert made[1].wait(10), "the second item is made without being asked for"
        assert not made[2].is_set(), "but not a third"
