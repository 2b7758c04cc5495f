"""One process of several: which chunks are its own. They send each other nothing and meet in the parts folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """Process `rank` of `world` takes every `world`-th chunk. local: its number on its machine, for its device."""

    rank: int = 0
    world: int = 1
    local: int = 0

    @classmethod
    def of_environment(cls) -> Share:
        """As `accelerate launch` or torchrun set it; alone where they did not."""
        number = {k: int(os.environ.get(k, d)) for k, d in (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0))}
        return cls(number["RANK"], number["WORLD_SIZE"], number["LOCAL_RANK"])

    def owns(self, chunk: int) -> bool:
        return chunk % self.world == self.rank

    def device(self, asked: str) -> str:
        """The device asked for; of several processes each takes a CUDA device of its own."""
        if asked != "auto" or self.world == 1:
            return asked
        import torch

        return f"cuda:{self.local}" if torch.cuda.is_available() else asked

    @contextmanager
    def first_then_others(self) -> Iterator[None]:
        """Rank 0 runs the block before the others do."""
        if self.world == 1:
            yield
            return
        from accelerate import PartialState

        with PartialState(cpu=not _cuda()).main_process_first():
            yield


def _cuda() -> bool:
    import torch

    return torch.cuda.is_available()
