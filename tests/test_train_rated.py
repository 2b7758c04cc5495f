"""Dense ratings: labels where they should be, vectors without a user's own ratings, parity, nothing held out seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from palate import prompting
from palate.config import EncoderConfig, PromptConfig, RunConfig
from palate.data import Dataset
from palate.data.rated import RatedSplit
from palate.engine import modes
from palate.engine.modes.rated import Rated as RatedMode
from palate.engine.runner import Runner
from palate.errors import ConfigError, FeatureError, TemplateError
from palate.evaluate import protocol
from palate.evaluate.rating_cases import cases
from palate.features import compute, encoders
from palate.features.encoders.ratings import FIXED, Ratings
from palate.schema import Interactions
from palate.train.collate import Position, collate
from palate.train.mixture import Mixture
from palate.train.prepare import Ready, prepare
from palate.train.rated import Crossfit, Rated, level, scale_loss
from palate.train.step import TrainingStep
from palate.train.task import IGNORE, Material
from palate.train.tasks import TEMPLATES
from test_train_tasks import material, serialize

RATING = "rating:share=0.25:seed=3"
OPTIONS = {"factors": 2, "folds": 3}
FEATURES = {"ratings": EncoderConfig(options=OPTIONS)}


@pytest.fixture(scope="module")
def dataset(tiny_data: Path) -> Dataset:
    return Dataset.open(tiny_data)


@pytest.fixture(scope="module")
def split(dataset: Dataset) -> RatedSplit:
    found = protocol(RATING).split(dataset.histories.interactions)
    assert isinstance(found, RatedSplit)
    return found


@pytest.fixture(scope="module")
def made(dataset: Dataset, split: RatedSplit, tiny_base: Path) -> Material:
    serializer = serialize(dataset, tiny_base, PromptConfig(max_tokens=2000))
    return material(serializer, split.train, dataset)


def config(tiny_base: Path, tiny_data: Path, **changes: Any) -> RunConfig:
    tasks = {"embedding": 0, "next_title": 0, "yes_no": 0, "letters": 0, "rating": 0, "rated": 1}
    values: dict[str, Any] = {
        "name": "stars",
        "data": str(tiny_data),
        "features": {"ratings": {"options": OPTIONS}},
        "prompt": {"max_tokens": 400, "max_sequence": 20},
        "model": {
            "base": f"path:{tiny_base}", "dtype": "float32", "lora": {"rank": 4}, "hidden": 16, "matching": 16,
            "fusion": "feature", "dropout": 0, "modality_dropout": 0,
        },
        "train": {"batch_tokens": 400, "protocol": RATING, "tasks": tasks},
    }  # fmt: skip
    for key, value in changes.items():
        part, _, name = key.partition("__")
        values[part] = {**values[part], name: {**values[part].get(name, {}), **value}} if name else value
    return RunConfig.parse(values, "test")


@pytest.fixture(scope="module")
def ready(tiny_base: Path, tiny_data: Path) -> Ready:
    found = prepare(config(tiny_base, tiny_data), device="cpu")
    with torch.no_grad():  # LoRA starts as the identity; make it count
        for name, p in found.model.trainable().items():
            if "lora_B" in name:
                p.normal_(std=0.2)
    return found


# --- examples -------------------------------------------------------------------------------------------


def test_every_item_is_supervised_just_before_its_rating(made: Material) -> None:
    """The label is the rating's token, at the item's last token, and the rating itself follows it."""
    task = Rated(made)
    tokenizer = made.serializer.encoder
    for number in range(task.pool):
        example = task.example(number, np.random.default_rng(number))
        prompt, where = example.prompt, np.flatnonzero(example.labels != IGNORE)
        assert len(where) == len(prompt.item_ends) == len(prompt.history) > 0
        assert where.tolist() == [end - 1 for end in prompt.item_ends]  # a rating is one token here
        assert {s.start for s in prompt.slots} == set(where.tolist())
        assert example.labels[where].tolist() == prompt.token_ids[where + 1].tolist()
        assert example.choices == made.serializer.labels(task.template)
        said = [tokenizer.decode([int(t)]) for t in example.labels[where]]
        user = int(task.users[number])
        sequence = made.train.sequence(user).tolist()
        told = made.train.ratings[made.train.indptr[user] : made.train.indptr[user + 1]]
        known = {made.train.item_ids[i]: f"{r:g}" for i, r in zip(sequence, told, strict=True)}
        assert said == [known[i] for i in prompt.history]
        assert sorted(prompt.history) == sorted(known)


def test_the_order_is_drawn_anew_and_long_histories_are_sampled(made: Material) -> None:
    task = Rated(made)
    orders = {task.example(0, np.random.default_rng(seed)).prompt.history for seed in range(8)}
    assert len(orders) > 4
    assert len({frozenset(o) for o in orders}) == 1
    short = Rated(replace(made, prompt=PromptConfig(max_tokens=2000, max_sequence=3)))
    drawn = [short.example(0, np.random.default_rng(seed)).prompt.history for seed in range(20)]
    assert {len(d) for d in drawn} == {3}
    assert set().union(*drawn) == set().union(*orders)


def test_unrated_events_are_passed_over(made: Material) -> None:
    ratings = made.train.ratings.copy()
    ratings[made.train.indptr[1] : made.train.indptr[2]] = np.nan  # all of the second user
    ratings[0] = np.nan
    task = Rated(replace(made, train=replace(made.train, ratings=ratings)))
    assert 1 not in task.users.tolist()
    first = made.train.item_ids[int(made.train.items[0])]
    assert first not in task.example(0, np.random.default_rng(0)).prompt.history


def test_a_template_whose_lines_do_not_begin_with_the_branch_is_refused(made: Material) -> None:
    odd = prompting.template.parse(
        {
            "name": "odd", "mode": "rated", "chat": False, "user": "Ratings:\n{{ history }}",
            "history_item": "{{ event.rating }}{{ media }}", "branch": "{{ media }}", "labels": list("12345"),
        },
        "odd.yaml",
    )  # fmt: skip
    task = Rated(replace(made, templates={**made.templates, "rated": odd}))
    with pytest.raises(TemplateError, match=r"odd.yaml: expected `history_item` to print the same tokens as `branch`"):
        task.example(0, np.random.default_rng(0))


def test_ratings_beyond_the_labels_are_a_mistake(made: Material) -> None:
    train = replace(made.train, ratings=made.train.ratings * 2)
    with pytest.raises(ConfigError, match="the rated task's template has labels 1 to 5, but ratings run from 2 to 10"):
        Rated(replace(made, train=train))
    assert [level(r, 5) for r in (0.2, 1.0, 2.49, 2.5, 5.0, 5.4)] == [0, 0, 1, 2, 4, 4]


def test_the_loss_is_cross_entropy_of_the_levels_and_squared_error() -> None:
    logits = torch.log(torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.25, 0.25]]))
    found = scale_loss(logits, torch.tensor([2, 0]))
    expected = [-np.log(0.7) + (1.6 - 2) ** 2, -np.log(0.5) + 0.75**2]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_a_step_weighs_dense_and_text_ratings_apart(ready: Ready, made: Material) -> None:
    """The dense task's sum is `scale_loss` over its label tokens, whatever else is in the pack."""
    examples = [e for n in range(2) if (e := ready.mixture.example(0, n)) is not None]
    alone = collate(examples, ("rated",), Position())
    mixed = collate(examples, ("rating", "rated"), Position())
    step = TrainingStep(ready.model)
    ready.model.eval()
    with torch.no_grad():
        one, two = step(alone), step(mixed)
        hidden = ready.model(alone.pack)[torch.from_numpy(alone.answers)]
        tokens = torch.tensor(examples[0].choices)
        places = (torch.from_numpy(alone.labels)[:, None] == tokens).int().argmax(1)
        by_hand = scale_loss(ready.model.logits(hidden, tokens), places).sum()
    assert two[0] == 0
    torch.testing.assert_close(one[0], two[1])
    torch.testing.assert_close(one[0], by_hand)


# --- nothing held out is seen -----------------------------------------------------------------------------


def test_no_held_out_rating_is_learned_from(tiny_base: Path, tiny_data: Path, ready: Ready) -> None:
    """Other held-out ratings change neither an example, nor a vector, nor a loss."""
    data = Dataset.open(tiny_data)
    whole = data.histories.interactions
    split = protocol(RATING).split(whole)
    assert isinstance(split, RatedSplit)
    unseen = np.concatenate([split.test_events, split.valid_events])
    changed = whole.ratings.copy()
    changed[unseen] = 6 - changed[unseen]
    vars(data.histories)["interactions"] = replace(whole, ratings=changed)
    other = prepare(config(tiny_base, tiny_data), device="cpu", dataset=data)
    one, two = ready.model.soft, other.model.soft
    assert one is not None
    assert two is not None
    np.testing.assert_array_equal(one.tables()["ratings"].vectors, two.tables()["ratings"].vectors)
    owners = np.repeat(np.arange(len(whole)), np.diff(whole.indptr))
    hidden = {(whole.user_ids[owners[n]], whole.item_ids[whole.items[n]]) for n in unseen.tolist()}
    for place in range(ready.mixture.size):
        a, b = ready.mixture.example(0, place), other.mixture.example(0, place)
        assert a is not None
        assert b is not None
        np.testing.assert_array_equal(a.prompt.token_ids, b.prompt.token_ids)
        np.testing.assert_array_equal(a.labels, b.labels)
        number = int(ready.mixture.order(0)[place][1])
        user = whole.user_ids[int(ready.mixture.tasks[0].users[number])]
        assert not {(user, i) for i in a.prompt.history} & hidden


def test_validation_asks_the_validation_ratings_from_train_alone(ready: Ready, split: RatedSplit) -> None:
    pairs = ready.validator.ranks(ready.model)
    whole = split.whole
    assert whole is not None
    truth = [float(r) for c in cases(split, "valid") for r in whole.ratings[c.asked]]
    assert [t for t, _ in pairs] == truth
    found = ready.validator.summary(pairs)  # type: ignore[arg-type]
    errors = np.array(pairs)[:, 0] - np.array(pairs)[:, 1]
    assert found["RMSE"].value == pytest.approx(np.sqrt(np.mean(errors**2)))


def test_a_protocol_of_ratings_needs_a_task_of_ratings(tiny_base: Path, tiny_data: Path) -> None:
    with pytest.raises(ConfigError, match="no task learns them"):
        prepare(config(tiny_base, tiny_data, train__tasks={"rated": 0, "next_title": 1}), device="cpu")


def test_crossfitted_vectors_do_not_go_with_the_embedding_task(tiny_base: Path, tiny_data: Path) -> None:
    with pytest.raises(ConfigError, match=r"train.tasks.embedding does not go with .*ratings.options.folds to 0"):
        prepare(config(tiny_base, tiny_data, train__tasks={"embedding": 1}), device="cpu")


# --- the encoder --------------------------------------------------------------------------------------------


def fitted(train: Interactions, **options: Any) -> Ratings:
    built = encoders.build({"ratings": EncoderConfig(options={**OPTIONS, **options})})["ratings"]
    assert isinstance(built, Ratings)
    return built.fit(train)  # type: ignore[no-any-return]


def test_better_rated_items_have_a_larger_first_column(split: RatedSplit) -> None:
    train = replace(split.train, ratings=np.where(split.train.items < 12, 5.0, 1.0).astype(np.float32))
    table = fitted(train).table
    seen = np.bincount(train.items, minlength=len(train.item_ids)) > 0
    assert table.shape == (len(train.item_ids), FIXED + 2)
    assert table[:12][seen[:12], 0].min() > table[12:][seen[12:], 0].max()


def test_items_without_ratings_are_not_present(split: RatedSplit, dataset: Dataset) -> None:
    ratings = split.train.ratings.copy()
    ratings[split.train.items == 4] = np.nan
    train = replace(split.train, ratings=ratings)
    found = compute(list(dataset.catalog.values()), train, FEATURES, progress=False).tables["ratings"]
    assert not found.present[4]
    assert not found.vectors[4].any()
    assert found.present.sum() == len(found.present) - 1
    assert np.isfinite(found.vectors).all()


def test_vectors_follow_ratings_and_so_does_the_fingerprint(split: RatedSplit) -> None:
    """Two tables of the same events with other ratings must not meet in the cache."""
    other = replace(split.train, ratings=split.train.ratings[::-1].copy())
    assert other.digest == split.train.digest
    assert fitted(split.train).fingerprint != fitted(other).fingerprint
    assert fitted(split.train).fingerprint == fitted(replace(split.train)).fingerprint


def test_data_without_ratings_is_a_mistake(split: RatedSplit) -> None:
    with pytest.raises(FeatureError, match="expected train events with a rating, found none"):
        _ = fitted(replace(split.train, ratings=np.full(len(split.train.items), np.nan, dtype=np.float32))).table


def test_a_fold_is_left_out_but_for_the_axes(split: RatedSplit) -> None:
    """Bias, count and spread of a fold's vectors do not move with its ratings, and stay near the whole's."""
    train = split.train
    encoder = fitted(train)
    owners = np.repeat([encoder.fold(u) for u in train.user_ids], np.diff(train.indptr))
    assert set(owners.tolist()) == {0, 1, 2}
    kept = train.ratings.copy()
    kept[owners == 1] = 6 - kept[owners == 1]
    means, units = encoder._units
    changed = fitted(replace(train, ratings=kept))
    other_means, other_units = changed._units
    one, present = encoder.without(1)
    two, _ = changed.without(1)
    raw, other = one * units + means, two * other_units + other_means
    np.testing.assert_allclose(raw[present, :FIXED], other[present, :FIXED], atol=1e-4)
    assert np.corrcoef(one[present, 0], encoder.table[present, 0])[0, 1] > 0.5
    counts = np.bincount(train.items[owners != 1], minlength=len(train.item_ids))
    np.testing.assert_array_equal(present, counts > 0)
    assert fitted(train, folds=0).folds == 0


def test_training_shows_rows_without_the_users_own_ratings(ready: Ready, dataset: Dataset, split: RatedSplit) -> None:
    crossfit = Crossfit(FEATURES, split.train)
    soft = ready.model.soft
    assert soft is not None
    assert len(soft.item_ids) == 4 * len(dataset.catalog)
    for place in range(4):
        example = ready.mixture.example(0, place)
        assert example is not None
        user = split.train.user_ids[int(ready.mixture.tasks[0].users[int(ready.mixture.order(0)[place][1])])]
        assert [s.item_id for s in example.prompt.slots] == [crossfit(user, i) for i in example.prompt.history]
        fold = fitted(split.train).fold(user)
        vectors, _ = fitted(split.train).without(fold)
        rows = soft.rows([s.item_id for s in example.prompt.slots])
        wanted = vectors[[split.train.item_index[i] for i in example.prompt.history]]
        np.testing.assert_allclose(soft.tables()["ratings"].vectors[rows], wanted, atol=1e-6)
    assert not Crossfit({"ratings": EncoderConfig(options={"folds": 0})}, split.train)


# --- the mode -----------------------------------------------------------------------------------------------


def scores(ready: Ready, requests: Sequence[Any], budget: int = 4096) -> list[np.ndarray]:
    mode = modes.build("rated")
    serializer = ready.validator._serializer  # type: ignore[union-attr]
    return [s.scores for s in mode.scores(Runner(ready.model, budget), serializer, requests)]


def test_packed_scores_are_those_of_one_candidate_at_a_time(ready: Ready, split: RatedSplit) -> None:
    whole = split.whole
    assert whole is not None
    requests = [replace(c.request(whole), candidates=whole.item_ids[:6]) for c in cases(split)[:4]]
    packed = scores(ready, requests)
    for request, row in zip(requests, packed, strict=True):
        alone = [scores(ready, [replace(request, candidates=(i,))])[0][0] for i in request.candidates]
        np.testing.assert_allclose(row, alone, atol=2e-4)
        assert len(set(np.round(row, 4))) > 1
        assert (row >= 1).all()
        assert (row <= 5).all()


def test_training_reads_what_the_mode_reads(ready: Ready, split: RatedSplit) -> None:
    """The expected rating at an item of a training prompt is that of the mode, given the items before it."""
    whole = split.whole
    assert whole is not None
    case = next(c for c in cases(split) if len(c.history) >= 4)
    serializer, template = ready.validator._serializer, prompting.load("rated")  # type: ignore[union-attr]
    request = RatedMode.shuffled(case.request(whole), 20)
    prompt = serializer.prompt(template, request, candidates=())
    from palate.engine.pack import concat

    ready.model.eval()
    last = request.history[-1]
    with torch.no_grad():
        hidden = ready.model(concat([prompt]))[prompt.item_ends[-1] - 1][None]
        logits = ready.model.logits(hidden, torch.tensor(serializer.labels(template)))
    expected = float((logits.softmax(1) @ torch.arange(1.0, 6.0)).item())
    asked = replace(request, history=request.history[:-1], candidates=(last.item_id,))
    assert scores(ready, [asked])[0][0] == pytest.approx(expected, abs=2e-4)


def test_history_is_a_set_and_unrated_events_say_nothing(ready: Ready, split: RatedSplit) -> None:
    whole = split.whole
    assert whole is not None
    case = max(cases(split), key=lambda c: len(c.history))
    request = case.request(whole)
    turned = replace(request, history=request.history[::-1])
    unrated = replace(request, history=(*request.history, replace(request.history[0], rating=None)))
    plain = scores(ready, [request])[0]
    for other in (turned, unrated):
        np.testing.assert_allclose(scores(ready, [other])[0], plain, atol=1e-6)


def test_the_newest_ratings_are_kept() -> None:
    from palate.schema import Event, Request

    history = tuple(Event(str(n), float(n), 3.0) for n in range(10))
    shown = RatedMode.shuffled(Request("r", "u", history), 4).history
    assert {e.item_id for e in shown} == {"6", "7", "8", "9"}


def test_the_mixture_knows_the_task(made: Material) -> None:
    from palate.config import TASKS, TasksConfig

    mixture = Mixture(made, TasksConfig(**{**dict.fromkeys(TASKS, 0.0), "rated": 1.0}), seed=1)
    assert mixture.names == ("rated",)
    assert mixture.size == len(Rated(made).users)
    assert TEMPLATES.get("rated", "rated") == "rated"
