"""Going on from an adapter when there is news: what has come since, and refitted vectors on the adapter's axes.

Encoders of behaviour are fitted anew, so that new items and new events are in their vectors, and the vectors are then
rotated onto the adapter's (see `features.align`): its projectors know those axes. To keep the old vectors of known
items was the other choice; new items would then have stood on axes of their own, and known ones would never have
changed. Measured on MovieLens-100K in docs/notes/2026-11-24-freshness.md.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palate.config import RunConfig
from palate.data import Dataset
from palate.errors import FeatureError
from palate.features.align import Alignment, align
from palate.features.encoders import CollaborativeEncoder, build
from palate.model import bundle
from palate.schema import Features

EPOCHS = 1.0
"""Epochs of a continued training, unless the command says otherwise: the adapter knows most of it already."""
COUNTED = ("interactions", "users", "items")


@dataclass(frozen=True)
class News:
    """What an adapter has not seen of a data set.

    counts: interactions, users and items, (when the adapter was trained, now); those the bundle did not record are
    left out. items: ids that were in no table of the adapter; gone: ids that are no longer in the catalogue.
    aligned: modality -> how near its refitted vectors came to the adapter's.
    """

    start: str
    same_data: bool
    counts: Mapping[str, tuple[int, int]]
    items: Sequence[str]
    gone: Sequence[str]
    aligned: Mapping[str, Alignment] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people."""
        told = []
        if not self.same_data:
            counts = [f"{now - was:+,} {what} ({was:,} -> {now:,})" for what, (was, now) in self.counts.items()]
            told.append(f"since {self.start}: {', '.join(counts) or 'other data'}")
        if self.items or self.gone:
            told.append(f"{_some('new items', self.items)}; {_some('no longer in the catalogue', self.gone)}")
        for m, a in self.aligned.items():
            told.append(
                f"{m}: fitted anew and rotated onto the adapter's vectors by {a.shared:,} shared items; relative "
                f"difference {a.before:.2f} before, {a.after:.2f} after"
            )
        return told

    def to_dict(self) -> dict[str, Any]:
        """For `palate.json`: no path, and items by their number."""
        return {
            "counts": {what: {"was": was, "now": now} for what, (was, now) in self.counts.items()},
            "new items": len(self.items),
            "gone items": len(self.gone),
            "aligned": {m: a.to_dict() for m, a in self.aligned.items()},
        }


def _some(what: str, ids: Sequence[str]) -> str:
    shown = ", ".join(ids[:5]) + (", ..." if len(ids) > 5 else "")
    return f"{what}: {len(ids):,}" + (f" ({shown})" if ids else "")


def news(folder: str | Path, dataset: Dataset, aligned: Mapping[str, Alignment] | None = None) -> News:
    """Compare a data set with what an adapter was trained on. Raises BundleError where there is no bundle."""
    meta = bundle.read_meta(folder)
    then: Mapping[str, Any] = meta.get("data") or {}
    events = dataset.histories.interactions
    now = {"interactions": len(events.items), "users": len(events), "items": len(events.item_ids)}
    known = dict.fromkeys(next(iter(bundle.tables(folder).values())).item_ids)
    have = set(events.item_ids)
    return News(
        str(folder),
        then.get("fingerprint") == dataset.fingerprint,
        {what: (int(then[what]), now[what]) for what in COUNTED if what in then},
        [i for i in events.item_ids if i not in known],
        [i for i in known if i not in have],
        dict(aligned or {}),
    )


def onto(
    folder: str | Path, config: RunConfig, tables: Mapping[str, Features]
) -> tuple[dict[str, Features], dict[str, Alignment]]:
    """Tables with the vectors of refitted encoders rotated onto the adapter's; the others as they are.

    A modality is left alone where its fingerprint is the adapter's, its encoder reads content, its width is another
    one (a warm start refuses that) or no item is shared.
    """
    theirs = bundle.tables(folder)
    out, found = dict(tables), {}
    for m, encoder in build(config.features).items():
        old, new = theirs.get(m), tables[m]
        if not isinstance(encoder, CollaborativeEncoder) or old is None:
            continue
        if old.fingerprint == new.fingerprint or old.width != new.width:
            continue
        try:
            out[m], found[m] = align(new, old, encoder.parts)
        except FeatureError:  # another catalogue: its vectors have to be learned anew, as the run's notes say
            continue
    return out, found


def continued(config: RunConfig, adapter: str | Path, dataset: Dataset, given: Collection[str]) -> RunConfig:
    """The config of `palate train FILE --continue ADAPTER`: a warm start, one epoch, a run folder for this very data.

    given: keys the command line sets, which stay as they are.
    """
    run = Path(config.train.run or Path("runs") / config.name)
    changes: dict[str, Any] = {"start": str(adapter)}
    if "train.epochs" not in given:
        changes["epochs"] = min(EPOCHS, config.train.epochs)
    if "train.run" not in given:
        changes["run"] = str(run.with_name(f"{run.name}-{dataset.fingerprint[:8]}"))
    return config.model_copy(update={"train": config.train.model_copy(update=changes)})
