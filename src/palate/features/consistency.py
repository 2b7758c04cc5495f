"""Consistency: items whose text says one thing and whose picture or sound another.

Media and texts are put into one space, and each medium is compared with its own item's text and with the texts of
other items. Where its own fits worse than other items' texts do, the two are in conflict, or the space cannot tell
what the medium shows: this is a report for people to look through, never an error.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from palate.config import CaptionConfig, EncoderConfig
from palate.errors import ConfigError, FeatureError
from palate.features.encoders import ContentEncoder, build
from palate.features.encoders.text import Text
from palate.features.problem import Problem
from palate.features.store import FeatureStore
from palate.schema import Bools, Floats, Item

PRIOR = 0.05
"""Share of items expected to be in conflict, for the threshold."""
NARROW = 0.5
"""The deviation of own texts' z is taken to be at least this, for their tails are longer than a normal's, and at
most 1, for conflicts are among them.
"""
COMPARED = 2_000
"""Texts that each medium is compared with at most, a seeded draw."""
LEAST = 8
"""Media without as many others to compare with are not judged."""
ROWS = 1_024


@dataclass(frozen=True, slots=True)
class Conflict:
    """One item whose medium does not fit its text.

    z: how well its own text fits, in standard deviations above the mean of other texts; percentile: the share
    of other texts that fit worse (0 to 1); rank: 1 where its own fits best. nearest: the title of the item
    whose text fits best; shows: what the medium seems to show, "" where no class names are known.
    """

    item_id: str
    title: str
    file: str
    z: float
    percentile: float
    rank: int
    nearest: str
    shows: str


@dataclass(frozen=True, slots=True)
class Consistency:
    """What `consistency` found. space: where media and texts met; shared: whether one model put both there.

    judged: items compared; unclear: pictures whose classes are too uncertain to judge; missing, failed: items
    without the medium, or with an unusable one. compared: texts each was compared with. agreement: the mean
    percentile of own texts, 0.5 where the space tells nothing. threshold: on z, None where nothing can be
    told. conflicts: worst first.
    """

    medium: str
    space: str
    shared: bool
    items: int
    judged: int
    unclear: int
    missing: int
    failed: int
    compared: int
    agreement: float
    threshold: float | None
    conflicts: list[Conflict] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class Placed(NamedTuple):
    """Items in one space. media, texts: float32 [n, W]; present: media that could be used; clear: those that
    can be judged; shows: class names, "" where none are known.
    """

    space: str
    shared: bool
    media: Floats
    texts: Floats
    present: Bools
    clear: Bools
    shows: list[str]
    problems: list[Problem]


def consistency(
    items: Sequence[Item], *, medium: str = "image", source: str | None = None, threshold: float | None = None
) -> Consistency:
    """Compare each item's medium with its own text and with those of other items.

    source: a model with a tower for the medium and one for text (CLIP, SigLIP, CLAP). Without one, pictures
    are placed among texts by their class names, which is weaker. threshold: an item is in conflict below this
    z; None sets it so that a conflict is then more likely than not (see `threshold_of`). Raises ConfigError
    for a medium that no space is known for, FeatureError where the source has no common space.
    """
    had = [i for i in items if medium in i.media]
    if source is None and medium != "image":
        raise ConfigError(
            f"expected a source with a tower for {medium!r} and one for text (CLAP for audio); without one only "
            "'image' can be compared"
        )
    if not had:
        nothing = np.zeros((0, 1), dtype=np.float32)
        none = np.zeros(0, dtype=bool)
        placed = Placed("", source is not None, nothing, nothing, none, none, [], [])
    else:
        placed = _by_names(had, medium) if source is None else _by_towers(had, medium, source)
    kept = np.flatnonzero(placed.present & placed.clear)
    owns = [Text().text(had[n]) for n in kept]
    fits = _fits(_centred(placed.media[kept]), _centred(placed.texts[kept]), owns)
    judged = np.flatnonzero(fits.others >= LEAST)
    if threshold is None:
        threshold = threshold_of(fits.z[judged])
    worst = judged[np.argsort(fits.z[judged], kind="stable")]
    conflicts = [
        _conflict(had, kept, fits, int(n), medium, placed.shows)
        for n in worst
        if threshold is not None and fits.z[n] < threshold
    ]
    return Consistency(
        medium=medium,
        space=placed.space,
        shared=placed.shared,
        items=len(items),
        judged=len(judged),
        unclear=int((placed.present & ~placed.clear).sum()),
        missing=len(items) - len(had),
        failed=int((~placed.present).sum()),
        compared=int(fits.others[judged].max(initial=0)),
        agreement=float(fits.percentile[judged].mean()) if len(judged) else 0.5,
        threshold=threshold,
        conflicts=conflicts,
        problems=placed.problems,
    )


def threshold_of(z: NDArray[Any]) -> float | None:
    """Below which z a conflict is more likely than not; None where own texts fit no better than others.

    Bayes' rule for two normal distributions: texts of other items have z around 0 with deviation 1, own texts
    around m with deviation s, estimated by the median and the median absolute deviation (between NARROW and 1), and
    a share PRIOR of the items is in conflict. With s = 1 that is m / 2 - ln((1 - PRIOR) / PRIOR) / m: the less a space
    can tell (small m), the lower the threshold, down to where nothing is listed.
    """
    m = float(np.median(z)) if len(z) else 0.0
    if m <= 0:
        return None
    s = min(1.0, max(NARROW, 1.4826 * float(np.median(np.abs(z - m)))))
    # PRIOR N(z; 0, 1) = (1 - PRIOR) N(z; m, s), as a z^2 - b z + c = 0
    a, b = (1 / s**2 - 1) / 2, m / s**2
    c = m**2 / (2 * s**2) + math.log(s) - math.log((1 - PRIOR) / PRIOR)
    return 2 * c / (b + math.sqrt(b**2 - 4 * a * c))  # the root below m, and the only one where s is 1


def _by_towers(items: list[Item], medium: str, source: str) -> Placed:
    """Both towers of one model."""
    from palate.features.device import pick
    from palate.features.space import TextTower

    encoder = build({medium: EncoderConfig(source=source)})[medium]
    assert isinstance(encoder, ContentEncoder)
    stored = FeatureStore().get(encoder, items)
    assert encoder.weights is not None  # the source was named
    texts = TextTower(encoder.weights, pick()).vectors([Text().text(i) for i in items])
    tokens = encoder.tokens
    media = stored.features.vectors.reshape(len(items), tokens, -1).mean(axis=1)  # of a film, over its stretches
    if media.shape[1] != texts.shape[1]:
        raise FeatureError(
            f"{source}: expected {medium} and text in one space, got vectors of {media.shape[1]} and "
            f"{texts.shape[1]} numbers; name a model such as CLIP (image) or CLAP (audio)"
        )
    everything = np.ones(len(items), dtype=bool)
    shows = [""] * len(items)
    return Placed(
        f"{medium} and text by {source}",
        True,
        media,
        texts,
        stored.features.present,
        everything,
        shows,
        stored.problems,
    )


def _by_names(items: list[Item], medium: str) -> Placed:
    """A picture is the mean of its class names' text vectors, weighted by the classes' probabilities.

    ConSE (Norouzi et al., 2014), with the square root of the probabilities over all classes: a second guess
    often tells more than its probability, and with it more planted conflicts were found.
    """
    from palate.features.captioners.labels import Labels

    labels = Labels(CaptionConfig(medium=medium))
    chances, present, problems = labels.probabilities(items)
    store, encoder = FeatureStore(), Text()
    names = [Item(str(n), name) for n, name in enumerate(labels.names)]
    media = np.sqrt(chances) @ store.get(encoder, names).features.vectors
    texts = store.get(encoder, items).features.vectors
    shows = [labels.words(row) if there else "" for row, there in zip(chances, present, strict=True)]
    clear = np.array([bool(words) for words in shows])
    return Placed(
        "class names of the picture and the item's text, both by all-MiniLM-L6-v2",
        False, media.astype(np.float32), texts, present, clear | ~present, shows, problems,
    )  # fmt: skip


def _centred(rows: Floats) -> Floats:
    """Unit rows less their mean: what all media, or all texts, have in common says nothing about one of them."""
    from palate.features.space import unit

    return unit(unit(rows) - unit(rows).mean(axis=0)) if len(rows) else rows


class Fits(NamedTuple):
    """Of each medium: others int64 [n], how many other texts it was compared with; z and percentile of its own
    text among them; better int64 [n], how many fit better; nearest int64 [n], the one that fits best.
    """

    others: NDArray[Any]
    z: NDArray[Any]
    percentile: NDArray[Any]
    better: NDArray[Any]
    nearest: NDArray[Any]


def _fits(media: Floats, texts: Floats, owns: list[str]) -> Fits:
    """Own against other texts, for unit rows. Items that share a text are not compared with one another's."""
    n = len(media)
    codes = np.unique(owns, return_inverse=True)[1] if n else np.zeros(0, dtype=np.int64)
    drawn = np.sort(np.random.default_rng(0).permutation(n)[:COMPARED])
    made: list[tuple[NDArray[Any], ...]] = []
    for start in range(0, n, ROWS):
        rows = np.arange(start, min(start + ROWS, n))
        similar = (media[rows] @ texts[drawn].T).astype(np.float64)
        own = np.einsum("nw,nw->n", media[rows], texts[rows]).astype(np.float64)
        other = codes[rows][:, None] != codes[drawn][None, :]
        count = np.maximum(other.sum(axis=1), 1)
        mean = np.where(other, similar, 0).sum(axis=1) / count
        spread = np.sqrt(np.where(other, (similar - mean[:, None]) ** 2, 0).sum(axis=1) / count)
        better = (other & (similar > own[:, None])).sum(axis=1)
        worse = (other & (similar < own[:, None])).sum(axis=1)
        nearest = drawn[np.where(other, similar, -np.inf).argmax(axis=1)]
        z = (own - mean) / np.maximum(spread, 1e-9)
        made.append((other.sum(axis=1), z, worse / count, better, nearest))
    if not made:
        return Fits(*[np.zeros(0)] * len(Fits._fields))
    return Fits(*(np.concatenate(part) for part in zip(*made, strict=True)))


def _conflict(items: list[Item], kept: NDArray[Any], fits: Fits, n: int, medium: str, shows: list[str]) -> Conflict:
    item = items[kept[n]]
    return Conflict(
        item_id=item.item_id,
        title=item.title,
        file=str(item.media[medium]),
        z=round(float(fits.z[n]), 3),
        percentile=round(float(fits.percentile[n]), 4),
        rank=int(fits.better[n]) + 1,
        nearest=items[kept[fits.nearest[n]]].title,
        shows=shows[kept[n]],
    )
