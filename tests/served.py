"""What the tests of the service share: an app over a tiny bundle, and real server processes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

STARTED = 120.0
"""Seconds a server may take to answer first, on a loaded machine."""


@dataclass
class Server:
    """A running `palate serve`."""

    url: str
    process: subprocess.Popen[str]
    lines: list[str] = field(default_factory=list)


@contextmanager
def serving(adapter: str | Path, data: str | Path, store: Path, *more: str, **env: str) -> Iterator[Server]:
    """A server process on a free loopback port; killed at the end if it is still there."""
    command = [sys.executable, "-m", "palate", "serve", "--data", str(data), "--port", "0", "--store", str(store)]
    if "-a" not in more:
        command += ["-a", str(adapter)]
    process = subprocess.Popen(
        [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, **env}
    )
    lines: list[str] = []
    try:
        assert process.stdout is not None
        until = time.monotonic() + STARTED
        while not (found := re.search(r"http://\S+:\d+", lines[-1] if lines else "")):
            line = process.stdout.readline()
            assert line, f"the server did not start: {lines}"
            assert time.monotonic() < until, f"the server took too long to start: {lines}"
            lines.append(line)
        yield Server(found[0], process, lines)
    finally:
        process.kill()
        process.wait(30)
        if process.stdout is not None:
            process.stdout.close()
