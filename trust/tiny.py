"""Small things that real files and processes are made of: a random base, a data set folder, an adapter bundle."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from palate import Recommender

TITLES = [
    "Red Harbour", "Glass Eye", "Four Doors", "Short Notice", "Mirror Man", "Piglet", "Long Walk", "Nine",
    "Highland", "Night Cab", "Star Port", "Visitor", "Visitors", "Cold Coast", "Snow Road", "Red Harbour 2",
    "The Cliff", "Whirl", "Motel", "Tide", "Express", "Owl", "Big Ears", "Slipper",
]  # fmt: skip
GENRES = ["Comedy", "Action Thriller", "Drama", "Family", "Sci-Fi", "Crime"]
USERS = 30
SPEC: dict[str, Any] = {
    "name": "tiny",
    "language": "en",
    "source": "made by trust",
    "wording": {"item": "movie", "items": "movies", "verb": "watched", "person": "viewer"},
    "items": {
        "path": "items.csv", "id": "item_id", "title": "title", "text": ["year", "genres"], "media": {"image": "image"},
    },
    "interactions": {
        "path": "interactions.csv", "user": "user_id", "item": "item_id", "rating": "rating", "timestamp": "timestamp",
    },
    "users": {"path": "users.csv", "id": "user_id", "profile": ["age", "occupation"]},
    "show": {"history": ["year"], "candidate": ["year", "genres"]},
}  # fmt: skip
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def data(folder: Path) -> Path:
    """A data set folder: 24 films, 30 users with 6 to 12 events each, two films with a picture."""
    import yaml
    from PIL import Image

    rng = random.Random(7)
    (folder / "posters").mkdir(parents=True)
    for n, colour in ((1, (200, 30, 30)), (2, (30, 30, 200))):
        Image.new("RGB", (48, 64), colour).save(folder / "posters" / f"{n}.jpg")
    items = [
        [n, title, 1970 + n, GENRES[n % len(GENRES)], f"posters/{n}.jpg" if n < 3 else ""]
        for n, title in enumerate(TITLES, 1)
    ]
    events = [
        [user, item, rng.randint(1, 5), 880000000 + user * 1000 + t * 10]
        for user in range(1, USERS + 1)
        for t, item in enumerate(rng.sample(range(1, len(TITLES) + 1), rng.randint(6, 12)))
    ]
    users = [[u, 20 + u, "engineer" if u % 2 else "artist"] for u in range(1, USERS + 1)]
    for name, header, rows in (
        ("items", ["item_id", "title", "year", "genres", "image"], items),
        ("interactions", ["user_id", "item_id", "rating", "timestamp"], events),
        ("users", ["user_id", "age", "occupation"], users),
    ):
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])
    (folder / "dataset.yaml").write_text(yaml.safe_dump(SPEC, sort_keys=False), encoding="utf-8")
    return folder


def base(folder: Path, width: int = 32, seed: int = 0) -> Path:
    """A folder transformers loads: a random Llama of two layers and a byte-level BPE with ChatML."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([*TITLES, "The user watched these movies. Yes No A B C D 1 2 3 4 5"] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def bundle(folder: Path, base: Path, data: Path) -> Path:
    """A saved bundle with random LoRA and projectors over toy image and behaviour vectors."""
    from palate import prompting
    from palate.config import ModelConfig
    from palate.data import Dataset
    from palate.model import Model
    from palate.model import bundle as bundles
    from palate.schema import Features

    dataset = Dataset.open(data)
    ids = dataset.catalog.item_ids
    rng = np.random.default_rng(5)
    has = np.array([bool(dataset.catalog[i].media) for i in ids])
    image = rng.standard_normal((len(ids), 6)).astype(np.float32) * has[:, None]
    behaviour = rng.standard_normal((len(ids), 5)).astype(np.float32)
    tables = {
        "image": Features("image", ids, image, has, "toy-image"),
        "behaviour": Features("behaviour", ids, behaviour, np.ones(len(ids), bool), "toy-behaviour"),
    }
    config = ModelConfig.parse({"base": f"path:{base}", "dtype": "float32", "hidden": 16, "matching": 8}, "tiny")
    meta: dict[str, Any] = {
        "name": "tiny",
        "data": {"name": dataset.name, "fingerprint": dataset.fingerprint},
        "encoders": {},
        "templates": {n: prompting.load(n, "en").hash for n in ("sequence", "next_item", "yes_no", "letters")},
        "prompt": {"max_tokens": 700, "max_history": 20},
        "metrics": {},
    }
    return bundles.save(folder, Model.create(config, tables, device="cpu"), meta)


def all_of(folder: Path) -> tuple[Path, Path, Path]:
    """(base, data, bundle), made in a folder."""
    made, held = base(folder / "base"), data(folder / "data")
    return made, held, bundle(folder / "adapter", made, held)


def recommender(folder: Path) -> Recommender:
    """A tiny recommender, its files in a folder."""
    from palate import Recommender

    _, held, adapter = all_of(folder)
    return Recommender.load(adapter, data=held, device="cpu")
