"""Packed scoring equals scoring one candidate at a time, whatever the order, the neighbours or the budget."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palate.config import LoraConfig, ModelConfig
from palate.engine.pack import Job, concat, pack
from palate.engine.runner import Runner
from palate.engine.tree import merge
from palate.errors import BudgetError, RequestError, SlotError
from palate.model import Model
from palate.schema import Branch, Features, Prompt, Slot

ITEMS = tuple("abcdef")


def tables(n: int = len(ITEMS)) -> dict[str, Features]:
    rng = np.random.default_rng(3)
    present = np.ones(n, dtype=bool)
    present[-1] = False
    out = {}
    for m, width in (("image", 12), ("behaviour", 8)):
        vectors = rng.normal(size=(n, width)).astype(np.float32) * present[:, None]
        out[m] = Features(m, ITEMS[:n], vectors, present, f"{m}-test")
    return out


@pytest.fixture(scope="module", params=["model", "feature"])
def model(tiny_base: Path, request: pytest.FixtureRequest) -> Model:
    config = ModelConfig(
        base=f"path:{tiny_base}", dtype="float32", fusion=request.param, soft_tokens=2, hidden=16, matching=8,
        lora=LoraConfig(rank=4),
    )  # fmt: skip
    built = Model.create(config, tables(), device="cpu", seed=5)
    with torch.no_grad():  # LoRA starts as the identity; make it count
        for name, p in built.trainable().items():
            if "lora_B" in name:
                p.normal_(std=0.2)
    return built


def prompt(model: Model, tokens: list[int], items: list[str]) -> Prompt:
    assert model.soft is not None
    ids, slots, ends = list(tokens), [], []
    for item in items:
        for kind, k in model.soft.slots(item):
            slots.append(Slot(len(ids), k, kind, item))
            ids += [0] * k
        ids.append(7)
        ends.append(len(ids) - 1)
    return Prompt(np.array(ids, dtype=np.int64), tuple(slots), tuple(items), tuple(ends), len(tokens) - 1)


def branch(model: Model, item: str, tokens: list[int], soft: bool) -> Branch:
    assert model.soft is not None
    ids, slots = list(tokens[:1]), []
    if soft:
        for kind, k in model.soft.slots(item):
            slots.append(Slot(len(ids), k, kind, item))
            ids += [0] * k
    ids += tokens[1:]
    return Branch(item, np.array(ids, dtype=np.int64), tuple(slots))


def naive(model: Model, job: Job) -> list[np.ndarray]:
    """One plain forward per candidate."""
    out = []
    for b in job.branches:
        size = len(job.prompt)
        whole = Prompt(
            np.concatenate([job.prompt.token_ids, b.token_ids]),
            (*job.prompt.slots, *(s.shifted(size) for s in b.slots)),
        )
        with torch.inference_mode():
            logits = model.logits(model(concat([whole])))
            logp = logits.log_softmax(-1).numpy()
        soft = {s.start + i for s in b.slots for i in range(s.length)}
        if job.read == "tokens":
            text = [i for i in range(len(b)) if i not in soft]
            out.append(np.array([logp[size + i - 1, b.token_ids[i]] for i in text]))
        else:
            out.append(logits[size + len(b) - 1, list(job.labels)].numpy())
    return out


token_lists = st.lists(st.integers(3, 40), min_size=2, max_size=6)
jobs_strategy = st.lists(
    st.tuples(
        st.lists(st.integers(3, 40), min_size=1, max_size=8),
        st.lists(st.sampled_from(ITEMS), max_size=4),
        st.lists(st.tuples(st.sampled_from(ITEMS), token_lists, st.booleans()), min_size=1, max_size=6),
        st.sampled_from(["tokens", "labels"]),
    ),
    min_size=1,
    max_size=4,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(spec=jobs_strategy, budget=st.sampled_from([64, 100, 4096]))
def test_packed_equals_naive(model: Model, spec: list, budget: int) -> None:
    jobs = []
    for tokens, items, branches, read in spec:
        bs = tuple(branch(model, i, t, soft) for i, t, soft in branches)
        jobs.append(Job(prompt(model, tokens, items), read, bs, (5, 9, 11) if read == "labels" else ()))
    outputs = Runner(model, max_tokens=budget).run(jobs)
    for job, output in zip(jobs, outputs, strict=True):
        got = output.tokens if job.read == "tokens" else list(output.labels)
        for mine, theirs in zip(got, naive(model, job), strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-4)


def test_order_and_neighbours_do_not_matter(model: Model) -> None:
    bs = tuple(branch(model, i, [4, n + 5, 6, 8], n % 2 == 0) for n, i in enumerate(ITEMS))
    job = Job(prompt(model, [1, 5, 6], ["a", "b"]), "tokens", bs)
    other = Job(prompt(model, [1, 9], ["f", "c", "d"]), "tokens", bs[:2])
    alone = Runner(model).run([job])[0].tokens
    back = Runner(model).run([other, Job(job.prompt, "tokens", bs[::-1])])[1].tokens[::-1]
    for a, b in zip(alone, back, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_query_reads_the_last_history_position(model: Model) -> None:
    p = prompt(model, [1, 5, 6], ["a", "b", "c"])
    query = Runner(model).run([Job(p, "query")])[0].query
    with torch.inference_mode():
        want = model.queries(model(concat([p]))[p.item_ends[-1]][None])[0].numpy()
    np.testing.assert_allclose(query, want, atol=1e-5)


def test_shared_titles_are_stored_once() -> None:
    bs = [Branch(i, np.array(t)) for i, t in (("a", [3, 4, 5, 9]), ("b", [3, 4, 6, 9]), ("c", [3, 4, 5, 9]))]
    tree = merge(bs, drop_last=False)
    assert len(tree.tokens) == 6
    assert tree.paths[0].tolist() == tree.paths[2].tolist()
    assert len(merge(bs, drop_last=True).tokens) == 4
    last = tree.paths[1][-1]
    assert sum(n <= last < end for n, end in enumerate(tree.ends)) == 4


def test_soft_tokens_of_two_items_never_merge() -> None:
    bs = [Branch(i, np.array([3, 0, 0, 9]), (Slot(1, 2, "image", i),)) for i in "ab"]
    tree = merge(bs, drop_last=False)
    assert len(tree.tokens) == 7
    assert [s.item_id for s in tree.slots] == ["a", "b"]


def test_packs_keep_the_budget_and_every_branch(model: Model) -> None:
    bs = tuple(branch(model, "a", [4, n, 6, 8, 9], soft=False) for n in range(10, 40))
    jobs = [Job(prompt(model, [1] * 10, []), "labels", bs, (5,)) for _ in range(3)]
    packs = list(pack(jobs, 40))
    assert max(len(p.pack) for p in packs) <= 40
    seen = sorted((piece.number, n) for p in packs for piece in p.pieces for n in piece.branches)
    assert seen == [(j, n) for j in range(3) for n in range(30)]


def test_too_long_a_candidate_says_so(model: Model) -> None:
    job = Job(prompt(model, [1] * 10, []), "labels", (branch(model, "a", [4] * 30, soft=False),), (5,))
    with pytest.raises(BudgetError, match="a prompt of 10 tokens with a candidate of 30 does not fit a pack of 32"):
        list(pack([job], 32))


def test_empty_prompts_and_candidates_are_refused(model: Model) -> None:
    with pytest.raises(RequestError, match="job 0: expected a prompt of at least one token, got an empty one"):
        list(pack([Job(Prompt(np.empty(0, dtype=np.int64)), "labels")], 32))
    job = Job(prompt(model, [1], []), "tokens", (Branch("a", np.array([5])), Branch("b", np.empty(0, dtype=np.int64))))
    with pytest.raises(RequestError, match="job 0: expected candidate 'b' to have a token, got an empty one"):
        list(pack([job], 32))


def test_slot_counts_are_checked(model: Model) -> None:
    wrong = Prompt(np.array([1, 0, 0, 0]), (Slot(1, 3, "item", "a"),))
    with pytest.raises(SlotError, match="expected 2 positions"):
        model(concat([wrong]))
    twice = Prompt(np.array([1, 0, 0, 0]), (Slot(1, 2, *next(iter(model.soft.projectors)).split(), "a"),) * 2)  # type: ignore[union-attr]
    with pytest.raises(SlotError, match="claim the same position"):
        model(concat([twice]))


def test_training_attention_equals_inference(model: Model) -> None:
    """On a CPU training pads segments into batches; hidden states stay those of the packed forward."""
    sizes = [3, 11, 40, 5, 12]
    pack_ = concat([prompt(model, list(range(3, 3 + n)), ["a"]) for n in sizes])
    with torch.no_grad():
        want = model(pack_)
    got = model(pack_)
    assert got.requires_grad
    torch.testing.assert_close(got.detach(), want, atol=1e-5, rtol=1e-4)
