"""The end of a run: the best weights as an adapter bundle, with what it was trained on and how well it
does.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palate import features
from palate.data.coldusers import held_out_users
from palate.data.rated import RatedSplit, held_out_ratings
from palate.data.splits import held_out_record
from palate.evaluate import protocol
from palate.evaluate.environment import command_line, manifest
from palate.model import bundle
from palate.train.checkpoint import Progress
from palate.train.prepare import Ready

HELD_OUT = {
    "user": "the last two events of every user with three or more",
    "time": "the validation and the test period",
    "rating": "the held-out ratings, and those kept for validation",
    "newcomer": "the held-out users, and the last two events of every other user with three or more",
    "item": "the held-out items with all their events, and the last two events of every user with three or more",
}
LOCAL: dict[str, bool | set[str]] = {"data": True, "media": True, "train": {"output", "run", "start"}}
"""Config keys that name places on one machine; the bundle leaves them out."""


def output_folder(ready: Ready) -> Path:
    """`train.output`, else adapters/NAME."""
    return Path(ready.config.train.output or Path("adapters") / ready.config.name)


def export(
    ready: Ready,
    progress: Progress,
    metrics: Mapping[str, Any],
    world: int,
    spent: Mapping[str, Any] | None = None,
) -> Path:
    """Save the model's current weights as a bundle; returns its folder. spent: of privacy, see `privacy.told`."""
    if ready.model.soft is not None:  # rows that only training needs stay behind
        ready.model.soft.align(ready.dataset.catalog.item_ids)
    return bundle.save(output_folder(ready), ready.model, describe(ready, progress, metrics, world, spent))


def public_words(words: Sequence[str]) -> list[str]:
    """The words of a training command without what names places on one machine, since a bundle travels."""
    local = {"data", "media", "train.output", "train.run", "train.start"}
    kept = []
    for word in words:
        key, mark, _ = word.partition("=")
        if mark and key in local:
            continue
        kept.append(word if mark else Path(word).name or word)
    return kept


def describe(
    ready: Ready,
    progress: Progress,
    metrics: Mapping[str, Any],
    world: int,
    spent: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """What `palate.json` says of the run; the bundle adds base, model config and feature fingerprints.

    metrics: {"step", metric: {"value", "low", "high", "n"}} of the best validation, or empty.
    """
    config, data = ready.config, ready.dataset
    events = data.histories.interactions
    held = protocol(config.train.protocol)
    unseen = {}
    if len(ready.withheld):
        unseen = {"held_out_items": held_out_record(events.item_ids, ready.withheld, **held.options)}
    elif held.split_by == "newcomer":
        unseen = {
            "held_out_users": held_out_record(
                events.user_ids, held_out_users(events.user_ids, **held.options), **held.options, what="users"
            )
        }
    if isinstance(split := held.split(events), RatedSplit):
        unseen = {"held_out_ratings": held_out_ratings(split, held.options["share"], held.options["seed"])}
    # exact facts of the events would tell whoever knows all other users whether one was there
    exact = {} if spent else {"fingerprint": data.fingerprint, "interactions": len(events.items)}
    cost = {} if spent else {"tokens": progress.tokens, "seconds": round(progress.seconds, 1)}
    return {
        "name": config.name,
        "data": {"name": data.name, "fingerprint": "", "users": len(events), "items": len(events.item_ids), **exact},
        "encoders": dict(ready.encoders),
        **({"captions": features.captions_meta(config.captions)} if config.captions else {}),
        "templates": dict(ready.templates),
        "prompt": config.prompt.model_dump(mode="json"),
        "config": config.model_dump(mode="json", exclude=LOCAL),
        "training": {
            "steps": progress.step,
            "best step": int(metrics.get("step", progress.step)),
            **cost,
            "processes": world,
            "seed": config.train.seed,
            "held out": HELD_OUT[held.split_by],
            **unseen,
            **({"privacy": dict(spent)} if spent else {}),
        },
        "manifest": manifest(command_line(public_words(sys.argv[1:])), {"train": config.train.seed}),
        **({"news": ready.news.to_dict()} if ready.news and not ready.news.same_data else {}),
        "metrics": [
            {
                "system": config.name,
                "protocol": f"{held.label}, validation item, {'last' if spent else 'best'} of the run",
                "metric": name,
                **found,
                "seed": config.train.seed,
            }
            for name, found in metrics.items()
            if name != "step"
        ],
    }
