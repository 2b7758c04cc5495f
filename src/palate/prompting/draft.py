"""A prompt in pieces: token ids, and marks where the history and candidate lines go."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from palate.errors import TemplateError
from palate.prompting.lines import Line
from palate.prompting.template import Template
from palate.prompting.text import CANDIDATES_MARK, HISTORY_MARK
from palate.schema import Ints, Prompt, Slot


class Draft:
    """Pieces of one prompt; `size` counts the tokens without any line."""

    def __init__(self, template: Template, pieces: Sequence[Ints | str]) -> None:
        self._template = template
        self._pieces = pieces
        self.size = sum(len(p) for p in pieces if not isinstance(p, str))

    def assemble(self, history: list[Line], candidates: list[Line], shown: tuple[str, ...], dropped: int) -> Prompt:
        """Lay the pieces one after another and count positions."""
        ids: list[Ints] = []
        slots: list[Slot] = []
        ends: list[int] = []
        start, at = -1, 0
        for piece in self._pieces:
            if not isinstance(piece, str):
                ids.append(piece)
                at += len(piece)
                continue
            if piece == HISTORY_MARK:
                if at == 0:
                    raise TemplateError(
                        f"{self._template.source}: expected some text before {{{{ history }}}}, got none"
                    )
                start = at - 1
            for line in history if piece == HISTORY_MARK else candidates:
                ids.append(line.token_ids)
                slots += [s.shifted(at) for s in line.slots]
                at += len(line.token_ids)
                if piece == HISTORY_MARK:
                    ends.append(at - 1)
        return Prompt(np.concatenate(ids), tuple(slots), shown, tuple(ends), start if start >= 0 else at - 1, dropped)


def join_lists(template: Template, text: str) -> str:
    """Lists whose lines end in a newline need no second one after the placeholder."""
    for mark, piece in ((HISTORY_MARK, "history_item"), (CANDIDATES_MARK, "candidate_item")):
        if template.pieces[piece].endswith("\n"):
            text = text.replace(mark + "\n", mark)
    return text


def check_marks(template: Template, text: str, history: bool, candidates: bool) -> None:
    for name, mark, filled in (
        ("history", HISTORY_MARK, history),
        ("candidates", CANDIDATES_MARK, candidates),
    ):
        count = text.count(mark)
        if count > 1 or (filled and count == 0):
            raise TemplateError(
                f"{template.source}: expected {{{{ {name} }}}} to be printed once, it came {count} times"
            )
