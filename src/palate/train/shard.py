"""FSDP: each process holds a slice of the frozen base, and gathers a layer from the others while it computes.

Only the base's decoder layers are sharded (`torch.distributed.fsdp.fully_shard`, "FSDP2"). Embeddings, head and what is
trained stay whole on every process: they are a few per cent of a model that does not fit one device, and checkpoints,
export, validation and the engine read them as ever. Gradients are averaged over the processes as DDP does it, so a
sharded run takes the same steps as a run of as many processes without.

The options are accelerate's (`configs/accelerate/fsdp.yaml`). Its own `prepare` is not used: accelerate 1.15 ignores
FSDP on a CPU, and would shard LoRA's matrices with the base.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from palate.config import RunConfig
from palate.errors import ConfigError
from palate.model import Model

HERE = "configs/accelerate/fsdp.yaml"
SWITCH = "ACCELERATE_USE_FSDP"


def asked(env: Mapping[str, str]) -> bool:
    """Whether `accelerate launch` was told to use FSDP."""
    return env.get(SWITCH, "").lower() in ("1", "true")


def check(config: RunConfig, env: Mapping[str, str]) -> None:
    """ConfigError for what cannot be trained in shards, before anything is loaded."""
    version = env.get("FSDP_VERSION", "1")
    if version != "2":
        raise ConfigError(f"FSDP: expected fsdp_version: 2, got {version}; see {HERE}")
    if _on(env, "FSDP_CPU_RAM_EFFICIENT_LOADING"):
        raise ConfigError(
            "FSDP: expected fsdp_cpu_ram_efficient_loading: false, got true; the processes of a machine share the "
            f"base's memory-mapped file, so nothing is saved by loading it in one of them; see {HERE}"
        )
    if _on(env, "FSDP_ACTIVATION_CHECKPOINTING"):
        raise ConfigError(
            "FSDP: expected fsdp_activation_checkpointing: false, got true; set train.gradient_checkpointing instead"
        )
    if config.model.quantization != "none":
        raise ConfigError(
            f"model.quantization {config.model.quantization!r} does not go with FSDP: packed weights cannot be cut "
            "into slices; train it with configs/accelerate/multi-gpu.yaml, where each process holds the whole "
            "quantized base, or set model.quantization to none"
        )


def shard(model: Model, device: torch.device) -> str:
    """Slice the layers of a model that was loaded on the CPU, and move everything else to `device`, in place.

    One layer at a time is whole on the device. Every process must call this. Returns a line to tell the user. Raises
    ConfigError where the processes have read different bases, or no layers can be told.
    """
    from accelerate.utils import FullyShardedDataParallelPlugin
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if not dist.is_initialized():
        raise ConfigError(f"FSDP: expected processes that know each other; start them by accelerate launch with {HERE}")
    _check_alike(model)
    plugin = FullyShardedDataParallelPlugin()
    body, layers = _body(model), _layers(model, plugin.transformer_cls_names_to_wrap)
    frozen = {p for layer in layers for p in layer.parameters() if not p.requires_grad}
    whole = {p for p in model.parameters() if p not in frozen}
    note = (
        f"FSDP: {sum(p.numel() for p in frozen):,} weights of {len(layers)} layers in slices over "
        f"{dist.get_world_size()} processes, {sum(p.numel() for p in whole):,} whole on each"
    )
    how: dict[str, Any] = {
        "mesh": init_device_mesh(device.type, (dist.get_world_size(),)),
        "reshard_after_forward": bool(plugin.reshard_after_forward),
        "offload_policy": plugin.cpu_offload,
        "ignored_params": whole,
    }
    for layer in layers:
        fully_shard(layer, **how)
    fully_shard(body, **how)  # holds nothing of its own; as their root it lets layers be gathered ahead
    with torch.no_grad():
        for parameter in whole:
            parameter.data = parameter.data.to(device)
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = buffer.to(device)
    return note


def _layers(model: Model, names: Sequence[str] | None) -> list[nn.Module]:
    """The modules to shard: of these classes, or of those that transformers keeps on one device."""
    wanted = set(names or getattr(causal(model), "_no_split_modules", None) or ())
    inner = list(_body(model).modules())
    found = [m for m in inner if type(m).__name__ in wanted]
    if not found:
        kinds = sorted({type(m).__name__ for m in inner if type(m).__name__.endswith("Layer")})
        raise ConfigError(
            f"FSDP: expected layers of class {', '.join(sorted(wanted)) or '(none known)'} in {model.config.base}, "
            f"found none; set fsdp_transformer_layer_cls_to_wrap, perhaps to one of {kinds}"
        )
    return found


def causal(model: Model) -> Any:
    """transformers' causal LM, without what PEFT has put around it."""
    return model.lm.get_base_model() if hasattr(model.lm, "peft_config") else model.lm


def _body(model: Model) -> Any:
    lm = causal(model)
    return getattr(lm, lm.base_model_prefix)


def _check_alike(model: Model) -> None:
    """Slices of different bases would be mixed without a word."""
    digests: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(digests, model.base_digest)
    if len(set(digests)) > 1:
        raise ConfigError(
            f"{model.config.base} is not the same on all machines: expected one sha256, got "
            f"{', '.join(sorted({d[:12] for d in digests}))}"
        )


def average(parameters: Sequence[nn.Parameter]) -> None:
    """Replace gradients by their means over all processes; one that a process has no gradient of counts as zero."""
    world = dist.get_world_size()
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    flat = torch.cat([g.flatten() for g in grads]).div_(world)
    dist.all_reduce(flat)
    for parameter, grad in zip(parameters, torch.split(flat, [g.numel() for g in grads]), strict=True):
        parameter.grad = grad.view_as(parameter)


@contextmanager
def in_step(model: Model) -> Iterator[None]:
    """Let processes run different numbers of forwards, as validation does, over shares of unequal size.

    A layer is gathered from all processes, so all must be at the same layer: those that are done keep running
    forwards of one position until everybody is.
    """
    device, body = model.device, _body(model)

    def running(number: int) -> bool:
        total = torch.tensor(number, device=device)
        dist.all_reduce(total)
        return bool(total)

    def tell(*_: Any) -> None:
        running(1)

    hook = body.register_forward_pre_hook(tell)
    try:
        yield
    finally:
        hook.remove()
    width = body.get_input_embeddings().weight.shape[1]
    blank = torch.zeros(1, 1, width, dtype=model.dtype, device=device)
    place = torch.zeros(1, 1, dtype=torch.long, device=device)
    with torch.no_grad():
        while running(0):
            body(inputs_embeds=blank, position_ids=place, use_cache=False)


def _on(env: Mapping[str, str], name: str) -> bool:
    return env.get(name, "").lower() in ("1", "true")
