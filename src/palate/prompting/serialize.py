"""Requests to prompts: history, candidates and question as token ids and slots, within the token budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from palate.config import PromptConfig
from palate.errors import RequestError, TemplateError, did_you_mean
from palate.prompting import budget
from palate.prompting.context import situated, zone_of
from palate.prompting.draft import Draft, check_marks, join_lists
from palate.prompting.encode import Layout, TextEncoder, ints
from palate.prompting.gap import gap_words
from palate.prompting.lines import Entry, Line, Lines, Show
from palate.prompting.template import Template
from palate.prompting.text import (
    CANDIDATES_MARK,
    HISTORY_MARK,
    Caps,
    Placeholder,
    sanitize,
    sanitize_pairs,
    sanitize_wording,
)
from palate.schema import Branch, Event, Ints, Item, Prompt, Request, SlotPlan, Wording

DEFAULT_WORDING = {"zh": Wording("物品", "物品", "选择过", "用户")}
_CHUNK = 64
"""History lines rendered at a time, from the newest."""
_TEXTS = 20_000
"""Fixed pieces and questions whose token ids are remembered."""
_MESSAGE_CHARS = 4000
"""A query or an earlier chat message is cut to this many characters."""


def _caps(config: PromptConfig) -> Caps:
    return Caps(config.max_field_chars, config.max_title_chars, config.quote_titles)


@dataclass(frozen=True, slots=True)
class Extras:
    """What a prompt may hold besides the request.

    turns: earlier (user, assistant) exchanges of a chat, oldest first; facts: statements an explanation may
    use; reserve: tokens to leave free after the prompt for an answer to be generated.
    """

    turns: Sequence[tuple[str, str]] = ()
    facts: Sequence[str] = ()
    reserve: int = 0


class Serializer:
    """Turns requests into prompts and candidates into branches for one tokenizer and one catalogue.

    items: item id -> Item; show: the fields beside a title in history and candidate lines; slots: item id ->
    its soft tokens, () for none; interests: sums up events, oldest first, as entries of a profile. The same object
    serves training and inference: prompt, branch and completion are the same ids in both. Lines are cached; call
    `clear` after an item's text changed.
    """

    def __init__(
        self,
        tokenizer: Any,
        items: Mapping[str, Item],
        wording: Wording,
        show: Show,
        config: PromptConfig,
        slots: Callable[[str], SlotPlan],
        interests: Callable[[Sequence[Event]], Mapping[str, str]] | None = None,
    ) -> None:
        zone_of(config.timezone)  # a zone that is none is an error now, not in the middle of a run
        self.encoder = TextEncoder(tokenizer)
        self.items = items
        self.config = config
        self.interests = interests
        self._wording = sanitize_wording(wording, config.max_field_chars)
        self._lines = Lines(self.encoder, items, show, slots, _caps(config))
        self._texts: dict[str, Ints] = {}

    def showing(self, show: Show) -> Serializer:
        """This serializer with other fields beside a title."""
        other = copy(self)
        other._lines = self._lines.showing(show)
        return other

    def over(self, items: Mapping[str, Item], slots: Callable[[str], SlotPlan], config: PromptConfig) -> Serializer:
        """This serializer over other items."""
        other = copy(self)
        other.items, other.config = items, config
        other._lines = self._lines.over(items, slots, _caps(config))
        return other

    # --- prompts ------------------------------------------------------------------------------------

    def prompt(
        self,
        template: Template,
        request: Request,
        candidates: Sequence[str] | None = None,
        extras: Extras | None = None,
    ) -> Prompt:
        """Serialize one request.

        candidates: item ids the prompt lists, or, for templates with branches and answers, those that will
        follow it (room for the longest is kept free, in steps of 64 tokens); None takes the request's.
        Order: prompt.token_ids ++ branch.token_ids. Raises RequestError, TemplateError, BudgetError.
        """
        extras = extras or Extras()
        listed = tuple(request.candidates if candidates is None else candidates)
        self._check_request(template, request, listed)
        values = self._values(template, request, extras)
        rows = self._candidate_lines(template, listed, values) if template.lists_candidates else []
        cost = sum(len(r.token_ids) for r in rows)
        longest = extras.reserve
        if not template.lists_candidates and listed and template.mode != "embedding":
            longest = max(longest, max(len(b) for b in self.branches(template, request, listed)))
        events = request.history[self._older(template, request) :]
        draft = self._draft(template, values, extras, bool(events), bool(rows))
        free = self._free(template, draft.size + cost, longest)
        kept = self._kept(template, events, values, self.config.max_tokens - draft.size - cost - free)
        if events and not kept:
            draft = self._draft(template, values, extras, False, bool(rows))
        if not kept:
            budget.check(draft.size, cost, longest, self.config.max_tokens, template.source)
        shown = tuple(e.item_id for e in events[len(events) - len(kept) :])
        return draft.assemble(kept, rows, shown, len(events) - len(kept))

    def _free(self, template: Template, fixed: int, longest: int) -> int:
        """Tokens to keep free after the prompt."""
        if template.branching or template.has("answer"):
            return budget.reserve(longest, fixed, self.config.max_tokens)
        return longest

    def _kept(self, template: Template, events: Sequence[Event], values: Mapping[str, object], room: int) -> list[Line]:
        """The newest history lines that fit, oldest first. Older lines are not even rendered."""
        kept: list[Line] = []
        timed = "gap" in template.uses("history_item")
        for stop in range(len(events), 0, -_CHUNK):
            start = max(0, stop - _CHUNK)
            gaps = gap_words(events, start, stop, template.language) if timed else [""] * (stop - start)
            chunk = [Entry(e.item_id, e, gap=g) for e, g in zip(events[start:stop], gaps, strict=True)]
            lines = self._lines.make(template, "history_item", chunk, values)
            fit = budget.keep((len(line.token_ids) for line in reversed(lines)), room)
            kept = lines[len(lines) - fit :] + kept
            room -= sum(len(line.token_ids) for line in lines[len(lines) - fit :])
            if fit < len(lines):
                break
        return kept

    def _draft(
        self,
        template: Template,
        values: Mapping[str, object],
        extras: Extras,
        history: bool,
        candidates: bool,
    ) -> Draft:
        """The prompt with open places for history and candidates."""
        filled = {
            **values,
            "history": Placeholder(HISTORY_MARK, history),
            "candidates": Placeholder(CANDIDATES_MARK, candidates),
        }
        system = join_lists(template, template.render("system", filled)).strip()
        user = join_lists(template, template.render("user", filled)).lstrip("\n").rstrip("\n")
        if template.branching and user and not user.endswith(HISTORY_MARK):
            user += "\n"
        check_marks(template, system + user, history, candidates)
        clean = [(sanitize(q, _MESSAGE_CHARS), sanitize(a, _MESSAGE_CHARS)) for q, a in extras.turns]
        contents = [text for turn in clean for text in turn] + [user]
        if system:
            contents.insert(0, system)
        layout = self._layout(template, bool(system), len(clean))
        pieces: list[Ints | str] = []
        for part, text in zip(layout.parts, contents, strict=False):
            pieces.append(part)
            pieces.extend(self._split(text))
        if not template.branching:
            pieces.append(layout.parts[-1])
        return Draft(template, pieces)

    def _split(self, text: str) -> list[Ints | str]:
        """Content cut at the marks: token ids, with the marks left in between."""
        found: list[Ints | str] = []
        start = 0
        for at, char in enumerate(text):
            if char in (HISTORY_MARK, CANDIDATES_MARK):
                found += [self._text(text[start:at]), char]
                start = at + 1
        return [*found, self._text(text[start:])]

    def _text(self, text: str) -> Ints:
        ids = self._texts.get(text)
        if ids is None:
            if len(self._texts) >= _TEXTS:
                self._texts.clear()
            ids = self._texts[text] = self.encoder.content([text])[0] if text else ints([])
        return ids

    def _layout(self, template: Template, system: bool, turns: int = 0) -> Layout:
        roles = ("system",) * system + ("user", "assistant") * turns + ("user",)
        return self.encoder.layout(roles, chat=template.chat, language=template.language, opening=not template.dense)

    # --- candidates and answers ---------------------------------------------------------------------

    def branches(self, template: Template, request: Request, item_ids: Sequence[str]) -> list[Branch]:
        """One branch a candidate: a title and the end-of-turn token (likelihood), or the question about it,
        the end of the user's turn and the opening of the answer (yes/no, rating).

        Raises RequestError for an unknown item, TemplateError for a mode that has no branches.
        """
        self._check_items(request, item_ids, "candidate")
        values = self._values(template, request, Extras())
        layout = self._layout(template, template.has("system"))
        if template.branching:
            piece, tail = "branch", layout.parts[-1]
        elif template.has("answer"):
            piece, tail = "answer", layout.end
        else:
            raise TemplateError(
                f"{template.source}: mode {template.mode!r} has no branches: a candidate is not its end"
            )
        lines = self._lines.make(template, piece, [Entry(i) for i in item_ids], values, tail)
        return [Branch(i, line.token_ids, line.slots) for i, line in zip(item_ids, lines, strict=True)]

    def completion(self, template: Template, request: Request, target: str) -> Ints:
        """The tokens a training example learns, int64 [T].

        likelihood: title and end of turn of item `target`, the same ids as its branch; yes/no, letters,
        rating: the first token of label `target`. Raises RequestError.
        """
        if template.has("answer"):
            return self.branches(template, request, [target])[0].token_ids
        if target not in template.labels:
            choices = did_you_mean(target, template.labels, limit=26)
            raise RequestError(f"{template.source}: expected one of its labels, got {target!r}; {choices}")
        return ints([self.labels(template)[template.labels.index(target)]])

    def labels(self, template: Template, n: int | None = None) -> tuple[int, ...]:
        """First token id of each of the first `n` labels (None: all). TemplateError where two share it."""
        labels = template.labels[:n]
        if not labels or (n is not None and n > len(template.labels)):
            raise TemplateError(f"{template.source}: expected {n or 'some'} labels, it has {len(template.labels)}")
        first = [int(ids[0]) for ids in self.encoder.content(labels)]
        for at, token in enumerate(first):
            if token in first[:at]:
                raise TemplateError(
                    f"{template.source}: the labels {labels[first.index(token)]!r} and {labels[at]!r} start "
                    "with the same token in this tokenizer, so they cannot be told apart; choose other labels"
                )
        return tuple(first)

    # --- support ------------------------------------------------------------------------------------

    def clear(self) -> None:
        """Forget cached lines: call it after an item's text changed."""
        self._lines.clear()

    def describe(self, prompt: Prompt | Branch) -> str:
        """The prompt as readable text, a slot as ‹image×2›."""
        parts, at = [], 0
        for slot in prompt.slots:
            parts += [
                self.encoder.decode(prompt.token_ids[at : slot.start]),
                f"‹{slot.modality}×{slot.length}›",
            ]
            at = slot.start + slot.length
        return "".join([*parts, self.encoder.decode(prompt.token_ids[at:])])

    def summed(self, template: Template, request: Request) -> Request:
        """The request with a line in its profile on the history that is too old to be shown, where lines are asked for.

        Prompts say the same of the request and of this one; a history shortened from here on keeps the line.
        """
        older = self._older(template, request)
        if self.interests is None or not older:
            return request
        return replace(request, profile={**self.interests(request.history[:older]), **request.profile})

    def _older(self, template: Template, request: Request) -> int:
        """How many of the oldest events the template's window leaves out."""
        cap = self.config.max_sequence if template.dense else self.config.max_history
        return max(0, len(request.history) - cap)

    @property
    def _derives(self) -> tuple[tuple[str, ...], str | None, str | None, str]:
        config = self.config
        return config.context, config.timezone, config.hemisphere, config.language

    def _values(self, template: Template, request: Request, extras: Extras) -> dict[str, object]:
        """The request's variables, clean."""
        limit = self.config.max_field_chars
        wording = self._wording
        if wording == Wording():
            wording = DEFAULT_WORDING.get(template.language, wording)
        return {
            "wording": wording,
            "labels": template.labels,
            "profile": sanitize_pairs(self.summed(template, request).profile, limit),
            "context": sanitize_pairs(situated(request.context, *self._derives), limit),
            "query": sanitize(request.query, _MESSAGE_CHARS),
            "facts": tuple(sanitize(f, limit) for f in extras.facts),
        }

    def _candidate_lines(self, template: Template, listed: Sequence[str], values: Mapping[str, object]) -> list[Line]:
        most = template.max_candidates or (len(template.labels) if template.mode == "letters" else None)
        if most is not None and len(listed) > most:
            raise RequestError(f"{template.source}: expected at most {most} candidates, got {len(listed)}; split them")
        labels = template.labels or ("",) * len(listed)
        entries = [Entry(i, None, label) for i, label in zip(listed, labels, strict=False)]
        return self._lines.make(template, "candidate_item", entries, values)

    def _check_request(self, template: Template, request: Request, listed: Sequence[str]) -> None:
        self._check_items(request, [e.item_id for e in request.history], "history item")
        self._check_items(request, listed, "candidate")
        if template.mode == "letters" and not listed:
            raise RequestError(f"request {request.request_id!r}: expected candidates to choose from, got none")

    def _check_items(self, request: Request, item_ids: Sequence[str], what: str) -> None:
        for item_id in item_ids:
            if item_id not in self.items:
                near = did_you_mean(item_id, islice(self.items, 20_000), limit=5)
                raise RequestError(
                    f"request {request.request_id!r}: the {what} {item_id!r} is not in the catalogue; {near}"
                )
