"""Text to token ids: the chat markup with special tokens on, everything people wrote with special tokens off.

The chat template of the tokenizer is rendered once with marks in place of the messages' contents, cut at the
marks, and only the pieces between them are read with special tokens. So no content can open or close a turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import numpy as np

from palate.errors import TemplateError
from palate.prompting.text import TURN_MARKS
from palate.schema import Ints

_OPENINGS = {"zh": "\n回答：\n"}
# Llama's templates print today's date and Qwen3's opens a thought unless told otherwise: both would make
# prompts differ from training.
_TEMPLATE_ARGUMENTS = {"date_string": "01 Jan 2026", "enable_thinking": False}


@dataclass(frozen=True)
class Layout:
    """Markup token ids around the messages' contents: parts[i] stands before content i, parts[-1] opens the
    answer.

    end: the ids that close an answer (end of turn; the eos token in a plain layout), at most one id.
    """

    parts: tuple[Ints, ...]
    end: Ints


def ints(ids: Sequence[int]) -> Ints:
    return np.asarray(ids, dtype=np.int64)


class TextEncoder:
    """A tokenizer's two readings of text. Safe to share between threads once built (no state is toggled)."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._raw = _private_copy(tokenizer, special=False)
        self._marked = _private_copy(tokenizer, special=True)
        added = dict(tokenizer.get_added_vocab())
        specials = {int(i) for i in tokenizer.all_special_ids}
        tokens = {t: int(i) for t, i in added.items() if t.strip() or int(i) in specials}
        self.reserved = np.asarray(sorted(specials | set(tokens.values())), dtype=np.int64)
        """Ids that content never yields: special and other added tokens (`<think>`, `<tool_call>` ...)."""
        longest_first = sorted((t for t in tokens if t.strip()), key=len, reverse=True)
        self._reserved_text = re.compile("(" + "|".join(map(re.escape, longest_first)) + ")") if tokens else None
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        self.pad = int(pad) if pad is not None else 0
        self._layouts: dict[tuple[tuple[str, ...], bool, str, bool], Layout] = {}

    def content(self, texts: Sequence[str]) -> list[Ints]:
        """Token ids of each text, int64 [T], with special tokens off: one batch call for all."""
        if not texts:
            return []
        encoded = [ints(ids) for ids in self._encode(list(texts))]
        lengths = [len(ids) for ids in encoded]
        owner = np.repeat(np.arange(len(texts)), lengths)
        bad = np.isin(np.concatenate(encoded), self.reserved)
        for n in set(owner[bad].tolist()):
            encoded[n] = self._disarmed(texts[n])
        return encoded

    def _encode(self, texts: list[str]) -> list[list[int]]:
        if self._raw is not None:
            return [e.ids for e in self._raw.encode_batch_fast(texts, add_special_tokens=False)]
        found = self._tokenizer(texts, add_special_tokens=False, split_special_tokens=True)
        return [list(ids) for ids in found["input_ids"]]

    def _disarmed(self, text: str) -> Ints:
        """A text that spells an added token: those spellings letter by letter, the rest as usual."""
        pieces = [text] if self._reserved_text is None else self._reserved_text.split(text)
        spelled: list[str] = []
        for n, piece in enumerate(pieces):
            spelled += list(piece) if n % 2 else [piece]
        ids = [i for part in self._encode([p for p in spelled if p]) for i in part]
        if np.isin(ids, self.reserved).any():  # built by the vocabulary's own merges
            ids = [i for part in self._encode(list(text)) for i in part]
        return ints([i for i in ids if i not in self.reserved])

    def markup(self, text: str) -> Ints:
        """Token ids of chat markup, special tokens on."""
        if not text:
            return ints([])
        if self._marked is not None:
            return ints(self._marked.encode(text, add_special_tokens=False).ids)
        return ints(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Iterable[int]) -> str:
        return str(self._tokenizer.decode(list(map(int, ids)), skip_special_tokens=False))

    def layout(self, roles: tuple[str, ...], *, chat: bool, language: str = "en", opening: bool = True) -> Layout:
        """The markup around messages with these roles (system, user, assistant; the last one is user).

        chat: follow the tokenizer's chat template; without one, or with chat off, a plain layout of lines.
        opening: whether a plain layout ends by asking for the answer. Raises TemplateError where the chat
        template loses or repeats a message.
        """
        chat = chat and bool(getattr(self._tokenizer, "chat_template", None))
        key = (roles, chat, language, opening)
        if key not in self._layouts:
            self._layouts[key] = self._chat(roles) if chat else self._plain(roles, language, opening)
        return self._layouts[key]

    def _chat(self, roles: tuple[str, ...]) -> Layout:
        marks = [f"{TURN_MARKS[0]}{n}{TURN_MARKS[1]}" for n in range(len(roles) + 1)]
        answered = [*roles, "assistant"]
        opened = self._pieces(roles, marks[:-1], generate=True)
        closed = self._pieces(tuple(answered), marks, generate=False)
        end = self.markup(closed[-1])[:1]
        if not len(end) or end[0] not in self.reserved:
            end = self._eos()
        return Layout(tuple(self.markup(p) for p in opened), end)

    def _pieces(self, roles: tuple[str, ...], marks: list[str], generate: bool) -> list[str]:
        """The chat template's text between the contents; a refused system turn joins the user's first."""
        messages = [{"role": r, "content": m} for r, m in zip(roles, marks, strict=True)]
        pieces = self._cut(messages, marks, generate)
        if pieces is None and roles[0] == "system" and len(roles) > 1:
            joined = {"role": "user", "content": f"{marks[0]}\n\n{marks[1]}"}
            pieces = self._cut([joined, *messages[2:]], marks, generate)
        if pieces is None:
            raise TemplateError(
                "expected the base model's chat template to print each message once and in order "
                f"({', '.join(roles)}), but it does not; use another base, or a template with `chat: false`"
            )
        return pieces

    def _cut(self, messages: list[dict[str, str]], marks: list[str], generate: bool) -> list[str] | None:
        """Rendered text split at the marks, or None where the template refuses, loses or reorders them."""
        try:
            text = self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=generate, **_TEMPLATE_ARGUMENTS
            )
        except (jinja2.TemplateError, ValueError, TypeError):
            return None
        pieces = []
        for mark in marks:
            before, found, text = text.partition(mark)
            if not found:
                return None
            pieces.append(before)
        return None if any(m in text for m in marks) else [*pieces, text]

    def _plain(self, roles: tuple[str, ...], language: str, opening: bool) -> Layout:
        asks = _OPENINGS.get(language, "\nAnswer:\n")
        parts = [ints(self._bos())]
        for before, after in zip(roles, [*roles[1:], "assistant"], strict=True):
            text = asks if (before, after) == ("user", "assistant") else "\n\n"
            parts.append(ints([]) if after == "assistant" and not opening else self.content([text])[0])
        return Layout(tuple(parts), self._eos())

    def _bos(self) -> list[int]:
        """The token this tokenizer itself puts before a text, if it does."""
        alone = [int(i) for i in self._tokenizer("")["input_ids"]]
        return alone if alone and alone == [self._tokenizer.bos_token_id] else []

    def _eos(self) -> Ints:
        eos = self._tokenizer.eos_token_id
        return ints([] if eos is None else [int(eos)])


def _private_copy(tokenizer: Any, special: bool) -> Any:
    """A copy of the fast tokenizer's core that reads special tokens or does not; None for a slow tokenizer.

    A copy, because the switch is state shared by all callers. Pieces start after a newline or markup, so
    the copy adds no space before the first word (SentencePiece tokenizers do, which would give the labels
    1, 2, 3 one and the same first token).
    """
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        return None
    text = core.to_str()
    if '"Metaspace"' in text or '"Prepend"' in text or '"add_prefix_space":true' in text:
        text = json.dumps(_without_prefix(json.loads(text)))
    copy = type(core).from_str(text)
    copy.no_truncation()
    copy.no_padding()
    copy.encode_special_tokens = not special
    return copy


def _without_prefix(spec: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer.json whose normalizer and pre-tokenizer add nothing before the first word."""

    def mend(step: Any) -> Any:
        if not isinstance(step, dict):
            return step
        for key in ("normalizers", "pretokenizers"):
            if key in step:
                step[key] = [mend(s) for s in step[key]]
        if step.get("type") == "Prepend":
            return {"type": "Sequence", "normalizers": []}
        if step.get("type") == "Metaspace":
            step["prepend_scheme"] = "never"
        if "add_prefix_space" in step:
            step["add_prefix_space"] = False
        return step

    return {
        **spec,
        "normalizer": mend(spec.get("normalizer")),
        "pre_tokenizer": mend(spec.get("pre_tokenizer")),
    }
