"""From a config to all that training needs: data, features, model, task mixture, validation, identity."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from palate import features, prompting
from palate.config import RunConfig
from palate.data import Dataset
from palate.data.rated import RatedSplit
from palate.errors import DataError, FeatureError
from palate.evaluate import protocol
from palate.model import Model
from palate.model.warm import start_from
from palate.prompting import Template
from palate.recommender.interests import Interests
from palate.schema import Event, Features, Ints
from palate.train import refresh
from palate.train.mixture import Mixture
from palate.train.rated import RatingValidator, crossfitted, rating_mode
from palate.train.task import Material
from palate.train.tasks import TEMPLATES
from palate.train.teacher import Teacher
from palate.train.teacher import make as make_teacher
from palate.train.validate import Validator

IDLE = ("name", "data", "media", "train.output", "train.run", "train.checkpoint_every", "train.until")
"""Config keys that do not change what is learned: a run may resume with others (data goes by its
fingerprint).
"""


@dataclass(frozen=True)
class Ready:
    """Everything built.

    templates: name -> hash; encoders: what the bundle says of them; identity: what must be the same for a
    checkpoint to be resumed; notes: lines to tell the user; withheld: int64, items kept out of training.
    """

    config: RunConfig
    dataset: Dataset
    model: Model
    mixture: Mixture
    validator: Validator | RatingValidator
    templates: dict[str, str]
    encoders: dict[str, Any]
    identity: dict[str, Any]
    notes: list[str]
    withheld: Ints
    teacher: Teacher | None = None
    news: refresh.News | None = None
    """What the adapter that a warm start goes on from has not seen."""


def prepare(config: RunConfig, *, device: str, rank: int = 0, world: int = 1, dataset: Dataset | None = None) -> Ready:
    """Open the data, compute features on the train split, load the base with fresh LoRA and projectors.

    dataset: in the place of the config's own. Raises the errors of each floor; nothing is written but caches.
    """
    dataset = dataset or open_dataset(config)
    if not len(dataset.histories.interactions.items):
        raise DataError(
            f"training learns from who chose what: expected interactions, {dataset.name} is a catalogue of "
            f"{len(dataset.catalog):,} items alone; import a data set with a table of user_id and item_id"
        )
    dataset, notes = captioned(dataset, config, progress=rank == 0)
    held = protocol(config.train.protocol)
    split = held.split(dataset.histories.interactions)
    computed = features.compute(
        [dataset.catalog[i] for i in dataset.catalog.item_ids],
        split.train,
        config.features,
        progress=rank == 0,
    )
    tables = computed.tables
    if not tables:
        raise FeatureError(
            "training needs item vectors of at least one modality; name one under `features:` (for example "
            "behaviour), or add media to the data set"
        )
    tables, news = _since(config, dataset, tables)
    model = Model.create(config.model, tables, device=device, seed=config.train.seed)
    if model.soft is not None:
        model.soft.align(split.train.item_ids)
    rows = crossfitted(config, split.train, model)
    notes += _warm(model, config.train.start)
    notes += news.lines() if news else []
    templates = {
        task: prompting.chosen(TEMPLATES.get(task, task), config.prompt) for task in ("embedding", *_used(config))
    }
    serializer = make_serializer(config, dataset, model)
    withheld = np.empty(0, dtype=np.int64) if split.held_out is None else split.held_out
    material = Material(
        split.train,
        serializer,
        templates,
        config.prompt,
        dataset.users,
        withheld,
        serializer.interests,
        _texts(dataset, templates.values()),
        rows,
        config.train.skip,
        config.train.shuffle_ties,
    )
    share: dict[str, Any] = {
        "users": config.train.validate_users,
        "budget": config.train.batch_tokens,
        "profiles": dataset.users,
        "rank": rank,
        "world": world,
    }
    validator: Validator | RatingValidator
    if isinstance(split, RatedSplit):
        validator = RatingValidator(split, serializer, rating_mode(config.train), **share)
    else:
        interactions = dataset.histories.interactions
        validator = Validator(interactions, serializer, templates["embedding"], protocol=held, **share)
    hashes = {config.prompt.template(TEMPLATES.get(task, task)): t.hash for task, t in templates.items()}
    mixture = Mixture(material, config.train.tasks, config.train.seed)
    identity = identify(config, dataset, model, hashes, world)
    notes += [
        f"{m}: {r.present} items have vectors, {r.missing} have no such medium, {r.failed} could not be used"
        for m, r in computed.report.items()
    ]
    encoders = features.encoders_meta(config.features, tables)
    taught = config.train.teacher
    teacher = None if taught is None else make_teacher(split.train, taught, tables, withheld)
    return Ready(config, dataset, model, mixture, validator, hashes, encoders, identity, notes, withheld, teacher, news)


def _since(
    config: RunConfig, dataset: Dataset, tables: dict[str, Features]
) -> tuple[dict[str, Features], refresh.News | None]:
    """With a warm start: refitted vectors on the adapter's axes, and what the adapter has not seen."""
    start = config.train.start
    if start is None:
        return tables, None
    tables, aligned = refresh.onto(start, config, tables)
    return tables, refresh.news(start, dataset, aligned)


def _warm(model: Model, start: str | None) -> list[str]:
    """Take the weights of the adapter to go on from, if any; lines to tell the user."""
    if start is None:
        return []
    changed = start_from(model, start)
    again = f"; vectors that are not those it was trained with: {', '.join(changed)}" if changed else ""
    return [f"goes on from the weights of {start}{again}"]


def _used(config: RunConfig) -> list[str]:
    return [task for task, share in config.train.tasks.model_dump().items() if share and task != "embedding"]


def make_serializer(config: RunConfig, dataset: Dataset, model: Model) -> prompting.Serializer:
    """The serializer training and validation share. Slots are remembered: asking the model costs a look at
    the device.
    """
    return prompting.Serializer(
        model.tokenizer,
        dataset.catalog,
        dataset.wording,
        dataset.show,
        config.prompt,
        cache(model.soft.slots) if model.soft is not None else lambda item_id: (),
        Interests(dataset.catalog, language=config.prompt.language) if config.prompt.interests else None,
    )


def _texts(dataset: Dataset, templates: Iterable[Template]) -> Callable[[str], tuple[Event, ...]] | None:
    """Events with context and reviews, where a template writes them beside a history item."""
    lines = [t.pieces["history_item"] for t in templates]
    wanted = any(f"event.{name}" in line for line in lines for name in ("review", "sentiment", "context"))
    return lru_cache(maxsize=1000)(dataset.histories.events) if wanted else None


def open_dataset(config: RunConfig) -> Dataset:
    """`config.data` as a folder; a known name is imported to data/NAME first, with `config.media`."""
    folder = Path(config.data)
    if folder.is_dir():
        return Dataset.open(folder)
    from palate.data import import_dataset

    kept = Path("data") / config.data
    if (kept / "dataset.yaml").is_file():
        return Dataset.open(kept)
    imported: Dataset = import_dataset(config.data, kept, media=config.media)
    return imported


def captioned(dataset: Dataset, config: RunConfig, progress: bool = False) -> tuple[Dataset, list[str]]:
    """The data set with the text fields that `captions:` names, if any, and lines to tell the user."""
    if not config.captions:
        return dataset, []
    found = features.captions(list(dataset.catalog.values()), config.captions, progress=progress)
    notes = [
        f"captions of {f}: {r.written} items have one, {r.wordless} have nothing to say, {r.missing} have no such "
        f"medium, {r.failed} could not be used"
        for f, r in found.report.items()
    ]
    return dataset.with_fields(found.texts), notes


def identify(
    config: RunConfig, dataset: Dataset, model: Model, templates: Mapping[str, str], world: int
) -> dict[str, Any]:
    """Flat key -> JSON value of all that shapes the loss curve."""
    told = {k: v for k, v in flat(config.model_dump(mode="json")).items() if k not in IDLE}
    told |= {f"template {name}": digest for name, digest in templates.items()}
    if model.soft is not None:
        told |= {f"features of {m}": f for m, f in model.soft.fingerprints.items()}
    told |= {f"captions of {f}": m["fingerprint"] for f, m in features.captions_meta(config.captions).items()}
    told["model.dtype"] = str(model.dtype).removeprefix("torch.")  # what "auto" came to
    told |= {"data fingerprint": dataset.fingerprint, "base sha256": model.base_digest, "processes": world}
    return told


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found
