"""What went wrong with one item's medium: counted and reported, never the end of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One medium that could not be used. `file` is empty where the medium is text."""

    item_id: str
    modality: str
    file: str
    reason: str

    def __str__(self) -> str:
        where = f" ({self.file})" if self.file else ""
        return f"item {self.item_id!r}, {self.modality}{where}: {self.reason}"

    def to_dict(self) -> dict[str, str]:
        return asdict(self)


class Unusable(Exception):
    """Raised by an encoder for one medium it cannot use; its text is the reason. The caller makes it a
    Problem.
    """
