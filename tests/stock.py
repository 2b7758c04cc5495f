"""The reference for the engine's tests: stock transformers, one candidate at a time.

Nothing here goes through Palate's attention, packing or forward: a second model object reads the same weights
with transformers' own attention, embeddings are put together row by row, and LoRA is added to the weights by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from palate.config import LoraConfig, ModelConfig
from palate.engine.pack import Job
from palate.engine.runner import Output
from palate.model import Model
from palate.schema import Branch, Features, Prompt, Slot

ITEMS = tuple("abcdef")
"""Items of the toy tables; the last has no medium, so it gets no soft tokens."""

FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1},
    "qwen3": {"head_dim": 8},
    "gemma": {"head_dim": 8},
    "gemma2": {
        "head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 5,
        "attn_logit_softcapping": 3.0, "final_logit_softcapping": 6.0,
    },
    "gemma3_text": {
        "head_dim": 8, "sliding_window": 5, "sliding_window_pattern": 2, "query_pre_attn_scalar": 5,
        "rope_parameters": {
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": {"rope_type": "default", "rope_theta": 10000.0},
        },
    },
    "mistral": {"sliding_window": 5},
    "phi3": {"sliding_window": 5},
    "olmo2": {},
    "granite": {
        "embedding_multiplier": 3.0, "residual_multiplier": 0.7, "attention_multiplier": 0.5, "logits_scaling": 2.0
    },
    "cohere": {"logit_scale": 0.4},
}  # fmt: skip
"""model_type -> what its tiny config adds; sliding windows are shorter than the tests' prompts."""

WINDOWED = tuple(name for name, options in FAMILIES.items() if "sliding_window" in options)


def tables() -> dict[str, Features]:
    """Toy vectors of two modalities; item f has none, item e only one."""
    rng = np.random.default_rng(3)
    out = {}
    for m, width, missing in (("image", 12, "f"), ("behaviour", 8, "ef")):
        present = np.array([i not in missing for i in ITEMS])
        vectors = rng.normal(size=(len(ITEMS), width)).astype(np.float32) * present[:, None]
        out[m] = Features(m, ITEMS, vectors, present, f"{m}-test")
    return out


def save_base(
    folder: Path, tokenizer_from: Path, family: str = "llama", *, seed: int = 0, dtype: str = "float32", **options: Any
) -> Path:
    """A random base of a transformers family, with the tokenizer of another base, in a folder.

    Weights are far larger than an untrained model's: attention is sharp, so that a position which sees one
    token too many, or its neighbour's, changes the scores by far more than any tolerance here.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_from)
    shape = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "max_position_embeddings": 512, "tie_word_embeddings": True,
    }  # fmt: skip
    config = AutoConfig.for_model(
        family, vocab_size=len(tokenizer), bos_token_id=1, eos_token_id=2, pad_token_id=2,
        **{**shape, **FAMILIES.get(family, {}), **options},
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lm = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for p in lm.parameters():
                if p.dim() > 1:
                    p.normal_(std=1.0 * p.shape[-1] ** -0.5)
                else:
                    p.add_(torch.randn_like(p) * 0.2)
    lm.to(getattr(torch, dtype)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def create(base: Path, *, adapter: bool = True, seed: int = 5, lora: float = 0.2, **options: Any) -> Model:
    """Palate's model over a base: with `adapter`, LoRA that counts and soft tokens of the toy tables."""
    config = ModelConfig(
        base=f"path:{base}", **{"dtype": "float32", "soft_tokens": 2, "hidden": 16, "matching": 8, **options},
        lora=LoraConfig(rank=4),
    )  # fmt: skip
    model = Model.create(config, tables() if adapter else {}, device="cpu", seed=seed, adapter=adapter)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):  # LoRA starts as the identity; make it count
        torch.manual_seed(seed)
        for name, p in model.trainable().items():
            if "lora_B" in name:
                p.normal_(std=lora)
    return model


class Stock:
    """Stock transformers over the files of a base, with the adapter of a Palate model added.

    `merge`: LoRA is added to the weights by hand, W + (alpha / rank) B A (Hu et al., 2021). Quantized weights
    cannot be added to; there PEFT wraps the stock model and takes the same LoRA weights.
    """

    def __init__(self, base: Path, mine: Model, *, attention: str = "eager", dtype: str = "float32", **load: Any):
        from transformers import AutoModelForCausalLM

        self.lm = AutoModelForCausalLM.from_pretrained(
            base, dtype=getattr(torch, dtype), attn_implementation=attention, **load
        ).eval()
        self.soft = mine.soft
        if mine.trainable():
            if load or dtype != "float32":
                self._wrap(mine)
            else:
                self._merge(mine)

    @torch.no_grad()
    def _merge(self, mine: Model) -> None:
        state = mine.trainable()
        scale = mine.config.lora.alpha / mine.config.lora.rank
        pairs = [n for n in state if ".lora_A." in n]
        assert pairs
        for name in pairs:
            path = re.fullmatch(r"lm\.base_model\.model\.(.+)\.lora_A\.default\.weight", name)
            assert path is not None, name
            delta = scale * state[name.replace("lora_A", "lora_B")] @ state[name]
            self.lm.get_submodule(path[1]).weight += delta

    def _wrap(self, mine: Model) -> None:
        from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

        from palate.model.load import quiet

        with quiet():
            config = mine.lm.peft_config["default"]
            self.lm = get_peft_model(self.lm, config).eval()
            state = {n: t.clone() for n, t in get_peft_model_state_dict(mine.lm).items()}
            assert any("lora_B" in n for n in state)
            set_peft_model_state_dict(self.lm, state)

    def embeds(self, tokens: Iterable[int], slots: Sequence[Slot]) -> Tensor:
        """[1, T, D]: a row a token, then the soft tokens' rows written over, one by one."""
        rows = self.lm.get_input_embeddings()(torch.tensor([list(tokens)]))
        for slot in slots:
            assert self.soft is not None
            soft = self.soft.vectors(slot.modality, [slot.item_id])[0]
            for i in range(slot.length):
                rows[0, slot.start + i] = soft[i]
        return rows

    @torch.inference_mode()
    def read(self, tokens: Sequence[int], slots: Sequence[Slot] = ()) -> tuple[Tensor, Tensor]:
        """One plain forward of one sequence: (logits [T, V], final hidden states [T, D]), float32."""
        inputs = {"inputs_embeds": self.embeds(tokens, slots)} if slots else {"input_ids": torch.tensor([list(tokens)])}
        out = self.lm(**inputs, use_cache=False, output_hidden_states=True)
        return out.logits[0].float(), out.hidden_states[-1][0].float()

    def whole(self, prompt: Prompt, branch: Branch) -> tuple[Tensor, Tensor]:
        size = len(prompt)
        tokens = [*prompt.token_ids.tolist(), *branch.token_ids.tolist()]
        moved = [Slot(s.start + size, s.length, s.modality, s.item_id) for s in branch.slots]
        return self.read(tokens, [*prompt.slots, *moved])

    def tokens(self, prompt: Prompt, branch: Branch) -> np.ndarray:
        """Log-probability of each text token of a candidate behind its prompt."""
        logp = self.whole(prompt, branch)[0].log_softmax(-1)
        soft = {s.start + i for s in branch.slots for i in range(s.length)}
        text = [i for i in range(len(branch)) if i not in soft]
        return np.array([float(logp[len(prompt) + i - 1, int(branch.token_ids[i])]) for i in text])

    def labels(self, prompt: Prompt, branch: Branch | None, labels: Sequence[int]) -> np.ndarray:
        """Logits of the label tokens at the end of a candidate, or of the prompt."""
        logits = (self.whole(prompt, branch) if branch else self.read(prompt.token_ids.tolist(), prompt.slots))[0]
        return logits[-1, list(labels)].numpy()

    @torch.inference_mode()
    def query(self, prompt: Prompt) -> np.ndarray:
        """The matching query at the last history position, written out from the head's weights."""
        assert self.soft is not None
        hidden = self.read(prompt.token_ids.tolist(), prompt.slots)[1]
        head = self.soft.matching
        at = hidden[prompt.item_ends[-1] if prompt.item_ends else prompt.start]
        centred = at - at.mean()
        normed = centred / torch.sqrt(centred.square().mean() + head.norm.eps) * head.norm.weight + head.norm.bias
        return ((head.query.weight @ normed + head.query.bias) / head.width**0.5).numpy()

    def run(self, job: Job) -> list[np.ndarray]:
        """What a job reads, one forward a candidate."""
        if job.read == "query":
            return [self.query(job.prompt)]
        if job.read == "labels":
            return [self.labels(job.prompt, b, job.labels) for b in job.branches or (None,)]
        return [self.tokens(job.prompt, b) for b in job.branches]


def values(job: Job, output: Output) -> list[np.ndarray]:
    """What a Runner read for a job, in the shape of `Stock.run`."""
    return {"tokens": output.tokens, "labels": list(output.labels), "query": [output.query]}[job.read]


def apart(got: Sequence[np.ndarray], want: Sequence[np.ndarray]) -> np.ndarray:
    """Absolute differences of two readings, all tokens end to end. Shapes must agree."""
    assert [len(a) for a in got] == [len(b) for b in want]
    return np.concatenate([np.abs(a - b) for a, b in zip(got, want, strict=True)]) if got else np.empty(0)


def prompt(model: Model, tokens: Sequence[int], items: Iterable[str] = ()) -> Prompt:
    """Text tokens, then for each item its soft tokens and one text token."""
    ids, slots, ends = list(tokens), [], []
    for item in items:
        ids, slots = with_soft(model, item, ids, slots)
        ids.append(7)
        ends.append(len(ids) - 1)
    return Prompt(np.array(ids, dtype=np.int64), tuple(slots), tuple(items), tuple(ends), len(tokens) - 1)


def branch(model: Model, item: str, tokens: Sequence[int], soft: bool = False) -> Branch:
    """A candidate: its text, with the item's soft tokens behind the first token, or before an only one."""
    at = min(1, len(tokens) - 1)
    ids, slots = list(tokens[:at]), []
    if soft:
        ids, slots = with_soft(model, item, ids, slots)
    return Branch(item, np.array([*ids, *tokens[at:]], dtype=np.int64), tuple(slots))


def with_soft(model: Model, item: str, ids: list[int], slots: list[Slot]) -> tuple[list[int], list[Slot]]:
    for kind, k in model.soft.slots(item) if model.soft else ():
        slots = [*slots, Slot(len(ids), k, kind, item)]
        ids = [*ids, *[2] * k]
    return ids, slots
