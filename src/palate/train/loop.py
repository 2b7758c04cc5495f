"""The training loop: accelerate, AdamW, token-budget packs, validation, early stopping, exact resume."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from palate.config import RunConfig
from palate.data import Dataset
from palate.errors import ConfigError, TrainingDiverged
from palate.model.hardware import pick_dtype
from palate.train import checkpoint as ckpt
from palate.train import privacy, private, shard, zero
from palate.train.collate import Batch, Position, Prefetch, Stream, packs_per_epoch
from palate.train.export import export
from palate.train.guard import Interrupt, locked
from palate.train.journal import Journal
from palate.train.prepare import Ready, prepare
from palate.train.schedule import rate
from palate.train.update import How, Measured, Update


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. stopped: the signal that ended it, 0 where it finished; bundle: None where it was
    stopped or none was to be saved.
    """

    run: Path
    step: int
    total: int
    metrics: dict[str, Any]
    bundle: Path | None
    stopped: int = 0


@dataclass(frozen=True, slots=True)
class Extras:
    """What a caller other than `palate train` may want of a run.

    watch: called after each validation with its number (from 1) and its NDCG@10; what it raises ends the run.
    first: validate before the first step too, so that the weights a warm start began with are kept where training
    makes them no better. save: write a bundle at the end. dataset: in the place of the config's own, such as the part
    of it that was there at some time.
    """

    watch: Callable[[int, float], None] | None = None
    first: bool = False
    save: bool = True
    dataset: Dataset | None = None


def train(
    config: RunConfig, *, resume: bool = True, console: Console | None = None, extras: Extras | None = None
) -> Outcome:
    """Train one adapter; call it in every process of `accelerate launch`, or alone.

    resume: go on from the newest checkpoint in the run folder, if there is one; False starts anew. Returns
    after the bundle is saved, or after SIGTERM or SIGINT with a checkpoint saved. Raises ConfigError where
    the checkpoint belongs to another config, TrainingDiverged where the loss is no longer a number.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs

    console, extras = console or Console(stderr=True), extras or Extras()
    how: How = "fsdp" if shard.asked(os.environ) else "zero" if zero.asked(os.environ) else "ddp"
    if how == "fsdp":
        shard.check(config, os.environ)
    elif how == "zero":
        zero.check(os.environ)
    privacy.check(config, int(os.environ.get("WORLD_SIZE", "1")), how)
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
    precision = _precision(config, how)
    accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[ddp])
    try:
        with accelerator.main_process_first():  # the others find the caches filled
            ready = prepare(
                config,
                device="cpu" if how == "fsdp" else str(accelerator.device),
                rank=accelerator.process_index,
                world=accelerator.num_processes,
                dataset=extras.dataset,
            )
        if how == "fsdp":
            ready.notes.append(shard.shard(ready.model, accelerator.device))
        return Trainer(ready, accelerator, console, extras, how, precision).run(resume)
    finally:
        accelerator.end_training()
        # accelerate keeps the precision in a process-wide state; another run may want another
        AcceleratorState._reset_state()


def _precision(config: RunConfig, how: How = "ddp") -> str:
    """accelerate's name for the precision of `model.dtype` on the device it is going to use."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    dtype = pick_dtype(config.model.dtype, PartialState(cpu=cpu).device)
    if dtype == torch.float16 and not torch.cuda.is_available():
        raise ConfigError("model.dtype float16 trains on a CUDA device only; use bfloat16 or float32")
    if dtype == torch.float16 and how == "zero":
        raise ConfigError("model.dtype float16 does not go with DeepSpeed; use bfloat16 or float32")
    return {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "no"}[dtype]


def run_folder(config: RunConfig) -> Path:
    """Where checkpoints and logs go."""
    return Path(config.train.run or Path("runs") / config.name)


class Trainer:
    """One run on one process. `progress` is what a checkpoint keeps of it."""

    def __init__(
        self,
        ready: Ready,
        accelerator: Any,
        console: Console,
        extras: Extras | None = None,
        how: How = "ddp",
        precision: str = "no",
    ) -> None:
        self.ready, self.accelerator, self.console = ready, accelerator, console
        self.how = how
        self.extras = extras or Extras()
        self.config = ready.config.train
        self.model = ready.model
        self.run_folder = run_folder(ready.config)
        self.main = bool(accelerator.is_main_process)
        self.rank, self.world = int(accelerator.process_index), int(accelerator.num_processes)
        self.epoch_steps = self._epoch_steps()
        planned = max(1, round(self.config.epochs * self.epoch_steps))
        self.total = min(planned, self.config.max_steps or planned)
        until = self.config.until
        self.last = self.total if until is None else min(self.total, max(1, round(until * self.epoch_steps)))
        self.progress = ckpt.Progress(positions=[(0, 0)] * self.world)
        self.position = Position()
        self.interrupt = Interrupt()
        weights = ready.mixture.weights(self.config.task_weights)
        self.weights = dict(zip(ready.mixture.names, weights, strict=True))
        dtype = torch.bfloat16 if precision == "bf16" else None
        self.plan = self._plan()
        self.update: Update | private.PrivateUpdate
        if self.plan is not None:
            self.update = private.PrivateUpdate(
                self.model, self.config, weights, accelerator, self.plan, ready.withheld
            )
        else:
            self.update = Update(
                self.model, self.config, weights, accelerator, ready.withheld, ready.teacher, how, dtype
            )

    def _epoch_steps(self) -> int:
        """Optimizer steps an epoch."""
        if self.config.privacy is not None:
            return max(1, round(len(private.users_of(self.ready.mixture)) / self.config.privacy.users))
        packs = packs_per_epoch(self.ready.mixture, self.config.batch_tokens)
        return -(-packs // (self.config.accumulate * self.world))

    def _plan(self) -> privacy.Plan | None:
        asked = self.config.privacy
        if asked is None:
            return None
        return privacy.plan(asked, len(private.users_of(self.ready.mixture)), self.total)

    # --- the run --------------------------------------------------------------------------------------

    def run(self, resume: bool) -> Outcome:
        with locked(self.run_folder, self.main), self.interrupt:
            found = self._begin(resume)
            journal = Journal(self.run_folder, self.progress.step, self.total, self.console, active=self.main)
            try:
                self._tell(journal, found)
                if not self.progress.finished:
                    self._loop(journal)
            finally:
                journal.close()
            return self._end(0 if self.progress.finished else self.interrupt.signal)

    def _begin(self, resume: bool) -> bool:
        """Seed everything, or put back the newest checkpoint; True where there was one."""
        from accelerate.utils import set_seed

        set_seed(self.config.seed, device_specific=True)
        if not resume and self.main:
            ckpt.clear(self.run_folder)
        self.accelerator.wait_for_everyone()
        saved = ckpt.load(self.run_folder)
        if saved is None:
            return False
        ckpt.check_identity(self.run_folder, saved.identity, self.ready.identity)
        self.progress = saved.progress
        stopped_early = self.progress.waited >= self.config.patience
        self.progress.finished &= stopped_early or self.progress.step >= self.last
        self.position = Position(*saved.progress.positions[self.rank])
        self.model.load_trainable_state(saved.weights)
        self.update.load_state(saved.update)
        ckpt.set_rng_state(saved.rng[self.rank])
        return True

    def _tell(self, journal: Journal, found: bool) -> None:
        mixture = self.ready.mixture
        shares = ", ".join(f"{n} {c}" for n, c in zip(mixture.names, mixture.counts, strict=True))
        for note in self.ready.notes:
            journal.say(note)
        trained = sum(p.numel() for p in self.update.parameters)
        journal.say(
            f"{self.ready.config.name}: {trained:,} trained weights; examples an epoch: {shares}; "
            f"{self.epoch_steps} steps an epoch, {self.total} in all, on {self.world} process"
            f"{'es' if self.world > 1 else ''} ({self.accelerator.device})"
        )
        if self.plan is not None:
            journal.say(self.plan.line())
        if self.progress.finished:
            journal.say(f"finished before, at step {self.progress.step}; --restart trains anew")
        elif found:
            journal.say(f"resumed at step {self.progress.step} from {self.run_folder}")

    def _loop(self, journal: Journal) -> None:
        data = Prefetch(self._draws())
        every = self._every
        try:
            if self.extras.first and not self.progress.step and self.ready.validator.size:
                self._validate(journal)
            self.model.train()
            while self.progress.step < self.last and not self.progress.finished:
                record = self._step(data)
                if record is None:
                    self._save(journal)
                    return
                journal.step(record)
                step = self.progress.step
                if self.ready.validator.size and (step % every == 0 or step == self.last):
                    self._validate(journal)
                if step % self.config.checkpoint_every == 0 and step < self.last:
                    self._save(journal)
            self.progress.finished = True
            self._save(journal)
        finally:
            data.close()

    def _draws(self) -> Callable[[], list[Batch]]:
        """What draws the packs of one step."""
        mixture, budget = self.ready.mixture, self.config.batch_tokens
        if self.plan is not None:
            assert self.config.privacy is not None
            return private.Draws(mixture, self.plan, budget, self.config.privacy.seed, self.progress.step).next
        stream = Stream(mixture, budget, self.position, rank=self.rank, world=self.world)
        return lambda: [stream.next() for _ in range(self.config.accumulate)]

    @property
    def _every(self) -> int:
        """Steps between validations."""
        return self.config.validate_every or self.epoch_steps

    def _step(self, data: Prefetch[list[Batch]]) -> dict[str, Any] | None:
        """One optimizer step; its metrics line, or None where a process was asked to stop."""
        began = time.perf_counter()
        batches = data.next()
        factor = rate(self.progress.step, self.total, self.config.warmup)
        measured = self.update(batches, factor, self.interrupt.signal)
        if measured is None:
            self.interrupt.heard()
            return None
        seconds = time.perf_counter() - began
        self.progress.step += 1
        self.progress.tokens += measured.tokens
        self.progress.seconds += seconds
        self.position = batches[-1].after if batches else self.position
        return self._record(measured, factor, seconds)

    def _record(self, measured: Measured, factor: float, seconds: float) -> dict[str, Any]:
        pairs = zip(self.ready.mixture.names, measured.losses, strict=True)
        losses = {name: loss for name, loss in pairs if loss is not None}
        total = sum(self.weights[name] * loss for name, loss in losses.items())
        step = self.progress.step
        if not np.isfinite(total):
            raise TrainingDiverged(
                f"the loss is {total} at step {step}; lower train.lr and train.projector_lr (now "
                f"{self.config.lr:g} and {self.config.projector_lr:g}) and start anew with --restart"
            )
        return {
            "step": step,
            "epoch": round(step / self.epoch_steps, 4),
            "loss": total,
            **{f"loss/{name}": loss for name, loss in losses.items()},
            "lr": self.config.lr * factor,
            "grad_norm": measured.norm,
            "tokens": self.progress.tokens,
            "tokens_per_second": measured.tokens / seconds,
            "seconds": self.progress.seconds,
        }

    # --- validation, checkpoints ----------------------------------------------------------------------

    def _validate(self, journal: Journal) -> None:
        from accelerate.utils import gather_object

        began = time.perf_counter()
        with shard.in_step(self.model) if self.how == "fsdp" else nullcontext():
            own = self.ready.validator.ranks(self.model)
        ranks = gather_object(own)
        found = self.ready.validator.summary(ranks)
        score = self.ready.validator.sign * found[self.ready.validator.headline].value
        progress = self.progress
        if score > progress.best_score or self.plan is not None:  # choosing by users' events is not covered by noise
            progress.best_score, progress.best_step, progress.waited = score, progress.step, 0
            if self.main:
                told = {m: {"value": i.value, "low": i.low, "high": i.high, "n": i.n} for m, i in found.items()}
                ckpt.save_best(self.run_folder, self.model.trainable_state(), {"step": progress.step, **told})
        else:
            progress.waited += 1
        progress.seconds += time.perf_counter() - began
        journal.validation({"step": progress.step, **{f"valid/{m}": i.value for m, i in found.items()}})
        if self.extras.watch is not None and progress.step:
            self.extras.watch(-(-progress.step // self._every), score)
        if progress.waited >= self.config.patience and progress.step < self.last:
            progress.finished = True
            journal.say(
                f"stopped early: {progress.waited} validations without a better {self.ready.validator.headline} than "
                f"{abs(progress.best_score):.4f} at step {progress.best_step}"
            )

    def _save(self, journal: Journal) -> None:
        from accelerate.utils import gather_object

        states = gather_object([(ckpt.rng_state(), (self.position.epoch, self.position.place))])
        self.progress.positions = [place for _, place in states]
        journal.flush()
        update = self.update.state()
        if self.main:
            weights = self.model.trainable_state()
            rng = [state for state, _ in states]
            ckpt.save(self.run_folder, ckpt.Checkpoint(self.progress, weights, update, rng, self.ready.identity))
        self.accelerator.wait_for_everyone()

    def _end(self, stopped: int) -> Outcome:
        best = ckpt.load_best(self.run_folder)
        metrics = best[1] if best else {}
        bundle = None
        if not stopped:
            if best:
                self.model.load_trainable_state(best[0])
            self.model.eval()
            if self.main and self.extras.save:
                spent = None if self.plan is None else privacy.told(self.plan, self.progress.step)
                bundle = export(self.ready, self.progress, metrics, self.world, spent)
            self.accelerator.wait_for_everyone()
        return Outcome(self.run_folder, self.progress.step, self.total, metrics, bundle, stopped)
