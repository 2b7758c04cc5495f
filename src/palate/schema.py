"""The currency: frozen types that every floor of Palate hands to the next.

Shape letters used everywhere: N items in the catalogue, U users, H history items, C candidates,
T tokens, D model width, E matching width, M modalities.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]
Times = NDArray[np.float64]
"""Seconds since 1970, NaN where unknown."""
Quantization = Literal["none", "int8", "nf4", "int4", "fp8"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Empty: Mapping[str, str] = {}


@dataclass(frozen=True, slots=True)
class Item:
    """One catalogue entry. `text` holds every text field but the title; `media` maps a modality to a file."""

    item_id: str
    title: str
    text: Mapping[str, str] = field(default_factory=dict)
    media: Mapping[str, Path] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """One user-item interaction. `timestamp` in seconds since 1970; None where the table has none.

    review: what the user wrote about the item, in their words.
    """

    item_id: str
    timestamp: float | None = None
    rating: float | None = None
    context: Mapping[str, str] = field(default_factory=dict)
    review: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """What to score or recommend for whom. History is oldest first. `user_id` may be unknown to training.

    adapter: the name of the one to ask, where several share a base; empty: the recommender's own.
    """

    request_id: str
    user_id: str | None = None
    history: tuple[Event, ...] = ()
    candidates: tuple[str, ...] = ()
    context: Mapping[str, str] = field(default_factory=dict)
    profile: Mapping[str, str] = field(default_factory=dict)
    query: str = ""
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Wording:
    """The nouns and verbs of a domain, from `dataset.yaml`. `verb` is a past form: watched, bought, read."""

    item: str = "item"
    items: str = "items"
    verb: str = "chose"
    person: str = "user"


@dataclass(frozen=True)
class Interactions:
    """Time-ordered item sequences of all users, as CSR arrays (the shape implicit and RecBole also use).

    user_ids: U ids; item_ids: N ids, the catalogue's order, the index space of `items`.
    indptr: int64 [U + 1]; items: int64 [nnz]; timestamps: float64 [nnz] (NaN unknown);
    ratings: float32 [nnz] (NaN unknown). A user's slice is oldest first, ties in file order.
    """

    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    indptr: Ints
    items: Ints
    timestamps: NDArray[np.float64]
    ratings: Floats

    def __len__(self) -> int:
        return len(self.user_ids)

    @cached_property
    def user_index(self) -> dict[str, int]:
        return {u: i for i, u in enumerate(self.user_ids)}

    @cached_property
    def item_index(self) -> dict[str, int]:
        return {i: n for n, i in enumerate(self.item_ids)}

    def sequence(self, user: int) -> Ints:
        """Item indices of user number `user`, oldest first: int64 [H]."""
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    @cached_property
    def users(self) -> Ints:
        """The user number of each event: int64 [nnz]."""
        return np.repeat(np.arange(len(self), dtype=np.int64), np.diff(self.indptr))

    def of(self, kept: Bools) -> Interactions:
        """The events in the mask (bool [nnz]); users and items as they were."""
        indptr = np.zeros_like(self.indptr)
        np.cumsum(np.bincount(self.users[kept], minlength=len(self)), out=indptr[1:])
        return replace(
            self,
            indptr=indptr,
            items=self.items[kept],
            timestamps=self.timestamps[kept],
            ratings=self.ratings[kept],
        )

    def sequences(self) -> list[Ints]:
        return [self.sequence(u) for u in range(len(self))]

    @cached_property
    def digest(self) -> str:
        """sha256 of who chose what in which order (users' names, timestamps and ratings do not count)."""
        state = hashlib.sha256(json.dumps(self.item_ids).encode())
        for array in (self.indptr, self.items):
            state.update(np.ascontiguousarray(array, dtype="<i8").tobytes())
        return state.hexdigest()


@dataclass(frozen=True)
class Features:
    """One modality's vectors for a list of items.

    vectors: float32 [N, F]; rows where `present` (bool [N]) is False are zero and mean "no such medium".
    fingerprint: identifies encoder, weights and options; vectors of two fingerprints never mix.
    tokens: a row is this many vectors of equal width end to end, in order: the patches of a picture, the
    stretches of a film. With model-level fusion each gets soft tokens of its own.
    """

    modality: str
    item_ids: tuple[str, ...]
    vectors: Floats
    present: Bools
    fingerprint: str
    tokens: int = 1

    @property
    def width(self) -> int:
        """F, all tokens together."""
        return int(self.vectors.shape[1])


@dataclass(frozen=True, slots=True)
class Slot:
    """`length` consecutive positions from `start` that take soft tokens of one item and modality."""

    start: int
    length: int
    modality: str
    item_id: str

    def shifted(self, by: int) -> Slot:
        return Slot(self.start + by, self.length, self.modality, self.item_id)


@dataclass(frozen=True, slots=True)
class Prompt:
    """A serialized prompt.

    token_ids: int64 [T]; positions under a slot hold the tokenizer's pad (or eos) id and are overwritten.
    history: item ids shown, oldest first; item_ends: int64 [H], the last position of each shown item.
    start: the position just before the first history item (it predicts the first item).
    dropped: how many of the oldest history items the token budget cost.
    """

    token_ids: Ints
    slots: tuple[Slot, ...] = ()
    history: tuple[str, ...] = ()
    item_ends: tuple[int, ...] = ()
    start: int = 0
    dropped: int = 0

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Branch:
    """A continuation of a prompt: one candidate. Slot positions are relative to the branch's first token."""

    item_id: str
    token_ids: Ints
    slots: tuple[Slot, ...] = ()

    def __len__(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Scores:
    """Candidates of one request with their scores, in the request's candidate order (higher is better)."""

    request_id: str
    user_id: str | None
    item_ids: tuple[str, ...]
    scores: Floats

    def ranks(self) -> Ints:
        """Rank of each candidate from 1; equal scores keep candidate-id order, so input order never matters."""
        order = sorted(range(len(self.item_ids)), key=lambda i: (-float(self.scores[i]), self.item_ids[i]))
        ranks = np.empty(len(order), dtype=np.int64)
        ranks[order] = np.arange(1, len(order) + 1)
        return ranks

    def top(self, k: int) -> list[tuple[str, float]]:
        """The k best (item id, score) pairs, best first."""
        few = self
        if 0 < k < len(self.scores):
            # only what may be among the k best is put in order: to sort a whole catalogue takes seconds
            cut = np.partition(self.scores, len(self.scores) - k)[len(self.scores) - k]
            near = np.flatnonzero(self.scores >= cut)
            few = replace(self, item_ids=tuple(self.item_ids[n] for n in near.tolist()), scores=self.scores[near])
        best = np.argsort(few.ranks())[:k]
        return [(few.item_ids[i], float(few.scores[i])) for i in best]


@dataclass(frozen=True, slots=True)
class Candidates:
    """What a retriever proposes for one request: item ids, best first, with its own scores."""

    item_ids: tuple[str, ...]
    scores: Floats
    source: str


SlotPlan = Sequence[tuple[str, int]]
"""The soft tokens one item gets: (modality, how many) in order; empty where the item has none."""


@dataclass(frozen=True, slots=True)
class Segment:
    """One request inside a pack: rows that see each other and `memory` positions kept from earlier calls.

    The first `prefix` rows are a causal chain. The `branch` rows behind them see the whole chain and form a token
    trie in depth-first order: branch row n is seen by the branch rows n .. ends[n] - 1 (ends int64 [branch]).
    memory: positions whose keys and values are already known; every row sees them, or those that `seen`
    (bool [rows, memory]) says. places: int64 [memory], their positions in the text; None where 0 .. memory - 1.
    """

    start: int
    prefix: int
    branch: int = 0
    ends: Ints | None = None
    memory: int = 0
    seen: Bools | None = None
    places: Ints | None = None

    @property
    def stop(self) -> int:
        return self.start + self.prefix + self.branch


@dataclass(frozen=True, slots=True)
class Pack:
    """Many requests in one unpadded sequence: what `Model.forward` takes.

    token_ids, positions: int64 [T]; slots hold positions in the pack; segments tile 0..T in order.
    """

    token_ids: Ints
    positions: Ints
    slots: tuple[Slot, ...]
    segments: tuple[Segment, ...]

    def __len__(self) -> int:
        return len(self.token_ids)
