"""A synthetic catalogue of any size: titles that begin alike and repeat, tags, makers, years, prices, events.

What sizes share is the distribution, so that a cost per item can be compared between them. Nothing here is real data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

EVENTS = 10
"""Events an item, on average."""
BLOCK = 32_768
"""Vectors made at a time."""
TAGS = re.findall(
    r"\S+",
    "action adventure animation biography comedy crime documentary drama family fantasy history horror music musical "
    "mystery news romance science sport thriller war western travel nature cooking science-fiction noir satire epic "
    "politics law medicine space school heist robots pirates spies vampires",
)
OPENINGS = ("", "", "", "The", "The", "A", "My", "Return of the", "Night of the", "The Secret of the")
SYLLABLES = re.findall(
    r"\S+",
    "ba be bo ca ce co da de di do el en er fa fi ga go ha he il in ka ki la le li lo ma me mi mo na ne ni no or pa pe "
    "ra re ri ro sa se si so ta te ti to ul va ve vi wa we ya yo za zi",
)
SPEC = """\
name: synthetic-{count}
items: {{path: items.{ending}, id: item_id, title: title, text: [year, tags, maker, price, summary]}}
interactions: {{path: interactions.{ending}, user: user_id, item: item_id, rating: rating, timestamp: timestamp}}
show: {{history: [year], candidate: [year, tags]}}
"""


def words(count: int, rng: np.random.Generator) -> list[str]:
    """Distinct made-up words of two to four syllables."""
    found: dict[str, None] = {}
    while len(found) < count:
        found["".join(rng.choice(SYLLABLES, size=int(rng.integers(2, 5)))).capitalize()] = None
    return list(found)


def skewed(rng: np.random.Generator, total: int, count: int, power: float) -> np.ndarray:
    """`count` numbers below `total`, small ones more often: int64, density as x^(1 / power - 1)."""
    return np.minimum((total * rng.random(count) ** power).astype(np.int64), total - 1)


def items(count: int, seed: int) -> pa.Table:
    """item_id, title, year, tags, maker, price, summary as text; about a title in thirty is another item's too."""
    rng = np.random.default_rng(seed)
    vocabulary = words(max(400, min(20_000, count // 5)), rng)
    pool = pa.array(vocabulary)

    def draw(power: float) -> pa.Array:
        return pool.take(pa.array(skewed(rng, len(vocabulary), count, power)))

    openings = pa.array(OPENINGS).take(pa.array(rng.integers(0, len(OPENINGS), count)))
    middle = pc.binary_join_element_wise(draw(2.0), draw(2.0), " ")
    number = rng.integers(1, 5, count)
    sequel = pa.array(np.where((number > 1) & (rng.random(count) < 0.3), number.astype(str), ""))
    title = pc.utf8_trim_whitespace(pc.binary_join_element_wise(openings, middle, sequel, " "))
    again = np.flatnonzero(rng.random(count) < 0.03)
    source = np.arange(count)
    source[again] = rng.integers(0, count, len(again))
    return pa.table(
        {
            "item_id": [f"i{n}" for n in range(count)],
            "title": title.take(pa.array(source)),
            "year": pa.array(rng.integers(1950, 2026, count)).cast(pa.string()),
            "tags": tags(count, rng),
            "maker": names(count, vocabulary, rng),
            "price": pa.array(np.round(rng.lognormal(2.5, 0.8, count), 2)).cast(pa.string()),
            "summary": pc.binary_join_element_wise(*(draw(1.5) for _ in range(10)), " "),
        }
    )


def tags(count: int, rng: np.random.Generator) -> pa.Array:
    """One to three tags an item, joined by a bar."""
    pool, many = pa.array(TAGS), rng.integers(1, 4, count)
    parts = []
    for place in range(3):
        drawn = pool.take(pa.array(skewed(rng, len(TAGS), count, 1.5)))
        parts.append(pc.if_else(pa.array(many > place), drawn, pa.scalar(None, pa.string())))
    return pc.binary_join_element_wise(*parts, "|", null_handling="skip")


def names(count: int, vocabulary: Sequence[str], rng: np.random.Generator) -> pa.Array:
    """Makers: one for about ten items, some with many."""
    total = max(20, count // 10)
    first, last = rng.integers(0, len(vocabulary), (2, total))
    people = pa.array([f"{vocabulary[a]} {vocabulary[b]}" for a, b in zip(first, last, strict=True)])
    return people.take(pa.array(skewed(rng, total, count, 1.5)))


def events(count: int, seed: int) -> pa.Table:
    """Ten events an item in order of time: few items have many of them, and some users (half as many as items) too."""
    rng = np.random.default_rng(seed + 1)
    total, people = EVENTS * count, max(10, count // 2)
    users = rng.permutation(people)[skewed(rng, people, total, 1.5)]
    chosen = rng.permutation(count)[skewed(rng, count, total, 3.0)]
    times = 1_400_000_000 + np.sort(rng.integers(0, 300_000_000, total))

    def ids(letter: str, numbers: np.ndarray) -> pa.Array:
        return pc.binary_join_element_wise(letter, pa.array(numbers).cast(pa.string()), "")

    return pa.table(
        {
            "user_id": ids("u", users),
            "item_id": ids("i", chosen),
            "rating": pa.array(rng.integers(1, 6, total).astype(np.int8)),
            "timestamp": pa.array(times),
        }
    )


def write(count: int, folder: Path, seed: int) -> dict[str, Any]:
    """The tables as CSV and as Parquet, each with its dataset.yaml, under `folder`/csv and `folder`/parquet."""
    sizes = {}
    tables = {"items": items(count, seed), "interactions": events(count, seed)}
    for ending in ("csv", "parquet"):
        place = folder / ending
        place.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            path = place / f"{name}.{ending}"
            if ending == "csv":
                pa_csv.write_csv(table, path)
            else:
                pq.write_table(table, path, compression="zstd")
        (place / "dataset.yaml").write_text(SPEC.format(count=count, ending=ending), encoding="utf-8")
        sizes[f"{ending}_bytes"] = sum(p.stat().st_size for p in place.iterdir())
    distinct = len(pc.unique(tables["items"]["title"]))
    return {**sizes, "events": tables["interactions"].num_rows, "distinct_titles": distinct}


def vectors(count: int, width: int, seed: int, start: int = 0) -> Iterator[np.ndarray]:
    """Unit float32 [count, width] in blocks: clusters of clusters, as embeddings have them."""
    rng = np.random.default_rng(seed)
    broad = rng.standard_normal((64, width)).astype(np.float32)
    fine = rng.standard_normal((4096, width)).astype(np.float32)
    rng = np.random.default_rng((seed, start))
    for done in range(0, count, BLOCK):
        size = min(BLOCK, count - done)
        kind = rng.integers(0, len(fine), size)
        rows = rng.standard_normal((size, width), dtype=np.float32) * np.float32(0.7)
        rows += fine[kind] * np.float32(0.8) + broad[kind % len(broad)]
        yield rows / np.linalg.norm(rows, axis=1, keepdims=True)


def table(path: Path, count: int, width: int, seed: int) -> np.ndarray:
    """Vectors in a file, memory-mapped: written once, in blocks."""
    if not path.is_file():
        rows = np.lib.format.open_memmap(path, "w+", np.float32, (count, width))
        done = 0
        for block in vectors(count, width, seed):
            rows[done : done + len(block)] = block
            done += len(block)
        rows.flush()
        del rows
    mapped: np.ndarray = np.load(path, mmap_mode="r")
    return mapped


def tiny_base(folder: Path, titles: Sequence[str]) -> Path:
    """A random two-layer Llama, 64 wide, and a byte-level BPE of 4,000 tokens trained on titles: a base to load."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4000,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(titles, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=True,
        bos_token_id=1, eos_token_id=2, pad_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
