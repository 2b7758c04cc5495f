"""DeepSpeed's ZeRO-1 and -2: each process keeps the optimizer's state for its share of the trained weights.

The base is whole on every process, as with DDP; one that is not to be whole is trained with FSDP (`shard.py`). ZeRO-3
would slice it too, but its weights can be read inside their own modules only, and the matching, the label logits and
the soft tokens' norm read the embeddings and the head directly.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn

from palate.config import TrainConfig
from palate.errors import ConfigError

HERE = "configs/accelerate/deepspeed-zero2.yaml"


def asked(env: Mapping[str, str]) -> bool:
    """Whether `accelerate launch` was told to use DeepSpeed."""
    return env.get("ACCELERATE_USE_DEEPSPEED", "").lower() in ("1", "true")


def check(env: Mapping[str, str]) -> None:
    """ConfigError for what cannot be trained so, before anything is loaded."""
    stage = env.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", "2")
    if "ACCELERATE_DEEPSPEED_CONFIG_FILE" in env:
        raise ConfigError(f"DeepSpeed: expected its options in accelerate's config, got a file of its own; see {HERE}")
    if stage not in ("1", "2"):
        raise ConfigError(
            f"DeepSpeed: expected zero_stage 1 or 2, got {stage}; a base that does not fit one device is trained in "
            "slices with configs/accelerate/fsdp.yaml, a quantized one whole with zero_stage 2"
        )
    for kind in ("OPTIMIZER", "PARAM"):
        place = env.get(f"ACCELERATE_DEEPSPEED_OFFLOAD_{kind}_DEVICE", "none")
        if place != "none":
            raise ConfigError(
                f"DeepSpeed: expected offload_{kind.lower()}_device: none, got {place}; what is trained is small"
            )
    if find_spec("deepspeed") is None:
        raise ConfigError(f"DeepSpeed is not installed; run `pip install deepspeed`, or do without {HERE}")


class _Cast(nn.Module):
    """A step under autocast: DeepSpeed's own would turn LoRA's float32 weights into bfloat16."""

    def __init__(self, step: nn.Module, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.step, self.dtype = step, dtype

    def forward(self, batch: Any) -> Any:
        device = next(self.step.parameters()).device.type
        with torch.autocast(device, self.dtype, enabled=self.dtype is not None):
            return self.step(batch)


class Zero:
    """A step and its optimizer in DeepSpeed's hands. Gradients are averaged over the processes, as DDP does."""

    def __init__(
        self, accelerator: Any, step: nn.Module, optimizer: Any, config: TrainConfig, dtype: torch.dtype | None
    ) -> None:
        logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
        self.accumulate = config.accumulate
        plain: dict[str, Any] = {
            "train_micro_batch_size_per_gpu": 1,  # a pack; its losses are sums, so the number means nothing
            "gradient_accumulation_steps": config.accumulate,
            "train_batch_size": config.accumulate * int(accelerator.num_processes),
            "gradient_clipping": config.clip,
            "bf16": {"enabled": False},
            "fp16": {"enabled": False},
        }
        accelerator.state.deepspeed_plugin.deepspeed_config.update(plain)
        accelerator.gradient_state.plugin_kwargs["num_steps"] = config.accumulate
        # all have read the same and drawn the same, so nothing has to be sent round; DeepSpeed 0.19 cannot send scalars
        apart: list[Any] = [p for p in step.parameters() if not p.requires_grad or not p.ndim]
        for parameter in apart:
            parameter.ds_optim_param = True  # what DeepSpeed leaves out of its first broadcast
        self.engine, self.optimizer = accelerator.prepare(_Cast(step, dtype), optimizer)
        for parameter in apart:
            del parameter.ds_optim_param
        self.rank = int(accelerator.process_index)

    def backward(self, loss: torch.Tensor, last: bool) -> None:
        """Add a pack's gradients; with the `last` one of a step they are averaged over the processes."""
        self.engine.set_gradient_accumulation_boundary(is_boundary=last)
        self.engine.backward(loss * self.accumulate)  # which it divides again

    def step(self) -> float:
        """Clip and take the step; the gradient's norm before it was clipped."""
        self.engine.step()
        return float(self.engine.get_global_grad_norm())

    def state(self) -> list[Any]:
        """The optimizer's state of every process. All must call this."""
        from accelerate.utils import gather_object

        inner = self.optimizer.optimizer.optimizer
        kept = [
            {k: v.detach().to("cpu", copy=True) for k, v in inner.state[p].items()}
            for g in inner.param_groups
            for p in g["params"]
        ]
        return list(gather_object([kept]))

    def load_state(self, states: list[Any]) -> None:
        """Put back what `state` gave, after the weights were put back."""
        outer = self.optimizer.optimizer
        inner = outer.optimizer
        held = [p for g in inner.param_groups for p in g["params"]]
        for parameter, state in zip(held, states[self.rank], strict=True):
            inner.state[parameter] = {k: v.to(parameter.device if v.ndim else v.device) for k, v in state.items()}
        outer.refresh_fp32_params()
