"""The model: a causal LM its user owns, LoRA on its linears, soft tokens in its prompts, a matching head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from palate.config import ModelConfig, TrainConfig
from palate.errors import BudgetError, BundleError, ConfigError
from palate.model import residual
from palate.model.flex import bucket
from palate.model.fuse import fill
from palate.model.layout import Layout
from palate.model.load import add_lora, load_base
from palate.model.memory import Memory
from palate.model.soft import SoftTokens
from palate.schema import Features, Pack

COLUMNS = 4096
"""Tokens of the vocabulary whose logits are computed at once."""


class Model(nn.Module):
    """`model(pack) -> hidden`; everything above (engine, training) reads from those hidden states.

    lm: the causal LM of transformers, wrapped by PEFT where it carries an adapter.
    soft: SoftTokens, or None for an untuned base.
    base_digest: sha256 of the base's files, which the bundle pins.
    merged: LoRA was added into the base's weights, so there is nothing left to train or save.
    adapter: what PEFT calls this model's LoRA. Several models, each with an adapter of its own, may share one `lm`;
    every forward puts the LoRA of its model in force. Not from two threads at once.
    """

    merged = False

    def __init__(
        self,
        lm: Any,
        tokenizer: Any,
        soft: SoftTokens | None,
        config: ModelConfig,
        base_digest: str,
        adapter: str = "default",
    ):
        super().__init__()
        self.lm = lm
        self.soft = soft
        self.tokenizer = tokenizer
        self.config = config
        self.base_digest = base_digest
        self.adapter = adapter
        causal = lm.get_base_model() if hasattr(lm, "peft_config") else lm
        # a list keeps these views out of the module tree: they are parts of `lm` already
        self._views = [getattr(causal, causal.base_model_prefix), causal.get_output_embeddings()]
        shape = causal.config.get_text_config()
        self._softcap: float | None = getattr(shape, "final_logit_softcapping", None)
        self._scale = _logit_scale(shape)
        self._reach = _reach(shape)
        self._wide = residual.widen(self._views[0])

    @classmethod
    def create(
        cls,
        config: ModelConfig,
        features: Mapping[str, Features],
        *,
        device: str = "auto",
        seed: int = 1,
        adapter: bool = True,
    ) -> Self:
        """A base with fresh LoRA and projectors (`adapter=False`: the untuned base alone)."""
        if adapter and config.quantization in ("int4", "fp8"):
            raise ConfigError(f"quantization {config.quantization!r} is for inference; train on nf4, int8 or none")
        lm, tokenizer, digest = load_base(config, device)
        soft = make_soft(config, features, lm, seed) if adapter and features else None
        if adapter:
            lm = add_lora(lm, config.lora, seed)
        model = cls(lm, tokenizer, soft, config, digest)
        model.eval()
        return model

    # --- forward ------------------------------------------------------------------------------------

    @property
    def dtype(self) -> torch.dtype:
        """What the base computes in."""
        dtype: torch.dtype = self._views[0].get_input_embeddings().weight.dtype
        return dtype

    @property
    def device(self) -> torch.device:
        device: torch.device = self._views[0].get_input_embeddings().weight.device
        return device

    @property
    def has_matching(self) -> bool:
        return self.soft is not None

    def embed(self, pack: Pack) -> Tensor:
        """Token embeddings with soft tokens in their slots: [T, D]."""
        ids = torch.from_numpy(pack.token_ids).to(self.device)
        embeds = self._views[0].get_input_embeddings()(ids)
        return fill(embeds, pack.slots, self.soft)

    def forward(self, pack: Pack, memory: Sequence[Memory | None] | None = None) -> Tensor:
        """Final hidden states of a pack: [T, D], in the base's dtype.

        memory: one entry a segment; the keys and values it stands behind, which this forward writes its own rows
        to (see `Memory`), or None where there are none and none are to be kept.
        """
        self._activate()
        if self._reach is not None and len(pack) and pack.positions.max() >= self._reach:
            raise BudgetError(
                f"{self.config.base} turns its positions otherwise from {self._reach} on, for all requests of a pack: "
                f"expected prompts with candidates of at most {self._reach} tokens, got one of "
                f"{pack.positions.max() + 1}; shorten the prompt"
            )
        layout = Layout(pack.segments, memory, pack.positions, self.device)
        embeds = self.embed(pack)
        if self._wide:
            embeds = residual.wider(embeds)
        positions = torch.from_numpy(pack.positions).to(self.device)
        if layout.blockwise:
            # few shapes, so that compiled kernels meet no new ones
            spare = bucket(len(pack)) - len(pack)
            embeds, positions = nn.functional.pad(embeds, (0, 0, 0, spare)), nn.functional.pad(positions, (0, spare))
        out = self._views[0](inputs_embeds=embeds[None], position_ids=positions[None], use_cache=False, layout=layout)
        self._check_read(layout)
        hidden: Tensor = out.last_hidden_state[0, : len(pack)]
        return hidden.to(self.device)  # a base spread over devices ends on another than it began

    def _check_read(self, layout: Layout) -> None:
        """Packs keep requests apart in attention alone; a base that mixes positions elsewhere is refused."""
        body = self._views[0]
        layers = body.config.get_text_config().num_hidden_layers
        if layout.read < layers or getattr(body, "_is_stateful", False):
            raise ConfigError(
                f"{self.config.base}: expected a base whose layers mix positions only by transformers' attention "
                f"interface, got {body.config.model_type!r}; use a Llama, Qwen, Gemma, Mistral, Phi-3 or such"
            )

    def _activate(self) -> None:
        """Put this model's LoRA in force; another model on the same base may have had its own."""
        if hasattr(self.lm, "peft_config") and self.lm.active_adapter != self.adapter:
            # adapters that share a base are for inference: none of them becomes trainable by this
            self.lm.set_adapter(self.adapter, inference_mode=True)

    def logits(self, hidden: Tensor, tokens: Tensor | slice | None = None) -> Tensor:
        """Vocabulary logits of chosen rows: [R, D] -> float32 [R, V], or [R, L] for some `tokens` alone.

        tokens: int64 [L], computed in float32, since bfloat16 would round close candidates to the same number; or a
        slice of the vocabulary, computed as the whole is.
        """
        head = self._views[1]
        place, home = head.weight.device, hidden.device
        logits: Tensor
        if tokens is None:
            logits = head(hidden.to(place, head.weight.dtype)).float()
        else:
            chosen = tokens if isinstance(tokens, slice) else tokens.to(place)
            weight, bias = head.weight[chosen], None if head.bias is None else head.bias[chosen]
            if not isinstance(tokens, slice):
                weight, bias = weight.float(), None if bias is None else bias.float()
            logits = nn.functional.linear(hidden.to(place, weight.dtype), weight, bias).float()
        if self._scale != 1:
            logits = logits * self._scale
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits.to(home)

    def logprobs(self, hidden: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
        """log p(token | row) for pairs: hidden [R, D]; rows, tokens int64 [P] -> float32 [P].

        The vocabulary is read in pieces with a running maximum and sum, so R x V numbers never exist. Measured on two
        cores, 800 rows of a 49,152-token head: 1.5 to 1.9 times faster than whole rows, which leave its cache.
        """
        order = torch.argsort(tokens)
        rows, tokens = rows[order], tokens[order]
        picked = torch.empty(len(tokens), dtype=torch.float32, device=hidden.device)
        peak = torch.full((len(hidden),), -torch.inf, device=hidden.device)
        total = torch.zeros(len(hidden), device=hidden.device)
        size = self._views[1].weight.shape[0]
        cuts = torch.searchsorted(tokens, torch.arange(0, size + COLUMNS, COLUMNS, device=tokens.device)).tolist()
        for n, start in enumerate(range(0, size, COLUMNS)):
            logits = self.logits(hidden, slice(start, start + COLUMNS))
            mine = slice(cuts[n], cuts[n + 1])
            picked[mine] = logits[rows[mine], tokens[mine] - start]
            higher = torch.maximum(peak, logits.amax(1))
            total.mul_((peak - higher).exp_()).add_(logits.sub_(higher[:, None]).exp_().sum(1))
            peak = higher
        out = torch.empty_like(picked)
        out[order] = picked - (peak + total.log_())[rows]
        return out

    def queries(self, hidden: Tensor) -> Tensor:
        """Matching queries of chosen rows: [R, D] -> float32 [R, E]."""
        return self._soft().matching.queries(hidden)

    def item_vectors(self) -> Tensor:
        """Matching vectors of the items in table order: float32 [N, E]."""
        return self._soft().item_vectors()

    def _soft(self) -> SoftTokens:
        if self.soft is None:
            raise BundleError(
                "embedding mode needs a trained matching head, and this is an untuned base; "
                "use mode 'likelihood', or load an adapter"
            )
        return self.soft

    # --- weights ------------------------------------------------------------------------------------

    def trainable(self) -> dict[str, nn.Parameter]:
        """Name -> parameter for all that training changes: LoRA, projectors, matching head.

        Raises BundleError where LoRA was merged into the base.
        """
        if self.merged:
            raise BundleError("LoRA is merged into this model's base and cannot be trained; load it with merge=False")
        return {n: p for n, p in self.named_parameters() if p.requires_grad}

    def parameter_groups(self, config: TrainConfig) -> list[dict[str, Any]]:
        """Two optimizer groups: LoRA at `lr`, projectors and head at `projector_lr`."""
        params = self.trainable()
        soft = [p for n, p in params.items() if n.startswith("soft.")]
        lora = [p for n, p in params.items() if not n.startswith("soft.")]
        groups = [
            {"params": lora, "lr": config.lr, "weight_decay": config.weight_decay},
            {"params": soft, "lr": config.projector_lr, "weight_decay": config.weight_decay},
        ]
        return [g for g in groups if g["params"]]

    def trainable_state(self) -> dict[str, Tensor]:
        """A copy of the trained weights and the projectors' statistics, on the CPU."""
        state = {n: p.detach() for n, p in self.trainable().items()}
        if self.soft is not None:
            state |= {f"soft.{n}": b for n, b in self.soft.state_dict().items()}
        return {n: t.to("cpu", copy=True).contiguous() for n, t in sorted(state.items())}

    def load_trainable_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `trainable_state` gave. Raises BundleError where names or shapes differ."""
        own = {**self.trainable()}
        if self.soft is not None:
            own |= {f"soft.{n}": b for n, b in self.soft.state_dict().items()}
        if own.keys() != state.keys():
            odd = sorted(own.keys() ^ state.keys())
            raise BundleError(f"trained weights do not fit this model: {len(odd)} names differ, first {odd[0]!r}")
        with torch.no_grad():
            for name, tensor in state.items():
                if own[name].shape != tensor.shape:
                    raise BundleError(f"{name}: expected shape {tuple(own[name].shape)}, got {tuple(tensor.shape)}")
                own[name].copy_(tensor)


def make_soft(config: ModelConfig, features: Mapping[str, Features], lm: Any, seed: int) -> SoftTokens:
    """Fresh projectors beside the base's token embeddings; soft tokens have the mean norm of those."""
    table = lm.get_input_embeddings()
    weight = table.weight
    some = torch.arange(0, len(weight), max(1, len(weight) // 4096), device=weight.device)
    with torch.no_grad():  # through the module, not its weight: Gemma scales what it looks up
        norm = float(table(some).float().norm(dim=1).mean())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        soft = SoftTokens(config, features, weight.shape[1], norm)
    return soft.to(weight.device)


def _logit_scale(config: Any) -> float:
    """What a family multiplies its logits by: Cohere's `logit_scale`, Granite's divisor; 1 for most."""
    if getattr(config, "logit_scale", None) is not None:
        return float(config.logit_scale)
    scaling = float(getattr(config, "logits_scaling", None) or 1)
    return scaling if config.model_type == "hyperclovax" else 1 / scaling


def _reach(config: Any) -> int | None:
    """Positions before a base's rotary embedding changes with the longest row of a call (Phi-3's longrope, dynamic
    NTK); None for the others, whose positions mean the same in any company."""
    rope = getattr(config, "rope_parameters", None) or {}
    kinds = [rope, *(v for v in rope.values() if isinstance(v, dict))]
    found = [r for r in kinds if r.get("rope_type") in ("dynamic", "longrope")]
    ends = [r.get("original_max_position_embeddings") or config.max_position_embeddings for r in found]
    return min(ends, default=None)
