"""`python -m trust`: throw inputs at every door, faults at every job, print two tables."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # not where a test imports this: the tests after it would have them, too
    for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_name, "1")  # before torch and numpy: the two processes share two cores
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("PALATE_OFFLINE", "1")

from palate.registry import plugins
from trust import report
from trust.faults import Fault, Outcome
from trust.fuzz import Target
from trust.pool import Pool, Tally, inline

INPUTS = 10_000
RESULTS = Path("docs/trust.md")


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The flags. Exits with code 2 and one line for a name that is neither a target nor a fault."""
    flags = argparse.ArgumentParser("python -m trust", description=__doc__)
    flags.add_argument(
        "--only", default="", help="targets and faults, by comma; 'fuzz' and 'faults' stand for all of one"
    )
    flags.add_argument("--inputs", type=int, default=INPUTS, help="generated inputs a target (default 10,000)")
    flags.add_argument("--times", type=float, default=1.0, help="how often faults are tried, times their usual number")
    flags.add_argument("--seed", type=int, default=1)
    flags.add_argument("--case", type=int, help="one input of one target again, with its traceback")
    flags.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1))
    flags.add_argument(
        "--out", type=Path, help=f"also write Markdown here, and JSON beside it ({RESULTS} after a whole run)"
    )
    flags.add_argument("--json", type=Path, help="write the numbers here")
    options = flags.parse_args(argv)
    targets, faults = plugins("trust.fuzz", Target), plugins("trust.faults", Fault)  # type: ignore[type-abstract]
    asked = [n.strip() for n in options.only.split(",") if n.strip()] or ["fuzz", "faults"]
    unknown = sorted(set(asked) - {*targets, *faults, "fuzz", "faults"})
    if unknown:
        flags.error(
            f"--only: nothing is called {unknown[0]!r}; choose from fuzz, faults, {', '.join([*targets, *faults])}"
        )
    options.targets = {n: t for n, t in targets.items() if n in asked or "fuzz" in asked}
    options.faults = {n: f for n, f in faults.items() if n in asked or "faults" in asked}
    options.whole = set(asked) == {"fuzz", "faults"} and options.inputs >= INPUTS
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 1 where a promise was broken."""
    options = arguments(argv)
    if options.case is not None:
        return _again(options)
    began = time.monotonic()
    _warm(options)
    tallies: dict[str, Tally] = {}
    for name, target in options.targets.items():
        count = max(1, round(options.inputs * target.share))
        tallies[name] = Pool(options.seed, options.processes).run(target, range(count))
        print(report.line(name, tallies[name]), flush=True)
        print(report.grouped(tallies[name]), end="", flush=True)
    outcomes: dict[str, Outcome] = {}
    for name, fault in options.faults.items():
        outcomes[name] = fault().run(options.seed, options.times)
        print(report.told(name, outcomes[name]), flush=True)
    text = report.markdown(options, tallies, outcomes, time.monotonic() - began)
    print("\n" + text)
    numbers = report.numbers(options, tallies, outcomes, time.monotonic() - began)
    _write(options, text, numbers)
    return 1 if report.broken(tallies, outcomes) else 0


def _again(options: argparse.Namespace) -> int:
    """One input in this process."""
    if len(options.targets) != 1:
        sys.exit("--case needs --only with one target")
    (target,) = options.targets.values()
    import tempfile

    from trust.pool import made_of

    made = target()
    with tempfile.TemporaryDirectory(prefix="palate-trust-") as folder:
        made.setup(Path(folder))
        case = made_of(made, options.seed, options.case)
        print(made.show(case))
        made.judge(case)
    print("accepted")
    return 0


def _warm(options: argparse.Namespace) -> None:
    """Import what is heavy once, before processes are forked."""
    if options.targets or options.faults:
        import torch

        torch.set_num_threads(1)
        import palate.recommender
        import palate.train  # noqa: F401


def _write(options: argparse.Namespace, text: str, numbers: dict[str, Any]) -> None:
    places = [options.out] if options.out else [RESULTS] if options.whole else []
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text + "\n", encoding="utf-8")
        place.with_suffix(".json").write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")
    if options.json:
        options.json.write_text(json.dumps(numbers, indent=1) + "\n", encoding="utf-8")


__all__ = ["arguments", "inline", "main"]

if __name__ == "__main__":
    sys.exit(main())
