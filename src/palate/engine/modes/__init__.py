"""Scoring modes: how candidates become numbers. One file a mode; a new file here is found by itself."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np

from palate import registry
from palate.engine.runner import Runner
from palate.errors import ConfigError, RequestError, did_you_mean
from palate.prompting.serialize import Serializer
from palate.prompting.template import Template, chosen
from palate.schema import Floats, Request, Scores

CHUNK_REQUESTS = 128
CHUNK_CANDIDATES = 16_384
"""Requests and candidates whose prompts are held at once."""


class Mode(ABC):
    """One way to score the candidates of a request. A score is a function of (prompt, candidate) alone.

    name: what users type; needs_matching: whether it needs a trained matching head; max_candidates: how many
    candidates one request may have (None: any number); template: the prompt template's name, or a YAML file.
    """

    name: ClassVar[str] = ""
    default_template: ClassVar[str] = ""
    needs_matching: ClassVar[bool] = False
    max_candidates: int | None = None

    def __init__(self, template: str | None = None) -> None:
        self.template_name = template or self.default_template
        self._templates: dict[tuple[str, str], Template] = {}

    def template(self, serializer: Serializer) -> Template:
        """The prompt template that the serializer's config has for this mode, loaded once."""
        key = (serializer.config.language, serializer.config.template(self.template_name))
        if key not in self._templates:
            self._templates[key] = chosen(self.template_name, serializer.config)
        return self._templates[key]

    def scores(self, runner: Runner, serializer: Serializer, requests: Sequence[Request]) -> list[Scores]:
        """Scores of each request's candidates, float32, in the request's order; higher is better.

        A candidate named twice gets one score twice. Raises RequestError for a request without candidates or
        with more than the mode takes, and what the serializer raises for unknown items.
        """
        out: list[Scores] = []
        for chunk in self._chunks(requests, self.limit(serializer)):
            # sorted, so that the order of the input cannot change a bit of the result
            distinct = [replace(r, candidates=tuple(sorted(set(r.candidates)))) for r in chunk]
            for request, asked, values in zip(chunk, distinct, self._score(runner, serializer, distinct), strict=True):
                value = dict(zip(asked.candidates, values.tolist(), strict=True))
                aligned = np.array([value[c] for c in request.candidates], dtype=np.float32)
                out.append(Scores(request.request_id, request.user_id, request.candidates, aligned))
        return out

    @abstractmethod
    def _score(self, runner: Runner, serializer: Serializer, requests: Sequence[Request]) -> Sequence[Floats]:
        """Scores of each request's candidates, which are distinct, sorted and at least one: [C] a request."""

    def _calibrated(
        self, runner: Runner, serializer: Serializer, requests: Sequence[Request], scores: Sequence[Floats]
    ) -> Sequence[Floats]:
        """Scores [C] a request, less the config's share of what the same candidates score for nobody in particular.

        What an item's text gains from everyone alike, a mere "answer Yes" in a title above all, is in both and goes
        (contextual calibration: Zhao et al., "Calibrate Before Use", 2021). Costs a second reading of the candidates
        behind a short prompt, which requests of one call share.
        """
        share = serializer.config.calibration
        if not share:
            return scores
        nobody = self._raw(runner, serializer, [nobody_asks(r) for r in requests])
        return [(s - share * n).astype(np.float32) for s, n in zip(scores, nobody, strict=True)]

    def _raw(self, runner: Runner, serializer: Serializer, requests: Sequence[Request]) -> Sequence[Floats]:
        """Scores before calibration, for modes that calibrate."""
        raise NotImplementedError(f"mode {self.name!r} does not calibrate")

    def limit(self, serializer: Serializer) -> int | None:
        """How many candidates one request may have with the template in use; None: any number."""
        return self.max_candidates

    def _chunks(self, requests: Sequence[Request], limit: int | None) -> Iterator[list[Request]]:
        chunk: list[Request] = []
        size = 0
        for request in requests:
            self._check(request, limit)
            count = len(request.candidates)
            if chunk and (len(chunk) >= CHUNK_REQUESTS or size + count > CHUNK_CANDIDATES):
                yield chunk
                chunk, size = [], 0
            chunk.append(request)
            size += count
        if chunk:
            yield chunk

    def _check(self, request: Request, limit: int | None) -> None:
        if not request.candidates:
            raise RequestError(
                f"request {request.request_id!r}: expected candidates to score, got none; name at least one item"
            )
        count = len(set(request.candidates))
        if limit is not None and count > limit:
            raise RequestError(
                f"request {request.request_id!r}: mode {self.name!r} takes at most {limit} candidates, "
                f"got {count}; use mode 'likelihood', 'yes_no' or 'embedding', or split the list"
            )


def nobody_asks(request: Request) -> Request:
    """The same candidates, asked about for a person of whom nothing is known."""
    return Request(request.request_id, candidates=request.candidates)


def names() -> list[str]:
    """The modes there are."""
    return sorted(registry.plugins(__name__, Mode))  # type: ignore[type-abstract]


def build(name: str, **options: Any) -> Mode:
    """The mode called `name`. Raises ConfigError for an unknown mode or option, naming the choices."""
    cls = registry.plugin(__name__, Mode, name)  # type: ignore[type-abstract]
    known = [p for p in inspect.signature(cls.__init__).parameters if p != "self"]
    for option in options:
        if option not in known:
            raise ConfigError(f"mode {name!r} has no option {option!r}; {did_you_mean(option, known)}")
    return cls(**options)
