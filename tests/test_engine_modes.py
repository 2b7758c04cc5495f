"""Every mode: one answer for one (prompt, candidate), whatever the order, the neighbours or the budget."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from palate.config import LoraConfig, ModelConfig, PromptConfig
from palate.data import Dataset
from palate.engine import modes
from palate.engine.modes.embedding import Embedding
from palate.engine.modes.generate import Generate
from palate.engine.modes.letters import Letters, shuffled
from palate.engine.modes.likelihood import Likelihood
from palate.engine.modes.rating import Rating, expectation, stars
from palate.engine.pack import Job
from palate.engine.runner import Output, Runner
from palate.errors import BundleError, ConfigError, EmptyLegalSet, RequestError, TemplateError
from palate.model import Model
from palate.prompting import Serializer
from palate.prompting.template import load
from palate.schema import Features, Request

ALL = ("embedding", "generate", "letters", "likelihood", "rated", "rating", "yes_no")


@pytest.fixture(scope="module")
def dataset(tiny_data: Path) -> Dataset:
    return Dataset.open(tiny_data)


def make_model(base: Path, dataset: Dataset) -> Model:
    ids = dataset.catalog.item_ids
    rng = np.random.default_rng(3)
    present = np.arange(len(ids)) % 4 != 0
    vectors = rng.normal(size=(len(ids), 8)).astype(np.float32) * present[:, None]
    tables = {"image": Features("image", ids, vectors, present, "image-test")}
    config = ModelConfig(base=f"path:{base}", dtype="float32", hidden=16, matching=8, lora=LoraConfig(rank=4))
    model = Model.create(config, tables, device="cpu", seed=5)
    with torch.no_grad():
        for name, p in model.trainable().items():
            if "lora_B" in name:
                p.normal_(std=0.2)
    return model


@pytest.fixture(scope="module")
def model(tiny_base: Path, dataset: Dataset) -> Model:
    return make_model(tiny_base, dataset)


@pytest.fixture(scope="module")
def serializer(model: Model, dataset: Dataset) -> Serializer:
    assert model.soft is not None
    config = PromptConfig(max_tokens=1200)
    return Serializer(model.tokenizer, dataset.catalog, dataset.wording, dataset.show, config, model.soft.slots)


@pytest.fixture(scope="module")
def requests(dataset: Dataset) -> list[Request]:
    ids = dataset.catalog.item_ids
    made = []
    for n, user in enumerate(("3", "7", "11")):
        history = dataset.histories.events(user)[: 3 + n]
        seen = {e.item_id for e in history}
        left = [i for i in ids if i not in seen]
        made.append(Request(f"r{n}", user, history, tuple(left[n : n + 5 + n])))
    return made


class Counting(Runner):
    """A runner that remembers its jobs."""

    def __init__(self, model: Model, max_tokens: int = 4096) -> None:
        super().__init__(model, max_tokens)
        self.jobs: list[Job] = []

    def run(self, jobs: Iterable[Job]) -> list[Output]:
        taken = list(jobs)
        self.jobs += taken
        return super().run(taken)


# --- every mode -------------------------------------------------------------------------------------


def test_the_folder_is_the_list_of_modes() -> None:
    assert tuple(modes.names()) == ALL
    for name in ALL:
        mode = modes.build(name)
        assert mode.name == name
        assert mode.needs_matching == (name == "embedding")


@pytest.mark.parametrize("name", ALL)
def test_neither_order_nor_neighbours_nor_budget_matter(
    name: str, model: Model, serializer: Serializer, requests: list[Request]
) -> None:
    mode = modes.build(name)
    together = mode.scores(Runner(model, 8192), serializer, requests)
    assert len({round(float(s), 6) for r in together for s in r.scores}) > len(requests)
    back = modes.build(name).scores(
        Runner(model, 2048), serializer, [replace(r, candidates=r.candidates[::-1]) for r in requests[::-1]]
    )[::-1]
    for request, one, two in zip(requests, together, back, strict=True):
        assert (one.request_id, one.user_id, one.item_ids) == (
            request.request_id,
            request.user_id,
            request.candidates,
        )
        assert one.scores.dtype == np.float32
        assert one.scores.shape == (len(request.candidates),)
        np.testing.assert_allclose(one.scores, two.scores[::-1], atol=1e-4)
        alone = mode.scores(Runner(model), serializer, [request])[0]
        np.testing.assert_allclose(one.scores, alone.scores, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_a_candidate_named_twice_gets_one_score(
    name: str, model: Model, serializer: Serializer, requests: list[Request]
) -> None:
    first, *rest = requests[0].candidates
    twice = replace(requests[0], candidates=(first, *rest, first))
    scores = modes.build(name).scores(Runner(model), serializer, [twice])[0].scores
    assert scores[0] == scores[-1]
    once = modes.build(name).scores(Runner(model), serializer, [requests[0]])[0].scores
    np.testing.assert_array_equal(scores[:-1], once)


@pytest.mark.parametrize("name", ALL)
def test_a_new_user_without_a_history(name: str, model: Model, serializer: Serializer) -> None:
    scores = modes.build(name).scores(Runner(model), serializer, [Request("new", None, (), ("1", "2", "3"))])
    assert np.isfinite(scores[0].scores).all()


@pytest.mark.parametrize("name", ALL)
def test_mistakes_are_named(name: str, model: Model, serializer: Serializer) -> None:
    mode = modes.build(name)
    with pytest.raises(RequestError, match="request 'x': expected candidates to score, got none"):
        mode.scores(Runner(model), serializer, [Request("x")])
    with pytest.raises(RequestError, match="the candidate 'nope'"):
        mode.scores(Runner(model), serializer, [Request("x", candidates=("1", "nope"))])
    assert mode.scores(Runner(model), serializer, []) == []


def test_many_requests_are_scored_in_chunks(
    model: Model, serializer: Serializer, requests: list[Request], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = modes.build("yes_no").scores(Runner(model), serializer, requests)
    sizes = []

    class Watching(Counting):
        def run(self, jobs: Iterable[Job]) -> list[Output]:
            outputs = super().run(jobs)
            sizes.append(len(outputs))
            return outputs

    monkeypatch.setattr(modes, "CHUNK_CANDIDATES", 11)
    parts = modes.build("yes_no").scores(Watching(model), serializer, requests)
    assert sizes == [2, 1]
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)


def test_unknown_names_and_options_suggest_the_right_one() -> None:
    with pytest.raises(ConfigError, match="no mode is called 'likelyhood'; did you mean 'likelihood'"):
        modes.build("likelyhood")
    with pytest.raises(ConfigError, match="mode 'letters' has no option 'shuffle'; did you mean 'shuffles'"):
        modes.build("letters", shuffle=2)
    with pytest.raises(ConfigError, match="reduce to be 'mean' or 'sum', got 'max'"):
        modes.build("likelihood", reduce="max")
    with pytest.raises(ConfigError, match="calibration to be a number"):
        modes.build("likelihood", calibration=math.nan)
    with pytest.raises(ConfigError, match="at least 1 shuffle, got 0"):
        modes.build("letters", shuffles=0)


# --- likelihood -------------------------------------------------------------------------------------


def token_logprobs(model: Model, serializer: Serializer, request: Request) -> list[np.ndarray]:
    template = load("next_item", "en")
    branches = tuple(serializer.branches(template, request, request.candidates))
    return Runner(model).run([Job(serializer.prompt(template, request), "tokens", branches)])[0].tokens


def test_likelihood_reduces_by_mean_or_sum(model: Model, serializer: Serializer, requests: list[Request]) -> None:
    tokens = token_logprobs(model, serializer, requests[1])
    for reduce, how in (("mean", np.mean), ("sum", np.sum)):
        got = modes.build("likelihood", reduce=reduce).scores(Runner(model), serializer, [requests[1]])[0].scores
        np.testing.assert_allclose(got, [how(t) for t in tokens], atol=1e-4)


def test_calibration_takes_away_the_unconditional_part_once(
    model: Model, serializer: Serializer, requests: list[Request]
) -> None:
    request = requests[2]
    plain = Likelihood("sum").scores(Runner(model), serializer, [request])[0].scores
    empty = Request("e", candidates=request.candidates)
    prior = Likelihood("sum").scores(Runner(model), serializer, [empty])[0].scores
    mode, runner = Likelihood("sum", calibration=0.7), Counting(model)
    got = mode.scores(runner, serializer, [request])[0].scores
    np.testing.assert_allclose(got, plain - 0.7 * prior, atol=1e-4)
    assert len(runner.jobs) == 2
    np.testing.assert_array_equal(mode.scores(runner, serializer, [request])[0].scores, got)
    assert len(runner.jobs) == 3  # the second time only the request itself
    unseen = next(i for i in serializer.items if i not in request.candidates)
    mode.scores(runner, serializer, [replace(request, candidates=(*request.candidates, unseen))])
    assert [len(j.branches) for j in runner.jobs[-2:]] == [len(request.candidates) + 1, 1]


def test_calibration_is_forgotten_when_the_weights_change(
    tiny_base: Path, dataset: Dataset, serializer: Serializer, requests: list[Request]
) -> None:
    own = make_model(tiny_base, dataset)
    mode = Likelihood("mean", calibration=1.0)
    before = mode.scores(Runner(own), serializer, requests)[0].scores
    with torch.no_grad():
        for name, p in own.trainable().items():
            if "lora_B" in name:
                p.mul_(-2)
    after = mode.scores(Runner(own), serializer, requests)[0].scores
    fresh = Likelihood("mean", calibration=1.0).scores(Runner(own), serializer, requests)[0].scores
    np.testing.assert_allclose(after, fresh, atol=1e-5)
    assert np.abs(after - before).max() > 1e-3


# --- labels -----------------------------------------------------------------------------------------


def label_rows(model: Model, serializer: Serializer, name: str, request: Request) -> np.ndarray:
    template = load(name, "en")
    branches = tuple(serializer.branches(template, request, request.candidates))
    prompt = serializer.prompt(template, request)
    return Runner(model).run([Job(prompt, "labels", branches, serializer.labels(template))])[0].labels


def test_yes_no_is_the_log_odds_of_yes(model: Model, serializer: Serializer, requests: list[Request]) -> None:
    rows = label_rows(model, serializer, "yes_no", requests[0])
    got = modes.build("yes_no").scores(Runner(model), serializer, [requests[0]])[0].scores
    np.testing.assert_allclose(got, rows[:, 0] - rows[:, 1], atol=1e-4)


def test_rating_is_the_expectation_over_the_labels(
    model: Model, serializer: Serializer, requests: list[Request]
) -> None:
    rows = np.exp(label_rows(model, serializer, "rating", requests[0]).astype(np.float64))
    got = Rating().scores(Runner(model), serializer, [requests[0]])[0].scores
    np.testing.assert_allclose(got, rows @ np.arange(1, 6) / rows.sum(1), atol=1e-4)
    assert ((got > 1) & (got < 5)).all()


def test_expectation_by_hand() -> None:
    rows = np.log(np.array([[0.1, 0.3], [0.2, 0.2], [1e-30, 1e-38]], dtype=np.float32))
    np.testing.assert_allclose(expectation(rows, np.array([1, 5], dtype=np.float32)), [4, 3, 1], atol=1e-4)
    odd = replace(load("rating", "en"), labels=("1", "good"))
    with pytest.raises(TemplateError, match=r"rating `labels` must be numbers, got \['1', 'good'\]"):
        stars(odd)


# --- letters ----------------------------------------------------------------------------------------


def test_shuffles_depend_on_the_set_and_the_history_only(requests: list[Request]) -> None:
    request = replace(requests[0], candidates=tuple("abcdefgh"))
    orders = shuffled(request, 4)
    assert orders == shuffled(replace(request, candidates=tuple("hgfedcba"), request_id="other"), 4)
    assert orders != shuffled(replace(request, history=request.history[:-1]), 4)
    assert all(sorted(o) == list("abcdefgh") for o in orders)
    for item in "abcdefgh":  # every candidate stands at four places, evenly apart
        places = sorted(o.index(item) for o in orders)
        assert np.diff(places).tolist() == [2, 2, 2]
    assert len(shuffled(replace(request, candidates=("a", "b")), 4)) == 2
    assert shuffled(replace(request, candidates=("a",)), 4) == [("a",)]


def test_letters_average_the_shuffles(model: Model, serializer: Serializer, requests: list[Request]) -> None:
    request, template = requests[1], load("letters", "en")
    labels = serializer.labels(template, len(request.candidates))
    want = dict.fromkeys(request.candidates, 0.0)
    for order in shuffled(request, 3):
        row = Runner(model).run([Job(serializer.prompt(template, request, order), "labels", (), labels)])[0].labels[0]
        for item, value in zip(order, row - np.log(np.exp(row).sum()), strict=True):
            want[item] += float(value) / 3
    got = Letters(shuffles=3).scores(Runner(model), serializer, [request])[0]
    np.testing.assert_allclose(got.scores, [want[i] for i in request.candidates], atol=1e-4)


def test_too_many_candidates_for_letters(tmp_path: Path, model: Model, serializer: Serializer) -> None:
    many = tuple(serializer.items)[:5]
    source = Path(load("letters", "en").source).read_text(encoding="utf-8")
    short = tmp_path / "short.yaml"
    cut = source[: source.index("labels:")] + 'labels: ["A", "B", "C", "D"]\n'
    short.write_text(cut, encoding="utf-8")
    mode = Letters(template=str(short))
    with pytest.raises(RequestError, match="request 'x': mode 'letters' takes at most 4 candidates, got 5; use mode"):
        mode.scores(Runner(model), serializer, [Request("x", candidates=many)])
    assert len(mode.scores(Runner(model), serializer, [Request("x", candidates=many[:4])])[0].scores) == 4
    with pytest.raises(RequestError, match="takes at most 26 candidates, got 27"):
        Letters().scores(Runner(model), serializer, [Request("x", candidates=tuple(map(str, range(27))))])


# --- embedding --------------------------------------------------------------------------------------


def test_embedding_scores_are_columns_of_the_catalogue(
    model: Model, serializer: Serializer, requests: list[Request]
) -> None:
    mode = Embedding()
    every = mode.catalogue_scores(Runner(model), serializer, requests)
    assert model.soft is not None
    assert every.shape == (len(requests), len(model.soft.item_ids))
    assert every.dtype == np.float32
    for row, scores in zip(every, mode.scores(Runner(model), serializer, requests), strict=True):
        places = [model.soft.item_ids.index(i) for i in scores.item_ids]
        np.testing.assert_allclose(scores.scores, row[places], atol=1e-4)
    assert mode.catalogue_scores(Runner(model), serializer, []).shape == (0, len(model.soft.item_ids))


def test_item_vectors_are_made_once_and_again_after_a_change(
    tiny_base: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, mode, calls = make_model(tiny_base, dataset), Embedding(), []
    plain = own.item_vectors
    monkeypatch.setattr(own, "item_vectors", lambda: (calls.append(1), plain())[1])
    own.train()
    first = mode.item_vectors(Runner(own))
    assert mode.item_vectors(Runner(own)) is first
    assert calls == [1]
    torch.testing.assert_close(first, plain())  # without dropout
    assert own.soft is not None
    own.soft.add_item("1", {"image": np.ones(8, dtype=np.float32)})
    changed = mode.item_vectors(Runner(own))
    assert not torch.equal(changed[0], first[0])
    own.soft.add_item("new", {"image": np.ones(8, dtype=np.float32)})
    assert len(mode.item_vectors(Runner(own))) == len(first) + 1
    with torch.no_grad():
        own.soft.matching.item.down.bias.add_(1)
    assert not torch.equal(mode.item_vectors(Runner(own))[:-1], changed)
    assert len(calls) == 4


def test_embedding_needs_a_matching_head_and_rows(tiny_base: Path, dataset: Dataset) -> None:
    config = ModelConfig(base=f"path:{tiny_base}", dtype="float32")
    bare = Model.create(config, {}, device="cpu", adapter=False)
    plain = Serializer(
        bare.tokenizer, dataset.catalog, dataset.wording, dataset.show, PromptConfig(), lambda item_id: ()
    )
    request = Request("x", candidates=("1", "2"))
    with pytest.raises(BundleError, match="embedding mode needs a trained matching head"):
        Embedding().scores(Runner(bare), plain, [request])
    assert len(Likelihood().scores(Runner(bare), plain, [request])[0].scores) == 2
    own = make_model(tiny_base, dataset)
    assert own.soft is not None
    own.soft.align(own.soft.item_ids[1:])
    with pytest.raises(RequestError, match="request 'x': the candidate '1' has no row in the adapter's"):
        Embedding().scores(Runner(own), plain, [request])


# --- generate ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("penalty", "reduce"), [(0.0, "sum"), (1.0, "mean")])
def test_generate_scores_equal_likelihood(
    model: Model, serializer: Serializer, requests: list[Request], penalty: float, reduce: str
) -> None:
    got = Generate(length_penalty=penalty).scores(Runner(model), serializer, requests)
    want = modes.build("likelihood", reduce=reduce).scores(Runner(model), serializer, requests)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a.scores, b.scores, atol=1e-4)


def test_recommend_from_the_whole_catalogue(model: Model, serializer: Serializer, requests: list[Request]) -> None:
    mode, runner = Generate(beams=24), Runner(model)
    ids = tuple(serializer.items)
    trie = mode.trie(serializer, ids)
    seen = [{e.item_id for e in r.history} for r in requests]
    masks = [np.array([i not in s for i in ids]) for s in seen]
    found = mode.recommend(runner, serializer, requests, trie, k=6, allowed=masks)
    for request, shown, ranked in zip(requests, seen, found, strict=True):
        assert len(ranked) == 6
        assert not shown & {i for i, _ in ranked}
        every = replace(request, candidates=tuple(i for i in ids if i not in shown))
        best = Likelihood("sum").scores(runner, serializer, [every])[0].top(6)
        assert [i for i, _ in ranked] == [i for i, _ in best]
        np.testing.assert_allclose([s for _, s in ranked], [s for _, s in best], atol=1e-4)
    with pytest.raises(EmptyLegalSet, match="request 'r0': the filters leave none of the 24 items"):
        mode.recommend(runner, serializer, requests[:1], trie, allowed=[np.zeros(24, dtype=bool)])
