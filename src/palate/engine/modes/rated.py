"""rated: the expected rating from a whole history of rated items, one or two tokens each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from palate.engine.modes.rating import Rating, expectation, stars
from palate.engine.pack import Job
from palate.engine.runner import Runner
from palate.errors import ConfigError
from palate.prompting.serialize import Serializer
from palate.schema import Event, Floats, Request


class Rated(Rating):
    """Expected rating, read at each candidate's soft token behind the user's rated items.

    The history counts as a set: its newest `prompt.max_sequence` rated events are shuffled, the same way in every
    call, as training shuffles them; events without a rating say nothing here and are passed over. orders: shuffles
    whose expected ratings are averaged; each costs a forward pass.
    """

    name = "rated"
    default_template = "rated"

    def __init__(self, template: str | None = None, orders: int = 1) -> None:
        super().__init__(template)
        if orders < 1:
            raise ConfigError(f"mode 'rated': expected orders of at least 1, got {orders}")
        self.orders = orders

    def _score(self, runner: Runner, serializer: Serializer, requests: Sequence[Request]) -> Sequence[Floats]:
        template = self.template(serializer)
        labels, values = serializer.labels(template), stars(template)
        jobs = (
            Job(serializer.prompt(template, r), "labels", tuple(serializer.branches(template, r, r.candidates)), labels)
            for request in requests
            for r in (self.shuffled(request, serializer.config.max_sequence, n) for n in range(self.orders))
        )
        found = [expectation(output.labels, values) for output in runner.run(jobs)]
        return [
            np.mean(found[at : at + self.orders], axis=0, dtype=np.float32) for at in range(0, len(found), self.orders)
        ]

    @staticmethod
    def shuffled(request: Request, longest: int, number: int = 0) -> Request:
        """The request with its newest rated events in the order of a digest of (number, item)."""
        rated = [e for e in request.history if e.rating is not None and e.rating == e.rating]
        shown = rated[max(0, len(rated) - longest) :]
        return replace(request, history=tuple(sorted(shown, key=lambda e: _key(e, number))))


def _key(event: Event, number: int) -> tuple[bytes, float]:
    digest = hashlib.blake2b(f"{number}\0{event.item_id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return digest, event.timestamp or 0.0
