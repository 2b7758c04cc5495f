"""One optimizer step over the packs of all processes."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel

from palate.config import TrainConfig
from palate.model import Model
from palate.schema import Ints
from palate.train import shard
from palate.train.collate import Batch
from palate.train.step import NO_ITEMS, TrainingStep
from palate.train.teacher import Teacher
from palate.train.zero import Zero

How = Literal["ddp", "fsdp", "zero"]
"""How processes share the work."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a step saw on all processes. losses: mean of each task, None where it had no target; norm: of the
    gradient, before clipping.
    """

    losses: list[float | None]
    tokens: int
    norm: float


class Update:
    """Model, AdamW and accelerate: gradients of `sum over tasks of weight x mean loss`, clipped, applied.

    how: what the processes are. dtype: that of autocast, where the module does not get it from accelerate.

    The mean of a task is over its targets in all packs of the step on all processes, so it is the same sum
    whether packs come side by side or one after another.
    """

    def __init__(
        self,
        model: Model,
        config: TrainConfig,
        weights: Sequence[float],
        accelerator: Any,
        withheld: Ints = NO_ITEMS,
        teacher: Teacher | None = None,
        how: How = "ddp",
        dtype: torch.dtype | None = None,
    ) -> None:
        self.sharded = how == "fsdp"
        self.config, self.weights, self.accelerator = config, list(weights), accelerator
        self.world = int(accelerator.num_processes)
        groups = trained(model, config)
        self.peaks = [float(g["lr"]) for g in groups]
        self.parameters = [p for g in groups for p in g["params"]]
        step = TrainingStep(model, withheld, teacher, config.teacher.share if config.teacher else 0.0)
        optimizer = torch.optim.AdamW(groups)
        self.zero = Zero(accelerator, step, optimizer, config, dtype) if how == "zero" else None
        if self.zero is not None:
            self.module, self.optimizer = self.zero.engine, self.zero.optimizer
            return
        # the base is on its device already, and a quantized one must not be moved; a sharded one averages by itself
        self.module = step if self.sharded else accelerator.prepare_model(_for_ddp(step), device_placement=False)
        self.optimizer = accelerator.prepare_optimizer(optimizer, device_placement=False)

    def __call__(self, batches: Sequence[Batch], factor: float, asked: int) -> Measured | None:
        """Take a step at `factor` of the peak rates; None, with nothing changed, where any process has
        `asked` to stop.
        """
        own = [*np.sum([b.counts for b in batches], axis=0), sum(len(b.pack) for b in batches), asked]
        *counts, tokens, stop = self._total(torch.tensor(own, dtype=torch.float64)).tolist()
        if stop:
            return None
        at(self.optimizer, self.peaks, factor)
        sums = self._backward(batches, counts)
        norm = self._step() if self.zero is None else self.zero.step()
        sums = self._total(sums)
        losses = [s / c if c else None for s, c in zip(sums.tolist(), counts, strict=True)]
        return Measured(losses, int(tokens), norm)

    def _step(self) -> float:
        self.accelerator.unscale_gradients()
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip))
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def _backward(self, batches: Sequence[Batch], counts: Sequence[float]) -> torch.Tensor:
        """Fill the gradients; returns this process's summed losses, float64 [tasks]."""
        # DDP averages gradients over processes; times `world` makes it the sum that is meant
        scale = torch.tensor(
            [w * self.world / c if c else 0.0 for w, c in zip(self.weights, counts, strict=True)],
            device=self.accelerator.device,
        )
        sums = torch.zeros(len(counts), dtype=torch.float64, device=self.accelerator.device)
        for n, batch in enumerate(batches, 1):
            last = n == len(batches)
            if self.zero is not None:
                out = self.module(batch)
                self.zero.backward((out * scale).sum(), last)
                sums += out.detach().double()
                continue
            with nullcontext() if self.sharded or last else self.accelerator.no_sync(self.module):
                # a module that accelerate prepared casts by itself
                with self.accelerator.autocast() if self.sharded else nullcontext():
                    out = self.module(batch)
                self.accelerator.backward((out * scale).sum())
            sums += out.detach().double()
        if self.sharded:
            shard.average(self.parameters)
        return sums

    def _total(self, values: torch.Tensor) -> torch.Tensor:
        if self.world == 1:
            return values
        total: torch.Tensor = self.accelerator.reduce(values.to(self.accelerator.device), reduction="sum")
        return total

    # --- state ----------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Optimizer and, in float16, loss scaler. All processes must call this."""
        if self.zero is not None:
            return {"optimizer": self.zero.state(), "scaler": None}
        scaler = self.accelerator.scaler
        return {
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Put back what `state` gave, after the weights were put back."""
        if self.zero is not None:
            self.zero.load_state(state["optimizer"])
            return
        self.optimizer.load_state_dict(state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"] is not None:
            self.accelerator.scaler.load_state_dict(state["scaler"])


def trained(model: Model, config: TrainConfig) -> list[dict[str, Any]]:
    """Optimizer groups of all that is trained, each at its peak rate; layers recompute their activations where the
    config says so.
    """
    if config.gradient_checkpointing:
        _checkpoint_layers(model.lm)
    return model.parameter_groups(config)


def at(optimizer: Any, peaks: Sequence[float], factor: float) -> None:
    """Set each group's rate to `factor` of its peak."""
    for group, peak in zip(optimizer.param_groups, peaks, strict=True):
        group["lr"] = peak * factor


def _for_ddp(step: TrainingStep) -> TrainingStep:
    """Keep DDP from sending the frozen base and the feature tables round: all have read the same."""
    frozen = [n for n, p in step.named_parameters() if not p.requires_grad]
    buffers = [n for n, _ in step.named_buffers()]
    ignore = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
    ignore(step, [*frozen, *buffers])  # type: ignore[no-untyped-call]
    return step


def _checkpoint_layers(lm: Any) -> None:
    """Recompute each layer's activations in the backward pass. transformers renamed the method in 5.x."""
    causal = lm.get_base_model() if hasattr(lm, "peft_config") else lm
    enable = getattr(causal, "activation_checkpointing_enable", None) or causal.gradient_checkpointing_enable
    enable({"use_reentrant": False})
