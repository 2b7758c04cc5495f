"""What a million items must not cost, seen on few: no N x N, no Python object an item, no copy of what is mapped."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmarks import catalogue
from hypothesis import example, given, settings
from hypothesis import strategies as st

from facade import tiny_bundle
from palate import itemitem
from palate.chat.terms import Terms, terms
from palate.data import Catalog, Dataset, events, import_dataset, records, titles
from palate.data import catalog as catalog_module
from palate.data.records import Records
from palate.engine import index as index_module
from palate.engine.trie import Trie, in_parts
from palate.errors import ConfigError, FeatureError
from palate.features import FeatureStore
from palate.features import rows as rows_module
from palate.features import store as store_module
from palate.features.encoders import ContentEncoder, Encoded
from palate.recommender.core import Recommender
from palate.recommender.fields import sampled
from palate.recommender.filters import condition_test
from palate.recommender.shelf import Shelf
from palate.recommender.titlekeys import TitleIndex, keys, plain
from palate.retrieve import build, itemknn
from palate.schema import Branch, Interactions, Item, Scores

TAGS = ("drama", "comedy", "horror", "Science-Fiction")
ODD = st.text(
    st.one_of(
        st.sampled_from("aAbB  (),'&-[]1990ThEe:éÉßſ’“李 ıİ"),
        st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]),
    ),
    max_size=24,
)
TYPED = st.one_of(
    ODD,
    st.sampled_from(["Matrix, The (1999)", "The Matrix", "A [b] (c)", "Amélie (Le Fabuleux)", "L'Avventura (1960)"]),
)


def catalog_of(rows: Sequence[Item], fields: Sequence[str] = ("year", "tags")) -> Catalog:
    """A catalogue without a folder."""
    columns = {f: pa.array([r.text.get(f, "") for r in rows], pa.large_string()) for f in fields}
    columns["title"] = pa.array([r.title for r in rows], pa.large_string())
    table = Records(tuple(r.item_id for r in rows), columns, np.arange(len(rows)), len(rows))
    return Catalog(table, "title", fields, {}, Path())


def made(count: int, seed: int = 0) -> list[Item]:
    rng = np.random.default_rng(seed)
    return [
        Item(
            f"i{n}",
            f"{rng.choice(['The', 'A', 'My'])} {rng.choice(['Night', 'Star', 'Sea'])} {rng.integers(0, 9)}",
            {
                "year": str(rng.integers(1950, 2020)) if rng.random() < 0.9 else "",
                "tags": "|".join(rng.choice(TAGS, rng.integers(0, 3), replace=False)),
            },
        )
        for n in range(count)
    ]


# --- filters ----------------------------------------------------------------------------------------------

ITEMS = made(120)
CONDITION = st.one_of(
    st.sampled_from(TAGS),
    st.lists(st.sampled_from(TAGS), min_size=1, max_size=3),
    st.tuples(st.integers(1950, 1980), st.integers(1980, 2020)),
    st.integers(1950, 2020),
    st.builds(lambda x: {"not": x}, st.sampled_from(TAGS)),
    st.builds(lambda low, x: {"min": low, "not": x}, st.integers(1950, 2000), st.integers(1950, 2020)),
)
FIELDS = st.dictionaries(st.sampled_from(["year", "tags", "title", "item_id"]), CONDITION, max_size=3)


@given(FIELDS, st.none() | FIELDS.filter(bool), st.integers(0, 30))
@settings(max_examples=60, deadline=None)
def test_a_mask_is_brute_force(filters: dict[str, Any], opposite: dict[str, Any] | None, added: int) -> None:
    shelf = Shelf(catalog_of(ITEMS[: len(ITEMS) - added]))
    shelf.mask(filters)  # what it keeps must not outlive an added item
    for item in ITEMS[len(ITEMS) - added :]:
        shelf.add(item)

    def passes(item: Item, conditions: dict[str, Any]) -> bool:
        cells = {**item.text, "title": item.title, "item_id": item.item_id}
        return all(condition_test(c, f)(cells.get(f, "")) for f, c in conditions.items())

    asked = filters | ({"not": opposite} if opposite else {})
    wanted = [passes(i, filters) and not (opposite and passes(i, opposite)) for i in ITEMS]
    assert shelf.mask(asked).tolist() == wanted


def test_a_shelf_holds_no_object_an_item() -> None:
    catalog = catalog_of(ITEMS)
    shelf = Shelf(catalog)
    shelf.mask({"tags": "drama", "title": "night"})
    assert shelf.lookup(ITEMS[3].title) is not None
    assert shelf.near("Teh Nigth 3")
    assert shelf.item_ids is catalog.item_ids
    held = [v for v in vars(shelf).values() if isinstance(v, list | dict | tuple) and len(v) >= len(ITEMS)]
    assert held == []
    codes, texts = shelf._codes("tags")
    assert codes.dtype == np.int32
    assert len(texts) < len(ITEMS) / 4  # each distinct text is tested once


# --- titles -----------------------------------------------------------------------------------------------


@given(st.lists(TYPED, min_size=1, max_size=8))
@example(["x (1990) (1991)", "a  (b) ", "the (a)", " (1990)", "x, The ", ", A", "the", "K (½)"])
@settings(deadline=None)
def test_titles_all_at_once_are_compared_as_one_by_one(given: list[str]) -> None:
    column = pa.array(given, pa.large_string())
    names = titles.keys(column)
    assert names.to_pylist() == [titles.key(t) for t in given]
    assert titles.looses(names).to_pylist() == [titles.loose(n) for n in names.to_pylist()]


@given(st.lists(TYPED, min_size=1, max_size=8))
@example(
    ["a (b (c)", "a[b]", "(a)", "The (b)", "The", "the  !!!", "!!!", "it's & co", "a (b) (c)", "O, The", "x\u0301"]
)
@settings(deadline=None)
def test_the_title_index_is_the_keys_of_each_title(given: list[str]) -> None:
    ids = tuple(f"i{n}" for n in range(len(given)))
    index = TitleIndex(pa.array(given, pa.large_string()), ids)
    index.add("The Added (1990)", "new")
    wanted: dict[str, list[str]] = {}
    for item_id, title in [*zip(ids, given, strict=True), ("new", "The Added (1990)")]:
        for way in keys(title):
            wanted.setdefault(way, []).append(item_id)
    assert {way: index[way] for way in wanted} == wanted
    assert set(index) == set(wanted)
    assert index.get(plain("nobody called it so")) is None


@given(
    st.lists(st.text("abcäß李 ", max_size=9), max_size=30),
    st.text("abcäß李z ", max_size=9),
    st.integers(1, 8),
    st.booleans(),
)
@settings(deadline=None)
def test_nearest_by_triples_is_brute_force(texts: list[str], typed: str, most: int, direct: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(titles, "BLOCK", 7)
        patch.setattr(titles, "DIRECT", 1 << 26 if direct else 0)
        found = titles.Triples(pa.array(texts, pa.large_string())).nearest(typed, most)
    padded = f" {typed} "
    wanted = {padded[i : i + 3] for i in range(len(padded) - 2)}
    shared = [sum(t in f" {text} " for t in wanted) for text in texts]
    order = sorted((n for n in range(len(texts)) if shared[n]), key=lambda n: (-shared[n], n))
    assert found.tolist() == order[:most]


# --- tables -----------------------------------------------------------------------------------------------


def test_rows_are_made_in_blocks_and_equal_the_items(tiny_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog_module, "ROWS", 5)
    catalog = Dataset.open(tiny_data).catalog
    whole = catalog.rows()
    assert list(whole) == list(catalog.values())
    assert whole.item_ids is catalog.item_ids
    some = whole[3:20:4]
    assert (len(some), some[-1], some[1].item_id) == (5, catalog.at(19), some.item_ids[1])
    with pytest.raises(IndexError, match="a row below 5, got 5"):
        some[5]
    shelf = Shelf(catalog)
    shelf.add(Item("new", "New"))
    assert list(sampled(shelf)) == list(shelf.values())
    assert list(sampled(shelf, 12)) == list(shelf.values())[::2]


def test_reading_items_never_makes_blank_columns_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every chunk once made a blank column as long as all before it, and threw it away: N^2 in all."""
    lines = [json.dumps({"item_id": n, "title": f"T{n}", **({"late": "x"} if n > 80 else {})}) for n in range(90)]
    (tmp_path / "items.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "interactions.csv").write_text("user_id,item_id\n1,1\n", encoding="utf-8")
    monkeypatch.setattr("palate.data.formats.JSON_ROWS", 10)
    blank: list[int] = []
    real = records._blank
    monkeypatch.setattr(records, "_blank", lambda rows: blank.append(rows) or real(rows))
    dataset = import_dataset(tmp_path, tmp_path / "out", max_rejects=0)
    assert [dataset.catalog.at(n).text.get("late", "") for n in (0, 80, 81, 89)] == ["", "", "x", "x"]
    assert sum(blank) <= 90


def test_many_ids_and_few_get_the_same_codes() -> None:
    known = [f"i{n}" for n in range(50)]
    index = {i: n for n, i in enumerate(known)}
    values = pa.array(known, pa.large_string())
    for asked in (["i3", "no", "i3", "i49"], [*reversed(known), "no", "i7"]):
        found = events._codes(pa.array(asked, pa.large_string()), index, values)
        assert found.tolist() == [index.get(i, -1) for i in asked]
        assert found.dtype == np.int32


def test_long_batches_of_narrow_tables_only(tmp_path: Path) -> None:
    from palate.data import tables

    for width, wanted in ((1, tables.LONGEST), (3_000, tables.BATCH)):
        pq.write_table(
            pa.table({"a": [f"{n:0{width}}" for n in range(20_000)]}), tmp_path / "t.parquet", use_dictionary=False
        )
        size = tables._batch(pq.ParquetFile(tmp_path / "t.parquet").metadata)
        assert size == wanted if width > 1 else size > tables.BATCH


# --- features ---------------------------------------------------------------------------------------------


class Numbered(ContentEncoder):
    """A vector that tells an item's number; items whose title is equal share it."""

    name, width, chunk = "numbered", 4, 16

    def identity(self, item: Item) -> bytes | None:
        return item.title.encode() or None

    def encode(self, items: Sequence[Item]) -> Encoded:
        vectors = np.array([[len(i.title), hash(i.title) % 997, 1, 0] for i in items], dtype=np.float32)
        return Encoded(vectors, np.ones(len(items), dtype=bool), [])


def test_a_large_table_is_a_mapped_file_and_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [*ITEMS, Item("none", ""), *ITEMS[:9]]
    plain_table = FeatureStore(tmp_path / "a").get(Numbered(), items).features
    assert not isinstance(plain_table.vectors, np.memmap)
    monkeypatch.setattr(rows_module, "MAPPED", 1)
    monkeypatch.setattr(rows_module, "BLOCK", 7)
    written = FeatureStore(tmp_path / "b").get(Numbered(), items).features
    read = FeatureStore(tmp_path / "b").get(Numbered(), items)
    for table in (written, read.features):
        assert isinstance(table.vectors, np.memmap)
        np.testing.assert_array_equal(table.vectors, plain_table.vectors)
        np.testing.assert_array_equal(table.present, plain_table.present)
    assert (read.hits, read.computed) == (len(items) - 1, 0)
    left = [p.name for p in (tmp_path / "b").iterdir()]
    assert left == [Numbered().fingerprint]  # the mapped file has no name


def test_shards_are_mapped_not_read(tmp_path: Path) -> None:
    FeatureStore(tmp_path).get(Numbered(), ITEMS)
    for path in (tmp_path / Numbered().fingerprint).glob("*.safetensors"):
        keys_of, vectors = store_module._mapped(path)
        assert isinstance(keys_of, np.memmap)
        assert isinstance(vectors, np.memmap)


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="reserves room on POSIX only")
def test_a_full_disk_is_an_error_not_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rows_module, "MAPPED", 1)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(FeatureError, match=r"expected room for a table of .* bytes, got: No space"):
        FeatureStore(tmp_path).get(Numbered(), ITEMS)


def test_many_large_shards_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than `MANY` shards, none of them small, once ended in a merge of nothing, which failed."""
    monkeypatch.setattr(store_module, "MANY", 2)
    monkeypatch.setattr(store_module, "MERGED", 1)
    FeatureStore(tmp_path).get(Numbered(), ITEMS)
    FeatureStore(tmp_path).get(Numbered(), made(200, seed=3))
    assert FeatureStore(tmp_path).get(Numbered(), ITEMS).computed == 0


# --- retrievers -------------------------------------------------------------------------------------------


def interactions(users: int, items: int, each: int) -> Interactions:
    rng = np.random.default_rng(4)
    chosen = np.concatenate([rng.choice(items, each, replace=False) for _ in range(users)])
    ids, people = tuple(f"i{n}" for n in range(items)), tuple(f"u{n}" for n in range(users))
    blank = np.full(len(chosen), np.nan)
    return Interactions(people, ids, np.arange(users + 1) * each, chosen, blank, blank.astype(np.float32))


def test_ease_refuses_before_it_allocates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(itemitem, "DENSE_LIMIT", 30)
    monkeypatch.setattr(itemitem, "ease", lambda *_: pytest.fail("N x N was made"))
    with pytest.raises(ConfigError, match="at most 30 items, the catalogue has 40; use 'itemknn', which stays sparse"):
        build("ease").fit(interactions(20, 40, 5))


def test_item_knn_is_cut_by_work_not_by_items(monkeypatch: pytest.MonkeyPatch) -> None:
    data = interactions(60, 500, 6)
    matrix = itemitem.user_item_matrix(data)
    columns = matrix.T.tocsr()
    lengths = np.diff(matrix.indptr)
    assert list(itemknn._parts(columns, lengths)) == [(0, 500)]
    monkeypatch.setattr(itemknn, "PAIRS", 200)
    parts = list(itemknn._parts(columns, lengths))
    assert [a for a, _ in parts] == [0, *(b for _, b in parts[:-1])]
    assert parts[-1][1] == 500
    work = [int(sum(lengths[columns.indices[columns.indptr[a] : columns.indptr[b]]])) for a, b in parts]
    assert all(w <= 200 or b == a + 1 for w, (a, b) in zip(work, parts, strict=True))
    assert len(parts) <= 2 * sum(work) / 200 + 1


# --- the trie ---------------------------------------------------------------------------------------------


def test_a_trie_of_parts_is_the_trie_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    branches = [Branch(f"i{n}", rng.integers(0, 5, rng.integers(1, 6))) for n in range(100)]
    by_id = {b.item_id: b for b in branches}
    monkeypatch.setattr("palate.engine.trie.PART", 8)
    asked: list[int] = []

    def some(ids: Sequence[str]) -> list[Branch]:
        asked.append(len(ids))
        return [by_id[i] for i in ids]

    streamed = Trie.from_branches(in_parts(some, list(by_id)))
    whole = Trie.build([b.token_ids for b in branches], list(by_id))
    assert max(asked) == 8
    for name in ("tokens", "first", "low", "high", "order"):
        np.testing.assert_array_equal(getattr(streamed, name), getattr(whole, name))
    assert streamed.item_ids == whole.item_ids


# --- recommending -----------------------------------------------------------------------------------------


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=30), st.integers(1, 32))
def test_the_best_few_are_those_of_the_whole_order(values: list[int], k: int) -> None:
    ids = tuple(f"i{(7 * n) % 31}" for n in range(len(values)))
    scores = Scores("r", None, ids, np.array(values, dtype=np.float32))
    whole = sorted(zip(scores.item_ids, scores.scores.tolist(), strict=True), key=lambda pair: (-pair[1], pair[0]))
    assert scores.top(k) == whole[:k]


@pytest.fixture
def bundle(tiny_base: Path, tiny_data: Path, tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "tiny", tiny_base, tiny_data)


def test_an_approximate_recommender_filters_and_knows_added_items(
    bundle: Path, tiny_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("faiss")
    monkeypatch.setattr(index_module, "FEW", 0)
    monkeypatch.setattr(index_module, "PER_LIST", 4)
    exact = Recommender.load(bundle, data=tiny_data)
    near = Recommender.load(bundle, data=tiny_data, index="approximate")
    filters = {"year": (1975, 1992)}
    for asked in ({}, {"filters": filters}, {"diversity": 0.5}):
        one, other = (rec.recommend(user="1", k=5, **asked) for rec in (exact, near))  # type: ignore[arg-type]
        assert [r.item_id for r in one] == [r.item_id for r in other]  # all lists are looked into: there are six
        np.testing.assert_allclose([r.score for r in one], [r.score for r in other], rtol=1e-4)
    assert near.ranker.index is not None
    built = near.ranker.index.held(near.model).index
    assert built.kind == "approximate"
    for rec in (exact, near):
        rec.add_item("Brand New", {"year": "1980"}, item_id="new")
    held = near.ranker.index.held(near.model)
    assert held.index is built  # it is not built anew for one item
    assert held.tail is not None
    listed = [[r.item_id for r in rec.recommend(user="1", k=24, filters=filters)] for rec in (exact, near)]
    assert listed[0] == listed[1]
    assert "new" in listed[1]
    sample = [near.request(user=str(n)) for n in range(1, 9)]
    embedding = near.mode("embedding")
    assert near.ranker.index.recall(embedding, near.runner, near.serializer, sample, 5) == 1.0  # type: ignore[arg-type]


def test_an_index_that_could_not_be_used_is_refused(bundle: Path, tiny_base: Path, tiny_data: Path) -> None:
    with pytest.raises(ConfigError, match="did you mean 'approximate'"):
        Recommender.load(bundle, data=tiny_data, index="approx")  # type: ignore[arg-type]
    pytest.importorskip("faiss")
    with pytest.raises(ConfigError, match="this model has no matching head"):
        Recommender.load(f"path:{tiny_base}", data=tiny_data, index="approximate")


# --- the benchmark ----------------------------------------------------------------------------------------


def test_the_benchmark_measures_steps_in_processes_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    catalogue.main(["--items", "200,400", "--only", "filters", "--json", str(out), "--folder", str(tmp_path)])
    found = json.loads(out.read_text(encoding="utf-8"))
    assert list(found["steps"]) == ["make", "import-parquet", "filters"]
    for size in ("200", "400"):
        step = found["steps"]["filters"][size]
        assert {"year", "tags", "not"} <= step["seconds"].keys()
        assert step["peak_bytes"] > step["anonymous_bytes"] > 0
    assert str(tmp_path) not in out.read_text(encoding="utf-8")
    printed = capsys.readouterr().out
    assert "| filters: year, first |" in printed
    assert [p.name for p in tmp_path.iterdir()] == ["out.json"]  # what it wrote is gone


def test_growth_is_the_power_between_the_largest_sizes() -> None:
    assert catalogue.growth({10: 1.0, 100: 2.0, 1000: 20.0}) == pytest.approx(1.0)
    assert catalogue.growth({10: 1.0, 100: 100.0}) == pytest.approx(2.0)
    assert catalogue.growth({10: 0.001, 100: 1.0}) is None
    assert catalogue.planned(["store-read"]) == ["make", "import-parquet", "store", "store-read"]
    with pytest.raises(SystemExit):
        catalogue.main(["--only", "flters"])


# --- chat -------------------------------------------------------------------------------------------------


@given(st.lists(st.text("ab 李影'-1", max_size=12), max_size=12), st.integers(0, 12))
@settings(deadline=None)
def test_terms_are_those_of_each_text(texts: list[str], later: int) -> None:
    cut = max(0, len(texts) - later)
    index = Terms(texts[:cut])
    for text in texts[cut:]:
        index.add(text)
    wanted: dict[str, list[int]] = {}
    for n, text in enumerate(texts):
        for term in set(terms(text)):
            wanted.setdefault(term, []).append(n)
    assert {term: index.rows(term).tolist() for term in wanted} == wanted
    assert index.count == len(texts)
    assert all(term in index for term in wanted)
    assert "none" not in index
    assert index.rows("none").tolist() == []
