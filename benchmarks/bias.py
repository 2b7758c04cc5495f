"""Do scores favour a place in the list, a short title or what everybody has chosen?

    python -m benchmarks.bias --modes embedding,fused --users 943 --json FILE
    python -m benchmarks.bias --modes likelihood,yes_no,letters --users 60 --json FILE

Over the lists of loo-20 on validation items (one positive, 19 negatives drawn alike from all unseen items): rank
correlation of scores with title length and with popularity in the train split within each list, how popular the top 3
are against the list, and, in mode letters, what a place in the list is worth. The positive itself is left out of the
correlations: it may be popular because it is right.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import rankdata

from benchmarks import measure
from benchmarks.attacks import Row, rows_of, summary
from palate import Recommender
from palate.engine.modes.letters import Letters
from palate.evaluate.baselines import RecommenderSystem, baseline
from palate.evaluate.fused import FusedSystem, Learned
from palate.evaluate.metrics import per_user, rank_of
from palate.evaluate.protocol import SEED, EvalCase, protocol
from palate.evaluate.run import System
from palate.recommender.fused import ADAPTER, Decision
from palate.schema import Interactions

TOP = 3
STEP = {"embedding": 64, "fused": 64, "likelihood": 4, "yes_no": 2, "letters": 1}
"""Cases at a time."""


def spearman(a: Any, b: Any) -> float:
    """Rank correlation, ties at their mean rank; 0 where one side is constant."""
    x, y = rankdata(a) - (len(a) + 1) / 2, rankdata(b) - (len(b) + 1) / 2
    norm = float(np.sqrt((x**2).sum() * (y**2).sum()))
    return float((x * y).sum() / norm) if norm else 0.0


def system(rec: Recommender, mode: str, train: Interactions) -> System:
    """A mode as a system; `fused` with retrievers fitted on the train split and the weights the adapter carries."""
    if mode != "fused":
        return RecommenderSystem(rec, rec.dataset, mode, mode)
    told = Decision.read(rec.meta)
    parts = tuple(mode if p == ADAPTER else p for p in told.parts)
    own = rec.model.soft.tables() if rec.model.soft is not None else {}
    systems: list[System] = [
        RecommenderSystem(rec, rec.dataset, told.mode, mode) if p == ADAPTER else baseline(p, train, own)
        for p in told.parts
    ]
    learned = Learned(
        told.method, parts, tuple(told.weights), told.metric, told.value, told.protocol, told.n, told.seed
    )
    return FusedSystem(systems, learned, "mixture")


def measured(rec: Recommender, mode: str, users: int, done: set[tuple[str, ...]]) -> Iterator[list[Row]]:
    """Rows of a few users after another."""
    interactions = rec.dataset.histories.interactions
    rules = protocol("loo-20")
    train = rules.split(interactions).train
    chosen = np.bincount(train.items, minlength=len(interactions.item_ids))
    titles = rec.serializer.encoder.content([rec.shelf[i].title for i in interactions.item_ids])
    tokens = np.array([len(t) for t in titles])
    cases = [c for c in rules.cases(interactions, SEED, "valid", users) if (mode, c.user_id) not in done]
    asked = system(rec, mode, train) if cases else None
    for start in range(0, len(cases), STEP[mode]):
        chunk = cases[start : start + STEP[mode]]
        assert asked is not None
        rows = [_row(mode, c, np.asarray(s), tokens, chosen) for c, s in zip(chunk, asked.score(chunk), strict=True)]
        if mode == "letters":
            for row, case in zip(rows, chunk, strict=True):
                row["places"] = _places(rec, case)
        yield rows


def _row(mode: str, case: EvalCase, scores: Any, tokens: Any, chosen: Any) -> Row:
    """One user's list."""
    assert case.candidates is not None
    listed = case.candidates
    others = listed != case.positive
    popularity = chosen[listed].astype(float)
    top = np.argsort(-scores, kind="stable")[:TOP]
    return {
        "mode": mode,
        "user": case.user_id,
        "list": len(listed),
        "positive": rank_of(scores, int(np.flatnonzero(~others)[0])),
        "length": spearman(scores[others], tokens[listed][others]),
        "popularity": spearman(scores[others], popularity[others]),
        "lift": float(popularity[top].mean() / max(popularity.mean(), 1e-9)),
        "popular": rank_of(popularity, int(np.flatnonzero(~others)[0])),
    }


def _places(rec: Recommender, case: EvalCase) -> list[list[float]]:
    """Log-probability of the letter at each place, in four orders of one list: [4, C]."""
    data, letters = rec.dataset, Letters(shuffles=4)
    request = case.request(data.histories.interactions, data.histories.events(case.user_id))
    orders = letters.orders(request)
    rows = letters.averaged(rec.runner, rec.serializer, [request] * len(orders), [[o] for o in orders])
    found = []
    for order, row in zip(orders, rows, strict=True):
        value = dict(zip(request.candidates, row.tolist(), strict=True))
        found.append([value[i] for i in order])
    return found


def summarised(rows: Sequence[Row]) -> list[Row]:
    """One row a mode."""
    found = []
    for mode in dict.fromkeys(r["mode"] for r in rows):
        mine = [r for r in rows if r["mode"] == mode]
        told: Row = {"mode": mode, "n": len(mine)}
        told |= {k: summary([r[k] for r in mine]) for k in ("length", "popularity", "lift")}
        sizes = [r["list"] for r in mine]
        told["NDCG@10"] = summary(per_user("NDCG@10", [r["positive"] for r in mine], sizes).tolist())
        told["NDCG@10 by popularity"] = summary(per_user("NDCG@10", [r["popular"] for r in mine], sizes).tolist())
        if mode == "letters":
            table = np.array([p for r in mine for p in r["places"] if len(p) == 20])
            told["logprob by place"] = table.mean(axis=0).tolist()
            told["won by place"] = (np.bincount(table.argmax(axis=1), minlength=20) / len(table)).tolist()
        found.append(told)
    return found


def table(found: Sequence[Row]) -> str:
    """The Markdown table."""
    head = ["mode", "users", "score and title tokens", "score and popularity", "lift of the top 3", "NDCG@10"]
    lines = ["| " + " | ".join(head) + " |", "|:--" + "|--:" * (len(head) - 1) + "|"]
    for r in found:
        cells = [_shown(r[k]) for k in ("length", "popularity", "lift", "NDCG@10")]
        lines.append(f"| {r['mode']} | {r['n']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _shown(told: dict[str, float]) -> str:
    return f"{told['mean']:.2f} [{told['low']:.2f}, {told['high']:.2f}]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing and write the table; 3 where time ran out before all users were measured."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bias", description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, required=True, help="where the results go; FILE.rows keeps the rows")
    parser.add_argument(
        "--modes", default="embedding,fused", help="embedding and fused ask the adapter, others the base"
    )
    parser.add_argument("--users", type=int, default=100, help="a seeded draw of that many")
    parser.add_argument("--base", default="smollm2-135m-instruct")
    parser.add_argument("--adapter", default="adapters/ml-100k")
    parser.add_argument("--data", default="data/ml-100k")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long; run again to go on")
    args = parser.parse_args(arguments)
    kept, until, ended = args.json.with_name(args.json.name + ".rows"), time.monotonic() + args.seconds, True
    rows = rows_of(kept)
    done: set[tuple[str, ...]] = {(r["mode"], r["user"]) for r in rows}
    loaded: dict[str, Recommender] = {}
    with kept.open("w", encoding="utf-8") as out:
        out.writelines(json.dumps(row) + "\n" for row in rows)
        for mode in args.modes.split(","):
            path = args.adapter if mode in ("embedding", "fused") else args.base
            rec = loaded[path] if path in loaded else loaded.setdefault(path, Recommender.load(path, data=args.data))
            for made in measured(rec, mode, args.users, done):
                rows += made
                out.writelines(json.dumps(row) + "\n" for row in made)
                out.flush()
                if ended := time.monotonic() < until:
                    continue
                break
            if not ended:
                break
    found = summarised(rows)
    told = {"machine": measure.machine(torch.device("cpu")), "complete": ended, "results": found}
    args.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    print(table(found))
    return 0 if ended else 3


if __name__ == "__main__":
    sys.exit(main())
