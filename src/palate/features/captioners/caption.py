"""Caption: pictures to sentences by an image-to-text or vision-language model of transformers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import Field

from palate.config import Config
from palate.errors import FeatureError
from palate.features.captioners import Captioned, Captioner, one_line
from palate.features.device import pick, quiet
from palate.features.files import file_identity, read_bounded
from palate.features.picture import MAX_BYTES, MAX_PIXELS, decode, decoding, tamed
from palate.schema import Item

SIDE = 512
"""Pictures are brought down to four times this many pixels a side; the model's own processor does the rest."""
QUESTION = "Describe this picture in one short sentence."


class CaptionOptions(Config):
    """prompt: what a chat model is asked, or how the caption of another begins; None: a question for the
    former, nothing for the latter. max_new_tokens: length of a caption at most. batch: pictures a forward
    pass (0: 2 on a CPU, 16 on a GPU). workers: decoding threads (0: one per core). max_bytes and max_pixels: a
    larger file costs that item's caption.
    """

    prompt: str | None = None
    max_new_tokens: int = Field(40, ge=1, le=512)
    dtype: Literal["float32", "bfloat16"] = "float32"
    batch: int = Field(0, ge=0)
    workers: int = Field(0, ge=0)
    device: str = "auto"
    max_bytes: int = Field(MAX_BYTES, ge=1)
    max_pixels: int = Field(MAX_PIXELS, ge=1)


class Caption(Captioner):
    """Sentences by BLIP, GIT, LLaVA, Qwen-VL, SmolVLM or any model of transformers' image-text-to-text class.

    Decoding is greedy, so a picture has one caption. Threads decode ahead of the batched forward pass.
    """

    name = "caption"
    example = "hub:Salesforce/blip-image-captioning-base"
    Options = CaptionOptions
    options: CaptionOptions

    @cached_property
    def writer(self) -> Writer:
        assert self.weights is not None  # a source is required
        return Writer(self.weights, self.options, pick(self.options.device))

    def identity(self, item: Item) -> bytes | None:
        path = item.media.get(self.modality)
        return None if path is None else file_identity(path, self.options.max_bytes)

    def caption(self, items: Sequence[Item]) -> Captioned:
        o = self.options

        def look(item: Item) -> Image.Image:
            data = read_bounded(item.media[self.modality], o.max_bytes)
            return tamed(decode(data, o.max_pixels, enough=2 * SIDE), SIDE)

        batch = o.batch or (2 if pick(o.device) == "cpu" else 16)
        with decoding():
            return self.in_batches(items, look, self.writer.write, batch, o.workers)


class Writer:
    """A captioning network with its processor, from a folder. Raises FeatureError where it is none."""

    def __init__(self, folder: Path, options: CaptionOptions, device: str):
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer

        self.options, self.device = options, device
        self.dtype = {"float32": torch.float32, "bfloat16": torch.bfloat16}[options.dtype]
        here: dict[str, Any] = {"local_files_only": True}
        try:
            with quiet():
                network = AutoModelForImageTextToText.from_pretrained(
                    folder, use_safetensors=True, dtype=self.dtype, **here
                )
                processor = AutoProcessor.from_pretrained(folder, **here)
                whole = hasattr(processor, "image_processor")  # an encoder-decoder pair has two halves instead
                self.processor: Any = processor if whole else AutoImageProcessor.from_pretrained(folder, **here)
                self.tokenizer: Any = processor.tokenizer if whole else AutoTokenizer.from_pretrained(folder, **here)
        except (OSError, ValueError, KeyError, ImportError, AttributeError) as error:
            raise FeatureError(
                f"expected an image-to-text model with its processor and safetensors at {folder}; "
                f"{' '.join(str(error).split())[:300]}"
            ) from None
        self.tokenizer.padding_side = "left"  # so that every prompt of a batch ends where its caption begins
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.network = network.eval().to(device)
        self.chats = bool(getattr(self.processor, "chat_template", None))

    def write(self, pictures: Sequence[Image.Image]) -> list[str]:
        """One line for each picture."""
        import torch

        inputs = self._inputs(list(pictures))
        with torch.no_grad(), quiet():  # quiet: a model may bring settings for sampling, which greedy search ignores
            made = self.network.generate(
                **inputs, do_sample=False, num_beams=1, max_new_tokens=self.options.max_new_tokens
            )
        asked = inputs.get("input_ids")
        if asked is not None and torch.equal(made[:, : asked.shape[1]], asked):
            made = made[:, asked.shape[1] :]
        return [one_line(text) for text in self.tokenizer.batch_decode(made, skip_special_tokens=True)]

    def _inputs(self, pictures: list[Image.Image]) -> dict[str, Any]:
        texts: dict[str, Any] = {}
        images: list[Any] = pictures
        if self.chats:
            asked = [{"type": "image"}, {"type": "text", "text": self.options.prompt or QUESTION}]
            turn = [{"role": "user", "content": asked}]
            prompt = self.processor.apply_chat_template(turn, add_generation_prompt=True)
            bos = self.tokenizer.bos_token
            texts = {"padding": True, "add_special_tokens": not (bos and prompt.startswith(bos))}
            texts["text"], images = [prompt] * len(pictures), [[p] for p in pictures]
        elif self.options.prompt is not None:
            texts = {"text": [self.options.prompt] * len(pictures), "padding": True}
        made = self.processor(images=images, return_tensors="pt", **texts)
        return {
            k: v.to(self.device, self.dtype) if v.is_floating_point() else v.to(self.device) for k, v in made.items()
        }
