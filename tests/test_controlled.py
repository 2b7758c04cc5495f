"""Pictures and sounds carry information through the whole real path: a data set where nothing else can.

Real base (cut to two layers), real encoders, `palate.train`, `palate.evaluate`. What was tried, and three seeds:
docs/notes/2026-11-23-controlled.md.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from rich.console import Console

from controlled import KINDS, Controlled, make, newcomers
from palate import Recommender, Request
from palate.data import Dataset
from palate.evaluate import PROTOCOLS, Interval, Result, evaluate, intervals
from palate.evaluate.baselines import RecommenderSystem, baseline
from palate.train import run

LISTS = PROTOCOLS["loo-20"]
CHANCE = 1 / 20
TRAINING = {
    "tasks": {"embedding": 1.0, "next_title": 0, "yes_no": 0, "letters": 0, "rating": 0},
    "epochs": 5,
    "batch_tokens": 320,
    "projector_lr": 1.5e-3,
    "validate_users": 0,
    "checkpoint_every": 1000,
}
ARMS = {"titles": ("text",), "pictures": ("image", "text"), "sounds": ("audio", "text")}
MEDIUM = {"pictures": "image", "sounds": "audio"}
Trained = Callable[..., Recommender]


def train(
    made: Controlled, folder: Path, arm: str, seed: int = 1, fusion: str = "model", epochs: float = 5
) -> Recommender:
    """`palate train` from a file, and the bundle it saved."""
    config = {
        "name": arm,
        "data": str(made.folder),
        "features": {modality: {} for modality in ARMS[arm]},
        "model": {"dtype": "float32", "layers": 2, "fusion": fusion},
        "train": {
            **TRAINING,
            "epochs": epochs,
            "output": str(folder / "adapter"),
            "run": str(folder / "run"),
            "seed": seed,
        },
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    bundle = run(folder / "config.yaml", console=Console(file=io.StringIO())).bundle
    assert bundle is not None
    return Recommender.load(bundle, data=Dataset.open(made.folder), device="cpu")


def measure(rec: Recommender, name: str = "model") -> Result:
    """Every user's test item among 19 others, in embedding mode."""
    return evaluate(rec.dataset, [RecommenderSystem(rec, rec.dataset, "embedding", name)], LISTS)


def shuffled(rec: Recommender, modality: str) -> Result:
    """The same adapter where every item has some other item's vector of one modality."""
    soft = rec.model.soft
    assert soft is not None
    tables = soft.tables()
    order = np.random.default_rng(0).permutation(len(soft.item_ids))
    other = np.empty_like(order)
    other[order] = np.roll(order, 1)  # one cycle through all: nobody keeps its own
    table = tables[modality]
    try:
        soft.set_tables({**tables, modality: dataclasses.replace(table, vectors=table.vectors[other])})
        return measure(rec, "shuffled")
    finally:
        soft.set_tables(tables)


def hr1(result: Result) -> Interval:
    return result.systems[0].metrics["HR@1"]


def at_chance(found: Interval) -> bool:
    """Its interval reaches down to chance, and it is nowhere near three times that."""
    return found.low <= CHANCE and found.value < 2 * CHANCE


def well_above(found: Interval, times: float = 3) -> bool:
    return found.value >= times * CHANCE and found.low >= 2 * CHANCE


def oracle(made: Controlled) -> float:
    """HR@1 of who knows every item's kind."""
    interactions = Dataset.open(made.folder).histories.interactions
    cases = LISTS.cases(interactions)
    return float(np.mean([made.ideal(c.user_id, [interactions.item_ids[i] for i in c.candidates]) for c in cases]))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Controlled:
    return make(tmp_path_factory.mktemp("controlled") / "data")


@pytest.fixture(scope="module")
def trained(made: Controlled, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """The adapter of an arm, trained when first asked for."""
    kept: dict[str, Recommender] = {}

    def get(arm: str) -> Recommender:
        if arm not in kept:
            kept[arm] = train(made, tmp_path_factory.mktemp(arm) / "work", arm)
        return kept[arm]

    yield get
    kept.clear()


# --- the data set ---------------------------------------------------------------------------------------


def test_only_the_media_tell_the_kind(made: Controlled) -> None:
    """By construction, and so for who counts choices."""
    data = Dataset.open(made.folder)
    interactions = data.histories.interactions
    split = LISTS.split(interactions)
    assert np.bincount(split.train.items, minlength=len(made.kinds)).tolist() == [1] * len(made.kinds)
    owner = {int(item): user for user, row in enumerate(split.train.sequences()) for item in row}
    for user, row in enumerate(interactions.sequences()):
        *history, test = map(int, row)
        assert len({*history, test}) == len(row)
        assert owner[test] not in {owner[item] for item in history}
        assert {made.kinds[interactions.item_ids[i]] for i in row} == {made.wants[interactions.user_ids[user]]}
    item = data.catalog["i0001"]
    assert not item.text
    assert {path.name for path in item.media.values()} == {"i0001.png", "i0001.wav"}
    result = evaluate(data, [baseline(name, split.train) for name in ("popularity", "ease", "itemknn")], LISTS)
    assert result.n == len(made.wants) >= 150
    for system in result.systems:
        assert abs(system.metrics["AUC"].value - 0.5) < 0.02
    assert oracle(made) > 0.5


def test_a_seed_makes_the_same_data_set(tmp_path: Path) -> None:
    first, again, other = (make(tmp_path / f"{n}", 3 * KINDS, seed, turn=1) for n, seed in enumerate((5, 5, 6)))
    assert (first.kinds, first.wants) == (again.kinds, again.wants) != (other.kinds, other.wants)
    for name in ("items.csv", "interactions.csv", "i0007.png", "i0007.wav"):
        assert (first.folder / name).read_bytes() == (again.folder / name).read_bytes()
        assert (first.folder / name).read_bytes() != (other.folder / name).read_bytes()
    with pytest.raises(ValueError, match="expected a multiple of 16 users, 48 or more, got 50"):
        make(tmp_path / "x", 50)


# --- the whole path -------------------------------------------------------------------------------------


@pytest.mark.weights
def test_titles_alone_stay_at_chance(trained: Trained) -> None:
    found = measure(trained("titles"))
    assert found.n >= 150
    assert at_chance(hr1(found)), hr1(found)


@pytest.mark.weights
@pytest.mark.timeout(900)  # the pictures are encoded here, on a machine that may be busy
@pytest.mark.parametrize("arm", MEDIUM)
def test_a_medium_is_understood_and_its_shuffle_is_not(made: Controlled, trained: Trained, arm: str) -> None:
    found = measure(trained(arm))
    assert found.n >= 150
    assert well_above(hr1(found)), hr1(found)
    assert hr1(found).value <= oracle(made) + 0.1
    control = shuffled(trained(arm), MEDIUM[arm])
    assert at_chance(hr1(control)), hr1(control)


@pytest.mark.weights
@pytest.mark.parametrize("arm", MEDIUM)
def test_newcomers_are_ranked_from_their_first_second(
    made: Controlled, trained: Trained, arm: str, tmp_path: Path
) -> None:
    """Items no training saw, from a title and one file each, ranked among themselves."""
    rec = trained(arm)
    kinds = {
        rec.add_item(new.title, media={MEDIUM[arm]: new.media[MEDIUM[arm]]}): new.kind
        for new in newcomers(tmp_path, each=3)
    }
    rng = np.random.default_rng(1)
    ids, requests = sorted(kinds), []
    for user, kind in made.wants.items():
        right = str(rng.choice([i for i in ids if kinds[i] == kind]))
        others = rng.choice([i for i in ids if i != right], 19, replace=False)
        requests.append(Request(user, user, candidates=(right, *map(str, others))))
    hits = [float(answer.ranks()[0] == 1) for answer in rec.score(requests, mode="embedding")]
    found = intervals({"HR@1": hits})["HR@1"]
    assert well_above(found), found


# --- at length ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("seed", [2, 3])
def test_other_seeds(seed: int, tmp_path: Path) -> None:
    """Another catalogue, other users, other weights; feature-level fusion too."""
    made = make(tmp_path / "data", seed=seed)
    assert at_chance(hr1(measure(train(made, tmp_path / "titles", "titles", seed))))
    for arm, medium in MEDIUM.items():
        for fusion in ("model", "feature"):
            rec = train(made, tmp_path / f"{arm}-{fusion}", arm, seed, fusion)
            assert well_above(hr1(measure(rec))), (arm, fusion)
            assert at_chance(hr1(shuffled(rec, medium))), (arm, fusion)


@pytest.mark.slow
@pytest.mark.weights
@pytest.mark.timeout(900)
def test_tastes_that_move_on_are_followed(tmp_path: Path) -> None:
    """The next item is of the kind after the last one's, so the last one has to be told from those before."""
    made = make(tmp_path / "data", turn=1)
    rec = train(made, tmp_path / "sounds", "sounds", epochs=12)
    assert well_above(hr1(measure(rec)))
    assert at_chance(hr1(shuffled(rec, "audio")))
