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
from typing import Any

from palate.errors import ConfigError

_LAUNCHERS = (
    "accelerate",
    "accelerate-launch",
    "accelerate.exe",
    "accelerate.commands.launch",
    "launch.py",
    "accelerate.commands.accelerate_cli",
)
GRACE = 30.0
"""Seconds the others get to end by themselves after one process has failed."""


def missing_processes(env: Mapping[str, str], parent: Sequence[str]) -> tuple[int, dict[str, str]]:
    """How many processes are to be started here, 0 where there is nothing to mend; and the environment to add.

    env: the environment; parent: the command line of the parent process. accelerate sets MASTER_ADDR where
    more than one process is meant, and a launcher that does start them sets RANK. On a CPU accelerate leaves FSDP
    out, so its options are to be added. Raises ConfigError where the number cannot be told.
    """
    if env.get("ACCELERATE_USE_CPU", "").lower() not in ("1", "true") or "MASTER_ADDR" not in env or "RANK" in env:
        return 0, {}
    given = _launched(parent)
    if given is None or not given.num_processes:
        raise ConfigError(
            "accelerate was asked for several CPU processes, which it does not start on one machine; use "
            "`ACCELERATE_USE_CPU=1 torchrun --nproc_per_node N -m palate.train FILE` (or palate.score)"
        )
    return int(given.num_processes), _fsdp_options(given) if given.use_fsdp else {}


def _fsdp_options(given: Any) -> dict[str, str]:
    """The environment by which accelerate tells GPU processes of FSDP."""
    from accelerate.utils.launch import prepare_multi_gpu_env

    blanks = {"mixed_precision": "no", "dynamo_backend": "no", "num_machines": 1}
    for key, value in blanks.items():  # what FSDP has nothing to do with, but must be there
        setattr(given, key, getattr(given, key) or value)
    told = prepare_multi_gpu_env(given)
    return {k: v for k, v in told.items() if k.startswith("FSDP_") or k == "ACCELERATE_USE_FSDP"}


def _launched(parent: Sequence[str]) -> Any:
    """What `accelerate launch` was given, with what its config file adds; None where the parent is no such command."""
    from accelerate.commands.config import load_config_from_file
    from accelerate.commands.launch import launch_command_parser

    for place, part in enumerate(parent):
        if not part.endswith(_LAUNCHERS):
            continue
        rest = list(parent[place + 1 :])
        with suppress(SystemExit):
            given, _ = launch_command_parser().parse_known_args(rest[1:] if rest[:1] == ["launch"] else rest)
            if given.config_file is not None:
                kept = load_config_from_file(given.config_file)
                given.num_processes = given.num_processes or kept.num_processes
                given.use_fsdp = given.use_fsdp or kept.distributed_type == "FSDP"
                for key, value in kept.fsdp_config.items():
                    if key not in given.nondefault:
                        setattr(given, key, value)
            return given
        break
    return None


def parent_command() -> list[str]:
    """The command line of the parent process, [] where it cannot be read."""
    import psutil

    try:
        return list(psutil.Process(os.getppid()).cmdline())
    except psutil.Error:
        return []


def spawn(
    count: int, arguments: Sequence[str], told: Mapping[str, str] | None = None, module: str = "palate.train"
) -> int:
    """Run `python -m MODULE ARGUMENTS` in `count` processes and wait; the first bad exit code, else 0."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    workers = []
    for rank in range(count):
        own = {k: str(v) for k, v in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()} | dict(told or {})
        command = [sys.executable, "-m", module, *arguments]
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
