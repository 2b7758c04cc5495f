"""A PostgreSQL of Debian's packages for tests: its own cluster in a temporary folder, reached by a socket there."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

INSTALLED = Path("/usr/lib/postgresql")


def programs() -> Path | None:
    """The folder with initdb and pg_ctl of the newest version installed; None where there is none."""
    found = [p.parent for p in INSTALLED.glob("*/bin/initdb") if (p.parent / "pg_ctl").exists()]
    return max(found, key=lambda p: float(p.parent.name), default=None)


def _account() -> Mapping[str, Any]:
    """How to run as somebody: PostgreSQL refuses root, so root runs it as `postgres` or `nobody`."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("expected an account postgres or nobody to run PostgreSQL as")


@contextmanager
def cluster() -> Iterator[str]:
    """A running server; the URL of its database `postgres`, of which others may be made. It is stopped at the end."""
    found = programs()
    assert found is not None
    folder, account = Path(tempfile.mkdtemp(prefix="palate-pg-")), _account()
    if account:
        os.chown(folder, account["user"], account["group"])
    data = folder / "data"

    def run(*command: str) -> None:
        done = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, **account
        )
        assert done.returncode == 0, done.stdout + done.stderr

    try:
        run(str(found / "initdb"), "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")
        options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off -c max_connections=60"
        run(str(found / "pg_ctl"), "-D", str(data), "-l", str(folder / "log"), "-w", "-o", options, "start")
        try:
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            run(str(found / "pg_ctl"), "-D", str(data), "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
