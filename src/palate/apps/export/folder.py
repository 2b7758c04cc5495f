"""A folder that is there whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from palate.errors import ConfigError

NOTE = "palate-export.json"
"""What marks a folder as an export; --force replaces no other."""


def check(out: Path, force: bool) -> None:
    """ConfigError where `out` may not be written: it holds something, and --force does not allow to replace that."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ConfigError(f"-o {out}: expected a new or empty folder, got a file")
    held = sorted(p.name for p in out.iterdir())
    if not held:
        return
    shown = ", ".join(held[:3]) + (", ..." if len(held) > 3 else "")
    if NOTE not in held:
        raise ConfigError(
            f"-o {out}: expected a new or empty folder, it holds {shown} and is no earlier export, so nothing here "
            "replaces it; choose another"
        )
    if not force:
        raise ConfigError(
            f"-o {out}: expected a new or empty folder, it holds an export ({shown}); --force replaces it"
        )


@contextmanager
def whole(out: Path) -> Iterator[Path]:
    """An empty folder beside `out` that takes its place at the end; after an error nothing of it is left.

    Raises ConfigError where it cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise ConfigError(f"-o {out}: expected a folder that can be written: {error}") from None
    try:
        yield new
        _readable(new)
        _swap(new, out)
    except OSError as error:
        raise ConfigError(f"-o {out}: cannot be written: {error}; free some space or choose another folder") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _readable(folder: Path) -> None:
    """Modes as the umask has them: temporary folders and safetensors are for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    folder.chmod(0o777 & ~mask)
    for path in folder.rglob("*"):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~mask)


def _swap(new: Path, out: Path) -> None:
    if not out.exists():
        new.rename(out)
        return
    old = out.with_name(f".{out.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    out.rename(old)
    new.rename(out)
    shutil.rmtree(old, ignore_errors=True)
