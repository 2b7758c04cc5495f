"""Features: items' media, text and behaviour as vectors, cached by content.

result = compute(items, train, {"image": EncoderConfig(), "behaviour": EncoderConfig()})
result.tables["image"].vectors      float32 [N, 1280], zero where result.tables["image"].present is False
result.problems                     media that could not be used, with the reason
captions(items, {"picture": CaptionConfig()}).texts["picture"]     media as text instead (see `caption`)
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from palate.config import EncoderConfig
from palate.errors import FeatureError
from palate.features.bar import bar
from palate.features.caption import CaptionReport, CaptionSet, caption_item, captions, captions_meta
from palate.features.encoders import CollaborativeEncoder, ContentEncoder, Encoder, build
from palate.features.problem import Problem
from palate.features.store import FeatureStore
from palate.features.table import load_features, save_features
from palate.features.textstore import TextStore
from palate.schema import Features, Floats, Interactions, Item

__all__ = [
    "CaptionReport",
    "CaptionSet",
    "FeatureSet",
    "FeatureStore",
    "ModalityReport",
    "Problem",
    "TextStore",
    "caption_item",
    "captions",
    "captions_meta",
    "compute",
    "encode_item",
    "encoders_meta",
    "load_features",
    "save_features",
]


@dataclass(frozen=True, slots=True)
class ModalityReport:
    """Counts of items. present: have a vector; missing: have no such medium; failed: have one that cannot
    be used.

    hits: vectors from the cache; computed: encoded now. present + missing + failed is the number of items.
    """

    modality: str
    encoder: str
    width: int
    present: int
    missing: int
    failed: int
    hits: int
    computed: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """Tables aligned to the items they were computed for, what went wrong, and counts per modality."""

    tables: dict[str, Features]
    problems: list[Problem]
    report: dict[str, ModalityReport]


def compute(
    items: Sequence[Item],
    train: Interactions | None,
    config: Mapping[str, EncoderConfig],
    *,
    store: FeatureStore | None = None,
    progress: bool = True,
) -> FeatureSet:
    """Vectors of every configured modality for `items`.

    train: the train split, for collaborative encoders; nothing else of the data reaches them. store: None
    takes the cache folder. progress: a bar per modality on standard error. Raises ConfigError for an
    unknown encoder or option, FeatureError where a collaborative encoder gets no interactions or items
    share an id, SourceError where weights cannot be fetched. A bad file is a Problem.
    """
    if len({i.item_id for i in items}) != len(items):
        raise FeatureError("expected items with distinct ids, some id occurs twice")
    store = store or FeatureStore()
    tables, problems, report = {}, [], {}
    for modality, encoder in build(config).items():
        if isinstance(encoder, CollaborativeEncoder):
            if train is None:
                raise FeatureError(
                    f"modality {modality!r} learns from interactions: pass the train split, or leave it out"
                )
            encoder.fit(train)
        began = time.perf_counter()
        with bar(modality, len(items), progress) as advance:
            stored = store.get(encoder, items, advance)
        seconds = time.perf_counter() - began
        tables[modality] = stored.features
        problems += stored.problems
        present, failed = int(stored.features.present.sum()), len(stored.problems)
        report[modality] = ModalityReport(
            modality=modality,
            encoder=encoder.name,
            width=stored.features.width,
            present=present,
            missing=len(items) - present - failed,
            failed=failed,
            hits=stored.hits,
            computed=stored.computed,
            seconds=round(seconds, 3),
        )
    return FeatureSet(tables, problems, report)


def encode_item(
    item: Item,
    encoders: Mapping[str, EncoderConfig | Encoder],
    *,
    store: FeatureStore | None = None,
    problems: list[Problem] | None = None,
) -> dict[str, Floats]:
    """Vectors float32 [F] of one item, by modality, from content encoders only; a modality it lacks is left
    out.

    encoders: configs, or built encoders (`encoders.build`), which keep their loaded weights from call to
    call. store: where given, the vectors are looked up and kept there. problems: where given, bad media are
    appended; otherwise the first one raises FeatureError.
    """
    built = build({m: e for m, e in encoders.items() if isinstance(e, EncoderConfig)})
    found: dict[str, Floats] = {}
    for modality, given in encoders.items():
        encoder = built[modality] if isinstance(given, EncoderConfig) else given
        if not isinstance(encoder, ContentEncoder):
            continue
        table, troubles = _one(encoder, item, store)
        if troubles and problems is None:
            raise FeatureError(str(troubles[0]))
        if problems is not None:
            problems += troubles
        if table is not None:
            found[modality] = table
    return found


def _one(encoder: Encoder, item: Item, store: FeatureStore | None) -> tuple[Floats | None, list[Problem]]:
    from palate.features.problem import Unusable

    if store is not None:
        stored = store.get(encoder, [item])
        return (stored.features.vectors[0] if stored.features.present[0] else None), stored.problems
    try:
        if encoder.identity(item) is None:
            return None, []
    except Unusable as reason:
        return None, [encoder.problem(item, str(reason))]
    encoded = encoder.encode([item])
    if encoded.present[0] and not np.isfinite(encoded.vectors[0]).all():
        return None, [encoder.problem(item, "the encoder gave values that are not finite")]
    return (encoded.vectors[0] if encoded.present[0] else None), list(encoded.problems)


def encoders_meta(
    config: Mapping[str, EncoderConfig], tables: Mapping[str, Features] | None = None
) -> dict[str, dict[str, Any]]:
    """What palate.json keeps of each modality: encoder, source, options, content (works for new items),
    fingerprint.

    tables: computed features, whose fingerprints are taken. Without them a content encoder's fingerprint is
    computed from its weights, and a collaborative one's, which covers its interactions, is None.
    """
    meta = {}
    for modality, encoder in build(config).items():
        content = isinstance(encoder, ContentEncoder)
        known = (tables or {}).get(modality)
        fingerprint = known.fingerprint if known else (encoder.fingerprint if content else None)
        meta[modality] = {
            "encoder": encoder.name,
            "source": encoder.source,
            "options": dict(config[modality].options),
            "content": content,
            "fingerprint": fingerprint,
        }
    return meta
