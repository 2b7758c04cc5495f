"""The token budget: the oldest history goes first, the candidates and the question never."""

from __future__ import annotations

from collections.abc import Iterable

from palate.errors import BudgetError

STEP = 64


def reserve(longest: int, fixed: int, limit: int) -> int:
    """Tokens kept free for what follows a prompt, `longest` of them at least needed.

    Rounded up to a multiple of 64 where the limit allows, so that a prompt does not depend on which other
    candidates share its request, and training cuts the same history as scoring.
    """
    rounded = STEP * max(1, -(-longest // STEP))
    return max(longest, min(rounded, limit - fixed))


def keep(newest_first: Iterable[int], room: int) -> int:
    """How many history lines fit into `room` tokens, given their lengths from the newest to the oldest.

    Stops reading at the first that does not fit, so that what is shown has no gaps.
    """
    kept = 0
    for length in newest_first:
        room -= length
        if room < 0:
            break
        kept += 1
    return kept


def check(fixed: int, listed: int, following: int, limit: int, where: str) -> None:
    """Raise BudgetError when a prompt without any history is over the limit.

    fixed: instructions, question and markup; listed: candidates in the prompt; following: longest branch or
    answer after it; all in tokens.
    """
    total = fixed + listed + following
    if total > limit:
        raise BudgetError(
            f"{where}: expected a prompt of at most {limit} tokens (max_tokens), but even without history it "
            f"takes {total}: {fixed} instructions and question, {listed} listed candidates, {following} for "
            "the longest candidate or answer after it. Raise max_tokens, list fewer candidates, or lower "
            "max_field_chars"
        )
