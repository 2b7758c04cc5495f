"""rating: the stars the LLM expects this person to give."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from palate.engine.modes import Mode
from palate.engine.pack import Job
from palate.engine.runner import Runner
from palate.errors import TemplateError
from palate.prompting.serialize import Serializer
from palate.prompting.template import Template
from palate.schema import Floats, Request


class Rating(Mode):
    """Expected rating: a softmax over the rating labels' log-probabilities, times the labels' values."""

    name = "rating"
    default_template = "rating"

    def _score(self, runner: Runner, serializer: Serializer, requests: Sequence[Request]) -> Sequence[Floats]:
        template = self.template(serializer)
        labels = serializer.labels(template)
        values = stars(template)
        jobs = (
            Job(serializer.prompt(template, r), "labels", tuple(serializer.branches(template, r, r.candidates)), labels)
            for r in requests
        )
        return [expectation(output.labels, values) for output in runner.run(jobs)]


def stars(template: Template) -> Floats:
    """The labels as numbers: float32 [L]. Raises TemplateError where one is not a number."""
    try:
        return np.array([float(label) for label in template.labels], dtype=np.float32)
    except ValueError:
        raise TemplateError(
            f"{template.source}: rating `labels` must be numbers, got {list(template.labels)}"
        ) from None


def expectation(logprobs: Floats, values: Floats) -> Floats:
    """Rows of label log-probabilities [C, L] and the labels' values [L] -> expected value, float32 [C]."""
    weights = np.exp(logprobs - logprobs.max(axis=1, keepdims=True))
    expected: Floats = (weights @ values / weights.sum(axis=1)).astype(np.float32)
    return expected
