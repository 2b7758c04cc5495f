"""`palate train`: tune an adapter from a config file, in one process."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add `palate train` to `app`."""

    @app.command("train")
    def train(
        file: Annotated[Path, typer.Argument(metavar="FILE", help="A config, such as configs/ml-100k.yaml.")],
        overrides: Annotated[
            list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Such as train.epochs=2.")
        ] = None,
        resume: Annotated[
            bool, typer.Option("--resume/--restart", help="Go on from a checkpoint, or start anew.")
        ] = True,
        onward: Annotated[
            Path | None,
            typer.Option(
                "--continue", metavar="ADAPTER", help="Go on from an adapter with what has come since; one epoch."
            ),
        ] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as JSON.")] = False,
    ) -> int:
        """Tune an adapter and save its bundle; the same command goes on after an interruption.

        Several processes: accelerate launch --num_processes 2 -m palate.train FILE

        New events, users or items: palate train FILE --continue adapters/mine

        Example: palate train configs/ml-100k.yaml train.epochs=2
        """
        from palate.train import run

        outcome = run(file, overrides or (), resume=resume, onward=onward)
        if as_json:
            typer.echo(json.dumps(asdict(outcome), default=str))
        elif not outcome.total:
            typer.echo(f"nothing has come since {outcome.bundle} was trained; it is as it was")
        elif outcome.stopped:
            typer.echo(f"stopped at step {outcome.step} of {outcome.total}; the same command goes on from there")
        else:
            typer.echo(f"saved {outcome.bundle}; curve: tensorboard --logdir {outcome.run}")
        return 128 + outcome.stopped if outcome.stopped else 0
