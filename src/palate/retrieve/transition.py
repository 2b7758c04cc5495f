"""What follows what: a linear map from a time-decayed past to the near future, in closed form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from palate.errors import ConfigError
from palate.retrieve import Retriever, positive
from palate.schema import Features, Floats, Interactions, Ints, Times

MOST_ITEMS = 5_000
"""The normal equations hold (4 N)^2 numbers: 3.2 GB at this many items."""
LONGEST = 1_000
"""Events of one user that are looked at, the newest."""
PACE = 10.0
"""Seconds between two events whose times are unknown."""
VIEWS = 4


class Transition(Retriever):
    """Ridge regression of what comes next on four views of what came before.

    Each view weighs the items of a history by age: exp(-age / recent) with age counted in events; exp(-age / pause)
    and exp(-age / session) with age in seconds before the newest event, over the root of one plus their sum; and all
    alike, over the root of their number. Every position of every train history is one row of the regression; its
    target holds the item that came next, and those after it with exp(-steps / future). Linear models of sessions with
    one decay, on whole sessions and their two halves, are Choi et al., 2021 ("Session-aware linear item-item models");
    views of several ages and clock time tell a rating spree from a week's viewing.

    penalty: the ridge term. Catalogues over 5,000 items raise ConfigError and name `sasrec`.
    """

    name = "transition"

    def __init__(
        self,
        penalty: float = 300.0,
        recent: float = 3.0,
        pause: float = 600.0,
        session: float = 86_400.0,
        future: float = 3.0,
    ):
        given = {"penalty": penalty, "recent": recent, "pause": pause, "session": session, "future": future}
        for option, value in given.items():
            positive(option, value)
        self.penalty, self.recent, self.pause, self.session, self.future = given.values()

    def _fit(self, interactions: Interactions, features: Mapping[str, Features]) -> None:
        from scipy import linalg

        total = len(self.item_ids)
        if total > MOST_ITEMS:
            raise ConfigError(
                f"retriever 'transition' solves for {VIEWS} weights a pair of items: expected at most {MOST_ITEMS:,} "
                f"items, the catalogue has {total:,}; use 'sasrec' or 'itemknn'"
            )
        gram = np.zeros((VIEWS * total, VIEWS * total))
        moments = np.zeros((VIEWS * total, total))
        for user in range(len(interactions)):
            self._add(gram, moments, interactions, user)
        np.fill_diagonal(gram, gram.diagonal() + self.penalty)
        factor = linalg.cho_factor(gram, lower=True, overwrite_a=True, check_finite=False)
        solved = linalg.cho_solve(factor, moments, overwrite_b=True, check_finite=False)
        self.weights: Floats = solved.astype(np.float32)

    def _add(self, gram: NDArray[np.float64], moments: NDArray[np.float64], events: Interactions, user: int) -> None:
        """One user's rows of the normal equations. The user's own items are few, so dense blocks are the fast way."""
        stop = int(events.indptr[user + 1])
        start = max(int(events.indptr[user]), stop - LONGEST)
        if stop - start < 2:
            return
        own, column = np.unique(events.items[start:stop], return_inverse=True)
        past = self._views(events.timestamps[start:stop], np.arange(stop - start - 1))
        steps = np.arange(stop - start)[None, :] - np.arange(1, stop - start)[:, None]
        ahead = np.where(steps >= 0, np.exp(-np.maximum(steps, 0) / self.future), 0.0)
        onto = np.eye(len(own))[column]
        seen = np.concatenate([view @ onto for view in past], axis=1)  # [rows, VIEWS x own]
        places = np.concatenate([own + view * len(events.item_ids) for view in range(VIEWS)])
        gram[np.ix_(places, places)] += seen.T @ seen
        moments[np.ix_(places, own)] += seen.T @ (ahead @ onto)

    def _views(self, times: Times, rows: Ints) -> NDArray[np.float64]:
        """Weights of each event in the history that ends with event `row`: float64 [VIEWS, rows, events]."""
        known = np.isfinite(times).all()
        clock = times - times[-1] if known else PACE * np.arange(len(times))
        steps = rows[:, None] - np.arange(len(times))[None, :]
        shown = steps >= 0
        age = np.where(shown, clock[rows][:, None] - clock[None, :], 0.0)
        out = np.zeros((VIEWS, *steps.shape))
        out[0] = np.exp(-np.maximum(steps, 0) / self.recent) * shown
        for view, constant in ((1, self.pause), (2, self.session)):
            decayed = np.exp(-np.maximum(age, 0) / constant) * shown
            out[view] = 2 * decayed / np.sqrt(1 + decayed.sum(axis=1, keepdims=True))
        out[3] = shown / np.sqrt(rows + 1)[:, None]
        return out

    def _scores(self, histories: Sequence[Ints]) -> Floats:
        return self._timed(histories, [np.full(len(h), np.nan) for h in histories])

    def _timed(self, histories: Sequence[Ints], times: Sequence[Times]) -> Floats:
        total = len(self.item_ids)
        rows = np.zeros((len(histories), VIEWS, total), dtype=np.float32)
        for row, history, moments in zip(rows, histories, times, strict=True):
            newest = slice(-LONGEST, None)
            views = self._views(moments[newest], np.array([min(len(history), LONGEST) - 1]))
            for view in range(VIEWS):
                np.add.at(row[view], history[newest], views[view, 0])
        out: Floats = rows.reshape(len(rows), -1) @ self.weights
        return out
