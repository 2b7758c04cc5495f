"""Constrained generation: only allowed titles, exact scores, exhaustive when the beams are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palate.config import ModelConfig
from palate.engine.generate import generate
from palate.engine.pack import Job
from palate.engine.runner import Runner
from palate.engine.trie import Trie
from palate.errors import EmptyLegalSet, RequestError
from palate.model import Model
from palate.schema import Branch, Prompt, Slot
from tiny import adapted

ITEMS = tuple("abcdef")


@pytest.fixture(scope="module")
def model(tiny_base: Path) -> Model:
    built = adapted(tiny_base, soft_tokens=2)
    with torch.no_grad():  # make the base less even
        built.lm.get_input_embeddings().weight.mul_(8)
    return built


def prompt(tokens: list[int], items: str = "") -> Prompt:
    ids, slots = list(tokens), []
    for item in items:
        slots.append(Slot(len(ids), 2, "image", item))
        ids += [0, 0, 7]
    return Prompt(np.array(ids, dtype=np.int64), tuple(slots))


def catalogue(n: int, seed: int = 0, vocabulary: int = 30) -> list[np.ndarray]:
    """Titles of 1 to 6 tokens ended by 2, with shared beginnings and duplicates."""
    rng = np.random.default_rng(seed)
    return [np.append(rng.integers(3, 3 + vocabulary, rng.integers(1, 7)), 2) for _ in range(n)]


def exhaustive(model: Model, p: Prompt, titles: list[np.ndarray]) -> np.ndarray:
    branches = tuple(Branch(str(n), t) for n, t in enumerate(titles))
    return np.array([t.sum() for t in Runner(model).run([Job(p, "tokens", branches)])[0].tokens])


def check_exact(found: list[tuple[int, float]], want: np.ndarray, tolerance: float = 1e-4) -> None:
    items = [i for i, _ in found]
    assert len(set(items)) == len(items)
    np.testing.assert_allclose([s for _, s in found], want[items], atol=tolerance)
    assert (np.diff([s for _, s in found]) <= 0).all()


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    n=st.integers(1, 40),
    seed=st.integers(0, 10**6),
    tokens=st.lists(st.integers(3, 60), min_size=1, max_size=9),
    items=st.text("abcdef", max_size=3),
    vocabulary=st.sampled_from([2, 5, 40]),
    max_rows=st.sampled_from([3, 256]),
)
def test_enough_beams_equal_exhaustive_scoring(
    model: Model, n: int, seed: int, tokens: list[int], items: str, vocabulary: int, max_rows: int
) -> None:
    titles = catalogue(n, seed, vocabulary)
    p = prompt(tokens, items)
    found = generate(model, [p], Trie.build(titles), beams=n, k=n, max_rows=max_rows)[0]
    assert sorted(i for i, _ in found) == list(range(n))
    check_exact(found, exhaustive(model, p, titles))


def test_titles_that_begin_other_titles(model: Model) -> None:
    titles = [np.array(t) for t in ([5], [5, 6], [5, 6, 7], [8, 9], [5, 6])]
    found = generate(model, [prompt([1, 4])], Trie.build(titles), beams=5, k=5)[0]
    check_exact(found, exhaustive(model, prompt([1, 4]), titles))
    assert len(found) == 5


def test_the_best_of_an_exhaustive_search_is_found_early(model: Model) -> None:
    titles = catalogue(200, 4)
    p = prompt([1, 9, 12], "ab")
    trie, want = Trie.build(titles), exhaustive(model, p, titles)
    for k in (1, 7):
        found = generate(model, [p], trie, beams=200, k=k)[0]
        check_exact(found, want)
        assert [i for i, _ in found] == [i for i, _ in generate(model, [p], trie, beams=200, k=200)[0][:k]]
        np.testing.assert_allclose([s for _, s in found], np.sort(want)[::-1][:k], atol=1e-4)


@pytest.mark.parametrize("penalty", [1.0, 0.5, -0.5])
def test_length_normalisation(model: Model, penalty: float) -> None:
    titles = catalogue(60, 5)
    p = prompt([1, 9, 12])
    want = exhaustive(model, p, titles) / np.array([len(t) for t in titles]) ** penalty
    found = generate(model, [p], Trie.build(titles), beams=60, k=5, length_penalty=penalty)[0]
    check_exact(found, want)
    np.testing.assert_allclose([s for _, s in found], np.sort(want)[::-1][:5], atol=1e-4)


def test_narrow_beams_say_only_allowed_titles(model: Model) -> None:
    rng = np.random.default_rng(2)
    titles = catalogue(300, 6, vocabulary=12)
    trie = Trie.build(titles)
    prompts = [prompt(rng.integers(3, 60, rng.integers(1, 6)).tolist(), "abc"[: n % 4]) for n in range(40)]
    masks = [rng.random(300) < share for share in rng.choice([0.02, 0.3, 1.0], 40)]
    for mask in masks:
        mask[rng.integers(300)] = True
    seen = 0
    for p, mask, found in zip(
        prompts, masks, generate(model, prompts, trie, beams=12, k=12, allowed=masks), strict=True
    ):
        assert found
        assert all(mask[i] for i, _ in found)
        check_exact(found, exhaustive(model, p, titles))
        seen += len(found)
    assert seen >= 300


def test_a_user_does_not_depend_on_the_others(model: Model) -> None:
    titles = catalogue(80, 7)
    trie = Trie.build(titles)
    prompts = [
        prompt([1, 9, 12]),
        prompt([1, 8, 12]),
        prompt([1, 3], "a"),
        prompt([5, 5, 5], "cd"),
        prompt([1, 9, 12]),
    ]
    mask = np.arange(80) % 3 == 0
    masks = [None, mask, None, mask, mask]
    together = generate(model, prompts, trie, beams=6, k=6, allowed=masks)
    for n, p in enumerate(prompts):
        alone = generate(model, [p], trie, beams=6, k=6, allowed=[masks[n]], max_rows=4)[0]
        assert [i for i, _ in alone] == [i for i, _ in together[n]]
        np.testing.assert_allclose([s for _, s in alone], [s for _, s in together[n]], atol=1e-4)
    assert together[0] != together[4]


def test_duplicate_titles_keep_all_items(model: Model) -> None:
    one, other = np.array([5, 6, 2]), np.array([9, 2])
    found = generate(model, [prompt([1, 4])], Trie.build([one, other, one, one]), beams=2, k=4)[0]
    scores = dict(found)
    assert sorted(scores) == [0, 1, 2, 3]
    assert scores[0] == scores[2] == scores[3]
    assert [i for i, _ in found if i != 1] == [0, 2, 3]


def test_the_generation_config_of_the_base_is_never_asked(model: Model) -> None:
    trie, p = Trie.build(catalogue(50, 8)), prompt([1, 9, 12])
    before = generate(model, [p], trie, beams=50, k=50)
    settings_of = model.lm.get_base_model().generation_config
    kept = (settings_of.top_k, settings_of.top_p, settings_of.max_new_tokens)
    settings_of.top_k, settings_of.top_p, settings_of.max_new_tokens = 1, 0.01, 1
    try:
        assert generate(model, [p], trie, beams=50, k=50) == before
    finally:
        settings_of.top_k, settings_of.top_p, settings_of.max_new_tokens = kept
    assert len(before[0]) == 50


@pytest.mark.parametrize("family", ["mistral", "gemma2", "qwen3"])
def test_other_architectures(family: str, tiny_base: Path, tmp_path: Path) -> None:
    """Sliding windows shorter than the prompt, soft-capped logits, normalised queries and keys."""
    import shutil

    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(tiny_base, tmp_path / "base")
    old = AutoConfig.from_pretrained(tiny_base)
    config = AutoConfig.for_model(
        family, vocab_size=old.vocab_size, hidden_size=32, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, sliding_window=6,
        max_position_embeddings=256,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    torch.manual_seed(1)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    settings_of = ModelConfig(base=f"path:{tmp_path / 'base'}", dtype="float32")
    base = Model.create(settings_of, {}, device="cpu", adapter=False)
    assert base.lm.config.model_type == family
    titles = catalogue(30, 9)
    prompts = [prompt(list(range(3, 3 + n))) for n in (2, 9, 9, 14)]
    for p, found in zip(prompts, generate(base, prompts, Trie.build(titles), beams=30, k=30, max_rows=70), strict=True):
        assert len(found) == 30
        check_exact(found, exhaustive(base, p, titles))


def test_mistakes_are_named(model: Model) -> None:
    trie, p = Trie.build(catalogue(5)), prompt([1, 4])
    none = np.zeros(5, dtype=bool)
    with pytest.raises(EmptyLegalSet, match="prompt 1: the filters leave none of the 5 items"):
        generate(model, [p, p], trie, allowed=[None, none])
    with pytest.raises(RequestError, match="expected 1 filter masks, one a prompt, got 2"):
        generate(model, [p], trie, allowed=[None, None])
    with pytest.raises(RequestError, match="beams: expected 1 or more, got 0"):
        generate(model, [p], trie, beams=0)
    with pytest.raises(RequestError, match="length_penalty: expected a number, got nan"):
        generate(model, [p], trie, length_penalty=float("nan"))
    with pytest.raises(RequestError, match="prompt 0: expected at least one token"):
        generate(model, [prompt([])], trie)
    assert generate(model, [], trie) == []
