"""Prefix reuse: keys and values of prompts kept across calls, so that only what is new is run.

Blocks of tokens named by everything before them, forgotten least recently used first; the same idea as vLLM's
automatic prefix caching (Kwon et al., "Efficient Memory Management for LLM Serving with PagedAttention", 2023).
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from palate.engine.pack import Job
from palate.engine.state import Stamps
from palate.errors import ConfigError
from palate.model import Block, Memory, Model
from palate.schema import Prompt

BLOCK = 16
"""Positions in a block: what two prompts have in common is reused in steps of this many."""


@dataclass(slots=True)
class Stats:
    """Prompt positions asked for and found in memory, blocks forgotten, bytes held now."""

    asked: int = 0
    found: int = 0
    forgotten: int = 0
    nbytes: int = 0

    def since(self, before: Stats) -> Stats:
        """What happened after `before`, a copy of these counts; bytes are those of now."""
        return Stats(
            self.asked - before.asked, self.found - before.found, self.forgotten - before.forgotten, self.nbytes
        )

    @property
    def hit_rate(self) -> float:
        """Share of prompt positions that did not have to be run."""
        return self.found / self.asked if self.asked else 0.0


@dataclass
class PrefixCache:
    """Blocks of prompts within a budget of `max_bytes`; 0 keeps nothing.

    A block is valid for one state of one model, whose stamp begins the block's name: after a weight, a table or the
    adapter has changed, stale blocks are never found and age out. One cache may serve several models. sparing: keep a
    prompt only where nothing of its beginning is known, which finds what all prompts of a template share.
    """

    max_bytes: int = 256 * 2**20
    sparing: bool = False
    stats: Stats = field(default_factory=Stats)
    _blocks: OrderedDict[bytes, tuple[Block, int]] = field(default_factory=OrderedDict)
    _stamps: Stamps = field(default_factory=Stamps)

    def __post_init__(self) -> None:
        if self.max_bytes < 0:
            raise ConfigError(f"prefix cache: expected max_bytes of 0 or more, got {self.max_bytes}")

    def stamp(self, model: Model) -> bytes:
        """The name of a model in its present state, under which its blocks are stored and found."""
        return self._stamps.of(model)

    def recaller(self, stamp: bytes) -> Callable[[Job], list[Block]]:
        """`recall` for the model of that stamp."""
        return lambda job: self._recall(job, stamp)

    def _recall(self, job: Job, stamp: bytes) -> list[Block]:
        """The longest run of known blocks the job's prompt begins with, short of the positions it must run."""
        known = list(takewhile(self._blocks.__contains__, _names(job.prompt, stamp, job.needed // BLOCK)))
        found = [self._blocks[name][0] for name in known]
        self._touch(known)
        while job.whole(len(found) * BLOCK) != len(found) * BLOCK:
            found.pop()
        self.stats.asked += len(job.prompt)
        self.stats.found += len(found) * BLOCK
        return found

    def store(self, stamp: bytes, prompt: Prompt, memory: Memory) -> None:
        """Keep the whole blocks of a prompt that `memory` holds, for the model of that stamp."""
        names = _names(prompt, stamp, min(len(prompt), memory.length) // BLOCK)
        if self.sparing and names and names[0] in self._blocks:
            return
        for number, name in enumerate(names):
            if name not in self._blocks:
                block = memory.read(number * BLOCK, (number + 1) * BLOCK)
                size = sum(t.nbytes for pair in block for t in pair)
                self._blocks[name] = (block, size)
                self.stats.nbytes += size
        self._touch(names)
        while self.stats.nbytes > self.max_bytes:
            _, (_, size) = self._blocks.popitem(last=False)
            self.stats.nbytes -= size
            self.stats.forgotten += 1

    def wants(self, found: Sequence[Block]) -> bool:
        """Whether a prompt of which these blocks were found is to be kept."""
        return bool(self.max_bytes) and not (self.sparing and found)

    def _touch(self, names: Sequence[bytes]) -> None:
        """Used just now; the later block of a prompt goes first, since it is of no use without the earlier ones."""
        for name in reversed(names):
            self._blocks.move_to_end(name)

    def clear(self) -> None:
        """Forget all blocks; the counts stay."""
        self._blocks.clear()
        self.stats.nbytes = 0


def _names(prompt: Prompt, stamp: bytes, count: int) -> Sequence[bytes]:
    """A name for each of the first `count` blocks: a digest of the model's state and all positions up to its end."""
    names, digest = [], stamp
    soft: dict[int, list[str]] = {}
    for slot in prompt.slots:
        for place in range(slot.length):
            at = slot.start + place
            soft.setdefault(at // BLOCK, []).append(f"{at}:{place}/{slot.length}:{slot.modality}:{slot.item_id}")
    for number in range(count):
        hashed = hashlib.blake2b(digest, digest_size=16)
        hashed.update(prompt.token_ids[number * BLOCK : (number + 1) * BLOCK].tobytes())
        for text in soft.get(number, ()):
            # a length before each text, so that no item id can imitate two
            hashed.update(len(text).to_bytes(4, "little") + text.encode("utf-8", "surrogatepass"))
        digest = hashed.digest()
        names.append(digest)
    return names
