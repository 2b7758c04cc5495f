"""letters: all candidates in one prompt; the answer is a letter."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import numpy as np

from palate.engine.modes import Mode, nobody_asks
from palate.engine.pack import Job
from palate.engine.runner import Runner
from palate.errors import ConfigError
from palate.prompting.serialize import Serializer
from palate.schema import Floats, Request


class Letters(Mode):
    """Log-probability of a candidate's letter among the letters shown, averaged over several orders.

    LLMs prefer some places of a list to others, so each request is asked `shuffles` times: one shuffle,
    seeded by the candidates and the history, turned so that every candidate stands at evenly spread places.
    The order of the input never matters. At most as many candidates as the template has letters. `prompt.calibration`
    takes away a share of what the same lists give without a history.
    """

    name = "letters"
    default_template = "letters"
    max_candidates: int | None = 26

    def __init__(self, shuffles: int = 4, template: str | None = None) -> None:
        super().__init__(template)
        if shuffles < 1:
            raise ConfigError(f"mode 'letters': expected at least 1 shuffle, got {shuffles}")
        self.shuffles = shuffles

    def _score(self, runner: Runner, serializer: Serializer, requests: Sequence[Request]) -> Sequence[Floats]:
        asked = [self.orders(request) for request in requests]
        scores = self.averaged(runner, serializer, requests, asked)
        share = serializer.config.calibration
        if not share:
            return scores
        # in the same orders, so that a letter's own weight goes too
        nobody = self.averaged(runner, serializer, [nobody_asks(r) for r in requests], asked)
        return [(s - share * n).astype(np.float32) for s, n in zip(scores, nobody, strict=True)]

    def averaged(
        self,
        runner: Runner,
        serializer: Serializer,
        requests: Sequence[Request],
        asked: Sequence[Sequence[tuple[str, ...]]],
    ) -> list[Floats]:
        """The mean log-probability of each candidate's letter over the orders its request is asked in."""
        template = self.template(serializer)
        jobs: list[Job] = []
        for request, orders in zip(requests, asked, strict=True):
            labels = serializer.labels(template, len(request.candidates))
            jobs += [Job(serializer.prompt(template, request, order), "labels", (), labels) for order in orders]
        outputs = iter(runner.run(jobs))
        scores = []
        for request, orders in zip(requests, asked, strict=True):
            total = dict.fromkeys(request.candidates, 0.0)
            for order in orders:
                row = next(outputs).labels[0].astype(np.float64)
                row -= row.max()
                row -= np.log(np.exp(row).sum())
                for item, value in zip(order, row.tolist(), strict=True):
                    total[item] += value / len(orders)
            scores.append(np.array([total[c] for c in request.candidates], dtype=np.float32))
        return scores

    def orders(self, request: Request) -> list[tuple[str, ...]]:
        """The orders a request is asked in; see `shuffled`."""
        return shuffled(request, self.shuffles)

    def limit(self, serializer: Serializer) -> int:
        """At most one candidate a letter."""
        template = self.template(serializer)
        return template.max_candidates or len(template.labels)


def shuffled(request: Request, times: int) -> list[tuple[str, ...]]:
    """`times` orders of the candidates, the same whatever order they came in; fewer where fewer exist.

    A seeded shuffle turned by equal steps: with n candidates, turn i starts at place i * n / times.
    """
    pool = sorted(request.candidates)
    text = "\x1f".join([*pool, "\x1e", *(e.item_id for e in request.history)])
    random.Random(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()).shuffle(pool)
    turns = sorted({i * len(pool) // times for i in range(times)})
    return [tuple(pool[turn:] + pool[:turn]) for turn in turns]
