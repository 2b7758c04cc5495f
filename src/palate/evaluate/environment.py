"""What a number was computed with, so that another run can be set up alike."""

from __future__ import annotations

import platform
from importlib import metadata

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
