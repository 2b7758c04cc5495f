"""A small CLIP that has learned colours in a second, saved as a folder: a real space of pictures and texts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {
    "red": (220, 30, 30), "green": (30, 170, 60), "blue": (40, 60, 220), "yellow": (240, 220, 40),
    "black": (15, 15, 15), "white": (245, 245, 245), "purple": (140, 40, 160), "orange": (250, 140, 20),
    "pink": (250, 150, 200), "grey": (128, 128, 128),
}  # fmt: skip
OTHERS = ["a", "photo", "of", "lamp", "chair", "mug", "shirt", "the", "small", "large"]
SPECIAL = ["<pad>", "<s>", "<unk>", "</s>"]
SIDE = 32


def picture(path: Path, colour: str, seed: int) -> Path:
    """A noisy picture of one colour."""
    noise = np.random.default_rng(seed).normal(0, 12, (SIDE, SIDE, 3))
    Image.fromarray(np.clip(np.array(COLOURS[colour]) + noise, 0, 255).astype(np.uint8)).save(path)
    return path


def save_colour_clip(folder: Path) -> Path:
    """Train and save model, tokenizer and image processor."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

    words = {w: n for n, w in enumerate([*SPECIAL, *COLOURS, *OTHERS])}
    raw = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    raw.normalizer = normalizers.Lowercase()
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 3)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    torch.manual_seed(0)
    small = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = {"vocab_size": len(words), "max_position_embeddings": 12, "bos_token_id": 1, "eos_token_id": 3}
    network = CLIPModel(
        CLIPConfig(
            text_config={**small, **text, "pad_token_id": 0},
            vision_config={**small, "image_size": SIDE, "patch_size": 16},
            projection_dim=16,
        )
    )
    _train(network, tokenizer)
    network.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    facts = {
        "image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": SIDE}, "crop_size": SIDE,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    }  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(facts))
    return folder


def _train(network: object, tokenizer: object, steps: int = 200) -> None:
    """Contrastive training (Radford et al., 2021) on colours among other words."""
    import torch

    model, read = network, tokenizer
    rng = np.random.default_rng(0)
    names = list(COLOURS)
    pixels = torch.tensor([COLOURS[n] for n in names]).float() / 127.5 - 1
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)  # type: ignore[attr-defined]
    for _ in range(steps):
        texts = []
        for name in names:
            words = rng.choice(OTHERS, rng.integers(0, 6)).tolist()
            words.insert(int(rng.integers(0, len(words) + 1)), name)
            texts.append(" ".join(words))
        tokens = read(texts, padding=True, return_tensors="pt")  # type: ignore[operator]
        seen = pixels[:, :, None, None] + 0.1 * torch.randn(len(names), 3, SIDE, SIDE)
        loss = model(pixel_values=seen, return_loss=True, **tokens).loss  # type: ignore[operator]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
