"""Shared fixtures: a tiny random base model with a real byte-level tokenizer, and a small data set folder."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TITLES = [
    "Toy Story", "GoldenEye", "Four Rooms", "Get Shorty", "Copycat", "Babe", "Dead Man Walking", "Seven",
    "Braveheart", "Taxi Driver", "Star Wars", "Alien", "Aliens", "Heat", "Fargo", "Toy Story 2",
    "The Rock", "Twister", "Psycho", "Jaws", "Speed", "Batman", "Dumbo", "Cinderella",
]  # fmt: skip
GENRES = ["Comedy", "Action Thriller", "Drama", "Children's Animation", "Sci-Fi Horror", "Crime"]


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder transformers loads: random Llama (2 layers, 32 wide) and a byte-level BPE with ChatML."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny-base")
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
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set folder: 24 films, 30 users with 6 to 12 events each, two of the films with a picture."""
    import random

    from PIL import Image

    folder = tmp_path_factory.mktemp("tiny-data")
    rng = random.Random(7)
    (folder / "posters").mkdir()
    for n, colour in ((1, (200, 30, 30)), (2, (30, 30, 200))):
        Image.new("RGB", (48, 64), colour).save(folder / "posters" / f"{n}.jpg")
    with (folder / "items.csv").open("w", newline="", encoding="utf-8") as f:
        rows = csv.writer(f)
        rows.writerow(["item_id", "title", "year", "genres", "image"])
        for n, title in enumerate(TITLES, 1):
            image = f"posters/{n}.jpg" if n < 3 else ""
            rows.writerow([n, title, 1970 + n, GENRES[n % len(GENRES)], image])
    with (folder / "interactions.csv").open("w", newline="", encoding="utf-8") as f:
        rows = csv.writer(f)
        rows.writerow(["user_id", "item_id", "rating", "timestamp"])
        for user in range(1, 31):
            for t, item in enumerate(rng.sample(range(1, len(TITLES) + 1), rng.randint(6, 12))):
                rows.writerow([user, item, rng.randint(1, 5), 880000000 + user * 1000 + t * 10])
    with (folder / "users.csv").open("w", newline="", encoding="utf-8") as f:
        rows = csv.writer(f)
        rows.writerow(["user_id", "age", "occupation"])
        rows.writerows([u, 20 + u, "engineer" if u % 2 else "artist"] for u in range(1, 31))
    (folder / "dataset.yaml").write_text(
        """\
name: tiny
language: en
wording: {item: movie, items: movies, verb: watched, person: viewer}
items:
  path: items.csv
  id: item_id
  title: title
  text: [year, genres]
  media: {image: image}
interactions: {path: interactions.csv, user: user_id, item: item_id, rating: rating, timestamp: timestamp}
users: {path: users.csv, id: user_id, profile: [age, occupation]}
show: {history: [year], candidate: [year, genres]}
""",
        encoding="utf-8",
    )
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, for the tests of the page (see browsed.py)."""
    from browsed import chromium, needs_browser

    needs_browser()
    with chromium() as found:
        yield found


@pytest.fixture
def wheel_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is pip's whole world, and an empty cache (see wheel_index.py)."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PALATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.delenv("PALATE_OFFLINE", raising=False)
    return folder
