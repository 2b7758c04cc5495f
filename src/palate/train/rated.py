"""Dense ratings: a user's rated items as one sequence, and the rating of every item learned in one forward pass.

An item's soft token comes first, then its rating as text, so the hidden state at the item knows everything but that
rating. The order is drawn anew for every example: any of a user's ratings may be asked given any of the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from palate.config import EncoderConfig, RunConfig, TrainConfig
from palate.data.rated import RatedSplit
from palate.engine import modes
from palate.engine.modes import Mode
from palate.engine.runner import Runner
from palate.errors import ConfigError, TemplateError
from palate.evaluate import metrics, rating_cases
from palate.features import encoders
from palate.features.encoders import CollaborativeEncoder
from palate.model import Model
from palate.schema import Bools, Event, Features, Floats, Interactions, Prompt, Request
from palate.train.task import IGNORE, Example, Material, Task

METRICS = ("RMSE", "MAE")


# --- the task -------------------------------------------------------------------------------------------


class Rated(Task):
    """How the user rates each item of a history, from the ratings before it in a random order.

    One example a user and epoch, of at most `prompt.max_sequence` ratings, a random draw where there are more.
    """

    name = "rated"

    def __init__(self, material: Material) -> None:
        super().__init__(material)
        train = material.train
        rated = np.add.reduceat(np.append(np.isfinite(train.ratings), False), train.indptr[:-1])
        self.users = np.flatnonzero((rated > 0) & (material.lengths > 0)).astype(np.int64)
        self.labels: tuple[int, ...] = material.serializer.labels(self.template)
        if len(self.users):
            check_levels(train.ratings, len(self.labels), self.name)

    def example(self, number: int, rng: np.random.Generator) -> Example:
        user = int(self.users[number])
        request = self.material.request(user, 0, int(self.material.lengths[user]), rng)
        rated = [e for e in request.history if e.rating is not None]
        order = rng.permutation(len(rated))[: self.material.prompt.max_sequence]
        request = replace(request, history=tuple(rated[i] for i in order))
        prompt = self.material.serializer.prompt(self.template, request, candidates=())
        shown = request.history[len(request.history) - len(prompt.item_ends) :]
        labels = np.full(len(prompt), IGNORE, dtype=np.int64)
        for place, event in zip(self._places(prompt, request, shown), shown, strict=True):
            assert event.rating is not None
            labels[place] = self.labels[level(event.rating, len(self.labels))]
        none = np.full(1 + len(prompt.item_ends), -1, dtype=np.int64)
        own = self.material.rows
        if own is not None:
            slots = tuple(replace(s, item_id=own(request.user_id or "", s.item_id)) for s in prompt.slots)
            prompt = replace(prompt, slots=slots)
        return Example(self.name, prompt, labels, none, none, self.labels)

    def _places(self, prompt: Prompt, request: Request, shown: Sequence[Event]) -> list[int]:
        """The last position of each item before its rating. TemplateError where a line does not begin with the branch
        that asks about the item."""
        branches = self.material.serializer.branches(self.template, request, [e.item_id for e in shown])
        places, start = [], prompt.start + 1
        for branch, end in zip(branches, prompt.item_ends, strict=True):
            stop = start + len(branch)
            if not len(branch) or stop > end or (prompt.token_ids[start:stop] != branch.token_ids).any():
                raise TemplateError(
                    f"{self.template.source}: expected `history_item` to print the same tokens as `branch` and then "
                    f"the rating, but they differ for item {branch.item_id!r}; let both begin alike"
                )
            places.append(stop - 1)
            start = end + 1
        return places


def check_levels(ratings: Floats, labels: int, task: str) -> None:
    """ConfigError where ratings do not fit a template's labels, 1 to `labels`. NaN is passed over."""
    low, high = float(np.nanmin(ratings)), float(np.nanmax(ratings))
    if low < 0 or round(high) > labels:
        raise ConfigError(
            f"the {task} task's template has labels 1 to {labels}, but ratings run "
            f"from {low:g} to {high:g}; rescale them in the data, or set train.tasks.{task} to 0"
        )


def level(rating: float, labels: int) -> int:
    """The place among labels 1 to `labels` of a rating, halves going up: from 0."""
    return min(max(int(np.floor(rating + 0.5)), 1), labels) - 1


def scale_loss(logits: Tensor, levels: Tensor) -> Tensor:
    """Cross entropy over the levels of a scale, plus the squared error of the expected level: float32 [R].

    logits: [R, L]; levels: int64 [R]. The first term learns the distribution, the second is what RMSE measures.
    """
    steps = torch.arange(logits.shape[1], device=logits.device, dtype=logits.dtype)
    error = logits.softmax(1) @ steps - steps[levels]
    return F.cross_entropy(logits, levels, reduction="none") + error.square()


# --- vectors without a user's own ratings ---------------------------------------------------------------


@runtime_checkable
class Folded(Protocol):
    """An encoder that can leave out a fold of the users (`features.encoders.ratings`)."""

    @property
    def folds(self) -> int: ...

    def fold(self, user_id: str) -> int: ...

    def without(self, fold: int) -> tuple[Floats, Bools]: ...


class Crossfit:
    """Rows of the feature tables for training: each user is shown items as if their fold had rated nothing.

    Without them a vector tells the model what it is to predict: of an item with few ratings, much of its bias and
    factors is the one rating asked about. `extend` gives tables with a row for each (item, fold) behind those of the
    catalogue, the call names a user's row of an item.
    """

    def __init__(self, config: Mapping[str, EncoderConfig], train: Interactions) -> None:
        self._encoders: dict[str, Folded] = {}
        for modality, encoder in encoders.build(config).items():
            if isinstance(encoder, CollaborativeEncoder) and isinstance(encoder, Folded) and encoder.folds:
                encoder.fit(train)
                self._encoders[modality] = encoder
        counts = {m: e.folds for m, e in self._encoders.items()}
        if len(set(counts.values())) > 1:
            raise ConfigError(f"expected the same number of folds for all encoders that have some, got {counts}")
        self.modality = next(iter(counts), "")
        self.folds = counts.get(self.modality, 0)
        self._item_ids = train.item_ids

    def __bool__(self) -> bool:
        return self.folds > 0

    def __call__(self, user_id: str, item_id: str) -> str:
        """The row that a user is shown for an item."""
        return _row(item_id, self._encoders[self.modality].fold(user_id))

    def extend(self, tables: Mapping[str, Features]) -> dict[str, Features]:
        """The tables with (item, fold) rows behind their own; vectors that hold no ratings are repeated."""
        found = {}
        index = {item: n for n, item in enumerate(self._item_ids)}
        for modality, table in tables.items():
            order = np.array([index[i] for i in table.item_ids], dtype=np.int64)
            encoder = self._encoders.get(modality)
            parts = [(table.vectors, table.present)]
            for fold in range(self.folds):
                vectors, present = (table.vectors, table.present) if encoder is None else encoder.without(fold)
                parts.append((vectors, present) if encoder is None else (vectors[order], present[order]))
            ids = [*table.item_ids, *(_row(i, fold) for fold in range(self.folds) for i in table.item_ids)]
            found[modality] = replace(
                table,
                item_ids=tuple(ids),
                vectors=np.concatenate([v for v, _ in parts]),
                present=np.concatenate([p for _, p in parts]),
            )
        return found


def crossfitted(config: RunConfig, train: Interactions, model: Model) -> Crossfit | None:
    """Rows without a user's own ratings behind the model's tables, where the rated task learns from such vectors."""
    if not config.train.tasks.rated or model.soft is None:
        return None
    crossfit = Crossfit(config.features, train)
    if not crossfit:
        return None
    if config.train.tasks.embedding or config.train.start:
        what = "train.tasks.embedding" if config.train.tasks.embedding else "train.start"
        raise ConfigError(
            f"{what} does not go with the rated task while item vectors are fitted without each user's own ratings; "
            f"leave it out, or set features.{crossfit.modality}.options.folds to 0"
        )
    model.soft.set_tables(crossfit.extend(model.soft.tables()))
    return crossfit


def _row(item_id: str, fold: int) -> str:
    return f"{item_id}\x1f{fold}"


# --- validation -----------------------------------------------------------------------------------------


def rating_mode(config: TrainConfig) -> Mode:
    """The mode whose expected ratings are validated."""
    if not config.tasks.rated and not config.tasks.rating:
        raise ConfigError(
            f"train.protocol {config.protocol!r} validates expected ratings, but no task learns them; set "
            "train.tasks.rated or train.tasks.rating above 0"
        )
    return modes.build("rated" if config.tasks.rated else "rating")


class RatingValidator:
    """RMSE of a part of the train ratings that training does not see, from the user's train ratings.

    users: how many users at most, a seeded draw; 0 turns validation off. rank, world: the share of this process.
    """

    headline = "RMSE"
    sign = -1.0
    """Lower is better."""

    def __init__(
        self,
        split: RatedSplit,
        serializer: Any,
        mode: Mode,
        *,
        users: int,
        budget: int,
        profiles: Mapping[str, Mapping[str, str]] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        whole = split.whole
        assert whole is not None
        every = rating_cases.cases(split, "valid", users) if users else []
        self.size = len(every)
        self.cases = every[rank::world]
        self._serializer, self._mode, self._budget = serializer, mode, budget
        profiles = profiles or {}
        self._requests = [c.request(whole, profiles.get(c.user_id)) for c in self.cases]
        self._truth = [whole.ratings[c.asked].tolist() for c in self.cases]
        self._items = [[whole.item_ids[int(i)] for i in whole.items[c.asked]] for c in self.cases]

    @torch.no_grad()
    def ranks(self, model: Model) -> list[tuple[float, float]]:
        """(rating, expected rating) of this process's share."""
        was = model.training
        try:
            scored = self._mode.scores(Runner(model, self._budget), self._serializer, self._requests)
        finally:
            model.train(was)
        pairs = []
        for scores, items, truth in zip(scored, self._items, self._truth, strict=True):
            said = dict(zip(scores.item_ids, scores.scores.tolist(), strict=True))
            pairs += [(t, said[i]) for t, i in zip(truth, items, strict=True)]
        return pairs

    def summary(self, pairs: Sequence[tuple[float, float]]) -> dict[str, metrics.Interval]:
        """RMSE and MAE with 95% intervals over all ratings."""
        table = np.asarray(pairs, dtype=np.float64)
        found = metrics.ratings(table[:, 0], table[:, 1])
        return {m: found[m] for m in METRICS}
