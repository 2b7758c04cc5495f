"""From a config to all that training needs: data, features, model, task mixture, validation, identity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from palate import features, prompting
from palate.config import RunConfig
from palate.data import Dataset
from palate.data.splits import leave_one_out
from palate.errors import FeatureError
from palate.model import Model
from palate.train.mixture import Mixture
from palate.train.tasks import TEMPLATES, Material
from palate.train.validate import Validator

IDLE = ("name", "data", "media", "train.output", "train.run", "train.checkpoint_every", "train.until")
"""Config keys that do not change what is learned: a run may resume with others (data goes by its
fingerprint).
"""


@dataclass(frozen=True)
class Ready:
    """Everything built.

    templates: name -> hash; encoders: what the bundle says of them; identity: what must be the same for a
    checkpoint to be resumed; notes: lines to tell the user.
    """

    config: RunConfig
    dataset: Dataset
    model: Model
    mixture: Mixture
    validator: Validator
    templates: dict[str, str]
    encoders: dict[str, Any]
    identity: dict[str, Any]
    notes: list[str]


def prepare(config: RunConfig, *, device: str, rank: int = 0, world: int = 1) -> Ready:
    """Open the data, compute features on the train split, load the base with fresh LoRA and projectors.

    Raises the errors of each floor; nothing is written but caches.
    """
    dataset = open_dataset(config)
    split = leave_one_out(dataset.histories.interactions)
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
    model = Model.create(config.model, tables, device=device, seed=config.train.seed)
    if model.soft is not None:
        model.soft.align(split.train.item_ids)
    templates = {
        task: prompting.load(TEMPLATES.get(task, task), config.prompt.language)
        for task in ("embedding", *_used(config))
    }
    serializer = make_serializer(config, dataset, model)
    material = Material(split.train, serializer, templates, config.prompt, dataset.users)
    validator = Validator(
        dataset.histories.interactions,
        serializer,
        templates["embedding"],
        users=config.train.validate_users,
        budget=config.train.batch_tokens,
        profiles=dataset.users,
        rank=rank,
        world=world,
    )
    hashes = {TEMPLATES.get(task, task): t.hash for task, t in templates.items()}
    mixture = Mixture(material, config.train.tasks, config.train.seed)
    identity = identify(config, dataset, model, hashes, world)
    notes = [
        f"{m}: {r.present} items have vectors, {r.missing} have no such medium, {r.failed} could not be used"
        for m, r in computed.report.items()
    ]
    encoders = features.encoders_meta(config.features, tables)
    return Ready(config, dataset, model, mixture, validator, hashes, encoders, identity, notes)


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
    )


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


def identify(
    config: RunConfig, dataset: Dataset, model: Model, templates: Mapping[str, str], world: int
) -> dict[str, Any]:
    """Flat key -> JSON value of all that shapes the loss curve."""
    told = {k: v for k, v in _flat(config.model_dump(mode="json")).items() if k not in IDLE}
    told |= {f"template {name}": digest for name, digest in templates.items()}
    if model.soft is not None:
        told |= {f"features of {m}": f for m, f in model.soft.fingerprints.items()}
    told["model.dtype"] = str(model.dtype).removeprefix("torch.")  # what "auto" came to
    told |= {"data fingerprint": dataset.fingerprint, "base sha256": model.base_digest, "processes": world}
    return told


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return found
