"""`make lock`: requirements.lock, the pins of constraints.txt with the hash of every file an index has for them.

torch is left out: which of its builds is right (CPU, CUDA) depends on the machine and the index, so it has no one hash.
Install what is locked with

    pip install torch==VERSION
    pip install --no-deps --require-hashes -r requirements.lock
    pip install --no-deps -e .
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tools import ROOT, canonical, pins, say, tool

CONSTRAINTS, LOCK = ROOT / "constraints.txt", ROOT / "requirements.lock"
UNHASHED = {"torch"}
HEAD = """# The pins of constraints.txt with the hashes of their files. Made by `make lock`; do not edit.
# Without torch ({torch}), whose build depends on the machine: pip install torch=={torch}, then
# pip install --no-deps --require-hashes -r requirements.lock
"""


def main() -> int:
    """Write the lock file; exit code 1 where the tool fails, with its words."""
    wanted = pins(CONSTRAINTS.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as place:
        asked, made = Path(place) / "pins.txt", Path(place) / "made.txt"
        asked.write_text("".join(f"{n}=={v}\n" for n, v in sorted(wanted.items()) if n not in UNHASHED))
        options = ["--no-deps", "--generate-hashes", "--no-header", "--no-annotate", "--no-config"]
        command = [tool("uv"), "pip", "compile", str(asked), *options, "--python-version", "3.11", "-o", str(made)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 (no input of others)
        if done.returncode:
            say(f"requirements.lock is as it was: {done.stderr.strip()}")
            return 1
        text = made.read_text(encoding="utf-8")
    missing = sorted(set(wanted) - set(pins(text)) - {canonical(n) for n in UNHASHED})
    if missing or "://" in text:
        say(f"requirements.lock is as it was: without hashes {', '.join(missing) or 'none'}, or with an address in it")
        return 1
    LOCK.write_text(HEAD.format(torch=wanted["torch"]) + text, encoding="utf-8")
    say(f"requirements.lock: {len(pins(text))} packages, {text.count('--hash=')} hashes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
