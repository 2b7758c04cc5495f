"""Random captioners and an audio classifier of real architectures, saved as folders the way trained ones are."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "cat", "red", "car", "on", "the", "grass", "of"]
PROCESSOR = {
    "do_resize": True, "do_rescale": True, "do_normalize": True, "size": {"height": 32, "width": 32},
    "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
    "image_size": 32, "patch_size": 16,
}  # fmt: skip
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


def bert_tokenizer(folder: Path) -> None:
    from transformers import BertTokenizerFast

    (folder / "vocab.txt").write_text("\n".join(WORDS))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)


def blip(folder: Path) -> Path:
    """BLIP: an image-grounded text decoder."""
    import torch
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    torch.manual_seed(1)
    text = {**TEXT, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "bos_token_id": 2, "sep_token_id": 3}
    config = BlipConfig(
        text_config={**text, "eos_token_id": 3, "pad_token_id": 0}, vision_config=VISION, projection_dim=16
    )
    network = BlipForConditionalGeneration(config)
    with torch.no_grad():  # so that captions differ from picture to picture
        for name, p in network.named_parameters():
            if "LayerNorm" not in name and "layer_norm" not in name:
                p.normal_(std=0.5)
    network.save_pretrained(folder)
    bert_tokenizer(folder)
    tokenizer = BertTokenizerFast.from_pretrained(folder)
    BlipProcessor(BlipImageProcessor(**PROCESSOR), tokenizer).save_pretrained(folder)
    return folder


def llava(folder: Path, base: Path) -> Path:
    """LLaVA: a vision tower in front of a chat model, with `base`'s byte-level tokenizer."""
    import torch
    from transformers import (
        AutoTokenizer,
        CLIPImageProcessor,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    torch.manual_seed(2)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
    image = tokenizer.convert_tokens_to_ids("<image>")
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **VISION},
        text_config={"model_type": "llama", **TEXT, "vocab_size": len(tokenizer), "num_key_value_heads": 2},
        image_token_index=image, vision_feature_layer=-1,
    )  # fmt: skip
    network = LlavaForConditionalGeneration(config)
    # a real model's settings for sampling: greedy decoding must not heed them
    network.generation_config.update(do_sample=True, temperature=0.7, top_p=0.9, pad_token_id=2, eos_token_id=2)
    network.save_pretrained(folder)
    chat = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
        "{% if c['type'] == 'image' %}<image>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.chat_template = None
    images = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    LlavaProcessor(
        images, tokenizer, patch_size=16, vision_feature_select_strategy="default", chat_template=chat,
        num_additional_image_tokens=1,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def pair(folder: Path) -> Path:
    """A vision encoder and a text decoder put together (ViT and BERT), with processor and tokenizer side by side."""
    import torch
    from transformers import BertConfig, BertLMHeadModel, VisionEncoderDecoderModel, ViTConfig, ViTModel

    torch.manual_seed(3)
    decoder = BertLMHeadModel(BertConfig(**TEXT, vocab_size=len(WORDS), is_decoder=True, add_cross_attention=True))
    network = VisionEncoderDecoderModel(encoder=ViTModel(ViTConfig(**VISION)), decoder=decoder)
    network.config.decoder_start_token_id, network.config.pad_token_id = 2, 0
    network.generation_config.update(decoder_start_token_id=2, pad_token_id=0, eos_token_id=3, bos_token_id=2)
    network.save_pretrained(folder)
    bert_tokenizer(folder)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "ViTImageProcessor", **PROCESSOR})
    )
    return folder


def audio_classifier(folder: Path, many: bool = False) -> Path:
    """An audio spectrogram transformer over three classes that hears a second."""
    import torch
    from transformers import ASTConfig, ASTFeatureExtractor, ASTForAudioClassification

    torch.manual_seed(4)
    config = ASTConfig(
        **TEXT, num_mel_bins=16, max_length=100, patch_size=8, frequency_stride=8, time_stride=8,
        id2label={0: "Dog", 1: "Bark\nloud", 2: "Siren"}, label2id={"Dog": 0, "Bark\nloud": 1, "Siren": 2},
        problem_type="multi_label_classification" if many else None,
    )  # fmt: skip
    ASTForAudioClassification(config).save_pretrained(folder)
    ASTFeatureExtractor(num_mel_bins=16, max_length=100, mean=0.0, std=1.0).save_pretrained(folder)
    return folder


def tone(path: Path, hertz: float, seconds: float = 1.0, rate: int = 16_000) -> Path:
    """A 16-bit mono WAV of one tone."""
    samples = 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def clap(folder: Path) -> Path:
    """CLAP: towers for sound and text."""
    import torch
    from transformers import ClapConfig, ClapFeatureExtractor, ClapModel

    torch.manual_seed(5)
    sound = {
        "window_size": 2, "num_mel_bins": 16, "spec_size": 64, "patch_size": 4, "patch_stride": [4, 4],
        "depths": [1, 1], "num_attention_heads": [2, 2], "patch_embeds_hidden_size": 8, "hidden_size": 16,
        "projection_dim": 8, "num_classes": 3, "mlp_ratio": 1.0, "max_length": 1, "num_hidden_layers": 2,
    }  # fmt: skip
    text = {**TEXT, "vocab_size": len(WORDS), "max_position_embeddings": 34, "pad_token_id": 0, "projection_dim": 8}
    ClapModel(ClapConfig(text_config=text, audio_config=sound, projection_dim=8)).save_pretrained(folder)
    bert_tokenizer(folder)
    ClapFeatureExtractor(
        feature_size=16, sampling_rate=8000, hop_length=80, max_length_s=1, fft_window_size=256,
        truncation="rand_trunc", frequency_max=4000,
    ).save_pretrained(folder)  # fmt: skip
    return folder


def siglip(folder: Path) -> Path:
    """SigLIP: towers for picture and text."""
    import torch
    from transformers import SiglipConfig, SiglipModel

    torch.manual_seed(6)
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    text = {**TEXT, **ends, "vocab_size": len(WORDS), "max_position_embeddings": 16, "projection_size": 16}
    SiglipModel(SiglipConfig(text_config=text, vision_config=VISION)).save_pretrained(folder)
    bert_tokenizer(folder)
    return folder
