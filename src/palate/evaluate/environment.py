"""What an output was made by and from, so that another run can be set up alike."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from palate import __version__

PACKAGES = ("torch", "transformers", "peft", "numpy", "cornac")
"""Those whose version may move a score."""


def versions() -> dict[str, str]:
    """Version of Python and of each installed package of PACKAGES, without importing them."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def command_line(words: Sequence[str] | None = None) -> str:
    """The command this process was started with, as a shell takes it, without the folder of the program.

    words: in place of those behind the program's name.
    """
    program = Path(sys.argv[0])
    home = Path(__file__).parents[1]
    name = [program.name]
    if program.suffix == ".py" and program.is_relative_to(home):  # python -m palate.train, palate.score
        module = program.relative_to(home.parent).with_suffix("")
        name = ["python", "-m", ".".join(p for p in module.parts if p != "__main__")]
    return shlex.join([*name, *(sys.argv[1:] if words is None else words)])


def manifest(
    command: str, seeds: Mapping[str, int] | None = None, fingerprints: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The run manifest of an output: command, Palate, versions, seeds, and the fingerprints of what it was made from.

    Empty fingerprints (of what was not there) are left out.
    """
    return {
        "command": command,
        "palate": __version__,
        "versions": versions(),
        "seeds": dict(seeds or {}),
        "fingerprints": {name: value for name, value in (fingerprints or {}).items() if value},
    }


def write_beside(output: str | Path, made: Mapping[str, Any]) -> Path:
    """Write a manifest as OUTPUT.manifest.json, for tables, pictures and pages; returns its path."""
    path = Path(output)
    beside = path.with_name(f"{path.name}.manifest.json")
    beside.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8", errors="replace")
    return beside


def bundle_fingerprints(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What names an adapter: base, data set, item vectors and templates, from its palate.json."""
    return {
        "base": meta.get("base_sha256", ""),
        "trained on": meta.get("data", {}).get("fingerprint", ""),
        "features": meta.get("fingerprints", {}),
        "templates": meta.get("templates", {}),
    }
