"""A data set and an adapter in which one modality decides: everybody's last item is one whose picture is bright.

The adapter's matching head reads the first number of the image vector and nothing else, so hiding the picture must
leave chance, hiding behaviour must change nothing at all, and shuffled pictures must be worth nothing.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch

from palate.data import Dataset
from palate.schema import Features

ITEMS, USERS, LENGTH = 60, 40, 7
SPEC = """\
name: planted
wording: {item: film, items: films, verb: watched, person: viewer}
items: {path: items.csv, id: item_id, title: title, text: [genre]}
interactions: {path: interactions.csv, user: user_id, item: item_id, timestamp: timestamp}
show: {history: [genre], candidate: [genre]}
"""


def bright(item: Any) -> Any:
    """Whether an item, or each of an array of them, is a bright one."""
    return item % 16 == 0


def planted_data(folder: Path) -> Dataset:
    """60 items, 4 of them bright; 40 users whose last two items are bright. Of the bright items only the first is in
    anybody's earlier events, those of twelve users.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(11)
    light = [i for i in range(ITEMS) if bright(i)]
    dark = [i for i in range(ITEMS) if not bright(i)]
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", "title", "genre"])
        rows.writerows([f"i{n}", f"Film {n}", "war" if n % 3 else "comedy"] for n in range(ITEMS))
    with (folder / "interactions.csv").open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "item_id", "timestamp"])
        for user in range(USERS):
            early = user < 12
            last = rng.choice(light[early:], 2, replace=False)
            items = [*light[:early], *rng.choice(dark, LENGTH - 2 - early, replace=False), *last]
            rows.writerows([f"u{user}", f"i{item}", 1000 * user + at] for at, item in enumerate(items))
    (folder / "dataset.yaml").write_text(SPEC, encoding="utf-8")
    return Dataset.open(folder)


def planted_tables(dataset: Dataset) -> dict[str, Features]:
    """Image vectors of all items but every seventh, behaviour vectors of all."""
    ids = dataset.catalog.item_ids
    numbers = np.array([int(i[1:]) for i in ids])
    rng = np.random.default_rng(5)
    has = numbers % 7 != 5
    image = rng.standard_normal((ITEMS, 6)).astype(np.float32)
    image[:, 0] = np.where(bright(numbers), 1.0, -1.0) + 0.05 * rng.standard_normal(ITEMS)
    image *= has[:, None]
    behaviour = rng.standard_normal((ITEMS, 5)).astype(np.float32)
    return {
        "image": Features("image", ids, image, has, "planted-image"),
        "behaviour": Features("behaviour", ids, behaviour, np.ones(ITEMS, bool), "planted-behaviour"),
    }


def planted_bundle(
    folder: Path, base: Path, dataset: Dataset, extra: dict[str, Any] | None = None, fusion: str = "model"
) -> Path:
    """A bundle over `planted_tables` whose matching head reads the brightness."""
    from palate.config import ModelConfig
    from palate.model import Model, bundle

    values = {"base": f"path:{base}", "dtype": "float32", "hidden": 16, "matching": 8, "fusion": fusion}
    model = Model.create(ModelConfig.parse(values, "planted"), planted_tables(dataset), device="cpu")
    assert model.soft is not None
    head = model.soft.matching
    with torch.no_grad():
        head.query.weight.zero_()
        head.query.bias.zero_()
        head.query.bias[0] = 8**0.5
        for layer in (head.item.up, head.item.down):
            layer.weight.zero_()
            layer.bias.zero_()
        head.item.up.weight[0, 5] = 1.0  # behaviour has the first five columns, the picture the next six
        head.item.up.bias[0] = 5.0
        head.item.down.weight[0, 0] = 1.0
    data = {"name": dataset.name, "fingerprint": dataset.fingerprint}
    meta = {"name": "planted", "data": data, "encoders": {}, "templates": {}, "prompt": {}, **(extra or {})}
    return bundle.save(folder, model, meta)
