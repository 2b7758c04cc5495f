"""Several CPU processes on one machine.

`accelerate launch --cpu --num_processes N` starts a single process (accelerate 1.15 leaves more to mpirun),
which would train on 1 where N were asked for, without a word. The one process notices and starts the N
itself.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from palate.errors import ConfigError

_LAUNCHERS = ("accelerate", "accelerate-launch", "accelerate.exe", "accelerate.commands.launch", "launch.py")
GRACE = 30.0
"""Seconds the others get to end by themselves after one process has failed."""


def missing_processes(env: Mapping[str, str], parent: Sequence[str]) -> int:
    """How many processes are to be started here: 0 where there is nothing to mend.

    env: the environment; parent: the command line of the parent process. accelerate sets MASTER_ADDR where
    more than one process is meant, and a launcher that does start them sets RANK. Raises ConfigError where
    the number cannot be told.
    """
    if env.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true") or "MASTER_ADDR" not in env or "RANK" in env:
        return 0
    from accelerate.commands.launch import launch_command_parser

    found = None
    for place, part in enumerate(parent):
        if part.endswith(_LAUNCHERS):
            rest = list(parent[place + 1 :])
            with suppress(SystemExit):
                given, _ = launch_command_parser().parse_known_args(rest[1:] if rest[:1] == ["launch"] else rest)
                found = given.num_processes
            break
    if not found:
        raise ConfigError(
            "accelerate was asked for several CPU processes, which it does not start on one machine; use "
            "`ACCELERATE_USE_CPU=1 torchrun --nproc_per_node N -m palate.train FILE`"
        )
    return int(found)


def parent_command() -> list[str]:
    """The command line of the parent process, [] where it cannot be read."""
    import psutil

    try:
        return list(psutil.Process(os.getppid()).cmdline())
    except psutil.Error:
        return []


def spawn(count: int, arguments: Sequence[str]) -> int:
    """Run `python -m palate.train ARGUMENTS` in `count` processes and wait; the first bad exit code, else
    0.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    workers = []
    for rank in range(count):
        own = {k: str(v) for k, v in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
        command = [sys.executable, "-m", "palate.train", *arguments]
        workers.append(subprocess.Popen(command, env={**os.environ, **own}))  # noqa: S603 - our own module
    return _wait(workers)


def _wait(workers: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all; once one has failed, the others, which wait for it in vain, are ended after GRACE
    seconds.
    """
    from palate.train.guard import Interrupt

    failed_at = 0.0
    asked = False
    with Interrupt() as interrupt:
        while any(w.poll() is None for w in workers):
            if interrupt.signal and not asked:
                asked = True
                for worker in workers:
                    worker.send_signal(interrupt.signal)
            if any(w.returncode for w in workers) and not failed_at:
                failed_at = time.monotonic()
            if failed_at and time.monotonic() - failed_at > GRACE:
                for worker in workers:
                    worker.kill()
            time.sleep(0.05)
    codes = [w.returncode for w in workers if w.returncode]
    return next((c if c > 0 else 128 - c for c in codes), 0)
