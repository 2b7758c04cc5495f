"""Captions: items' media as text fields, cached by content.

result = captions(items, {"picture": CaptionConfig(captioner="labels")})
result.texts["picture"]["42"]       "sports car, racer"
dataset.with_fields(result.texts)   prompts show the texts beside the titles, and text encoders read them
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from palate.config import CaptionConfig
from palate.errors import FeatureError
from palate.features.bar import bar
from palate.features.captioners import Captioner, build
from palate.features.problem import Problem
from palate.features.sourced import content_keys
from palate.features.textstore import TextStore
from palate.schema import Item

CHUNK = 128
"""Items captioned between two writes: what a kill can cost."""


@dataclass(frozen=True, slots=True)
class CaptionReport:
    """Counts of items. written: have a caption; wordless: the captioner has nothing to say of their medium;
    missing: have no such medium; failed: have one that cannot be used. Together they are all items.

    hits: captions, or none, known from the cache; made: by the captioner now.
    """

    field: str
    captioner: str
    medium: str
    written: int
    wordless: int
    missing: int
    failed: int
    hits: int
    made: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CaptionSet:
    """texts: field -> item id -> caption, only of items that have one; what went wrong; counts by field."""

    texts: dict[str, dict[str, str]]
    problems: list[Problem]
    report: dict[str, CaptionReport]


def captions(
    items: Sequence[Item],
    config: Mapping[str, CaptionConfig],
    *,
    store: TextStore | None = None,
    progress: bool = True,
) -> CaptionSet:
    """Captions of every configured text field for `items`.

    store: None takes the cache folder. progress: a bar for each field on standard error. Raises ConfigError
    for an unknown captioner or option, FeatureError where items share an id, SourceError where weights cannot
    be fetched. A bad file is a Problem.
    """
    if len({i.item_id for i in items}) != len(items):
        raise FeatureError("expected items with distinct ids, some id occurs twice")
    store = store or TextStore()
    found = CaptionSet({}, [], {})
    for field, captioner in build(config).items():
        began = time.perf_counter()
        with bar(field, len(items), progress) as advance:
            texts, problems, report = _field(captioner, items, store, advance)
        found.texts[field] = texts
        found.problems.extend(problems)
        found.report[field] = replace(report, seconds=round(time.perf_counter() - began, 3))
    return found


def caption_item(
    item: Item,
    captioners: Mapping[str, Captioner],
    *,
    store: TextStore | None = None,
    problems: list[Problem] | None = None,
) -> Item:
    """The item with the text fields that the captioners write; one it brings itself is left as it is.

    captioners: by field, from `captioners.build`; they keep their loaded weights from call to call. problems:
    where given, bad media are appended; otherwise the first one raises FeatureError.
    """
    store = store or TextStore()
    text = dict(item.text)
    for field, captioner in captioners.items():
        if text.get(field, "").strip() or captioner.modality not in item.media:
            continue
        texts, troubles, _ = _field(captioner, [item], store, lambda _: None)
        if troubles and problems is None:
            raise FeatureError(str(troubles[0]))
        if problems is not None:
            problems += troubles
        if item.item_id in texts:
            text[field] = texts[item.item_id]
    return replace(item, text=text)


def captions_meta(config: Mapping[str, CaptionConfig]) -> dict[str, dict[str, Any]]:
    """What palate.json keeps of each text field: captioner, medium, source, options and fingerprint."""
    return {
        field: {
            "captioner": captioner.name,
            "medium": captioner.modality,
            "source": captioner.source,
            "options": dict(config[field].options),
            "fingerprint": captioner.fingerprint,
        }
        for field, captioner in build(config).items()
    }


def _field(
    captioner: Captioner, items: Sequence[Item], store: TextStore, settled: Callable[[int], None]
) -> tuple[dict[str, str], list[Problem], CaptionReport]:
    """Captions of one field by item id. Equal content is captioned once."""
    with_medium = [i for i in items if captioner.modality in i.media]  # without any, weights are not even fetched
    keys, problems = content_keys(captioner, with_medium) if with_medium else ([], [])
    known = store.read(list(dict.fromkeys(k for k in keys if k is not None)))
    hits = sum(k in known for k in keys if k is not None)
    settled(len(items) - len(with_medium) + hits + sum(k is None for k in keys))
    waiting: dict[bytes, list[Item]] = {}
    for item, key in zip(with_medium, keys, strict=True):
        if key is not None and key not in known:
            waiting.setdefault(key, []).append(item)
    missing = list(waiting)
    for start in range(0, len(missing), CHUNK):
        part = missing[start : start + CHUNK]
        fresh, troubles = _caption(captioner, {k: waiting[k] for k in part})
        store.write(fresh)
        known |= fresh
        problems += troubles
        settled(sum(len(waiting[k]) for k in part))
    every = {i.item_id: known[k] for i, k in zip(with_medium, keys, strict=True) if k is not None and k in known}
    texts = {item_id: text for item_id, text in every.items() if text}
    return (
        texts,
        problems,
        CaptionReport(
            field=captioner.field,
            captioner=captioner.name,
            medium=captioner.modality,
            written=len(texts),
            wordless=len(every) - len(texts),
            missing=len(items) - len(with_medium),
            failed=len(with_medium) - len(every),
            hits=hits,
            made=len(every) - hits,
            seconds=0.0,
        ),
    )


def _caption(captioner: Captioner, waiting: Mapping[bytes, list[Item]]) -> tuple[dict[bytes, str], list[Problem]]:
    """Captions by key of the items that share each key; they share a bad medium's fate and its reason too."""
    done = captioner.caption([items[0] for items in waiting.values()])
    reasons = {p.item_id: p.reason for p in done.problems}
    fresh: dict[bytes, str] = {}
    problems: list[Problem] = []
    for (key, items), text in zip(waiting.items(), done.texts, strict=True):
        if text is not None:
            fresh[key] = text
        else:
            reason = reasons.get(items[0].item_id, "the captioner gave no reason")
            problems += [captioner.problem(item, reason) for item in items]
    return fresh, problems
