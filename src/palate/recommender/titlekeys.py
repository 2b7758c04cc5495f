"""The ways a title may be typed, for one title and for a whole catalogue's at once."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palate.data.titles import Lookup, by_hand, spaced

_BRACKETS = re.compile(r"(?<=\S)\s*[(\[][^)\]]*[)\]]\s*$")
_LEADING = re.compile(r"^(the|a|an|les|le|la|il|el|das|der|die) (?=\S)")
_ARTICLE = re.compile(r"^(.*), (the|a|an|les|le|la|il|el|das|der|die)$")


def plain(title: str) -> str:
    """A title as people type it: folded case, no accents or punctuation, the article in front."""
    folded = unicodedata.normalize("NFKD", title).casefold()
    folded = "".join(c for c in folded if not unicodedata.combining(c)).strip()
    if moved := _ARTICLE.match(folded):
        folded = f"{moved[2]} {moved[1]}"
    words = re.sub(r"[^\w\s]+", " ", folded.replace("'", "").replace("’", "").replace("&", " and "))
    return " ".join(words.split()) or folded


def keys(title: str) -> set[str]:
    """The ways a title may be typed: whole, without what stands in brackets, without its article."""
    found = {plain(title), plain(_BRACKETS.sub("", title))}
    return found | {stripped for k in found if (stripped := _LEADING.sub("", k))}


def plains(titles: pa.Array) -> pa.Array:
    """`plain` of each title: large_string [N]."""
    folded = pc.utf8_trim_whitespace(pc.utf8_lower(titles))
    folded = pc.replace_substring_regex(folded, _ARTICLE.pattern, r"\2 \1")
    words = pc.replace_substring(pc.replace_substring(folded, "'", ""), "&", " and ")
    words = spaced(pc.replace_substring_regex(words, r"[^\w\s]+", " "))
    return by_hand(titles, pc.if_else(pc.equal(words, ""), folded, words), plain)


def bare(titles: pa.Array) -> pa.Array:
    """Titles without what stands in brackets at their end: large_string [N]."""
    # Arrow's expressions cannot look behind: what stands before the brackets is written again instead
    cut = pc.replace_substring_regex(titles, r"^(.*?\S)\s*[(\[][^)\]]*[)\]]\s*$", r"\1")
    return by_hand(titles, cut, lambda title: _BRACKETS.sub("", title))


class TitleIndex(Mapping[str, list[str]]):
    """Way of typing -> ids of the items whose title may be typed so, in shelf order.

    titles: large_string [N] of the items of `ids`; more are added one by one.
    """

    def __init__(self, titles: pa.Array, ids: tuple[str, ...]) -> None:
        self._ids = ids
        self._added: dict[str, list[str]] = {}
        whole = plains(titles)
        texts, rows = [whole], [np.arange(len(whole))]

        def further(forms: pa.Array, of: np.ndarray, than: pa.Array) -> None:
            """Forms that differ from what is there already."""
            new = pc.not_equal(forms, than)
            texts.append(forms.filter(new))
            rows.append(of[new.to_numpy(zero_copy_only=False)])

        ends = pc.match_substring_regex(titles, r"[)\]]\s*$").to_numpy(zero_copy_only=False)
        places = np.flatnonzero(ends)
        further(plains(bare(titles.filter(pa.array(ends)))), places, whole.filter(pa.array(ends)))
        for forms, of in list(zip(texts, rows, strict=True)):
            further(pc.replace_substring_regex(forms, _LEADING.pattern.replace("(?=\\S)", ""), ""), of, forms)
        self._base = Lookup(pa.concat_arrays(texts), np.concatenate(rows))

    def add(self, title: str, item_id: str) -> None:
        """One more item, behind all others."""
        for way in keys(title):
            self._added.setdefault(way, []).append(item_id)

    def __getitem__(self, way: str) -> list[str]:
        found = [self._ids[n] for n in self._base.get(way)] + self._added.get(way, [])
        if not found:
            raise KeyError(way)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._base.distinct(), *self._added]))

    def __len__(self) -> int:
        return sum(1 for _ in self)
