"""Packed scoring of other architectures equals stock transformers, one candidate at a time, in fp32.

Each family brings something an attention function must honour: sliding windows shorter than the prompts, soft-capped
logits, two rope bases, normalised queries and keys, scaled embeddings, scaled logits.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from palate.engine.generate import generate
from palate.engine.pack import Job
from palate.engine.prefix import PrefixCache
from palate.engine.runner import Runner
from palate.engine.trie import Trie
from palate.errors import BudgetError, ConfigError
from palate.model import Model, layout
from palate.schema import Branch
from stock import FAMILIES, WINDOWED, Stock, apart, branch, create, prompt, save_base, values

TOLERANCE = 1e-4
"""Largest difference of one token's log-probability, fp32."""

TITLES = [[4], [4, 9], [4, 9, 11, 8], [4, 9, 11, 13, 14, 15, 16], [30, 31, 8], [4, 9, 11, 8], [30, 9, 11]]
"""One-token titles, titles that begin others, a duplicate, one longer than the sliding windows."""


class Pair:
    """Palate's model and stock transformers over one base, untuned and with an adapter."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.base = create(folder, adapter=False)
        self.tuned = create(folder)
        self.stock_base = Stock(folder, self.base)
        self.stock_tuned = Stock(folder, self.tuned)


@pytest.fixture(scope="module")
def pairs(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return lru_cache(maxsize=None)(
        lambda family: Pair(save_base(tmp_path_factory.mktemp(family) / "base", tiny_base, family))
    )


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest, pairs: Any) -> Pair:
    found: Pair = pairs(request.param)
    return found


def jobs(model: Model, items: str = "", soft: bool = False) -> list[Job]:
    """Prompts of several lengths, all three reads, candidates that share beginnings."""
    out = []
    for n, length in enumerate((1, 4, 19)):
        p = prompt(model, [1, *range(20 + n, 19 + n + length)], items)
        branches = tuple(branch(model, "abcdefa"[i], t, soft and i % 2 == 0) for i, t in enumerate(TITLES))
        out.append(Job(p, "tokens", branches))
        out.append(Job(p, "labels", branches[n:], (5, 9, 11)))
        out.append(Job(p, "labels", (), (9, 5)))
        if model.has_matching:
            out.append(Job(p, "query"))
    return out


def check(
    mine: Model, stock: Stock, asked: list[Job], prefixes: PrefixCache | None = None, max_tokens: int = 4096
) -> None:
    for job, output in zip(asked, Runner(mine, max_tokens, prefixes).run(asked), strict=True):
        assert apart(values(job, output), stock.run(job)).max() < TOLERANCE, job.read


def test_untuned_base(pair: Pair) -> None:
    check(pair.base, pair.stock_base, jobs(pair.base))


def test_adapter(pair: Pair) -> None:
    check(pair.tuned, pair.stock_tuned, jobs(pair.tuned))


def test_soft_tokens_in_prompts_and_candidates(pair: Pair) -> None:
    check(pair.tuned, pair.stock_tuned, jobs(pair.tuned, "abf", soft=True))


def test_small_packs(pair: Pair) -> None:
    check(pair.tuned, pair.stock_tuned, jobs(pair.tuned, "ea", soft=True), max_tokens=60)


def test_stock_sdpa_agrees(pairs: Any) -> None:
    """The reference itself: transformers' second attention gives what its first one gives."""
    pair = pairs("qwen2")
    other = Stock(pair.folder, pair.tuned, attention="sdpa")
    for job in jobs(pair.tuned, "ab", soft=True):
        assert apart(other.run(job), pair.stock_tuned.run(job)).max() < TOLERANCE


def test_generation_of_every_candidate(pair: Pair) -> None:
    """Beams enough to lose no title, fewer than titles, so that it must search: the stock model's own scores, for users
    with prompts of different lengths."""
    titles = [np.array([*t, 2]) for t in TITLES]
    prompts = [prompt(pair.tuned, range(3, 3 + n), items) for n, items in ((1, ""), (9, "a"), (9, "f"), (14, ""))]
    found = generate(pair.tuned, prompts, Trie.build(titles), beams=3, k=len(titles), max_rows=5)
    for p, ranked in zip(prompts, found, strict=True):
        want = np.array([pair.stock_tuned.tokens(p, Branch(str(i), t)).sum() for i, t in enumerate(titles)])
        assert sorted(i for i, _ in ranked) == list(range(len(titles)))
        np.testing.assert_allclose([s for _, s in ranked], want[[i for i, _ in ranked]], atol=TOLERANCE)


def test_soft_tokens_start_at_the_size_of_what_the_base_reads(pair: Pair) -> None:
    """Also where a family scales its embeddings after the lookup (Gemma)."""
    assert pair.tuned.soft is not None
    with torch.inference_mode():
        words = pair.stock_base.lm.get_input_embeddings()(torch.arange(3, 300)).norm(dim=-1).mean()
        soft = create(pair.folder).soft.vectors("image", ["a", "b"]).norm(dim=-1)  # type: ignore[union-attr]
    torch.testing.assert_close(soft, words.expand_as(soft), rtol=0.1, atol=0)


@pytest.mark.parametrize("family", WINDOWED)
def test_the_reference_notices_a_lost_window(family: str, pairs: Any) -> None:
    """What keeps the tests above honest: without its sliding window each of these families scores otherwise."""
    pair = pairs(family)
    wide = save_base(pair.folder.parent / "wide", pair.folder, family, sliding_window=400)
    job = jobs(pair.base)[6]
    assert len(job.prompt) == 19
    assert apart(Stock(wide, pair.base).run(job), pair.stock_base.run(job)).max() > 0.05


def test_the_reference_notices_a_leak(pair: Pair) -> None:
    """And a candidate that sees its neighbour, or one whose positions run on, scores otherwise too."""
    p, (a, b) = (
        prompt(pair.base, [1, 5, 6, 7, 8]),
        (branch(pair.base, "a", [4, 9, 11]), branch(pair.base, "b", [30, 9, 11])),
    )
    size = len(a)
    both = Branch("ab", np.concatenate([a.token_ids, b.token_ids]))
    leaked = pair.stock_base.tokens(p, both)[size + 1 :]
    assert np.abs(leaked - pair.stock_base.tokens(p, b)[1:]).max() > 0.05


def test_prompts_from_memory(pair: Pair) -> None:
    """Keys and values kept across calls: positions, windows and both rope bases go on where they stood."""
    cache = PrefixCache()
    runner = Runner(pair.tuned, max_tokens=200, prefixes=cache)
    for length in (30, 50, 50):
        asked = [
            Job(
                prompt(pair.tuned, [1, *range(20, 20 + length)], "ab"),
                "tokens",
                tuple(branch(pair.tuned, "c", t, soft=True) for t in TITLES),
            )
        ]
        for job, output in zip(asked, runner.run(asked), strict=True):
            assert apart(output.tokens, pair.stock_tuned.run(job)).max() < TOLERANCE
    assert cache.stats.found == 16 + 48


@pytest.mark.filterwarnings(
    # the uncompiled kernel is what a CPU can run of the CUDA path, and this test wants it
    "ignore:flex_attention called without torch.compile:UserWarning"
)
def test_the_blockwise_path(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "BLOCKWISE", {"cpu"})
    check(pair.tuned, pair.stock_tuned, jobs(pair.tuned, "ab", soft=True), PrefixCache())


# --- bases that cannot be packed --------------------------------------------------------------------

OTHERS = {
    "bloom": {"n_layer": 2, "n_head": 4},  # ALiBi
    "mamba2": {"num_heads": 8, "head_dim": 8, "state_size": 8, "n_groups": 1, "expand": 2},
    "lfm2": {"full_attn_idxs": [1]},  # convolutions between attention layers
    "falcon_h1": {},  # Mamba beside attention in every layer
    "gpt_oss": {"num_local_experts": 2, "num_experts_per_tok": 1, "head_dim": 8},  # attention sinks
}


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.parametrize("family", OTHERS)
def test_a_base_that_would_mix_requests_is_refused(family: str, tiny_base: Path, tmp_path: Path) -> None:
    model = create(save_base(tmp_path / "base", tiny_base, family, **OTHERS[family]), adapter=False)
    with pytest.raises(ConfigError, match=r"whose layers mix positions only by|has sinks or a mask of its own"):
        Runner(model).run(jobs(model)[:1])


def test_positions_that_depend_on_the_neighbours_are_refused(tiny_base: Path, tmp_path: Path) -> None:
    """Phi-3's longrope turns all positions of a call otherwise once one of them is past the original length."""
    rope = {
        "rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4, "rope_theta": 10000.0,
        "original_max_position_embeddings": 32,
    }  # fmt: skip
    base = save_base(tmp_path / "base", tiny_base, "phi3", rope_parameters=rope, original_max_position_embeddings=32)
    model = create(base, adapter=False)
    check(model, Stock(base, model), jobs(model))
    with pytest.raises(BudgetError, match="expected prompts with candidates of at most 32 tokens, got one of 41"):
        Runner(model).run([Job(prompt(model, range(20, 61)), "labels", (), (5,))])
