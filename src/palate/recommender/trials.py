"""What is left out, one thing at a time: a request for each, and how a person would name it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from palate.engine.modes import Mode
from palate.engine.modes.embedding import Embedding
from palate.prompting.template import Template
from palate.recommender.versions import TITLE, Versions
from palate.schema import Branch, Event, Prompt, Request, Wording

LABELS = {
    "image": ("picture of this {item}", "pictures in the history"),
    "audio": ("sound of this {item}", "sounds in the history"),
    "video": ("video of this {item}", "videos in the history"),
    "sasrec": ("order in which others {verb} this {item}", "order in which others {verb} the history"),
    "text": ("text of this {item}, as a vector", "texts in the history, as vectors"),
    "behaviour": ("who else {verb} this {item}", "who else {verb} the history"),
}
"""Modality -> what it is called, of the item and of the history."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One thing left out. group, name, of, label: as in `Part`; request: what is asked without it, the first
    candidate being the item or its version."""

    group: str
    name: str
    of: str
    label: str
    request: Request


class Trials:
    """The trials of one request whose first candidate is to be explained, in one mode.

    Left out is what the mode reads: a field that the prompt does not write, or a modality it has no place for, makes
    no trial. `notes` says in words what could not be left out.
    """

    def __init__(self, versions: Versions, whole: Request, mode: Mode, wording: Wording) -> None:
        self.versions, self.whole, self.wording = versions, whole, wording
        self.item, self.events = whole.candidates[0], whole.history
        self.matched = isinstance(mode, Embedding)
        self.template: Template = mode.template(versions.serializer)
        self.answer = self.template.has("answer")
        self.notes: list[str] = []

    def all(self, first: int) -> list[Trial]:
        """Every trial; history items before number `first` are not weighed one by one."""
        found = [*self._history(first), *self._person()]
        parts = [*self._fields(), *self._modalities()]
        found += parts
        w = self.wording
        if self.answer:
            self.notes.append(
                f"The score is the probability of the title as the answer: the title cannot be left out, and nothing "
                f"else of this {w.item} is read."
            )
        elif not any(t.group == "fields" and t.of == "item" for t in parts):
            self.notes.append(f"This mode writes no text of this {w.item} into the prompt.")
        if self.events and not any(t.group == "fields" and t.of == "history" for t in parts):
            self.notes.append("This mode writes no text of the history into the prompt.")
        if first:
            self.notes.append(
                f"Of {len(self.events)} {w.items} the newest {len(self.events) - first} are weighed one by one; the "
                "older ones stay."
            )
        return found

    # --- what there is to leave out -----------------------------------------------------------------

    def _history(self, first: int) -> Iterator[Trial]:
        for n in range(first, len(self.events)):
            item_id = self.events[n].item_id
            rest = (*self.events[:n], *self.events[n + 1 :])
            yield self._trial("history", item_id, "history", self.versions.items[item_id].title, history=rest)
        if self.events:
            yield self._trial("together", "history", "history", "the whole history", history=())

    def _person(self) -> Iterator[Trial]:
        whole, person = self.whole, self.wording.person
        found = [
            self._trial("fields", name, "person", f"{_words(name)} of the {person}", profile=_less(whole.profile, name))
            for name in whole.profile
        ]
        found += [
            self._trial("fields", name, "person", f"{_words(name)}, now", context=_less(whole.context, name))
            for name in whole.context
        ]
        if whole.query:
            found.append(self._trial("fields", "query", "person", "what they ask for", query=""))
        return (t for t in found if self._differs(t, vectors=False))

    def _fields(self) -> Iterator[Trial]:
        versions, item = self.versions, self.versions.items[self.item]
        if not self.answer:
            for name in (TITLE, *item.text):
                left = versions.without_field(self.item, name)
                trial = self._trial("fields", name, "item", f"{_words(name)} of this {self.wording.item}", item=left)
                if left != self.item and self._differs(trial, vectors=False):
                    yield trial
        held = [versions.items[e.item_id] for e in self.events]
        for name in (TITLE, *dict.fromkeys(field for i in held for field in i.text)):
            history = self._each(versions.without_field, name)
            label = "titles in the history" if name == TITLE else f"{_words(name)}, in the history"
            trial = self._trial("fields", name, "history", label, history=history)
            if self._differs(trial, vectors=False):
                yield trial
        unrated = tuple(replace(e, rating=None) for e in self.events)
        trial = self._trial("fields", "rating", "history", "ratings given in the history", history=unrated)
        if self._differs(trial, vectors=False):
            yield trial

    def _modalities(self) -> Iterator[Trial]:
        versions = self.versions
        for name in () if self.answer else versions.modalities(self.item):
            left = versions.without_modality(self.item, name)
            trial = self._trial("modalities", name, "item", self._label(name, 0), item=left)
            if self.matched or self._differs(trial, vectors=True):
                yield trial
        for name in dict.fromkeys(m for e in self.events for m in versions.modalities(e.item_id)):
            history = self._each(versions.without_modality, name)
            trial = self._trial("modalities", name, "history", self._label(name, 1), history=history)
            if self._differs(trial, vectors=True):
                yield trial

    # --- support ------------------------------------------------------------------------------------

    def _trial(self, group: str, name: str, of: str, label: str, item: str | None = None, **changes: object) -> Trial:
        if item is not None:
            changes["candidates"] = (item, *self.whole.candidates[1:])
        return Trial(group, name, of, label, replace(self.whole, **changes))  # type: ignore[arg-type]

    def _each(self, without: Callable[[str, str], str], name: str) -> tuple[Event, ...]:
        return tuple(replace(e, item_id=without(e.item_id, name)) for e in self.events)

    def _label(self, modality: str, which: int) -> str:
        pattern = LABELS.get(modality, (f"{modality} of this {{item}}", f"{modality} in the history"))[which]
        return pattern.replace("{item}", self.wording.item).replace("{verb}", self.wording.verb)

    def _differs(self, trial: Trial, vectors: bool) -> bool:
        return self._read(trial.request, vectors) != self._read(self.whole, vectors)

    def _read(self, request: Request, vectors: bool) -> tuple[object, ...]:
        """What the model reads of a request and its first candidate; vectors: told apart by whose they are."""
        serializer, template = self.versions.serializer, self.template
        listed: Sequence[str] = () if self.matched else request.candidates
        parts: list[Prompt | Branch] = [serializer.prompt(template, request, listed)]
        if template.branching or self.answer:
            parts += serializer.branches(template, request, listed[:1])
        return tuple(
            (p.token_ids.tobytes(), *((s.start, s.length, s.modality, s.item_id if vectors else "") for s in p.slots))
            for p in parts
        )


def _words(field: str) -> str:
    return field.replace("_", " ")


def _less(pairs: Mapping[str, str], name: str) -> dict[str, str]:
    return {k: v for k, v in pairs.items() if k != name}
