"""embedding: the history's hidden state against item vectors; the whole catalogue in one product."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from palate.engine.modes import CHUNK_REQUESTS, Mode
from palate.engine.pack import Job
from palate.engine.runner import Runner
from palate.engine.state import ModelCache
from palate.errors import RequestError, SlotError
from palate.prompting.serialize import Serializer
from palate.schema import Floats, Request


class Embedding(Mode):
    """Product of the matching query, read at the last history item, with a candidate's matching vector.

    Needs an adapter with a matching head. Item vectors are computed once and again when the tables or weights
    change. An item without features is scored by what the head makes of "nothing known".
    """

    name = "embedding"
    default_template = "sequence"
    needs_matching = True

    def __init__(self, template: str | None = None) -> None:
        super().__init__(template)
        self._vectors: ModelCache[torch.Tensor] = ModelCache()

    def _score(self, runner: Runner, serializer: Serializer, requests: Sequence[Request]) -> Sequence[Floats]:
        vectors = self.item_vectors(runner)
        queries = self._queries(runner, serializer, requests)
        scores = []
        with torch.inference_mode():
            for request, query in zip(requests, queries, strict=True):
                rows = _rows(runner, request)
                scores.append((vectors[rows] @ query).cpu().numpy())
        return scores

    def catalogue_scores(self, runner: Runner, serializer: Serializer, requests: Sequence[Request]) -> Floats:
        """Scores of every item for every request, candidates ignored: float32 [B, N].

        Items are in the tables' order (`model.soft.item_ids`). The result itself is B x N x 4 bytes: call it
        with as many requests as fit.
        """
        vectors = self.item_vectors(runner)
        out = np.empty((len(requests), len(vectors)), dtype=np.float32)
        for start in range(0, len(requests), CHUNK_REQUESTS):
            queries = self._queries(runner, serializer, requests[start : start + CHUNK_REQUESTS])
            with torch.inference_mode():
                out[start : start + len(queries)] = (queries @ vectors.T).cpu().numpy()
        return out

    def item_vectors(self, runner: Runner) -> torch.Tensor:
        """Matching vectors of all items: float32 [N, E] on the model's device."""
        vectors = self._vectors.get(runner.model)
        if vectors is None:
            runner.model.eval()  # no dropout, no hidden modalities
            with torch.inference_mode():
                vectors = self._vectors.put(runner.model, runner.model.item_vectors().float())
        return vectors

    def _queries(self, runner: Runner, serializer: Serializer, requests: Sequence[Request]) -> torch.Tensor:
        template = self.template(serializer)
        jobs = [Job(serializer.prompt(template, request, ()), "query") for request in requests]
        queries = np.stack([output.query for output in runner.run(jobs)])
        return torch.from_numpy(queries).to(runner.model.device)


def _rows(runner: Runner, request: Request) -> torch.Tensor:
    soft = runner.model.soft
    assert soft is not None  # item_vectors has raised otherwise
    try:
        return soft.rows(request.candidates)
    except SlotError:
        missing = sorted(set(request.candidates) - set(soft.item_ids))
        raise RequestError(
            f"request {request.request_id!r}: the candidate {missing[0]!r} has no row in the adapter's "
            "feature tables; add it to the catalogue and align the tables, or use mode 'likelihood'"
        ) from None
