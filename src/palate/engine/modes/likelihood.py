"""likelihood: how probable the LLM finds a candidate's title as the answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

from palate.engine.modes import Mode
from palate.engine.pack import Job
from palate.engine.runner import Runner
from palate.engine.state import ModelCache
from palate.errors import ConfigError
from palate.prompting.serialize import Serializer
from palate.schema import Branch, Floats, Request

_Known = dict[tuple[str, bytes, bytes], float]


class Likelihood(Mode):
    """Log-probability of a title and the end of the turn, given the prompt.

    reduce: "mean" over the title's tokens (long titles are not punished) or "sum" (the probability of all).
    calibration: alpha in `log p(title | prompt) - alpha * log p(title | prompt without a history)`, which
    takes away how common a title is in itself; 0 is off, 1 scores by pointwise mutual information (Holtzman
    et al., "Surface Form Competition", 2021). The unconditional part is computed once an item and model. None: as
    `prompt.calibration` says.
    """

    name = "likelihood"
    default_template = "next_item"

    def __init__(
        self, reduce: Literal["mean", "sum"] = "mean", calibration: float | None = None, template: str | None = None
    ) -> None:
        super().__init__(template)
        if reduce not in ("mean", "sum"):
            raise ConfigError(f"mode 'likelihood': expected reduce to be 'mean' or 'sum', got {reduce!r}")
        if calibration is not None and not np.isfinite(calibration):
            raise ConfigError(f"mode 'likelihood': expected calibration to be a number, got {calibration!r}")
        self.reduce = reduce
        self.calibration = calibration
        self._unconditional: ModelCache[_Known] = ModelCache()

    def _score(self, runner: Runner, serializer: Serializer, requests: Sequence[Request]) -> Sequence[Floats]:
        template = self.template(serializer)
        jobs: list[Job] = []

        def serialized() -> Iterator[Job]:
            # one by one, so that the runner can overlap this with the forward before
            for request in requests:
                branches = tuple(serializer.branches(template, request, request.candidates))
                jobs.append(Job(serializer.prompt(template, request), "tokens", branches))
                yield jobs[-1]

        scores = [self._reduced(output.tokens) for output in runner.run(serialized())]
        share = serializer.config.calibration if self.calibration is None else self.calibration
        if not share:
            return scores
        known = self._known(runner, serializer, jobs)
        return [
            (given - share * np.array([known[b.token_ids.tobytes()] for b in job.branches])).astype(np.float32)
            for given, job in zip(scores, jobs, strict=True)
        ]

    def _reduced(self, tokens: Sequence[Floats]) -> Floats:
        how = np.mean if self.reduce == "mean" else np.sum
        return np.array([how(t, dtype=np.float64) for t in tokens], dtype=np.float32)

    def _known(self, runner: Runner, serializer: Serializer, jobs: Sequence[Job]) -> dict[bytes, float]:
        """Unconditional score of every branch of the jobs, by its token ids."""
        template = self.template(serializer)
        prompt = serializer.prompt(template, Request("unconditional"), ())
        whole = self._unconditional.get(runner.model)
        if whole is None:
            whole = self._unconditional.put(runner.model, {})
        context = prompt.token_ids.tobytes()
        wanted: dict[bytes, Branch] = {b.token_ids.tobytes(): b for job in jobs for b in job.branches}
        missing = [b for title, b in wanted.items() if (template.hash, context, title) not in whole]
        if missing:
            tokens = runner.run([Job(prompt, "tokens", tuple(missing))])[0].tokens
            for branch, value in zip(missing, self._reduced(tokens).tolist(), strict=True):
                whole[template.hash, context, branch.token_ids.tobytes()] = value
        return {title: whole[template.hash, context, title] for title in wanted}
