"""What privacy costs, and what it is worth: NDCG@10 against epsilon, and how well an attacker tells who was trained on.

    python -m benchmarks.privacy ADAPTER ... --data data/ml-100k --json FILE --picture FILE.png

Adapters must be trained with `train.protocol=cold-users:share=...`, so that some users of the same data were left out
whole. The attack (Yeom et al., 2018): a user whose events an adapter foretells well was trained on. Its score is the
mean log-probability of the user's events but the last two, every one given those before it; a harder one takes off that
of `--reference`, an adapter that cannot know single users, since some are easier for any model (Watson et al., 2022).

    python -m benchmarks.privacy ADAPTER --events --data data/ml-100k

is for an adapter that has seen all users, whose last two events each were left out: how much better the events it was
trained on are foretold than the two that follow, at the same distance from each other within the training part.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score, roc_curve

from benchmarks import measure
from palate import Recommender, prompting
from palate.apps import plots
from palate.data.coldusers import held_out_users
from palate.errors import ConfigError
from palate.evaluate import protocol
from palate.evaluate.baselines import RecommenderSystem, baseline
from palate.evaluate.run import evaluate
from palate.schema import Interactions
from palate.train.collate import Position, collate
from palate.train.task import Material
from palate.train.tasks import Embedding

SEED = 1
DRAWS = 2000
FALSE_ALARMS = 0.05


# --- log-probabilities ----------------------------------------------------------------------------------


@torch.no_grad()
def foretold(rec: Recommender, events: Interactions) -> np.ndarray:
    """Log-probability of every event among the whole catalogue, given the user's events before it: float64 [nnz].

    Long histories are read in the windows that training reads; an event of two windows has the mean. NaN for what no
    window asks about.
    """
    template = prompting.chosen("sequence", rec.serializer.config)
    material = Material(events, rec.serializer, {"embedding": template}, rec.serializer.config)
    task = Embedding(material)
    items = rec.model.item_vectors()
    sums, counts = np.zeros(len(events.items)), np.zeros(len(events.items))
    for number in range(task.pool):
        batch = collate([task.example(number, np.random.default_rng([SEED, number]))], ("embedding",), Position())
        rows = rec.model(batch.pack)[torch.as_tensor(batch.reads)]
        logp = (rec.model.queries(rows) @ items.T).log_softmax(1)
        found = logp.gather(1, torch.as_tensor(batch.targets)[:, None])[:, 0].double().cpu().numpy()
        np.add.at(sums, batch.events, found)
        np.add.at(counts, batch.events, 1)
    return np.divide(sums, counts, out=np.full(len(sums), np.nan), where=counts > 0)


def by_user(values: np.ndarray, events: Interactions) -> np.ndarray:
    """Mean over each user's events: float64 [U], NaN for a user without."""
    known = np.isfinite(values)
    sums = np.bincount(events.users[known], values[known], minlength=len(events))
    counts = np.bincount(events.users[known], minlength=len(events))
    return np.divide(sums, counts, out=np.full(len(events), np.nan), where=counts > 0)


# --- attacks --------------------------------------------------------------------------------------------


def attacked(scores: np.ndarray, members: np.ndarray) -> dict[str, Any]:
    """AUC of telling members by their scores, with a 95% bootstrap interval, and hits at few false alarms."""
    rng = np.random.default_rng(SEED)
    drawn = []
    groups = [np.flatnonzero(members), np.flatnonzero(~members)]
    for _ in range(DRAWS):
        at = np.concatenate([rng.choice(g, len(g)) for g in groups])
        drawn.append(roc_auc_score(members[at], scores[at]))
    false, true, _ = roc_curve(members, scores)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return {
        "auc": float(roc_auc_score(members, scores)),
        "low": float(low),
        "high": float(high),
        "members": int(members.sum()),
        "others": int((~members).sum()),
        "hits at 5% false alarms": float(true[np.searchsorted(false, FALSE_ALARMS, side="right") - 1]),
    }


def left_out(rec: Recommender, user_ids: Sequence[str]) -> np.ndarray:
    """bool [U]: users the adapter was not trained on. ConfigError where it was trained on all."""
    told = rec.meta["training"].get("held_out_users")
    if told is None:
        raise ConfigError(
            f"{rec.meta['name']}: expected an adapter trained with train.protocol=cold-users:share=..., this one was "
            "trained on all users; ask about events with --events"
        )
    mask = np.zeros(len(user_ids), dtype=bool)
    mask[held_out_users(user_ids, told["share"], told["seed"])] = True
    return mask


def measured(path: str, data: str, reference: Mapping[str, np.ndarray] | None) -> dict[str, Any]:
    """One adapter: utility, epsilon and both attacks."""
    rec = Recommender.load(path, data=data)
    events = rec.dataset.histories.interactions
    shown = protocol("loo-full").split(events).train  # all but the last two, of those left out too
    out = left_out(rec, events.user_ids)
    score = by_user(foretold(rec, shown), shown)
    result = evaluate(rec.dataset, [RecommenderSystem(rec, rec.dataset, "embedding", "adapter")], protocol("loo-full"))
    ndcg = result.values("adapter", "NDCG@10")
    told = {
        "adapter": rec.meta["name"],
        "privacy": rec.meta["training"].get("privacy"),
        "steps": rec.meta["training"]["steps"],
        "NDCG@10": _mean(ndcg),
        "NDCG@10 of users left out": _mean(ndcg[out[[events.user_index[u] for u in result.user_ids]]]),
        "attack": attacked(score, ~out),
        "scores": dict(zip(events.user_ids, score.tolist(), strict=True)),
    }
    if reference is not None:
        easy = np.array([reference[u] for u in events.user_ids])
        told["attack with reference"] = attacked(score - easy, ~out)
    return told


def _mean(values: np.ndarray) -> dict[str, float]:
    rng = np.random.default_rng(SEED)
    means = values[rng.integers(0, len(values), (DRAWS, len(values)))].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"value": float(values.mean()), "low": float(low), "high": float(high), "n": len(values)}


# --- an adapter that has seen all users -----------------------------------------------------------------


def event_attack(path: str, data: str) -> dict[str, Any]:
    """Pairs of events of one user: one of the training part, one of the two held out. How often is the former foretold
    better? And the same for two pairs within the training part, as far apart: what time alone does.
    """
    rec = Recommender.load(path, data=data)
    events = rec.dataset.histories.interactions
    values = foretold(rec, events)
    pairs: dict[str, list[tuple[float, float]]] = {"trained on, held out": [], "both trained on": []}
    for user in range(len(events)):
        mine = values[events.indptr[user] : events.indptr[user + 1]]
        if len(mine) < 8:
            continue
        pairs["trained on, held out"] += [(mine[-4], mine[-2]), (mine[-3], mine[-1])]
        pairs["both trained on"] += [(mine[-6], mine[-4]), (mine[-5], mine[-3])]
    found: dict[str, Any] = {"adapter": rec.meta["name"]}
    for name, told in pairs.items():
        a, b = np.array(told).T
        won = ((a > b) + 0.5 * (a == b)).reshape(-1, 2).mean(axis=1)  # two pairs of a user are one observation
        found[name] = {"won": _mean(won), "difference": _mean((a - b).reshape(-1, 2).mean(axis=1))}
    return found


# --- telling --------------------------------------------------------------------------------------------


def epsilon(row: Mapping[str, Any]) -> float:
    """Of a measured adapter; infinite without privacy."""
    return float(row["privacy"]["epsilon"]) if row["privacy"] else float("inf")


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The Markdown table."""
    lines = [
        "| epsilon | noise | NDCG@10, all users | users left out | AUC of the attack | with a reference "
        "| hits at 5% false alarms |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in rows:
        told, hard = r["attack"], r.get("attack with reference")
        lines.append(
            f"| {epsilon(r):.1f} | {r['privacy']['noise'] if r['privacy'] else 0:.2f} | {_cell(r['NDCG@10'])} | "
            f"{_cell(r['NDCG@10 of users left out'])} | {told['auc']:.3f} [{told['low']:.3f}, {told['high']:.3f}] | "
            + (f"{hard['auc']:.3f} [{hard['low']:.3f}, {hard['high']:.3f}]" if hard else "")
            + f" | {100 * (hard or told)['hits at 5% false alarms']:.1f}% |"
        )
    return "\n".join(lines)


def _cell(told: Mapping[str, float]) -> str:
    return f"{told['value']:.3f} [{told['low']:.3f}, {told['high']:.3f}]"


def picture(path: Path, rows: Sequence[Mapping[str, Any]], floor: Mapping[str, Any]) -> Path:
    """Two panels over epsilon: NDCG@10 with its interval, and the attack's AUC; without privacy at the right end."""
    figure, whole = plots.canvas(10, 4.2)
    whole.remove()
    left, right = figure.subplots(1, 2)
    ends = 3 * max(epsilon(r) for r in rows if np.isfinite(epsilon(r)))
    places = {id(r): epsilon(r) if np.isfinite(epsilon(r)) else ends for r in rows}

    def drawn(axis: Any, column: str, key: str, colour: str, label: str) -> None:
        known = [r for r in rows if column in r]
        middle = np.array([r[column][key] for r in known])
        spread = np.abs(np.array([[r[column]["low"], r[column]["high"]] for r in known]).T - middle)
        at = [places[id(r)] for r in known]
        axis.errorbar(at, middle, yerr=spread, fmt="o-", color=colour, capsize=3, label=label)

    drawn(left, "NDCG@10", "value", plots.BLUE, "adapter")
    left.axhline(floor["value"], color=plots.GREY, linestyle="--", label="popularity, not private")
    left.set_ylabel("NDCG@10")
    left.set_ylim(0)
    drawn(right, "attack", "auc", plots.ORANGE, "by how well events are foretold")
    drawn(right, "attack with reference", "auc", plots.GREEN, "against a reference")
    right.axhline(0.5, color=plots.GREY, linestyle="--", label="guessing")
    right.set_ylabel("AUC of telling who was trained on")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_xscale("log")
        names = [f"{epsilon(r):.0f}" if np.isfinite(epsilon(r)) else "no privacy" for r in rows]
        axis.set_xticks(list(places.values()), names)
        axis.minorticks_off()
        axis.set_xlabel("epsilon for a user")
        axis.legend(frameon=False, fontsize=8)
    told = rows[0]["attack"]
    return plots.finish(
        figure,
        path,
        "What privacy costs, and what it is worth",
        f"MovieLens-100K, loo-full, test items, n = {rows[0]['NDCG@10']['n']}; {told['members']} users trained on, "
        f"{told['others']} left out; one run each; bars are 95% bootstrap intervals",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the adapters, print the table, write numbers and picture."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.privacy", description=__doc__.split("\n")[0])
    parser.add_argument("adapters", nargs="+")
    parser.add_argument("--data", default="data/ml-100k")
    parser.add_argument("--reference", help="an adapter that cannot know single users (the smallest epsilon)")
    parser.add_argument("--events", action="store_true", help="adapters that have seen all users: compare events")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    args = parser.parse_args(arguments)
    if args.events:
        print(json.dumps([event_attack(a, args.data) for a in args.adapters], indent=1))
        return 0
    known = measured(args.reference, args.data, None) if args.reference else None
    reference = known["scores"] if known else None
    rows = []
    for path in args.adapters:
        rows.append(known if known and path == args.reference else measured(path, args.data, reference))
        print(f"{path}: {_cell(rows[-1]['NDCG@10'])}, attack {rows[-1]['attack']['auc']:.3f}", flush=True)
    rows.sort(key=epsilon)
    rec = Recommender.load(args.adapters[0], data=args.data)
    rules = protocol("loo-full")
    popular = baseline("popularity", rules.split(rec.dataset.histories.interactions).train, {})
    floor = _mean(evaluate(rec.dataset, [popular], rules).values("popularity", "NDCG@10"))
    print(table(rows) + f"\npopularity: {_cell(floor)}")
    told = {"machine": measure.machine(torch.device("cpu")), "popularity": floor, "adapters": rows}
    for row in rows:
        del row["scores"]
    if args.json:
        args.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    if args.picture:
        picture(args.picture, rows, floor)
    return 0


if __name__ == "__main__":
    sys.exit(main())
