"""rated: the expected rating from a whole history of rated items, one or two tokens each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

from palate.engine.modes.rating import Rating
from palate.engine.runner import Runner
from palate.prompting.serialize import Serializer
from palate.schema import Event, Floats, Request


class Rated(Rating):
    """Expected rating, read at each candidate's soft token behind the user's rated items.

    The history counts as a set: its newest `prompt.max_sequence` rated events are shuffled, the same way in every
    call, as training shuffles them; events without a rating say nothing here and are passed over.
    """

    name = "rated"
    default_template = "rated"

    def _score(self, runner: Runner, serializer: Serializer, requests: Sequence[Request]) -> Sequence[Floats]:
        longest = serializer.config.max_sequence
        return super()._score(runner, serializer, [self.shuffled(r, longest) for r in requests])

    @staticmethod
    def shuffled(request: Request, longest: int) -> Request:
        """The request with its newest rated events, at most `longest`, in the order of a digest of the items."""
        rated = [e for e in request.history if e.rating is not None and e.rating == e.rating]
        shown = rated[max(0, len(rated) - longest) :]
        return replace(request, history=tuple(sorted(shown, key=_key)))


def _key(event: Event) -> tuple[bytes, float]:
    digest = hashlib.blake2b(f"0\0{event.item_id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return digest, event.timestamp or 0.0
