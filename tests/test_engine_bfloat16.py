"""Packed scoring in bfloat16 on a CPU: as near to float32 as stock transformers in bfloat16, whatever the packing."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from palate.engine.pack import Job
from palate.engine.prefix import PrefixCache
from palate.engine.runner import Runner
from palate.model import Model, attention
from palate.model.residual import widen
from stock import FAMILIES, Stock, apart, branch, create, prompt, save_base, values

TITLES = [[4], [4, 9], [4, 9, 11, 8], [4, 9, 11, 13, 14, 15, 16], [30, 31, 8], [30, 9, 11]]


class Trio:
    """Palate's model in bfloat16, stock transformers in bfloat16 and in float32, of the same weights."""

    def __init__(self, folder: Path) -> None:
        self.mine = create(folder, dtype="bfloat16")
        self.rough, self.exact = (Stock(folder, self.mine, dtype=d) for d in ("bfloat16", "float32"))


@pytest.fixture(scope="module")
def trios(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return lru_cache(maxsize=None)(
        lambda family: Trio(save_base(tmp_path_factory.mktemp(family) / "base", tiny_base, family, dtype="bfloat16"))
    )


@pytest.fixture(params=FAMILIES)
def trio(request: pytest.FixtureRequest, trios: Any) -> Trio:
    found: Trio = trios(request.param)
    return found


def jobs(model: Model, soft: bool = False) -> list[Job]:
    """Prompts from a token to longer than a run of plain products, titles that share beginnings."""
    found = []
    for n, length in enumerate((1, 19, attention.RUN + 41)):
        ids = [1, *(20 + (n + i) % 60 for i in range(length - 1))]
        branches = tuple(branch(model, "abcdef"[i], t, soft and i % 2 == 0) for i, t in enumerate(TITLES))
        found.append(Job(prompt(model, ids, "ab" if soft else ""), "tokens", branches))
    return found


def errors(trio: Trio, asked: list[Job]) -> tuple[np.ndarray, np.ndarray]:
    """Distances from float32 a token: Palate's, stock bfloat16's."""
    got = [values(job, out) for job, out in zip(asked, Runner(trio.mine).run(asked), strict=True)]
    exact = [trio.exact.run(job) for job in asked]
    mine = [apart(a, b) for a, b in zip(got, exact, strict=True)]
    rough = [apart(trio.rough.run(job), b) for job, b in zip(asked, exact, strict=True)]
    return np.concatenate(mine), np.concatenate(rough)


def ratio(trio: Trio, soft: bool) -> float:
    mine, rough = errors(trio, jobs(trio.mine, soft))
    assert mine.any()
    return rms(mine) / rms(rough)


@pytest.mark.parametrize("soft", [False, True], ids=["text", "soft tokens"])
def test_as_near_to_float32_as_stock_bfloat16(trio: Trio, soft: bool) -> None:
    """A lost position or a wrong mask is far off; over some 60 tokens, rounding alone differs by a factor."""
    assert ratio(trio, soft) <= 2.5


def test_nearer_than_stock_bfloat16_over_all_families(trios: Any) -> None:
    ratios = [ratio(trios(family), soft) for family in FAMILIES for soft in (False, True)]
    assert np.exp(np.log(ratios).mean()) <= 1


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))


def test_scores_do_not_hang_on_packs_or_memory(trio: Trio) -> None:
    """Rounding moves with the shapes of products, never by more than bfloat16's own error."""
    asked = jobs(trio.mine, soft=True)
    prefixes = PrefixCache(max_bytes=2**22)
    first = Runner(trio.mine, prefixes=prefixes).run(asked)
    again = Runner(trio.mine, prefixes=prefixes).run(asked)
    small = Runner(trio.mine, max_tokens=attention.RUN + 80).run(asked[::-1])[::-1]
    _, rough = errors(trio, asked)
    for job, *outs in zip(asked, first, again, small, strict=True):
        a, b, c = (values(job, out) for out in outs)
        assert max(apart(a, b).max(), apart(a, c).max()) <= 2 * rough.max()


def test_bases_whose_norms_are_not_known_keep_their_stream() -> None:
    class Body(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.input_layernorm = torch.nn.LayerNorm(4)

    assert not widen(Body())
    assert not widen(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(("dtype", "wide"), [("bfloat16", torch.float32), ("float32", torch.float64)])
def test_the_stream_is_wide_at_inference_alone(tmp_path: Path, tiny_base: Path, dtype: str, wide: torch.dtype) -> None:
    mine = create(save_base(tmp_path / "base", tiny_base, "llama", dtype=dtype), dtype=dtype)
    own = mine.dtype
    seen = []
    layer = mine._views[0].layers[1]
    handle = layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].dtype))
    try:
        from palate.engine.pack import concat

        pack = concat([prompt(mine, range(5))])
        with torch.no_grad():
            assert mine(pack).dtype == own
        mine(pack)
    finally:
        handle.remove()
    assert seen == [wide, own]


def test_in_float32_large_activations_cost_no_small_ones(tmp_path: Path, tiny_base: Path) -> None:
    """Real bases carry a few huge numbers in the stream ("massive activations"), which later layers take back."""
    mine = create(save_base(tmp_path / "base", tiny_base, "llama", dtype="float32"), dtype="float32")
    layers = mine._views[0].layers
    layers[0].register_forward_hook(lambda _, __, out: out + 2.0**20)
    layers[-1].register_forward_hook(lambda _, __, out: out - 2.0**20)
    asked = jobs(mine)

    def scored(wide: bool) -> list[np.ndarray]:
        mine._wide = wide
        return [values(job, out) for job, out in zip(asked, Runner(mine).run(asked), strict=True)]

    wide, narrow = scored(True), scored(False)
    mine.double()  # the truth
    exact = scored(False)
    errors = [max(apart(a, b).max() for a, b in zip(found, exact, strict=True)) for found in (wide, narrow)]
    assert errors[0] < 1e-4 < errors[1]
