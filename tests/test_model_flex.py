"""FlexAttention's block masks: exact against the definition, bounded in work, never compiled twice for one bucket."""

from __future__ import annotations

import importlib
import shutil
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from palate.errors import PalateError
from palate.model import flex
from palate.schema import Bools, Ints, Segment

flex_attention_module = importlib.import_module("torch.nn.attention.flex_attention")
CPU = torch.device("cpu")


def trie(rng: np.random.Generator, size: int) -> tuple[Ints, Ints, Ints]:
    """A random forest in depth-first order: ends, depths, parents (-1: a root)."""
    parents, depths, path = [], [], list[int]()
    for n in range(size):
        path = path[: int(rng.integers(0, len(path) + 1))]
        parents.append(path[-1] if path else -1)
        depths.append(len(path))
        path.append(n)
    ends = np.arange(1, size + 1)
    for n in reversed(range(size)):
        if parents[n] >= 0:
            ends[parents[n]] = max(ends[parents[n]], ends[n])
    return ends, np.array(depths, dtype=np.int64), np.array(parents, dtype=np.int64)


def forest(rng: np.random.Generator, count: int, memory: int, prefix: int, branch: int, beams: bool = False):
    """Random segments with the rows' positions and, from the definition, bool [T, S], [T] and [S] positions.

    S counts every segment's memory, one after the other, then the rows.
    """
    segments, positions, parts, start = [], [], [], 0
    for _ in range(count):
        m, p, b = (int(rng.integers(0, n + 1)) for n in (memory, prefix, branch))
        p = max(p, 1 - b)
        ends, depths, parents = trie(rng, b)
        among = np.zeros((p + b, p + b), dtype=bool)
        for r in range(p + b):
            among[r, : min(r + 1, p)] = True
            n = r - p
            while n >= 0:
                among[r, p + n] = True
                n = int(parents[n])
        sees = rng.random((p + b, m)) < 0.6 if beams and m else np.ones((p + b, m), dtype=bool)
        places = np.sort(rng.integers(0, m, m)) if beams and m else np.arange(m)
        segments.append(
            Segment(start, p, b, ends if b else None, m, sees if beams and m else None, places if beams and m else None)
        )
        positions.append(np.concatenate([m + np.arange(p), m + p + depths]))
        parts.append((sees, among, places))
        start += p + b
    row_at = np.concatenate(positions)
    total = sum(s.memory for s in segments)
    seen = np.zeros((start, total + start), dtype=bool)
    at = 0
    for s, (sees, among, _) in zip(segments, parts, strict=True):
        seen[s.start : s.stop, at : at + s.memory] = sees
        seen[s.start : s.stop, total + s.start : total + s.stop] = among
        at += s.memory
    return tuple(segments), row_at, seen, np.concatenate([*(places for *_, places in parts), row_at])


def within(seen: Bools, row_at: Ints, key_at: Ints, window: int | None) -> Bools:
    return seen if window is None else seen & (row_at[:, None] - key_at[None, :] < window)


def reference(q: Tensor, k: Tensor, v: Tensor, seen: Bools, scale: float, softcap: float | None) -> Tensor:
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1).double(), v.repeat_interleave(groups, 1).double()
    logits = q.double() @ k.transpose(2, 3) * scale
    if softcap is not None:
        logits = softcap * torch.tanh(logits / softcap)
    return (logits.masked_fill(~torch.from_numpy(seen), -torch.inf).softmax(-1) @ v).to(q.dtype)


def built(segments, row_at: Ints, window: int | None, device: torch.device = CPU):
    """The pack's mask at its bucket, and which memory positions it reads."""
    geometry, taken = flex.Geometry.of(segments, row_at)
    rows = flex.bucket(len(row_at))
    return flex.block_mask(geometry, rows, flex.key_bucket(rows, geometry.memory), window, device), taken


def tensors(seed: int, rows: int, keys: int, heads: int, kv_heads: int, device: torch.device = CPU) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(1, heads, rows, 16), (1, kv_heads, keys, 16), (1, kv_heads, keys, 16)]
    return [torch.randn(shape, generator=generator).to(device) for shape in shapes]


def gathered(x: Tensor, taken: Ints, rows: int) -> Tensor:
    """Keys or values [1, h, S, d] as the mask's geometry wants them: the memory that it takes, then the rows."""
    memory = x.shape[2] - rows
    return torch.cat([x[:, :, torch.from_numpy(taken)], x[:, :, memory:]], dim=2)


@pytest.mark.parametrize("rows", [0, 1, 127, 128, 129, 1000, 1024, 1025, 2048, 2049, 5000, 16384, 16385, 100_000])
def test_a_bucket_wastes_little(rows: int) -> None:
    size = flex.bucket(rows)
    assert size >= max(rows, 1)
    assert size % flex.BLOCK == 0
    assert size - rows < max(128, rows / 8) or rows == 0
    assert flex.bucket(size) == size


def test_buckets_are_few() -> None:
    assert len({flex.bucket(rows) for rows in range(1, 16385)}) == 40
    sizes = [flex.key_bucket(256, memory) for memory in range(40_000)]
    assert sorted(set(sizes)) == [256, 1280, 2304, 4352, 8448, 16640, 33024, 65792]
    assert all(size >= 256 + memory for memory, size in enumerate(sizes))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10**6), st.integers(1, 6), st.sampled_from([None, 1, 3, 12, 1000]), st.booleans())
def test_intervals_are_the_definition(seed: int, count: int, window: int | None, beams: bool) -> None:
    """The mask_mod pair by pair, and the block relation, whose sparse and full blocks kernels take on trust."""
    rng = np.random.default_rng(seed)
    segments, row_at, seen, key_at = forest(rng, count, 20, 12, 16, beams)
    geometry, taken = flex.Geometry.of(segments, row_at)
    length, total = seen.shape[0], seen.shape[1] - seen.shape[0]
    block = 8
    rows = -(-length // block) * block + block * int(rng.integers(0, 2))
    keys = -(-(geometry.memory + rows) // block) * block + block * int(rng.integers(0, 3))
    mask = flex.block_mask(geometry, rows, keys, window, CPU, block)

    expected = np.zeros((rows, keys), dtype=bool)
    memory = expected[:length, keys - rows - geometry.memory : keys - rows]  # behind the padding
    allowed = within(seen, row_at, key_at, window)
    for place, source in enumerate(taken):
        held = (geometry.first[place] <= np.arange(length)) & (np.arange(length) < geometry.last[place])
        memory[:, place] = allowed[:, source] & held
    for source in range(total):  # a position that stands several times is seen once by each of its rows
        np.testing.assert_array_equal(memory[:, taken == source].sum(1), allowed[:, source])
    expected[:length, keys - rows : keys - rows + length] = allowed[:, total:]
    spare = np.arange(length, rows)
    expected[spare, keys - rows + spare] = True

    zero = torch.zeros((), dtype=torch.int64)
    row, key = torch.arange(rows)[:, None], torch.arange(keys)[None, :]
    got = mask.mask_mod(zero, zero, row, key).numpy()
    np.testing.assert_array_equal(got, expected)

    pairs = expected.reshape(rows // block, block, keys // block, block).sum((1, 3))
    partial, full = blocks(mask)
    assert not (partial & full).any()
    assert ((partial | full) >= (pairs > 0)).all()
    assert (full <= (pairs == block * block)).all()
    if window is None:
        np.testing.assert_array_equal(full, pairs == block * block)
        np.testing.assert_array_equal(partial, (pairs > 0) & (pairs < block * block))
    for ours, theirs in zip(blocks(mask, transposed=True), (partial, full), strict=True):
        np.testing.assert_array_equal(ours, theirs.T)


def blocks(mask, transposed: bool = False) -> tuple[Bools, Bools]:
    """The relation read back from the index lists: partial, full."""
    side = "q" if transposed else "kv"
    out = []
    for kind in ("", "full_"):
        counts = getattr(mask, f"{kind}{side}_num_blocks")[0, 0].cpu().numpy()
        indices = getattr(mask, f"{kind}{side}_indices")[0, 0].cpu().numpy()
        assert indices.dtype == counts.dtype == np.int32
        np.testing.assert_array_equal(
            np.sort(indices, axis=1), np.broadcast_to(np.arange(indices.shape[1]), indices.shape)
        )
        dense = np.zeros(indices.shape, dtype=bool)
        for r, n in enumerate(counts):
            dense[r, indices[r, :n]] = True
        out.append(dense)
    return out[0], out[1]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.integers(0, 10**6),
    st.integers(1, 5),
    st.sampled_from([None, 2, 9]),
    st.sampled_from([None, 2.0]),
    st.sampled_from([(4, 4), (4, 2), (3, 1)]),
    st.booleans(),
)
def test_attention_is_the_dense_reference(
    seed: int, count: int, window: int | None, softcap: float | None, heads: tuple[int, int], padded: bool
) -> None:
    rng = np.random.default_rng(seed)
    segments, row_at, seen, key_at = forest(rng, count, 15, 12, 16, beams=bool(seed % 2))
    mask, taken = built(segments, row_at, window)
    length = len(row_at)
    q, k, v = tensors(seed, length, seen.shape[1], *heads)
    expected = reference(q, k, v, within(seen, row_at, key_at, window), 0.3, softcap)
    k, v = gathered(k, taken, length), gathered(v, taken, length)
    if padded:  # the forward itself ran on the bucket: padding rows carry numbers, not zeros
        spare = mask.seq_lengths[0] - length
        q, k, v = (torch.cat([x, torch.randn(1, x.shape[1], spare, 16)], dim=2) for x in (q, k, v))
    # torch's switch for debugging: the plain version at once, without tracing it anew for every shape.
    with patch.object(flex_attention_module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True):
        out = flex.attend(q, k, v, mask, 0.3, softcap)
    assert out.shape == q.shape
    assert bool(out.isfinite().all())
    torch.testing.assert_close(out[:, :, :length], expected, rtol=1e-5, atol=2e-6)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")
def test_elsewhere_than_on_cuda_it_is_the_plain_version() -> None:
    """torch warns of it, since it holds all scores at once; on a CPU it stands in for the kernel in tests only."""
    segments, row_at, seen, _ = forest(np.random.default_rng(3), 3, 5, 6, 7)
    mask, taken = built(segments, row_at, None)
    q, k, v = tensors(3, len(row_at), seen.shape[1], 4, 2)
    out = flex.attend(q, gathered(k, taken, len(row_at)), gathered(v, taken, len(row_at)), mask)
    torch.testing.assert_close(out, reference(q, k, v, seen, 0.25, None), rtol=1e-5, atol=2e-6)


def test_shapes_depend_on_the_bucket_alone() -> None:
    rng = np.random.default_rng(5)
    shapes = set()
    for count in (3, 5):
        segments, row_at, *_ = forest(rng, count, 30, 12, 10)
        mask, _ = built(segments, row_at, 7)
        held = [x for x in mask.as_tuple() if isinstance(x, Tensor)]
        held += [cell.cell_contents for cell in mask.mask_mod.__closure__]
        assert all(isinstance(x, Tensor) and x.dtype == torch.int32 and not x.is_inference() for x in held)
        assert all(x.data_ptr() % 16 == held[0].data_ptr() % 16 for x in held)
        shapes.add(tuple((x.shape, x.stride()) for x in held))
    assert len(shapes) == 1


def test_a_mask_made_in_inference_mode_is_an_ordinary_one() -> None:
    segments, row_at, *_ = forest(np.random.default_rng(0), 2, 3, 4, 4)
    with torch.inference_mode():
        mask, _ = built(segments, row_at, None)
    assert not mask.kv_indices.is_inference()


def many(count: int, memory: int, prefix: int, branch: int) -> tuple[Segment, ...]:
    rng = np.random.default_rng(1)
    rows = prefix + branch
    return tuple(Segment(n * rows, prefix, branch, trie(rng, branch)[0], memory) for n in range(count))


@pytest.mark.parametrize(
    ("memory", "prefix", "branch"), [(0, 20, 20), (0, 60, 80), (30, 5, 30), (100, 10, 40), (300, 4, 100)]
)
def test_visits_no_more_blocks_than_dense_segments(memory: int, prefix: int, branch: int) -> None:
    count = 8192 // (prefix + branch)
    segments = many(count, memory, prefix, branch)
    row_at = np.concatenate([memory + np.arange(prefix + branch)] * count)
    mask, _ = built(segments, row_at, None)
    visited = int(mask.kv_num_blocks.sum() + mask.full_kv_num_blocks.sum())
    rows, keys = (-(-n // flex.BLOCK) for n in (prefix + branch, memory + prefix + branch))
    # With memory a segment's two runs of keys and its rows may each lie across blocks, where a dense one begins anew.
    assert visited <= count * rows * keys * (2 if memory else 1)
    assert visited <= 0.1 * mask.kv_indices.shape[-2] * mask.kv_indices.shape[-1]


def test_a_window_prunes_blocks() -> None:
    counts = []
    for window in (None, 4096, 256):
        mask, _ = built((Segment(0, 4096, 0),), np.arange(4096), window)
        counts.append(tuple(int(dense.sum()) for dense in blocks(mask)))
    # 32 x 32 blocks: the triangle; then of each row its own block, one full block and one at the window's far edge.
    assert counts == [(32, 496), (32, 496), (32 + 30, 31)]


def test_wrong_lengths_and_geometries_are_refused() -> None:
    at = np.arange(4)
    good = flex.Geometry(at, np.full(4, 4), at, at)
    with pytest.raises(PalateError, match=r"expected rows >= 4 and keys >= rows \+ 0, multiples of 128; got 130 rows"):
        flex.block_mask(good, 130, 256, None, CPU)
    with pytest.raises(PalateError, match="keys: take rows"):
        flex.block_mask(good, 256, 128, None, CPU)
    with pytest.raises(PalateError, match="every row to see its own key, got row 2"):
        flex.block_mask(flex.Geometry(at, np.array([4, 4, 2, 4]), at, at), 128, 128, None, CPU)
    with pytest.raises(PalateError, match="last <= 4 rows, got 0 and 5"):
        flex.block_mask(flex.Geometry(at, np.array([4, 5, 4, 4]), at, at), 128, 128, None, CPU)
    mask = flex.block_mask(good, 128, 128, None, CPU)
    with pytest.raises(PalateError, match="at most 128 rows and 0 keys of memory, as in the mask; got 4 and 1"):
        flex.attend(*tensors(0, 4, 5, 2, 2), mask)


def several_packs(device: torch.device, tolerance: float) -> list[int]:
    """Three different packs of one bucket, windowed, capped, heads grouped; how many graphs existed after each."""
    graphs: list[int] = []
    for seed in range(200):
        segments, row_at, seen, key_at = forest(np.random.default_rng(seed), 2 + seed % 2, 330, 170, 40)
        if not 128 < len(row_at) < 256:
            continue
        mask, taken = built(segments, row_at, 400, device)
        if not blocks(mask)[1].any():  # a full block, so that both lists are read
            continue
        q, k, v = tensors(seed, len(row_at), seen.shape[1], 4, 2)
        expected = reference(q, k, v, within(seen, row_at, key_at, 400), 0.25, 5.0)
        k, v = gathered(k, taken, len(row_at)), gathered(v, taken, len(row_at))
        with torch.no_grad():
            out = flex.attend(q.to(device), k.to(device), v.to(device), mask, 0.25, 5.0).cpu()
        torch.testing.assert_close(out, expected, rtol=tolerance, atol=tolerance)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        if len(graphs) == 3:
            break
    return graphs


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs a C++ compiler")
def test_new_packs_of_a_bucket_compile_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The compiled kernel, which unlike the plain one reads the block lists, in its CPU form."""
    from torch._inductor.kernel.flex.flex_cpu import check_cpu_supported

    if not check_cpu_supported():
        pytest.skip("torch compiles FlexAttention on CPUs with AVX2 only")
    monkeypatch.setattr(flex, "_flex", flex._compiled())
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert several_packs(CPU, 2e-5) == [1, 1, 1]


def test_more_buckets_than_torch_keeps_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as for CUDA, run without code generation: a graph a bucket, none for keys that view a growing buffer."""
    traced = torch.compile(flex._flex, backend="eager", dynamic=False, fullgraph=True)
    monkeypatch.setattr(flex, "_kernel", lambda: traced)
    monkeypatch.setattr(flex, "_flex", lambda *args: flex._compiled()(*args))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    at = np.arange(100)
    geometry = flex.Geometry(at, np.full(100, 100), at, at)
    with torch._dynamo.config.patch(recompile_limit=2):  # in place of 8, to be quick
        for n in range(1, 5):
            mask = flex.block_mask(geometry, 128 * n, 128 * n, None, CPU)
            for room in (0, 10, 50):
                views = [x[:, :, : 128 * n] for x in tensors(n, 128 * n, 128 * n + room, 2, 1)]
                flex.attend(*views, mask)
            assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == n


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_and_compiles_once() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    assert several_packs(torch.device("cuda"), 1e-4) == [1, 1, 1]
