"""The model: a causal LM its user owns, LoRA on its linears, soft tokens in its prompts, a matching head."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor, nn

from palate.config import ModelConfig, TrainConfig
from palate.errors import BundleError
from palate.model.fuse import fill
from palate.model.load import add_lora, load_base, pick_device
from palate.model.soft import SoftTokens
from palate.schema import Features, Pack


class Model(nn.Module):
    """`model(pack) -> hidden`; everything above (engine, training) reads from those hidden states.

    lm: the causal LM of transformers, wrapped by PEFT where it carries an adapter.
    soft: SoftTokens, or None for an untuned base.
    base_digest: sha256 of the base's files, which the bundle pins.
    """

    def __init__(self, lm: Any, tokenizer: Any, soft: SoftTokens | None, config: ModelConfig, base_digest: str):
        super().__init__()
        self.lm = lm
        self.soft = soft
        self.tokenizer = tokenizer
        self.config = config
        self.base_digest = base_digest
        causal = lm.get_base_model() if hasattr(lm, "peft_config") else lm
        # a list keeps these views out of the module tree: they are parts of `lm` already
        self._views = [getattr(causal, causal.base_model_prefix), causal.get_output_embeddings()]
        self._softcap: float | None = getattr(causal.config, "final_logit_softcapping", None)

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
        place = pick_device(device)
        lm, tokenizer, digest = load_base(
            config.base, quantization=config.quantization, dtype=config.dtype, device=place
        )
        soft = make_soft(config, features, lm, place, seed) if adapter and features else None
        if adapter:
            lm = add_lora(lm, config.lora, seed)
        model = cls(lm, tokenizer, soft, config, digest)
        model.eval()
        return model

    # --- forward ------------------------------------------------------------------------------------

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

    def forward(self, pack: Pack) -> Tensor:
        """Final hidden states of a pack: [T, D], in the base's dtype."""
        positions = torch.from_numpy(pack.positions).to(self.device)
        out = self._views[0](
            inputs_embeds=self.embed(pack)[None],
            position_ids=positions[None],
            use_cache=False,
            segments=pack.segments,
        )
        hidden: Tensor = out.last_hidden_state[0]
        return hidden

    def decode(self, embeds: Tensor, positions: Tensor, cache: Any) -> Tensor:
        """Final hidden states of equally long rows over a key-value cache of transformers, which is added to.

        embeds [B, T, D], positions int64 [T] (one for all rows) -> [B, T, D]. Soft tokens: see `embed`.
        """
        out = self._views[0](inputs_embeds=embeds, position_ids=positions[None], past_key_values=cache, use_cache=True)
        hidden: Tensor = out.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor, tokens: Tensor | None = None) -> Tensor:
        """Vocabulary logits of chosen rows: [R, D] -> float32 [R, V], or [R, L] for `tokens` (int64 [L]) alone.

        A few tokens are computed in float32: bfloat16 would round close candidates to the same number.
        """
        head = self._views[1]
        logits: Tensor
        if tokens is None:
            logits = head(hidden.to(head.weight.dtype)).float()
        else:
            bias = None if head.bias is None else head.bias[tokens].float()
            logits = nn.functional.linear(hidden.float(), head.weight[tokens].float(), bias)
        return logits if self._softcap is None else torch.tanh(logits / self._softcap) * self._softcap

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
        """Name -> parameter for all that training changes: LoRA, projectors, matching head."""
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


def make_soft(
    config: ModelConfig, features: Mapping[str, Features], lm: Any, device: torch.device, seed: int
) -> SoftTokens:
    """Fresh projectors whose soft tokens have the mean norm of the base's token embeddings."""
    weight = lm.get_input_embeddings().weight
    norm = float(weight[:: max(1, len(weight) // 4096)].float().norm(dim=1).mean())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        soft = SoftTokens(config, features, weight.shape[1], norm)
    return soft.to(device)
