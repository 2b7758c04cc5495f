"""A score is a function of (prompt, candidate) alone, and it is stock transformers' own.

Whatever the order of candidates, the neighbours, the pieces a budget cuts a request into, and the dtype; see
`stock.py` for the reference and `test_engine_architectures.py` for other families.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palate.engine.generate import generate
from palate.engine.pack import Job
from palate.engine.prefix import PrefixCache
from palate.engine.runner import Runner
from palate.engine.trie import Trie
from palate.errors import PalateWarning
from palate.model import Model
from palate.schema import Branch, Prompt, Slot
from stock import ITEMS, Stock, apart, branch, create, prompt, save_base, values, with_soft

TOLERANCE = 1e-4
"""Largest difference of one token's log-probability from stock transformers, fp32."""
SAME = 2e-5
"""The same between two ways of ours."""
LABELS = (5, 9, 11, 300)


class Pair:
    def __init__(self, folder: Path) -> None:
        self.mine = create(folder)
        self.stock = Stock(folder, self.mine)


@pytest.fixture(scope="module", params=["llama", "gemma2"])
def pair(request: pytest.FixtureRequest, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return Pair(save_base(tmp_path_factory.mktemp(request.param) / "base", tiny_base, request.param))


def check(pair: Pair, jobs: list[Job], runner: Runner, tolerance: float = TOLERANCE) -> None:
    for job, output in zip(jobs, runner.run(jobs), strict=True):
        assert apart(values(job, output), pair.stock.run(job)).max(initial=0) < tolerance


# --- any requests -----------------------------------------------------------------------------------

few = st.integers(3, 6)  # few tokens: candidates often share beginnings, begin one another or are the same
title = st.lists(few, min_size=1, max_size=5)


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "tokens": draw(st.lists(st.integers(3, 60), min_size=1, max_size=12)),
        "items": draw(st.lists(st.sampled_from(ITEMS), max_size=4)),
        "candidates": draw(st.lists(st.tuples(st.sampled_from("abf"), title, st.booleans()), max_size=9)),
        "read": draw(st.sampled_from(["tokens", "tokens", "labels", "query"])),
        "labels": draw(st.lists(st.sampled_from(LABELS), min_size=1, max_size=4, unique=True)),
    }


def job(model: Model, asked: dict[str, Any]) -> Job:
    p = prompt(model, asked["tokens"], asked["items"])
    branches = tuple(branch(model, item, text, soft) for item, text, soft in asked["candidates"])
    return {
        "tokens": lambda: Job(p, "tokens", branches or (branch(model, "a", [4, 5]),)),
        "labels": lambda: Job(p, "labels", branches, tuple(asked["labels"])),
        "query": lambda: Job(p, "query"),
    }[asked["read"]]()


def least(jobs: list[Job]) -> int:
    """The smallest pack every prompt fits with its longest candidate."""
    return max(len(j.prompt) + max((len(b) for b in j.branches), default=0) for j in jobs)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(requests(), min_size=1, max_size=4), more=st.sampled_from([0, 1, 7, 40, 4000]))
def test_any_mix_of_requests_under_any_budget(pair: Pair, asked: list[dict[str, Any]], more: int) -> None:
    jobs = [job(pair.mine, a) for a in asked]
    check(pair, jobs, Runner(pair.mine, max_tokens=least(jobs) + more))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=st.lists(requests(), min_size=1, max_size=4), data=st.data(), more=st.sampled_from([0, 9, 4000]))
def test_any_order_gives_the_same_scores(
    pair: Pair, asked: list[dict[str, Any]], data: st.DataObject, more: int
) -> None:
    jobs = [job(pair.mine, a) for a in asked]
    orders = [data.draw(st.permutations(range(len(j.branches)))) for j in jobs]
    turned = [replace(j, branches=tuple(j.branches[i] for i in o)) for j, o in zip(jobs, orders, strict=True)]
    places = data.draw(st.permutations(range(len(jobs))))
    straight = Runner(pair.mine).run(jobs)
    mixed = Runner(pair.mine, max_tokens=least(jobs) + more).run([turned[i] for i in places])
    for at, i in enumerate(places):
        one, two = values(jobs[i], straight[i]), values(jobs[i], mixed[at])
        if orders[i]:
            one = [one[n] for n in orders[i]]
        assert apart(one, two).max(initial=0) < SAME


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(asked=requests(), parts=st.lists(st.integers(0, 5), min_size=2, max_size=4), more=st.sampled_from([0, 9, 4000]))
def test_a_list_in_several_jobs_scores_as_in_one(
    pair: Pair, asked: dict[str, Any], parts: list[int], more: int
) -> None:
    whole = job(pair.mine, asked)
    jobs = [replace(whole, branches=whole.branches[:n] or whole.branches[:1]) for n in parts]
    check(
        pair, [*jobs, job(pair.mine, {**asked, "tokens": [7]}), *jobs], Runner(pair.mine, max_tokens=least(jobs) + more)
    )


def test_a_prompt_in_several_jobs_is_run_once(pair: Pair) -> None:
    m = pair.mine
    whole = Job(prompt(m, [1, 8, 3, 9, 20], "ab"), "tokens", tuple(branch(m, "a", [n, 4]) for n in (5, 6, 7, 9)))
    once, several = Runner(m), Runner(m)
    once.run([whole])
    several.run([replace(whole, branches=whole.branches[:2]), replace(whole, branches=whole.branches[2:])])
    assert several.tokens_seen == once.tokens_seen
    queries = Runner(m)
    queries.run([replace(whole, read="query", branches=())] * 5)
    assert queries.tokens_seen == len(whole.prompt)


def test_duplicates_score_alike_and_prefixes_apart(pair: Pair) -> None:
    m = pair.mine
    texts = [[4, 9, 11], [4], [4, 9], [4, 9, 11], [4], [4, 9, 11, 12]]
    asked = Job(prompt(m, [1, 8, 3], ["a", "e"]), "tokens", tuple(branch(m, ITEMS[i], t) for i, t in enumerate(texts)))
    for runner in (Runner(m), Runner(m, max_tokens=least([asked]))):
        got = runner.run([asked])[0].tokens
        np.testing.assert_allclose(got[0], got[3], atol=SAME)
        np.testing.assert_allclose(got[0][:2], got[2], atol=SAME)
        np.testing.assert_allclose(got[5][:3], got[0], atol=SAME)
    assert apart(got, pair.stock.run(asked)).max() < TOLERANCE


def test_items_with_the_same_text_and_other_soft_tokens_stay_apart(pair: Pair) -> None:
    m = pair.mine
    asked = Job(prompt(m, [1, 8, 3], "ab"), "tokens", tuple(branch(m, i, [4, 9, 11], soft=True) for i in "abca"))
    got = Runner(m).run([asked])[0].tokens
    assert apart(got, pair.stock.run(asked)).max() < TOLERANCE
    assert np.abs(got[0] - got[1]).max() > 0.01
    np.testing.assert_allclose(got[0], got[3], atol=SAME)


def test_candidates_that_end_in_soft_tokens(pair: Pair) -> None:
    """Nothing reads behind the last text token, so those soft tokens change no score; the labels do read them."""
    m = pair.mine
    assert m.soft is not None
    kind, k = m.soft.slots("a")[0]
    branches = (
        Branch("a", np.array([4, 9, *[2] * k]), (Slot(2, k, kind, "a"),)),
        Branch("b", np.array([4, 9, *[2] * k]), (Slot(2, k, kind, "b"),)),
        Branch("c", np.array([4, 9, 11, 12, 13])),
        Branch("d", np.array([2] * k), (Slot(0, k, kind, "d"),)),
    )
    p = prompt(m, [1, 8, 3], "c")
    jobs = [Job(p, "tokens", branches[:3]), Job(p, "tokens", branches[:1]), Job(p, "labels", branches, LABELS)]
    check(pair, jobs, Runner(m))
    check(pair, jobs, Runner(m, max_tokens=least(jobs)))
    assert [len(t) for t in Runner(m).run([Job(p, "tokens", branches)])[0].tokens] == [2, 2, 5, 0]


# --- prompts kept across calls ----------------------------------------------------------------------


def talk(model: Model, turns: str) -> Prompt:
    """A prompt that grows by turns: an item's soft tokens and always the same text, so only the items differ."""
    ids: list[int] = [1]
    slots: list[Slot] = []
    ends = []
    for item in turns:
        ids, slots = with_soft(model, item, ids, slots)
        ids = [*ids, *range(10, 19)]
        ends.append(len(ids) - 1)
    return Prompt(np.array(ids, dtype=np.int64), tuple(slots), tuple(turns), tuple(ends))


turn = st.tuples(st.text("abf", min_size=1, max_size=6), st.sampled_from(["tokens", "labels", "query"]))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    calls=st.lists(st.lists(turn, min_size=1, max_size=3), min_size=2, max_size=3),
    size=st.sampled_from([0, 20_000, 10**8]),
    more=st.sampled_from([0, 5, 4000]),
)
def test_warm_or_cold_gives_the_stock_scores(
    pair: Pair, calls: list[list[tuple[str, str]]], size: int, more: int
) -> None:
    m = pair.mine
    texts = ([4, 9, 11], [4], [4, 9, 12, 13], [30, 8])
    branches = tuple(branch(m, ITEMS[i], t, i % 2 == 0) for i, t in enumerate(texts))
    reads = {"tokens": (branches, ()), "labels": (branches[1:], LABELS), "query": ((), ())}
    asked = [[Job(talk(m, turns), read, *reads[read]) for turns, read in jobs] for jobs in calls]  # type: ignore[arg-type]
    cache = PrefixCache(size)
    runner = Runner(m, max_tokens=least([j for jobs in asked for j in jobs]) + more, prefixes=cache)
    for jobs in asked:
        check(pair, jobs, runner)
        assert cache.stats.nbytes <= size


def test_warm_scores_were_warm(pair: Pair) -> None:
    """What keeps the test above honest: the second turn is read from memory, in soft tokens too."""
    m, cache = pair.mine, PrefixCache()
    runner = Runner(m, prefixes=cache)
    for turns in ("abf", "abfa", "abbaf"):
        check(pair, [Job(talk(m, turns), "tokens", (branch(m, "a", [4, 9, 11], soft=True),))], runner)
    assert cache.stats.found >= 32


# --- constrained generation -------------------------------------------------------------------------


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    titles=st.lists(st.lists(few, min_size=1, max_size=5), min_size=1, max_size=25),
    users=st.lists(
        st.tuples(st.lists(st.integers(3, 60), min_size=1, max_size=12), st.text("abef", max_size=3)),
        min_size=1,
        max_size=4,
    ),
    seed=st.integers(0, 10**6),
    share=st.sampled_from([0.1, 0.5, 1.0]),
    max_rows=st.sampled_from([1, 5, 256]),
)
def test_enough_beams_equal_exhaustive_scoring(
    pair: Pair, titles: list[list[int]], users: list[tuple[list[int], str]], seed: int, share: float, max_rows: int
) -> None:
    """Same items, same ranking, same scores as packed scoring of every allowed title; several users in one call.

    Titles begin others (no end token is added) and come twice. Once with as many beams as titles, once with just
    as many as the search needs to lose none, so that it must search.
    """
    m, n = pair.mine, len(titles) + 2
    titles = [*titles, titles[0], titles[-1]]
    rng = np.random.default_rng(seed)
    masks = [rng.random(n) < share for _ in users]
    for mask in masks:
        mask[rng.integers(n)] = True
    prompts = [prompt(m, tokens, items) for tokens, items in users]
    branches = tuple(Branch(str(i), np.array(t)) for i, t in enumerate(titles))
    packed = Runner(m).run([Job(p, "tokens", branches) for p in prompts])
    widest = max(len({tuple(t[:d]) for t in titles if len(t) > d}) for d in range(6))
    for beams in (n, widest):
        trie = Trie.build([np.array(t) for t in titles])
        found = generate(m, prompts, trie, beams=beams, k=n, allowed=masks, max_rows=max_rows)
        for output, mask, ranked in zip(packed, masks, found, strict=True):
            want = np.array([t.astype(np.float64).sum() for t in output.tokens])
            items, scores = [i for i, _ in ranked], np.array([s for _, s in ranked])
            lengths = np.array([len(titles[i]) for i in items])
            assert sorted(items) == np.flatnonzero(mask).tolist()
            assert (np.abs(scores - want[items]) / lengths).max() < SAME
            # the ranking is that of the exhaustive scores; only what is closer than rounding may change places
            assert (np.diff(want[items]) < 5 * SAME).all()
            of = {tuple(titles[i]): s for i, s in ranked}
            assert all(of[tuple(titles[i])] == s for i, s in ranked)


# --- bfloat16 ---------------------------------------------------------------------------------------


def catalogue(rng: np.random.Generator, n: int) -> list[list[int]]:
    return [rng.integers(3, 60, rng.integers(1, 7)).tolist() for _ in range(n)]


def mix(model: Model, seed: int, *, items: str = "abf", n: int = 12) -> list[Job]:
    """Requests of several lengths with soft tokens on both sides."""
    rng = np.random.default_rng(seed)
    jobs = []
    for length in (3, 20, 40):
        p = prompt(model, rng.integers(3, 60, length).tolist(), items)
        branches = tuple(branch(model, "abc"[i % 3], t, i % 2 == 0) for i, t in enumerate(catalogue(rng, n)))
        jobs.append(Job(p, "tokens", branches))
    return jobs


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_bfloat16_errs_no_more_than_stock_bfloat16(family: str, tiny_base: Path, tmp_path: Path) -> None:
    """Against fp32 one at a time: packed bf16's error is naive bf16's own, give or take its scatter.

    The base's weights are bf16 numbers, so what differs is arithmetic alone. Both errors are samples of one
    rounding noise, over all tokens of several random models: their means agree closely, their maxima less so.
    """
    errors: dict[str, list[np.ndarray]] = {"naive": [], "packed": [], "warm": []}
    for seed in range(2):
        base = save_base(tmp_path / str(seed), tiny_base, family, seed=seed, dtype="bfloat16")
        small = create(base, dtype="bfloat16", lora=0.05)
        exact, rough = Stock(base, small), Stock(base, small, dtype="bfloat16")
        jobs = mix(small, seed)
        warm = Runner(small, prefixes=PrefixCache())
        warm.run(jobs)
        for asked, cold, again in zip(jobs, Runner(small).run(jobs), warm.run(jobs), strict=True):
            want = exact.run(asked)
            errors["naive"].append(apart(rough.run(asked), want))
            errors["packed"].append(apart(cold.tokens, want))
            errors["warm"].append(apart(again.tokens, want))
        assert warm.prefixes is not None
        assert warm.prefixes.stats.found > 0
    whole = {name: np.concatenate(parts) for name, parts in errors.items()}
    naive = whole.pop("naive")
    assert naive.mean() > 1e-3, "there is no error to speak of"
    for name, mine in whole.items():
        assert mine.mean() < 1.15 * naive.mean(), name
        assert mine.max() < 1.5 * naive.max(), name


# --- quantized weights ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wide(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base wide enough for bitsandbytes, whose blocks hold 64 weights of a row."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes has no build for this platform")
    return save_base(
        tmp_path_factory.mktemp("wide") / "base", tiny_base, hidden_size=128, intermediate_size=256, num_hidden_layers=2
    )


def quantized(wide: Path, kind: str) -> tuple[Model, Stock]:
    """Palate's model and stock transformers with the same quantized weights; PEFT adds the same LoRA to both."""
    from palate.model.load import quiet
    from palate.model.quantize import reading_config

    small = create(wide, quantization=kind)
    with quiet():
        return small, Stock(wide, small, quantization_config=reading_config(kind, torch.float32))  # type: ignore[arg-type]


def test_nf4_packed_equals_stock_nf4(wide: Path) -> None:
    """nf4 stores weights in 4 bits and computes in the dtype of the model, so packing adds nothing but rounding.

    On CPUs with AVX-512 BF16 bitsandbytes packs the weights for kernels of its own, and a row's result moves with the
    rows beside it: up to 4e-3 was seen there, where nf4 itself changes more than 0.05.
    """
    from bitsandbytes.functional import has_avx512bf16

    tolerance = 2e-2 if has_avx512bf16() else TOLERANCE
    small, stock = quantized(wide, "nf4")
    exact = Stock(wide, create(wide))
    jobs = mix(small, 1)
    for asked, output in zip(jobs, Runner(small).run(jobs), strict=True):
        want = stock.run(asked)
        assert apart(output.tokens, want).max() < tolerance
        assert apart(want, exact.run(asked)).max() > 0.05  # the weights are rounded indeed


def test_int8_packed_strays_less_than_int8_itself(wide: Path) -> None:
    """LLM.int8() (Dettmers et al., 2022) quantizes activations too, and a column is kept exact for all rows of a call
    where any row has an outlier: neighbours do change a score, by less than int8 changes it anyway.

    Measured here: a mean of 0.010 a token, against 0.026 of int8 from fp32; without outlier columns 0.001.
    """
    with pytest.warns(PalateWarning, match="int8 on a CPU works but is several times slower"):
        small, stock = quantized(wide, "int8")
    exact = Stock(wide, create(wide))
    jobs = mix(small, 1)
    packed, own = [], []
    for asked, output in zip(jobs, Runner(small).run(jobs), strict=True):
        want = stock.run(asked)
        packed.append(apart(output.tokens, want))
        own.append(apart(want, exact.run(asked)))
    mine, theirs = np.concatenate(packed), np.concatenate(own)

    assert mine.mean() < theirs.mean()
    assert mine.max() < theirs.max()
