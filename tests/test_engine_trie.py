"""The trie allows exactly what the titles allow, filtered or not, and keeps every item of a shared title."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palate.engine.trie import Trie, ragged
from palate.errors import EmptyLegalSet, RequestError
from palate.schema import Branch, Slot

titles = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6), min_size=1, max_size=25)


def build(sequences: list[list[int]]) -> Trie:
    return Trie.build([np.array(s, dtype=np.int64) for s in sequences])


def walk(trie: Trie, sequences: list[list[int]], mask: np.ndarray | None) -> None:
    """Compare every reachable node with brute force over the allowed sequences."""
    allowed = [n for n in range(len(sequences)) if mask is None or mask[n]]
    view = trie.restrict(mask)
    found: list[int] = []
    level: dict[int, tuple[int, ...]] = {0: ()}
    while level:
        nodes = np.array(sorted(level), dtype=np.int64)
        rows, tokens, children = view.legal(nodes)
        assert (np.diff(rows) >= 0).all()
        item_rows, items = view.items(nodes)
        inner = view.inner(nodes)
        following: dict[int, tuple[int, ...]] = {}
        for row, node in enumerate(nodes.tolist()):
            path = level[node]
            here = [n for n in allowed if tuple(sequences[n][: len(path)]) == path]
            want = sorted({sequences[n][len(path)] for n in here if len(sequences[n]) > len(path)})
            assert tokens[rows == row].tolist() == want
            assert bool(inner[row]) == bool(want)
            assert items[item_rows == row].tolist() == [n for n in here if len(sequences[n]) == len(path)]
            found += items[item_rows == row].tolist()
            for token, child in zip(tokens[rows == row].tolist(), children[rows == row].tolist(), strict=True):
                following[child] = (*path, token)
        assert len(following) == len(children)  # no node is reached twice
        level = following
    assert sorted(found) == allowed


@settings(deadline=None)
@given(sequences=titles)
def test_legal_tokens_equal_brute_force(sequences: list[list[int]]) -> None:
    trie = build(sequences)
    walk(trie, sequences, None)
    assert trie.nodes == 1 + len({tuple(s[:n]) for s in sequences for n in range(1, len(s) + 1)})
    assert trie.depth == max(map(len, sequences))
    assert [sequences[n] for n in trie.order] == sorted(sequences)


@settings(deadline=None)
@given(sequences=titles, data=st.data())
def test_a_filter_equals_a_trie_of_the_allowed_titles(sequences: list[list[int]], data: st.DataObject) -> None:
    size = len(sequences)
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=bool)
    trie = build(sequences)
    if not mask.any():
        with pytest.raises(EmptyLegalSet, match=f"leave none of the {size} items"):
            trie.restrict(mask)
        return
    walk(trie, sequences, mask)
    walk(build([s for s, keep in zip(sequences, mask, strict=True) if keep]), np_list(sequences, mask), None)


def np_list(sequences: list[list[int]], mask: np.ndarray) -> list[list[int]]:
    return [s for s, keep in zip(sequences, mask, strict=True) if keep]


def test_flat_arrays_and_lists_build_the_same_trie() -> None:
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 50, rng.integers(1, 12)) for _ in range(400)]
    flat = np.concatenate(sequences).astype(np.int32)
    indptr = np.cumsum([0, *map(len, sequences)])
    one, two = Trie.build(sequences), Trie.from_flat(flat, indptr)
    for name in ("tokens", "first", "low", "high", "order"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
        assert getattr(one, name).dtype == np.int32


def test_items_with_one_title_are_all_kept() -> None:
    trie = build([[3, 4], [3, 5], [3, 4], [3, 4, 6], [3, 4]])
    view = trie.restrict()
    _, _, child = view.legal(np.array([0]))
    _, tokens, nodes = view.legal(child)
    assert tokens.tolist() == [4, 5]
    rows, items = view.items(nodes)
    assert items[rows == 0].tolist() == [0, 2, 4]
    assert view.inner(nodes).tolist() == [True, False]
    masked = trie.restrict(np.array([False, True, True, False, False]))
    assert masked.items(nodes)[1].tolist() == [2, 1]
    assert masked.inner(nodes).tolist() == [False, False]


def test_large_token_ids_sort_by_value() -> None:
    big = 2**31 - 1
    trie = build([[big, 1], [0, big], [262_143]])
    assert trie.restrict().legal(np.array([0]))[1].tolist() == [0, 262_143, big]


def test_ragged_ranges() -> None:
    rows, values = ragged(np.array([5, 2, 7]), np.array([7, 2, 10]))
    assert rows.tolist() == [0, 0, 2, 2, 2]
    assert values.tolist() == [5, 6, 7, 8, 9]


def test_wrong_input_says_what_is_wrong() -> None:
    with pytest.raises(RequestError, match="at least one title to build a trie from, got none"):
        Trie.build([])
    with pytest.raises(RequestError, match="item 'b': expected a title of at least one token"):
        Trie.build([np.array([1]), np.array([], dtype=np.int64)], ["a", "b"])
    with pytest.raises(RequestError, match="token ids of 0 and more, got -1"):
        build([[3, -1]])
    with pytest.raises(RequestError, match="expected 1 item ids, one a title, got 2"):
        Trie.build([np.array([1])], ["a", "b"])
    with pytest.raises(RequestError, match=r"mask of 2 booleans, one an item, got bool \[3\]"):
        build([[1], [2]]).restrict(np.ones(3, dtype=bool))
    with pytest.raises(RequestError, match="got int64"):
        build([[1], [2]]).restrict(np.array([0, 1]))
    with pytest.raises(RequestError, match="item 'a': expected a title of text tokens"):
        Trie.from_branches([Branch("a", np.array([1, 0]), (Slot(1, 1, "image", "a"),))])


def test_many_titles_stay_small() -> None:
    rng = np.random.default_rng(1)
    lengths = rng.integers(3, 12, 20_000)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    trie = Trie.from_flat(rng.integers(0, 49_152, indptr[-1]).astype(np.int32), indptr)
    assert trie.nbytes <= 16 * trie.nodes + 4 * len(trie) + 8
    assert len(trie.restrict().items(np.arange(trie.nodes))[1]) == 20_000
