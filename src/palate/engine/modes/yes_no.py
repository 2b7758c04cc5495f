"""yes_no: each candidate is asked about by itself; Yes against No."""

from __future__ import annotations

from collections.abc import Sequence

from palate.engine.modes import Mode
from palate.engine.pack import Job
from palate.engine.runner import Runner
from palate.prompting.serialize import Serializer
from palate.schema import Floats, Request


class YesNo(Mode):
    """log p(yes) - log p(no) as the answer to a question about the candidate: the log-odds of a yes.

    The template's two labels, yes first, are read after each candidate's branch. `prompt.calibration` takes away a
    share of the log-odds that the same question has without a history.
    """

    name = "yes_no"
    default_template = "yes_no"

    def _score(self, runner: Runner, serializer: Serializer, requests: Sequence[Request]) -> Sequence[Floats]:
        return self._calibrated(runner, serializer, requests, self._raw(runner, serializer, requests))

    def _raw(self, runner: Runner, serializer: Serializer, requests: Sequence[Request]) -> Sequence[Floats]:
        template = self.template(serializer)
        labels = serializer.labels(template)
        jobs = (
            Job(serializer.prompt(template, r), "labels", tuple(serializer.branches(template, r, r.candidates)), labels)
            for r in requests
        )
        return [output.labels[:, 0] - output.labels[:, 1] for output in runner.run(jobs)]
