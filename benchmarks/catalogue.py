"""Cost of catalogues of many items: time and peak memory of every step, each in a process of its own.

    python -m benchmarks.catalogue --items 10000,100000,1000000 --json out.json
    python -m benchmarks.catalogue --items 1000000 --only find,filters

prints a Markdown table. The data are made up and seeded (`catalogue_data`): titles that begin alike and repeat, tags,
makers, years, prices, summaries; ten events an item. The steps are in `catalogue_steps`. `--only` runs single steps and
those that write what they read.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import measure
from benchmarks.catalogue_steps import STEPS
from palate.errors import PalateError

NEEDS = {"make": (), "import-csv": ("make",), "import-parquet": ("make",), "trie-arrays": ()}
"""Steps that must have run before; all others read what `import-parquet` wrote."""
ALSO = {"store-read": ("store",), "index-exact": ("make",), "index-approximate": ("make",)}
SHORT = 0.02
"""Seconds below which growth would be noise."""
Results = dict[str, dict[int, dict[str, Any]]]


def planned(only: Sequence[str]) -> list[str]:
    """The steps to run, in order, with those that they need."""
    wanted: dict[str, None] = {}

    def add(step: str) -> None:
        for needed in (*NEEDS.get(step, ("import-parquet",)), *ALSO.get(step, ())):
            add(needed)
        wanted[step] = None

    for step in only or STEPS:
        add(step)
    return [step for step in STEPS if step in wanted]


def run(steps: Sequence[str], sizes: Sequence[int], folder: Path, seed: int) -> Results:
    """Every step over every size; a step that fails is reported and the others go on."""
    found: Results = {step: {} for step in steps}
    for count in sizes:
        place = folder / str(count)
        place.mkdir(parents=True, exist_ok=True)
        for step in steps:
            command = ["benchmarks.catalogue_steps", "--step", step, "--items", str(count)]
            try:
                done = measure.fresh(step, [*command, "--folder", str(place), "--seed", str(seed)])
            except PalateError as error:
                done = {"failed": str(error)[:300]}
            found[step][count] = done
            told = done.get("failed") or f"{done['whole']:.1f} s, {done['peak_bytes'] / 1e9:.2f} GB"
            print(f"{count:>9,} {step}: {told}", file=sys.stderr, flush=True)
        shutil.rmtree(place)
    return found


def growth(values: Mapping[int, float], least: float = SHORT) -> float | None:
    """The power of N that the cost grows with between the two largest sizes; None where it is too small to tell."""
    known = sorted((n, v) for n, v in values.items() if v >= least)
    if len(known) < 2:
        return None
    (few, less), (many, more) = known[-2:]
    return math.log(more / less) / math.log(many / few)


def markdown(found: Results, sizes: Sequence[int]) -> str:
    """Two tables: seconds of each part of each step, and peak memory of each step."""
    head = " | ".join(f"{n:,}" for n in sizes)
    rule = "---|" * (len(sizes) + 2)
    lines = [f"| seconds | {head} | growth |", f"|{rule}"]
    for step, by_size in found.items():
        parts = dict.fromkeys(p for done in by_size.values() for p in done.get("seconds", {}))
        for part in parts:
            values = {n: d["seconds"][part] for n, d in by_size.items() if part in d.get("seconds", {})}
            cells = " | ".join(_seconds(values.get(n)) for n in sizes)
            lines.append(f"| {step}: {part} | {cells} | {_power(growth(values))} |")
    lines += ["", f"| peak memory, MB: held by the process + mapped files | {head} | growth |", f"|{rule}"]
    for step, by_size in found.items():
        cells = " | ".join(_memory(by_size.get(n, {})) for n in sizes)
        values = {n: d["anonymous_bytes"] for n, d in by_size.items() if "anonymous_bytes" in d}
        lines.append(f"| {step} | {cells} | {_power(growth(values))} |")
    told = [(s, n, d.get("facts"), d.get("failed")) for s, by in found.items() for n, d in by.items()]
    lines += ["", *(f"- {s}, {n:,}: FAILED: {failed}" for s, n, _, failed in told if failed)]
    for step, count, facts, _ in told:
        shown = {k: v for k, v in (facts or {}).items() if k not in ("fingerprint",)}
        if shown:
            lines.append(f"- {step}, {count:,}: " + "; ".join(f"{k} {_fact(v)}" for k, v in shown.items()))
    return "\n".join(lines)


def _fact(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if value >= 0.1 else f"{value * 1000:.3g} ms"


def _power(value: float | None) -> str:
    return "" if value is None else f"N^{value:.2f}"


def _memory(done: Mapping[str, Any]) -> str:
    if "anonymous_bytes" not in done:
        return "failed" if "failed" in done else ""
    return f"{done['anonymous_bytes'] / 1e6:,.0f} + {done['mapped_bytes'] / 1e6:,.0f}"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--items", default="10000,100000,1000000", help="sizes, with commas between")
    parser.add_argument("--only", default="", help=f"steps, with commas between, of {', '.join(STEPS)}")
    parser.add_argument(
        "--folder", type=Path, help="where data are written (8 GB for a million items) and removed again"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write everything that was measured here")
    options = parser.parse_args(arguments)
    only = [s for s in options.only.split(",") if s]
    if unknown := [s for s in only if s not in STEPS]:
        parser.error(f"no step is called {unknown[0]!r}; there are {', '.join(STEPS)}")
    sizes = sorted({int(n) for n in options.items.replace("_", "").split(",")})
    with tempfile.TemporaryDirectory(prefix="palate-catalogue-", dir=options.folder) as scratch:
        found = run(planned(only), sizes, Path(scratch), options.seed)
    import torch

    facts = measure.machine(torch.device("cpu")) | {"cores": os.cpu_count(), "seed": options.seed}
    if options.json:
        whole = {"machine": facts, "sizes": sizes, "steps": found}
        options.json.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    print(markdown(found, sizes))
    if any("failed" in done for by_size in found.values() for done in by_size.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
