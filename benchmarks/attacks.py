"""How far can the maker of an item push it up a ranking by what is written in it?

    python -m benchmarks.attacks --modes yes_no,likelihood --users 40 --json FILE
    python -m benchmarks.attacks --modes embedding --users 943 --json FILE

One item of a user's list is attacked at a time (`attack_texts`); what counts is by how many places it climbs. The lists
are those of loo-20 on validation items, the attacked item a negative. Every user's numbers are kept in FILE.rows, and a
run goes on where the last one stopped: with --seconds it stops by itself.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import attack_arms, attack_soft, measure
from benchmarks.attack_arms import ARMS, Victim
from palate import Recommender
from palate.evaluate.metrics import per_user
from palate.evaluate.protocol import SEED, protocol

Row = dict[str, Any]
TEXT_MODES = ("likelihood", "yes_no", "letters")
RESAMPLES = 10_000


def rows_of(path: Path) -> list[Row]:
    """What earlier runs measured; a last line cut short by a crash is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def measured(rec: Recommender, mode: str, args: argparse.Namespace, done: set[tuple[str, ...]]) -> Iterator[list[Row]]:
    """Rows of one user and arm after another, those of `done` left out."""
    data, interactions = rec.dataset, rec.dataset.histories.interactions
    cases = protocol("loo-20").cases(interactions, SEED, "valid", args.users)
    chosen = np.bincount(protocol("loo-20").split(interactions).train.items, minlength=len(interactions.item_ids))
    popular = [interactions.item_ids[i] for i in np.argsort(-chosen, kind="stable")[:3]]
    for case in cases:
        request = case.request(interactions, data.histories.events(case.user_id), data.users.get(case.user_id))
        victim = Victim.of(request, interactions.item_ids[case.positive], rec.shelf, popular, data.wording)
        for arm in ARMS:
            if (mode, arm.name, case.user_id) not in done:
                yield attack_arms.measure(rec, arm, mode, victim, args.history)


def summary(values: Sequence[float]) -> dict[str, float]:
    """Mean with a 95% bootstrap interval over users, and the largest."""
    table = np.array(values, dtype=np.float64)
    rng = np.random.default_rng(SEED)
    means = table[rng.integers(0, len(table), (RESAMPLES, len(table)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(table.mean()), "low": float(low), "high": float(high), "max": float(table.max())}


def summarised(rows: Sequence[Row]) -> list[Row]:
    """One row a mode, arm, calibration and kind: places climbed, and how often the item is then in front."""
    groups: dict[tuple[str, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["mode"], row["arm"], row["scores"], row["kind"]].append(row)
    found = []
    for (mode, arm, scores, kind), members in groups.items():
        told = {"mode": mode, "arm": arm, "scores": scores, "kind": kind, "n": len(members), "list": members[0]["list"]}
        if kind == "clean":
            ranks, sizes = [m["positive"] for m in members], [m["list"] for m in members]
            found.append(told | {"NDCG@10": summary(per_user("NDCG@10", ranks, sizes).tolist())})
            continue
        # one number a user in text modes, one a target in mode embedding
        before, after = (np.array([np.atleast_1d(m[k]) for m in members]) for k in ("before", "after"))
        climbed = summary((before - after).mean(axis=1).tolist()) | {"max": float((before - after).max())}
        first, was = float((after <= 1).mean()), float((before <= 1).mean())
        told["median_before"], told["median_after"] = float(np.median(before)), float(np.median(after))
        found.append(told | {"climbed": climbed, "first": first, "first_before": was})
    return found


def table(found: Sequence[Row], mode: str) -> str:
    """A Markdown table of one mode: a line an attack, a column an arm."""
    mine = [r for r in found if r["mode"] == mode]
    arms = list(dict.fromkeys((r["arm"], r["scores"]) for r in mine))
    by = {(r["arm"], r["scores"], r["kind"]): r for r in mine}
    head = ["attack", *(f"{a}, {s}" if s != "raw" else a for a, s in arms)]
    lines = ["| " + " | ".join(head) + " |", "|:--" + "|--:" * len(arms) + "|"]
    for kind in dict.fromkeys(r["kind"] for r in mine if r["kind"] != "clean"):
        cells = [_cell(by.get((a, s, kind))) for a, s in arms]
        lines.append("| " + " | ".join([kind, *cells]) + " |")
    return "\n".join(lines)


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    c = row["climbed"]
    return f"{c['mean']:+.1f} [{c['low']:+.1f}, {c['high']:+.1f}], most {c['max']:+.0f}, first {row['first']:.0%}"


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.attacks", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, required=True, help="where the results go; FILE.rows keeps the rows")
    parser.add_argument("--modes", default="embedding", help=f"of embedding,{','.join(TEXT_MODES)}")
    parser.add_argument("--users", type=int, default=40, help="a seeded draw of that many")
    parser.add_argument("--history", type=int, default=12, help="history items a text prompt shows")
    parser.add_argument("--base", default="smollm2-135m-instruct", help="what the text modes ask")
    parser.add_argument("--adapter", default="adapters/ml-100k", help="what mode embedding asks")
    parser.add_argument("--data", default="data/ml-100k")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long; run again to go on")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing and write the tables; 3 where time ran out before all users were measured."""
    args = parsed(arguments)
    kept, until, ended = args.json.with_name(args.json.name + ".rows"), time.monotonic() + args.seconds, True
    rows = rows_of(kept)
    with kept.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
        for mode in args.modes.split(","):
            done: set[tuple[str, ...]] = {(r["mode"], r["arm"], r["user"]) for r in rows}
            if mode == "embedding":
                fresh = attack_soft.measured(args.adapter, args.data, args.users, done)
            else:
                fresh = measured(Recommender.load(args.base, data=args.data), mode, args, done)
            for made in fresh:
                rows += made
                out.writelines(json.dumps(row) + "\n" for row in made)
                out.flush()
                if time.monotonic() > until:
                    ended = False
                    break
            if not ended:
                break
    found = summarised(rows)
    import torch

    told = {"machine": measure.machine(torch.device("cpu")), "complete": ended, "results": found}
    args.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    for mode in dict.fromkeys(r["mode"] for r in found):
        print(f"{mode}\n\n{table(found, mode)}\n")
    return 0 if ended else 3


if __name__ == "__main__":
    sys.exit(main())
