"""Palate's own prompts for a model that another engine serves: token ids, soft tokens in their places, label ids.

    asker = Asker("exports/ml-100k", "data/ml-100k")
    question = asker.question(history=["Alien"], items=["Heat", "Babe"])

The prompt, the branches and the labels are those of Palate's mode `yes_no` (or of another template with branches), so
the answers can be compared with `Recommender.score`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from palate import prompting
from palate.apps.export.run import read_note
from palate.data import Dataset
from palate.errors import BundleError, RequestError, TemplateError
from palate.recommender import loading
from palate.recommender.interests import Interests
from palate.recommender.shelf import Shelf
from palate.schema import Event, Floats, Ints, Request, Slot


@dataclass(frozen=True)
class Question:
    """One prompt and what may follow it.

    prompt: int64 [P]. branches: one a candidate, int64 [B]; prompt ++ branch is what the model reads. labels: token ids
    whose probabilities come next. slots, branch_slots: where soft tokens stand, counted from the start of each part.
    """

    item_ids: tuple[str, ...]
    prompt: Ints
    branches: tuple[Ints, ...]
    labels: tuple[int, ...]
    slots: tuple[Slot, ...]
    branch_slots: tuple[tuple[Slot, ...], ...]

    @property
    def soft(self) -> bool:
        """Whether any soft token stands in it."""
        return bool(self.slots or any(self.branch_slots))


@dataclass(frozen=True)
class Overrides:
    """A question with a placeholder token in every slot position, and the vectors that take its place, in order.

    query_vectors: float32 [n, D]; item_vectors: one float32 [m, D] a candidate, None where it has none.
    """

    token: int
    query: list[int]
    items: list[list[int]]
    query_vectors: Floats
    item_vectors: list[Floats | None]


class Asker:
    """Writes questions for an export over a data set.

    data: the data set's folder; None: the one the bundle was trained on. soft: False leaves soft tokens out. Raises
    BundleError where the folder is no export or its templates are not those of this Palate.
    """

    def __init__(self, export: str | Path, data: str | Path | Dataset | None = None, *, soft: bool = True) -> None:
        from transformers import AutoTokenizer

        from palate.apps.export.soft import SoftTable

        self.folder = Path(export)
        self.note = read_note(self.folder)
        self.model = self.folder / self.note["model"]["folder"]
        self.dataset = loading.captioned(loading.open_data(data, self.note), {"export": self.note})
        self.shelf = Shelf(self.dataset.catalog)
        self.config = loading.prompt_config(self.note)
        if soft and "soft" not in self.note:
            raise BundleError(f"{export}: a {self.note['target']} export has no soft tokens; ask with soft=False")
        self.table = SoftTable(self.folder / self.note["soft"]["file"]) if soft else None
        tokenizer = AutoTokenizer.from_pretrained(self.model, local_files_only=True, trust_remote_code=False)
        self.serializer = prompting.Serializer(
            tokenizer,
            self.shelf,
            self.dataset.wording,
            self.dataset.show,
            self.config,
            self.table.slots if self.table is not None else lambda item_id: (),
            Interests(self.dataset.catalog, self.shelf, self.config.language) if self.config.interests else None,
        )

    def question(
        self,
        items: Sequence[str],
        history: Sequence[str | Event] = (),
        template: str = "yes_no",
        context: Mapping[str, str] | None = None,
        query: str = "",
    ) -> Question:
        """The question about each of `items` (ids or titles) after `history`, oldest first.

        Raises RequestError for unknown items, TemplateError for a template without branches and labels.
        """
        if not items:
            raise RequestError("items: expected at least one item to ask about, got none")
        found = self._template(template)
        ids = tuple(self.shelf.find(i) for i in items)
        events = tuple(h if isinstance(h, Event) else Event(self.shelf.find(h)) for h in history)
        request = Request("ask", history=events, candidates=ids, context=dict(context or {}), query=query)
        prompt = self.serializer.prompt(found, request)
        branches = self.serializer.branches(found, request, ids)
        return Question(
            ids,
            prompt.token_ids,
            tuple(b.token_ids for b in branches),
            self.serializer.labels(found),
            tuple(prompt.slots),
            tuple(tuple(b.slots) for b in branches),
        )

    def sequence(self, history: Sequence[str | Event], context: Mapping[str, str] | None = None) -> Question:
        """The prompt of mode `embedding`, without candidates or labels; its last hidden state goes to MatchingHead."""
        events = tuple(h if isinstance(h, Event) else Event(self.shelf.find(h)) for h in history)
        request = Request("ask", history=events, context=dict(context or {}))
        prompt = self.serializer.prompt(prompting.chosen("sequence", self.config), request, ())
        return Question((), prompt.token_ids, (), (), tuple(prompt.slots), ())

    def embeds(self, question: Question) -> list[Floats]:
        """What the model reads of each candidate, as embeddings: float32 [T, D], soft tokens in their slots."""
        prompt = self._filled(question.prompt, question.slots)
        pairs = zip(question.branches, question.branch_slots, strict=True)
        return [np.concatenate([prompt, self._filled(ids, slots)]) for ids, slots in pairs]

    def overrides(self, question: Question) -> Overrides:
        """The same as token ids with a placeholder, which occurs nowhere else, and vectors."""
        used = set(np.concatenate([question.prompt, *question.branches]).tolist()) | set(question.labels)
        token = next(n for n in range(len(used) + 1) if n not in used)
        query, vectors = self._marked(question.prompt, question.slots, token)
        marked = [
            self._marked(ids, slots, token) for ids, slots in zip(question.branches, question.branch_slots, strict=True)
        ]
        return Overrides(token, query, [ids for ids, _ in marked], vectors, [v if len(v) else None for _, v in marked])

    def _marked(self, ids: Ints, slots: Sequence[Slot], token: int) -> tuple[list[int], Floats]:
        out = ids.copy()
        for slot in slots:
            out[slot.start : slot.start + slot.length] = token
        ordered = sorted(slots, key=lambda s: s.start)
        width = self._embeddings.shape[1]
        vectors = [self._soft(slot) for slot in ordered]
        return out.tolist(), np.concatenate(vectors) if vectors else np.zeros((0, width), dtype=np.float32)

    def _filled(self, ids: Ints, slots: Sequence[Slot]) -> Floats:
        out = self._embeddings[ids]
        for slot in slots:
            out[slot.start : slot.start + slot.length] = self._soft(slot)
        return out

    def _soft(self, slot: Slot) -> Floats:
        assert self.table is not None
        return self.table.vectors(slot.modality, slot.item_id)

    @cached_property
    def _embeddings(self) -> Floats:
        """The model's token embeddings, as it scales them: float32 [V, D]."""
        from safetensors import safe_open

        where = self.note["model"]["embeddings"]
        with safe_open(self.model / where["file"], framework="pt") as opened:
            table: Floats = opened.get_tensor(where["tensor"]).float().numpy()
        return table * np.float32(where["scale"]) if where["scale"] != 1 else table

    def _template(self, name: str) -> prompting.Template:
        found = prompting.chosen(name, self.config)
        noted = self.note["templates"].get(name)
        if noted is not None and noted["hash"] != found.hash:
            raise BundleError(
                f"prompt template {found.name!r} has changed since the export (sha256 {noted['hash'][:12]}, now "
                f"{found.hash[:12]}); restore it or export again"
            )
        if not found.has("branch") or not found.labels:
            raise TemplateError(
                f"{found.source}: expected a template with branches and labels, such as yes_no or rating"
            )
        return found


class MatchingHead:
    """Mode `embedding` outside Palate: hidden states of an engine against the exported item vectors.

    Its layer norm forgets the length of a hidden state, so engines that normalise what they return serve it too.
    """

    def __init__(self, export: str | Path) -> None:
        import json

        from safetensors import safe_open

        note = read_note(export)
        with safe_open(Path(export) / note["soft"]["matching"], framework="numpy") as opened:
            facts = opened.metadata()
            self._parts: dict[str, Floats] = {k: opened.get_tensor(k) for k in opened.keys()}  # noqa: SIM118
        self.item_ids: tuple[str, ...] = tuple(json.loads(facts["item_ids"]))

    def scores(self, hidden: Any) -> Floats:
        """Scores of all items after the last hidden states of prompts: [R, D] -> float32 [R, N], in `item_ids` order.

        hidden: at any length; see the class.
        """
        states = np.asarray(hidden, dtype=np.float64)
        centred = states - states.mean(-1, keepdims=True)
        # no epsilon, for it would weigh more on a state of length one than on the model's own
        plain = centred / centred.std(-1, keepdims=True)
        part = self._parts
        query = (plain * part["norm.weight"] + part["norm.bias"]) @ part["query.weight"].T + part["query.bias"]
        return np.asarray(query / np.sqrt(query.shape[-1]) @ part["items"].T, dtype=np.float32)
