"""Prompts kept in memory change what is run, never what comes out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palate.engine.generate import generate
from palate.engine.pack import Job
from palate.engine.prefix import BLOCK, PrefixCache
from palate.engine.runner import Output, Runner
from palate.engine.trie import Trie
from palate.errors import ConfigError, PalateWarning
from palate.model import Model, attention, layout
from palate.schema import Branch, Prompt, Slot
from tiny import adapted


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Model:
    return adapted(tiny_base, soft_tokens=3)


def prompt(tokens: list[int], items: str = "") -> Prompt:
    ids, slots, ends = list(tokens), [], []
    for item in items:
        slots.append(Slot(len(ids), 3, "image", item))
        ids += [0, 0, 0, 7]
        ends.append(len(ids) - 1)
    return Prompt(np.array(ids, dtype=np.int64), tuple(slots), tuple(items), tuple(ends), len(tokens) - 1)


def job(tokens: list[int], items: str, read: str, seed: int = 0) -> Job:
    rng = np.random.default_rng(seed)
    branches = tuple(Branch(str(n), rng.integers(3, 9, rng.integers(1, 6)), ()) for n in range(12))
    if read == "query":
        return Job(prompt(tokens, items), "query")
    return Job(prompt(tokens, items), read, branches, (5, 9) if read == "labels" else ())  # type: ignore[arg-type]


def check_same(got: list[Output], want: list[Output]) -> None:
    for mine, theirs in zip(got, want, strict=True):
        for a, b in zip(mine.tokens, theirs.tokens, strict=True):
            np.testing.assert_allclose(a, b, atol=1e-4)
        np.testing.assert_allclose(mine.labels, theirs.labels, atol=1e-4)
        np.testing.assert_allclose(mine.query, theirs.query, atol=1e-4)


job_lists = st.lists(
    st.builds(
        job,
        # few starts, so that prompts often begin alike
        st.integers(1, 40).map(lambda n: list(range(3, 3 + n))),
        st.text("abc", max_size=8),
        st.sampled_from(["tokens", "labels", "query"]),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.lists(job_lists, min_size=1, max_size=4),
    budget=st.sampled_from([90, 4096]),
    size=st.sampled_from([0, 20_000, 10**8]),
)
def test_warm_equals_cold(model: Model, calls: list[list[Job]], budget: int, size: int) -> None:
    cache = PrefixCache(size)
    warm = Runner(model, budget, prefixes=cache)
    for jobs in calls:
        check_same(warm.run(jobs), Runner(model).run(jobs))
        assert cache.stats.nbytes <= size
    if size == 0:
        assert cache.stats.found == 0


def test_a_second_turn_runs_only_what_is_new(model: Model) -> None:
    cache = PrefixCache()
    runner = Runner(model, prefixes=cache)
    first = list(range(3, 3 + 10 * BLOCK))
    runner.run([job(first, "", "labels")])
    before = runner.tokens_seen
    more = job([*first, 5, 6, 7, 8], "", "labels")
    got = runner.run([more])
    branch_rows = len({b.token_ids[:n].tobytes() for b in more.branches for n in range(1, len(b) + 1)})
    assert runner.tokens_seen - before == 4 + branch_rows
    assert cache.stats.found == 10 * BLOCK
    assert cache.stats.hit_rate == pytest.approx(160 / 324)
    check_same(got, Runner(model).run([more]))


def test_other_weights_and_other_pictures_are_other_prefixes(model: Model) -> None:
    cache = PrefixCache()
    runner = Runner(model, prefixes=cache)
    seen = job([3] * BLOCK, "abcabc", "labels")
    runner.run([seen])
    found = cache.stats.found
    other = job([3] * BLOCK, "abdabc", "labels")
    check_same(runner.run([other]), Runner(model).run([other]))
    assert cache.stats.found - found == BLOCK  # the text before the pictures is the same
    weight = model.trainable()[next(n for n in model.trainable() if "lora_B" in n)]
    found = cache.stats.found
    with torch.no_grad():
        weight.add_(0.1)
    check_same(runner.run([seen]), Runner(model).run([seen]))
    assert cache.stats.found == found
    assert model.soft is not None
    runner.run([seen])
    found = cache.stats.found
    model.soft.add_item("a", {"image": np.ones(8, dtype=np.float32)})
    check_same(runner.run([seen]), Runner(model).run([seen]))
    assert cache.stats.found == found


def test_the_least_recently_used_is_forgotten(model: Model) -> None:
    cache = PrefixCache()
    Runner(model, prefixes=cache).run([job([9] * 2 * BLOCK, "", "labels")])
    block = cache.stats.nbytes // 2
    cache = PrefixCache(4 * block)
    runner = Runner(model, prefixes=cache)
    for start in (3, 4, 3, 5):
        runner.run([job([start] * 2 * BLOCK + [8], "", "labels")])
    assert cache.stats.nbytes == 4 * block
    assert cache.stats.forgotten == 2
    found = cache.stats.found
    runner.run([job([3] * 2 * BLOCK + [8], "", "labels")])
    assert cache.stats.found - found == 2 * BLOCK
    runner.run([job([4] * 2 * BLOCK + [8], "", "labels")])
    assert cache.stats.found - found == 2 * BLOCK
    cache.clear()
    assert cache.stats.nbytes == 0


def test_generation_reads_the_same_memory(model: Model) -> None:
    titles = [np.array([a, b, 2]) for a in range(3, 9) for b in range(3, 9)]
    trie, cache = Trie.build(titles), PrefixCache()
    prompts = [prompt([3] * 40, "ab"), prompt([3] * 33, "ba")]
    cold = generate(model, prompts, trie, beams=6, k=6)
    for _ in range(2):
        warm = generate(model, prompts, trie, beams=6, k=6, prefixes=cache)
        for a, b in zip(cold, warm, strict=True):
            assert [i for i, _ in a] == [i for i, _ in b]
            np.testing.assert_allclose([s for _, s in a], [s for _, s in b], atol=1e-4)
    assert cache.stats.found > 0


@pytest.mark.filterwarnings(
    # the uncompiled kernel is what a CPU can run of the CUDA path, and this test wants it
    "ignore:flex_attention called without torch.compile:UserWarning"
)
def test_the_blockwise_path_reads_packs_memory_and_beams_alike(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = [job(list(range(3, 3 + 20 * n)), "abc", read, n) for n, read in ((1, "tokens"), (3, "labels"), (2, "query"))]
    trie = Trie.build([np.array([a, b, 2]) for a in range(3, 9) for b in range(3, 9)])
    prompts = [prompt([3] * 40, "ab"), prompt([3] * 33, "ba")]
    scores, found = Runner(model).run(jobs), generate(model, prompts, trie, beams=6, k=6)
    monkeypatch.setattr(layout, "BLOCKWISE", {"cpu"})
    cache = PrefixCache()
    for _ in range(2):
        check_same(Runner(model, 160, prefixes=cache).run(jobs), scores)
        for a, b in zip(generate(model, prompts, trie, beams=6, k=6, prefixes=cache), found, strict=True):
            assert [i for i, _ in a] == [i for i, _ in b]
            np.testing.assert_allclose([s for _, s in a], [s for _, s in b], atol=1e-4)
    assert cache.stats.found > 0


def test_a_kernel_that_does_not_compile_costs_speed_only(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    want = Runner(model).run([job([5] * 20, "ab", "tokens")])

    def fails(*args: object) -> None:
        raise RuntimeError("Cannot find a working triton installation\nand a long trace")

    monkeypatch.setattr(layout, "BLOCKWISE", {"cpu"})
    monkeypatch.setattr(attention.flex, "attend", fails)
    monkeypatch.setattr(attention, "_kernel", attention._Kernel())
    with pytest.warns(
        PalateWarning, match=r"FlexAttention does not run here \(RuntimeError: Cannot find .* triton"
    ) as seen:
        check_same(Runner(model).run([job([5] * 20, "ab", "tokens")]), want)
    assert len(seen) == 1


def test_a_negative_budget_is_refused() -> None:
    with pytest.raises(ConfigError, match="expected max_bytes of 0 or more, got -1"):
        PrefixCache(-1)
