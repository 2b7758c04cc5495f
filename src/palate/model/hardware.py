"""What the machine can do: which device, and which number format it multiplies natively."""

from __future__ import annotations

from pathlib import Path

import torch

from palate.errors import ConfigError

BALANCED = "balanced"
"""The device name that spreads one base over all CUDA devices."""
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


def pick_device(device: str = "auto") -> torch.device:
    """`auto` is the first CUDA device, else the CPU; `balanced` starts on the first of several CUDA devices.

    Raises ConfigError for a device that is not there.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device == BALANCED:
        found = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if found < 2:
            raise ConfigError(
                f"device='balanced' spreads a base over two CUDA devices or more, torch sees {found}; use device='auto'"
            )
        return torch.device("cuda", 0)
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ConfigError(f"expected a device such as 'cpu', 'cuda:0' or 'balanced', got {device!r}") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device {device!r} was asked for, but torch sees no CUDA device; use device='cpu'")
    return chosen


def capability(device: torch.device) -> tuple[int, int]:
    """CUDA compute capability of a device; (0, 0) where it has none."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)


def cpu_bf16() -> bool | None:
    """Whether the CPU multiplies bfloat16 natively; None where the machine does not say."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    return any(flag in flags for flag in ("amx_bf16", "avx512_bf16", " bf16"))


def native(dtype: str, device: torch.device) -> bool:
    """Whether `device` multiplies `dtype` in hardware rather than by way of float32."""
    if dtype == "float32":
        return True
    if device.type == "cpu":
        return dtype == "bfloat16" and bool(cpu_bf16())
    if dtype == "bfloat16" and device.type == "cuda" and not torch.version.hip:
        return capability(device)[0] >= 8
    return True


def pick_dtype(dtype: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the device multiplies it natively, else float32; any other name is taken as said.

    A CPU without bfloat16 arithmetic emulates it: measured on a Zen 3, its products are eight times slower
    than those in float32. An unknown name is a ConfigError.
    """
    if dtype == "auto":
        return torch.bfloat16 if native("bfloat16", device) else torch.float32
    if dtype not in DTYPES:
        raise ConfigError(f"dtype: expected auto, bfloat16, float16 or float32, got {dtype!r}")
    return DTYPES[dtype]


def inference_dtype(asked: str | None, trained: str, device: torch.device) -> torch.dtype:
    """What a trained model computes in: as `asked`; None is as `trained` where that is native, else float32."""
    if asked is not None:
        return pick_dtype(asked, device)
    return pick_dtype(trained if trained == "auto" or native(trained, device) else "float32", device)
