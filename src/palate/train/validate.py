"""Validation in embedding mode: each user's validation item among all unseen items, from the train
history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from palate.config import PromptConfig
from palate.engine.pack import concat
from palate.evaluate import metrics
from palate.evaluate.protocol import EvalCase, Protocol
from palate.model import Model
from palate.schema import Interactions, Prompt

HEADLINE = "NDCG@10"
METRICS = (HEADLINE, "HR@10")


class Validator:
    """Prompts are built once; `ranks` reads one query a user and ranks its item among what the protocol says.

    protocol: its validation part is asked. users: how many users at most, a seeded draw; 0 turns validation off.
    rank, world: the share of this process.
    """

    headline, sign = HEADLINE, 1.0
    """What the best weights are chosen by, and 1 where higher is better."""

    def __init__(
        self,
        interactions: Interactions,
        serializer: Any,
        template: Any,
        *,
        protocol: Protocol,
        users: int,
        budget: int,
        profiles: Mapping[str, Mapping[str, str]] | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        every = protocol.cases(interactions, part="valid", users=users) if users else []
        self.size = len(every)
        self.items = len(interactions.item_ids)
        self.cases = every[rank::world]
        profiles = profiles or {}
        self._prompts = [
            serializer.prompt(template, _request(c, interactions, profiles.get(c.user_id), serializer.config))
            for c in self.cases
        ]
        self._packs = _packs(self._prompts, budget)

    @torch.no_grad()
    def ranks(self, model: Model) -> list[float]:
        """Tie-fair ranks, from 1, of this process's share of the users, in user order."""
        was = model.training
        model.eval()
        try:
            items = model.item_vectors()
            parts = [self._pack_ranks(model, items, chosen) for chosen in self._packs]
        finally:
            model.train(was)
        found = dict(pair for part in parts for pair in part)
        return [found[i] for i in range(len(self.cases))]

    def _pack_ranks(self, model: Model, items: torch.Tensor, chosen: Sequence[int]) -> list[tuple[int, float]]:
        prompts = [self._prompts[i] for i in chosen]
        starts = np.cumsum([0, *map(len, prompts)])[:-1]
        reads = starts + [p.item_ends[-1] if p.item_ends else p.start for p in prompts]
        hidden = model(concat(prompts))[torch.as_tensor(reads, device=model.device)]
        scores = (model.queries(hidden) @ items.T).float().cpu().numpy()
        allowed = np.stack([self.cases[i].allowed(self.items) for i in chosen])
        positives = np.array([self.cases[i].positive for i in chosen])
        return list(zip(chosen, metrics.ranks_of(scores, positives, allowed).tolist(), strict=True))

    def summary(self, ranks: Sequence[float]) -> dict[str, metrics.Interval]:
        """NDCG@10 and HR@10 with 95% intervals over all users' ranks."""
        table = np.asarray(ranks, dtype=np.float64)
        return metrics.intervals({m: metrics.per_user(m, table, np.zeros(len(table))) for m in METRICS})


def _request(
    case: EvalCase, interactions: Interactions, profile: Mapping[str, str] | None, config: PromptConfig
) -> Any:
    """The case as a request without its candidates: a ranking of the whole catalogue lists none."""
    return EvalCase(case.user, case.user_id, case.history, case.positive, np.empty(0, dtype=np.int64)).request(
        interactions, profile=profile, timed=bool(config.context)
    )


def _packs(prompts: Sequence[Prompt], budget: int) -> list[list[int]]:
    """Prompt numbers in packs of at most `budget` tokens (a longer prompt goes alone), long ones first."""
    packs: list[list[int]] = []
    used = budget
    for i in sorted(range(len(prompts)), key=lambda i: -len(prompts[i])):
        if used + len(prompts[i]) > budget:
            packs.append([])
            used = 0
        packs[-1].append(i)
        used += len(prompts[i])
    return packs
