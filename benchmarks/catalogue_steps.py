"""The steps of `benchmarks.catalogue`: each is run in a process of its own over one catalogue.

    python -m benchmarks.catalogue_steps --step filters --items 100000 --folder DIR

prints one line of JSON: seconds of each part, and the process's peak memory. `folder` keeps what earlier steps wrote.
"""

from __future__ import annotations

import argparse
import json
import resource
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np

from benchmarks import catalogue_data

WIDTH = 512
"""Width of the feature store's vectors."""
MATCHING = 256
"""Width of the vectors that are searched: the default of `model.matching`."""
LIGHT = 64
"""Width of the feature table of the end-to-end step."""
ROLLUP = Path("/proc/self/smaps_rollup")


class Meter(threading.Thread):
    """The most memory of this process while it runs. anonymous: bytes that nothing but this process holds; pages of a
    mapped file count as resident too, but the kernel may take them back at any time.
    """

    def __init__(self, every: float = 0.05) -> None:
        super().__init__(daemon=True)
        self.every, self.anonymous, self.mapped, self._over = every, 0, 0, threading.Event()

    def look(self) -> None:
        if not ROLLUP.exists():
            return
        found = {}
        for line in ROLLUP.read_text(encoding="ascii").splitlines()[1:]:
            name, _, value = line.partition(":")
            found[name] = int(value.split()[0]) * 1024
        self.anonymous = max(self.anonymous, found["Anonymous"])
        self.mapped = max(self.mapped, found["Rss"] - found["Anonymous"])

    def run(self) -> None:
        while not self._over.wait(self.every):
            self.look()

    def __enter__(self) -> Self:
        self.look()
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self.join()
        self.look()


def peak() -> int:
    """The most resident bytes this process had. `getrusage` is asked where there is no /proc alone: on Linux it starts
    from what the process that started this one held.
    """
    status = Path("/proc/self/status")
    if status.exists():
        fields = dict(line.split(":", 1) for line in status.read_text(encoding="ascii").splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@dataclass
class Place:
    """One catalogue under test. seconds: what each part of the step took; facts: other numbers."""

    folder: Path
    count: int
    seed: int
    seconds: dict[str, float] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[part] = time.perf_counter() - began

    def each(self, part: str, calls: Sequence[Callable[[], Any]]) -> list[Any]:
        """Median seconds of calls, as `part`; their results."""
        took, results = [], []
        for call in calls:
            began = time.perf_counter()
            results.append(call())
            took.append(time.perf_counter() - began)
        self.seconds[part] = float(np.median(took))
        return results

    def catalog(self) -> Any:
        from palate.data import Dataset

        return Dataset.open(self.data).catalog

    @property
    def rng(self) -> np.random.Generator:
        return np.random.default_rng(self.seed + 2)


# --- tables -----------------------------------------------------------------------------------------------


def make(place: Place) -> None:
    place.facts |= catalogue_data.write(place.count, place.folder / "source", place.seed)
    for width in (LIGHT, MATCHING):
        catalogue_data.table(place.folder / f"vectors-{width}.npy", place.count, width, place.seed)


def import_csv(place: Place) -> None:
    _import(place, "csv", place.folder / "data-csv")


def import_parquet(place: Place) -> None:
    _import(place, "parquet", place.data)


def _import(place: Place, kind: str, out: Path) -> None:
    from palate.data import import_dataset

    with place.timed("import"):
        import_dataset(place.folder / "source" / kind, out)
    place.facts["bytes"] = sum(p.stat().st_size for p in out.iterdir())


def open_(place: Place) -> None:
    from palate.data import Dataset

    with place.timed("open"):
        dataset = Dataset.open(place.data)
    with place.timed("fingerprint"):
        place.facts["fingerprint"] = dataset.fingerprint[:12]


def check(place: Place) -> None:
    from palate.data import check as data_check

    with place.timed("check"):
        assert data_check(place.data).clean


# --- features ---------------------------------------------------------------------------------------------


def _encoder() -> Any:
    from palate.features.encoders import ContentEncoder, Encoded

    class Synthetic(ContentEncoder):
        name, width = "synthetic", WIDTH

        def identity(self, item: Any) -> bytes:
            return str(item.item_id).encode()

        def encode(self, items: Sequence[Any]) -> Any:
            rows = np.random.default_rng(len(items)).standard_normal((len(items), WIDTH), dtype=np.float32)
            rows[:, 0] = [int(i.item_id[1:]) for i in items]
            return Encoded(rows, np.ones(len(rows), dtype=bool), [])

    return Synthetic()


def store(place: Place) -> None:
    """Vectors of all items into an empty feature store."""
    _stored(place, "write", 0)


def store_read(place: Place) -> None:
    """The same again, from the store, and every row looked at."""
    features = _stored(place, "read", place.count)
    with place.timed("scan"):
        assert (np.asarray(features.vectors[:, 0]) == np.arange(place.count, dtype=np.float32)).all()
    place.facts["mapped"] = isinstance(features.vectors, np.memmap)


def _stored(place: Place, part: str, hits: int) -> Any:
    from palate.features import FeatureStore

    items = place.catalog().rows()
    with place.timed(part):
        stored = FeatureStore(place.folder / "features").get(_encoder(), items)
    assert stored.hits == hits
    assert stored.features.present.all()
    return stored.features


# --- the shelf --------------------------------------------------------------------------------------------


def lookup(place: Place) -> None:
    from palate.recommender.shelf import Shelf

    catalog = place.catalog()
    with place.timed("shelf"):
        shelf = Shelf(catalog)
    ids = [f"i{n}" for n in place.rng.integers(0, place.count, 1000)]
    place.each("item", [lambda i=i: (shelf[i], shelf.index(i)) for i in ids])  # type: ignore[misc]


def find(place: Place) -> None:
    """Titles as people type them: exactly, and with two letters exchanged."""
    from palate.recommender.shelf import Shelf

    shelf = Shelf(place.catalog())
    titles = [shelf[f"i{n}"].title for n in place.rng.integers(0, place.count, 40)]
    with place.timed("exact, first"):
        assert shelf.lookup(titles[0]) is not None
    found = place.each("exact", [lambda t=t: shelf.lookup(t) for t in titles])  # type: ignore[misc]
    assert None not in found
    wrong = [t[: len(t) // 2] + t[len(t) // 2 :][1::-1] + t[len(t) // 2 + 2 :] for t in titles]
    with place.timed("typed wrongly, first"):
        shelf.near(wrong[0])
    near = place.each("typed wrongly", [lambda t=t: shelf.near(t) for t in wrong[:20]])  # type: ignore[misc]
    place.facts["found"] = sum(t in n for t, n in zip(titles, near, strict=False)) / len(near)


FILTERS: dict[str, dict[str, Any]] = {
    "year": {"year": (1980, 1995)},
    "tags": {"tags": ["comedy", "drama"]},
    "not": {"not": {"tags": "horror"}, "year": {"min": 1970, "not": 1985}},
    "title": {"title": "night"},
}


def filters(place: Place) -> None:
    from palate.recommender.shelf import Shelf

    shelf = Shelf(place.catalog())
    for name, asked in FILTERS.items():
        with place.timed(f"{name}, first"):
            mask = shelf.mask(asked)
        place.each(name, [lambda a=asked: shelf.mask(a)] * 5)  # type: ignore[misc]
        place.facts[f"{name} share"] = round(float(mask.mean()), 4)


# --- the model --------------------------------------------------------------------------------------------


def _base(place: Place) -> Path:
    folder = place.folder / "base"
    if not (folder / "config.json").is_file():
        catalogue_data.tiny_base(folder, place.catalog().titles.slice(0, 20_000).to_pylist())
    return folder


def _model(place: Place, width: int, ids: tuple[str, ...]) -> Any:
    from palate.config import ModelConfig
    from palate.model import Model
    from palate.schema import Features

    config = ModelConfig.parse(
        {"base": f"path:{_base(place)}", "dtype": "float32", "hidden": 128, "matching": MATCHING}, "tiny"
    )
    vectors = catalogue_data.table(place.folder / f"vectors-{width}.npy", place.count, width, place.seed)
    table = Features("text", ids, vectors, np.ones(place.count, dtype=bool), "synthetic")
    with place.timed("model"):
        return Model.create(config, {"text": table}, device="cpu")


def trie(place: Place) -> None:
    from transformers import AutoTokenizer

    from palate import prompting
    from palate.config import PromptConfig
    from palate.data import Dataset
    from palate.engine.modes.generate import Generate
    from palate.engine.trie import Trie, in_parts
    from palate.schema import Request

    dataset = Dataset.open(place.data)
    tokenizer = AutoTokenizer.from_pretrained(_base(place))
    serializer = prompting.Serializer(
        tokenizer, dataset.catalog, dataset.wording, dataset.show, PromptConfig(), lambda item_id: ()
    )
    mode, request = Generate(), Request("trie")
    template = mode.template(serializer)
    with place.timed("tokens and trie"):
        branches = in_parts(lambda ids: serializer.branches(template, request, ids), dataset.catalog.item_ids)
        built = Trie.from_branches(branches)
    place.facts |= {"nodes": built.nodes, "bytes": built.nbytes}
    mask = place.rng.random(place.count) < 0.1
    place.each("restrict", [lambda: built.restrict(mask)] * 5)
    view = built.restrict(mask)
    place.each("legal", [lambda: view.legal(np.arange(min(1000, built.nodes)))] * 5)


def trie_arrays(place: Place) -> None:
    """The trie alone, of titles that are tokens already."""
    from palate.engine.trie import Trie

    rng = place.rng
    lengths = rng.integers(4, 13, place.count)
    tokens = catalogue_data.skewed(rng, 4000, int(lengths.sum()), 2.0)
    with place.timed("build"):
        built = Trie.from_flat(tokens, np.concatenate([[0], np.cumsum(lengths)]))
    place.facts |= {"nodes": built.nodes, "bytes": built.nbytes}


def soft(place: Place) -> None:
    """Soft-token tables: 64-wide vectors of all items in the model, slots of items, and all matching vectors."""
    import torch

    ids = place.catalog().item_ids
    model = _model(place, LIGHT, ids)
    some = [ids[n] for n in place.rng.integers(0, place.count, 1000)]
    place.each("slots", [lambda i=i: model.soft.slots(i) for i in some])  # type: ignore[misc]
    with place.timed("matching vectors"), torch.inference_mode():
        model.eval()
        assert model.item_vectors().shape == (place.count, MATCHING)


# --- search -----------------------------------------------------------------------------------------------


def _searched(place: Place, kind: str) -> None:
    from palate.engine.index import Index

    rows = catalogue_data.table(place.folder / f"vectors-{MATCHING}.npy", place.count, MATCHING, place.seed)
    queries = next(catalogue_data.vectors(200, MATCHING, place.seed, start=1))
    mask = place.rng.random(place.count) < 0.1
    with place.timed("build"):
        index = Index.build(rows, kind=kind)
    place.each("search", [lambda q=q: index.search(q[None], 100) for q in queries[:50]])  # type: ignore[misc]
    place.each("filtered", [lambda q=q: index.search(q[None], 100, mask) for q in queries[:50]])  # type: ignore[misc]
    with place.timed("200 at once"):
        index.search(queries, 100)
    with place.timed("save"):
        index.save(place.folder / f"index-{kind}")
    del index
    with place.timed("load"):
        index = Index.load(place.folder / f"index-{kind}")
    if kind == "approximate":
        for k in (10, 100):
            place.facts[f"recall@{k}"] = round(index.recall(queries, k), 4)
            place.facts[f"filtered recall@{k}"] = round(index.recall(queries, k, mask), 4)
    place.facts["bytes"] = sum(p.stat().st_size for p in (place.folder / f"index-{kind}").iterdir())


def index_exact(place: Place) -> None:
    _searched(place, "exact")


def index_approximate(place: Place) -> None:
    _searched(place, "approximate")


def retrievers(place: Place) -> None:
    """What proposes candidates to the slower modes; EASE refuses where its matrix would not fit."""
    from palate import retrieve
    from palate.data import Dataset
    from palate.errors import ConfigError

    events = Dataset.open(place.data).histories.interactions
    history = events.sequence(0)[-20:]
    for name in ("popularity", "itemknn"):
        with place.timed(f"{name} fit"):
            fitted = retrieve.build(name).fit(events)
        place.each(f"{name} top", [lambda f=fitted: f.top(history, 50)] * 5)  # type: ignore[misc]
    try:
        with place.timed("ease fit or refuse"):
            retrieve.build("ease").fit(events) if place.count > 20_000 else None
    except ConfigError as refused:
        place.facts["ease"] = str(refused)


def recommend(place: Place) -> None:
    """End to end in mode `embedding`: open, model, recommender, requests with and without filters."""
    from palate.data import Dataset
    from palate.recommender.core import Recommender

    with place.timed("open"):
        dataset = Dataset.open(place.data)
    model = _model(place, LIGHT, dataset.catalog.item_ids)
    with place.timed("recommender"):
        rec = Recommender(model, dataset)
    with place.timed("first"):
        rec.recommend(user="u1")
    users = [f"u{n}" for n in place.rng.integers(0, max(10, place.count // 2), 20)]
    users = [u for u in users if u in dataset.histories]
    plain = place.each("each", [lambda u=u: rec.recommend(user=u) for u in users])  # type: ignore[misc]
    asked = FILTERS["not"] | FILTERS["tags"]
    with place.timed("filtered, first"):
        rec.recommend(user="u1", filters=asked)
    place.each("filtered", [lambda u=u: rec.recommend(user=u, filters=asked) for u in users])  # type: ignore[misc]
    rec.ranker.use("approximate")
    with place.timed("approximate, first"):
        rec.recommend(user="u1")
    near = place.each("approximate", [lambda u=u: rec.recommend(user=u) for u in users])  # type: ignore[misc]
    place.each("approximate, filtered", [lambda u=u: rec.recommend(user=u, filters=asked) for u in users])  # type: ignore[misc]
    same = [len({r.item_id for r in a} & {r.item_id for r in b}) for a, b in zip(plain, near, strict=True)]
    place.facts["approximate recall@10"] = sum(same) / (10 * len(same))
    assert all(len(p) == 10 for p in plain)


STEPS: dict[str, Callable[[Place], None]] = {
    "make": make,
    "import-csv": import_csv,
    "import-parquet": import_parquet,
    "open": open_,
    "check": check,
    "store": store,
    "store-read": store_read,
    "lookup": lookup,
    "find": find,
    "filters": filters,
    "trie": trie,
    "trie-arrays": trie_arrays,
    "soft": soft,
    "index-exact": index_exact,
    "index-approximate": index_approximate,
    "retrievers": retrievers,
    "recommend": recommend,
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--step", choices=STEPS, required=True)
    parser.add_argument("--items", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    place = Place(options.folder, options.items, options.seed)
    with Meter() as meter:
        began = time.perf_counter()
        STEPS[options.step](place)
        whole = time.perf_counter() - began
    memory = {"peak_bytes": peak(), "anonymous_bytes": meter.anonymous, "mapped_bytes": meter.mapped}
    seconds = {name: round(value, 6) for name, value in place.seconds.items()}
    print(json.dumps({"seconds": seconds, "whole": round(whole, 3), **memory, "facts": place.facts}))


if __name__ == "__main__":
    main()
