"""The tools of scripts/tools.txt, in an environment of their own: what is audited holds no auditor."""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LISTED = ROOT / "scripts" / "tools.txt"
FOLDER = ROOT / ".venv" / "tools"


def tool(name: str) -> str:
    """The path of one of the tools; all are installed where they are missing or others than listed."""
    stamp = FOLDER / "installed.txt"
    wanted = LISTED.read_text(encoding="utf-8")
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != wanted:
        say(f"installing the tools of {LISTED.relative_to(ROOT)} into {FOLDER.relative_to(ROOT)}")
        venv.create(FOLDER, with_pip=True)
        pip = [str(FOLDER / "bin" / "python"), "-m", "pip", "install", "--quiet", "--requirement", str(LISTED)]
        subprocess.run(pip, check=True)  # noqa: S603 (our own list)
        stamp.write_text(wanted, encoding="utf-8")
    return str(FOLDER / "bin" / name)


def say(text: str) -> None:
    """A line on standard output, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def pins(text: str) -> dict[str, str]:
    """Name, as indexes write it -> version, of the lines NAME==VERSION of a requirements file."""
    found = {}
    for line in text.splitlines():
        name, mark, rest = line.strip().partition("==")
        if mark and not line.startswith(("#", " ")):
            found[canonical(name)] = rest.split()[0].rstrip("\\")
    return found


def canonical(name: str) -> str:
    """A package's name in the spelling that indexes compare by (PEP 503)."""
    return "-".join(p for p in name.lower().replace("_", "-").replace(".", "-").split("-") if p)
