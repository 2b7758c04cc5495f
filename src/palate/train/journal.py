"""What a run tells: metrics.jsonl, TensorBoard, and a progress bar or plain lines on the main process."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from palate.train.checkpoint import METRICS, truncate

TIMES = ("seconds", "tokens_per_second")
"""Keys of a metrics line that depend on the clock; all others repeat exactly for the same config."""


class Journal:
    """Opened at `step` (0 for a new run): lines and TensorBoard events past it are dropped first.

    Only the main process makes one that writes (`active`); the others get a silent one.
    """

    def __init__(self, run: Path, step: int, total: int, console: Console, *, active: bool) -> None:
        self.active, self.total, self.console = active, total, console
        self._bar: Progress | None = None
        if not active:
            return
        from torch.utils.tensorboard import SummaryWriter

        run.mkdir(parents=True, exist_ok=True)
        truncate(run / METRICS, step)
        self._lines = (run / METRICS).open("a", encoding="utf-8")
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=step + 1 if step else None)
        if console.is_terminal:
            self._bar = Progress(
                TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"),
                TimeRemainingColumn(), console=console,
            )  # fmt: skip
            self._task = self._bar.add_task("", total=total, completed=step)
            self._bar.start()

    def step(self, record: dict[str, Any]) -> None:
        """One optimizer step: {"step", "epoch", "loss", "loss/TASK", "lr", ...}."""
        self._write(record)
        if not self.active:
            return
        told = f"loss {record['loss']:.3f}, {record['tokens_per_second']:.0f} tokens/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=record["step"], description=told)
        elif record["step"] in (1, self.total) or record["step"] % max(1, self.total // 20) == 0:
            self.say(f"step {record['step']}/{self.total}: {told}")

    def validation(self, record: dict[str, Any]) -> None:
        """One validation: {"step", "valid/NDCG@10", ...}."""
        self._write(record)
        shown = ", ".join(f"{k.removeprefix('valid/')} {v:.4f}" for k, v in record.items() if k.startswith("valid/"))
        self.say(f"step {record['step']}/{self.total}: validation {shown}")

    def say(self, text: str) -> None:
        """A line for people, above the bar where there is one."""
        if self.active:
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def flush(self) -> None:
        """Put everything written so far on disk (before a checkpoint that relies on it)."""
        if self.active:
            self._lines.flush()
            os.fsync(self._lines.fileno())
            self._board.flush()

    def close(self) -> None:
        if not self.active:
            return
        if self._bar is not None:
            self._bar.stop()
        self.flush()
        self._lines.close()
        self._board.close()

    def _write(self, record: dict[str, Any]) -> None:
        if not self.active:
            return
        self._lines.write(json.dumps(record) + "\n")
        self._lines.flush()
        for key, value in record.items():
            if key != "step" and isinstance(value, float):
                self._board.add_scalar(key, value, record["step"])
