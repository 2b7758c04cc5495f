"""The model floor: base LLM, quantization, LoRA, soft tokens, and the bundle they are saved in."""

from palate.model.memory import Block, Memory
from palate.model.model import Model
from palate.model.soft import SoftTokens

__all__ = ["Block", "Memory", "Model", "SoftTokens"]
