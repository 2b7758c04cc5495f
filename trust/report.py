"""The two tables, as Markdown and as numbers."""

from __future__ import annotations

import platform
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from trust.faults import Outcome
from trust.pool import KINDS, Finding, Tally


def line(name: str, tally: Tally) -> str:
    """One target, for who waits."""
    counts = ", ".join(f"{tally.counts[k]:,} {k}" for k in KINDS)
    return f"{name}: {counts}; slowest {tally.slowest:.2f} s, {tally.peak / 1e6:.0f} MB, {tally.seconds:.0f} s in all"


def grouped(tally: Tally) -> str:
    """What was found, alike findings together, one of them shown."""
    groups: dict[tuple[str, str, str], list[Finding]] = {}
    for f in tally.findings:
        groups.setdefault((f.kind, f.told.split(":")[0], f.told.rpartition("[")[2][:60]), []).append(f)
    lines = []
    for (kind, _, _), same in sorted(groups.items(), key=lambda kv: -len(kv[1])):
        one = min(same, key=lambda f: len(f.shown))
        lines.append(f"    {len(same)} x {kind}, as {one.case}: {one.told}\n        {one.shown[:200]}\n")
    return "".join(lines)


def told(name: str, outcome: Outcome) -> str:
    """One fault, for who waits."""
    if outcome.skipped:
        return f"{name}: not tried: {outcome.skipped}"
    broken = "".join(f"\n    {b}" for b in outcome.broken[:10])
    return f"{name}: held {outcome.held} of {outcome.tried}, {outcome.seconds:.0f} s{broken}"


def broken(tallies: Mapping[str, Tally], outcomes: Mapping[str, Outcome]) -> bool:
    """Whether any promise was."""
    return any(t.broken for t in tallies.values()) or any(o.held < o.tried for o in outcomes.values())


def _about(kind: str) -> dict[str, str]:
    from palate.registry import plugins
    from trust.fuzz import Target

    found = plugins("trust.fuzz", Target)  # type: ignore[type-abstract]
    return {n: str(getattr(t, kind)) for n, t in found.items()}


def markdown(options: Namespace, tallies: Mapping[str, Tally], outcomes: Mapping[str, Outcome], seconds: float) -> str:
    """Both tables."""
    out = ["# Trust, counted", ""]
    out += [
        f"`python -m trust`, seed {options.seed}, Python {platform.python_version()}, {seconds / 60:.1f} minutes in all.",
        "",
    ]
    if tallies:
        about = _about("about")
        out += [
            "## Inputs from strangers",
            "",
            "Accepted: taken, and the same again wherever it can be read back. Refused: an error of Palate's own that says what "
            "is wrong (for media: that item's problem). Hang: more than 5 s of processor time. Silent: taken, and something "
            "else came out. Memory is beyond what the process held before its first input.",
            "",
            "| target | generated | inputs | accepted | refused | crash | hang | silent | slowest | memory |",
            "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
        ]
        for name, t in tallies.items():
            numbers = " | ".join(f"{t.counts[k]:,}" for k in KINDS)
            out.append(
                f"| {name} | {about[name]} | {sum(t.counts.values()):,} | {numbers} | {t.slowest:.1f} s | {t.peak / 1e6:.0f} MB |"
            )
        total = [sum(t.counts[k] for t in tallies.values()) for k in KINDS]
        out.append(f"| all | | {sum(total):,} | {' | '.join(f'{n:,}' for n in total)} | | |")
        out.append("")
    if outcomes:
        out += ["## Faults", "", "| fault | promise | tried | held |", "|---|---|---:|---:|"]
        for o in outcomes.values():
            counts = f"not tried: {o.skipped} | " if o.skipped else f"{o.tried} | {o.held}"
            out.append(f"| {o.fault} | {o.promise} | {counts} |")
        out.append("")
    return "\n".join(out).rstrip()


def numbers(
    options: Namespace, tallies: Mapping[str, Tally], outcomes: Mapping[str, Outcome], seconds: float
) -> dict[str, Any]:
    """The same for machines, with findings and the commonest refusals."""
    return {
        "seed": options.seed,
        "python": platform.python_version(),
        "seconds": round(seconds, 1),
        "fuzz": {
            n: {
                "inputs": sum(t.counts.values()), **{k: t.counts[k] for k in KINDS}, "slowest_s": round(t.slowest, 3),
                "peak_bytes": t.peak, "seconds": round(t.seconds, 1), "kinds_of_refusal": len(t.refusals),
                "findings": [asdict(f) for f in t.findings],
            }
            for n, t in tallies.items()
        },
        "faults": {n: asdict(o) for n, o in outcomes.items()},
    }  # fmt: skip
