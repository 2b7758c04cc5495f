"""Vectors and captions for items that come after training, from what the adapter was trained with."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from palate import features
from palate.config import EncoderConfig
from palate.errors import PalateWarning
from palate.features.captioners import Captioner
from palate.features.captioners import build as build_captioners
from palate.features.encoders import ContentEncoder, Encoder, Unusable, build
from palate.recommender.loading import caption_config, check_captioner
from palate.schema import Floats, Item


def make_item(
    item_id: str,
    title: str,
    text: Mapping[str, str] | None = None,
    media: Mapping[str, str | Path] | str | Path | None = None,
) -> Item:
    """An item from what a caller knows of it; a single media file is taken as the image, empty fields go."""
    if isinstance(media, str | Path):
        media = {"image": media}
    fields = {str(k): str(v) for k, v in (text or {}).items() if str(v).strip()}
    return Item(item_id, title, fields, {m: Path(p) for m, p in (media or {}).items()})


class NewItemEncoders:
    """The content encoders and captioners a bundle names; their weights load with the first item that needs
    them.
    """

    def __init__(self, meta: Mapping[str, Any]) -> None:
        self.meta = meta
        self._encoders: dict[str, Encoder] | None = None
        self._captioners: dict[str, Captioner] | None = None

    def serve(self, meta: Mapping[str, Any]) -> bool:
        """Whether these are also the encoders of the bundle `meta` describes, so that weights are kept once."""
        return all(self.meta.get(k) == meta.get(k) for k in ("encoders", "fingerprints"))

    def captioned(self, item: Item) -> Item:
        """The item with captions of its media in the text fields that it does not bring itself.

        A medium that cannot be used costs its caption and raises a PalateWarning. Raises BundleError where a
        captioner is not the one the adapter was trained with.
        """
        if self._captioners is None:
            self._captioners = build_captioners(caption_config(self.meta))
        needed = {f: c for f, c in self._captioners.items() if c.modality in item.media}
        for field, captioner in needed.items():
            check_captioner(self.meta, field, captioner.fingerprint)
        problems: list[features.Problem] = []
        if needed:
            item = features.caption_item(item, needed, problems=problems)
        for problem in problems:
            warnings.warn(f"{problem}; the item goes without a caption of it", PalateWarning, stacklevel=4)
        return item

    def encode(self, item: Item) -> dict[str, Floats]:
        """Modality -> float32 [F] for each modality the adapter reads and the item has.

        A medium that cannot be used costs that modality and raises a PalateWarning. Raises BundleError where
        an encoder is not the one the adapter was trained with.
        """
        if self._encoders is None:
            self._encoders = self._build()
        encoders = {m: e for m, e in self._encoders.items() if _concerns(e, item)}
        if encoders and "fingerprints" in self.meta:
            from palate.model import bundle

            bundle.check_encoders(self.meta, {m: e.fingerprint for m, e in encoders.items()})
        problems: list[features.Problem] = []
        vectors = features.encode_item(item, encoders, problems=problems)
        for problem in problems:
            warnings.warn(f"{problem}; the item goes without it", PalateWarning, stacklevel=4)
        return vectors

    def _build(self) -> dict[str, Encoder]:
        configs = {
            modality: EncoderConfig(**{k: v for k, v in told.items() if k in EncoderConfig.model_fields})
            for modality, told in self.meta.get("encoders", {}).items()
        }
        return {m: e for m, e in build(configs).items() if isinstance(e, ContentEncoder)}


def _concerns(encoder: Encoder, item: Item) -> bool:
    """Has the item this medium, usable or not? Weights are not loaded to find out that it has none."""
    try:
        return encoder.identity(item) is not None
    except Unusable:
        return True
