"""generate: the LLM writes titles itself, token by token down the catalogue's trie."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from palate.engine.generate import Search, generate
from palate.engine.modes import Mode
from palate.engine.pack import Job
from palate.engine.runner import Runner
from palate.engine.trie import Trie, in_parts
from palate.errors import EmptyLegalSet, RequestError
from palate.prompting.serialize import Serializer
from palate.schema import Bools, Floats, Request


class Generate(Mode):
    """Constrained beams over the catalogue's titles.

    `recommend` is what it is for: the k best of the whole catalogue with a few beams, no candidate list.
    `scores` ranks a given list with the scores an exhaustive search would give. That equals mode `likelihood`
    with reduce="sum" (length_penalty 0) or "mean" (length_penalty 1); it is there so that the mode can stand
    wherever others do.
    """

    name = "generate"
    default_template = "next_item"

    def __init__(self, beams: int = 20, length_penalty: float = 0.0, template: str | None = None) -> None:
        super().__init__(template)
        self.beams = beams
        self.length_penalty = length_penalty

    def _score(self, runner: Runner, serializer: Serializer, requests: Sequence[Request]) -> Sequence[Floats]:
        template = self.template(serializer)
        jobs = (
            Job(serializer.prompt(template, r), "tokens", tuple(serializer.branches(template, r, r.candidates)))
            for r in requests
        )
        search = Search(length_penalty=self.length_penalty)
        return [search.scores(output.tokens).astype(np.float32) for output in runner.run(jobs)]

    def trie(self, serializer: Serializer, item_ids: Sequence[str]) -> Trie:
        """The trie of these items' titles, for `recommend`. Build it once a catalogue and keep it."""
        template, request = self.template(serializer), Request("trie")
        return Trie.from_branches(in_parts(lambda ids: serializer.branches(template, request, ids), item_ids))

    def recommend(
        self,
        runner: Runner,
        serializer: Serializer,
        requests: Sequence[Request],
        trie: Trie,
        *,
        k: int = 10,
        allowed: Sequence[Bools | None] | None = None,
    ) -> list[list[tuple[str, float]]]:
        """The k best (item id, score) of the trie's items a request, best first; candidates are ignored.

        allowed: a mask over the trie's items a request (not seen, in stock, a genre), or None. Raises
        EmptyLegalSet where a mask leaves nothing. At least k beams are searched.
        """
        if not trie.item_ids:
            raise RequestError("expected a trie built with item ids; use Generate.trie or Trie.from_branches")
        for request, mask in zip(requests, allowed or (), strict=False):
            if mask is not None and not mask.any():
                raise EmptyLegalSet(
                    f"request {request.request_id!r}: the filters leave none of the {len(trie)} items "
                    "to generate; loosen them"
                )
        template = self.template(serializer)
        prompts = [serializer.prompt(template, request, ()) for request in requests]
        found = generate(
            runner.model,
            prompts,
            trie,
            beams=max(self.beams, k),
            k=k,
            allowed=allowed,
            length_penalty=self.length_penalty,
            prefixes=runner.prefixes,
        )
        return [[(trie.item_ids[n], score) for n, score in ranked] for ranked in found]
