"""`accelerate launch -m palate.train FILE`: the same as `palate train FILE`, in one process or many."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from rich.console import Console

from palate.errors import PalateError
from palate.train import run
from palate.train.launcher import missing_processes, parent_command, spawn


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done, 2 a user's mistake, 128 + signal when stopped with a checkpoint saved."""
    parser = argparse.ArgumentParser("palate.train", description="Train an adapter from a YAML config.")
    parser.add_argument("file", metavar="FILE", help="a config, such as configs/ml-100k.yaml")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="overrides, such as train.epochs=2")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--resume", action="store_true", default=True, help="go on from a checkpoint (default)")
    group.add_argument("--restart", dest="resume", action="store_false", help="start anew")
    parser.add_argument("--continue", dest="onward", metavar="ADAPTER", help="go on from it with what has come since")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    given = parser.parse_intermixed_args(arguments)
    console = Console(stderr=True)
    try:
        missing, told = missing_processes(os.environ, parent_command())
        if missing:
            return spawn(missing, sys.argv[1:] if arguments is None else arguments, told)
        outcome = run(given.file, given.overrides, resume=given.resume, console=console, onward=given.onward)
    except PalateError as error:
        if given.debug:
            raise
        if int(os.environ.get("RANK", "0")) == 0:  # one line, not one a process
            console.print(f"error: {error}", highlight=False, markup=False, soft_wrap=True)
        return 2
    if int(os.environ.get("RANK", "0")):
        return 128 + outcome.stopped if outcome.stopped else 0
    if outcome.stopped:
        console.print(f"stopped at step {outcome.step} of {outcome.total}; the same command goes on from there")
        return 128 + outcome.stopped
    if not outcome.total:
        console.print("nothing has come since that adapter was trained; it is as it was", highlight=False)
    elif outcome.bundle is not None:
        console.print(f"saved {outcome.bundle}", highlight=False, markup=False, soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
