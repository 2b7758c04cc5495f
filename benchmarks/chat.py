"""200 scripted turns with real users: is every answer valid, what does feedback change, how long does it take?

    python -m benchmarks.chat --turns 200 --json FILE

What an answer must satisfy is code in `benchmarks.chat_wishes`, beside each message; nothing is taken from chat's own
parser. A session is five turns of one user: a wish, a refinement or more, feedback on the first item of the last
answer, more, and why or more. Exits with 1 where a check failed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import measure
from benchmarks.chat_wishes import WISHES, Truth
from palate import Recommender
from palate.chat import Answer, Chat
from palate.recommender.shelf import plain

LONG = 50
"""Items of the lists in which the fall of items alike to a disliked one is measured."""
ALIKE = 0.5
"""Jaccard overlap of genres from which items count as alike."""
FEEDBACK = {
    "like": ("I loved {}", "我很喜欢《{}》"),
    "dislike": ("I hated {}", "我讨厌《{}》"),
    "seen": ("I've already seen {}", "我看过《{}》"),
}
LAST = (("why?", "为什么推荐这个？"), ("more", "换一批"), ("what else?", "更多"))


@dataclass
class Tally:
    """What the turns gave: counts by name, times in seconds, and what failed."""

    counts: Counter[str] = field(default_factory=Counter)
    seconds: dict[str, list[float]] = field(
        default_factory=lambda: {"first": [], "full": [], "cpu": [], "why": [], "feedback": []}
    )
    moves: dict[str, list[float]] = field(default_factory=lambda: {"like": [], "dislike": []})
    failed: list[str] = field(default_factory=list)


class Session:
    """One user's conversation, with the script's own record of what was named and what must hold."""

    def __init__(self, rec: Recommender, user: str, tally: Tally) -> None:
        self.rec, self.user, self.tally = rec, user, tally
        self.chat = rec.chat(user=user)
        self.known = {e.item_id for e in rec.dataset.histories.events(user)}
        self.named: set[str] = set()
        self.holds: tuple[Truth, ...] = ()
        self.last: Answer = Answer("")

    def turn(self, text: str) -> Answer:
        """One message, timed and checked."""
        began, processor, first = time.perf_counter(), time.process_time(), 0.0
        for piece in self.chat.stream(text):
            if piece.item is not None and not first:
                first = time.perf_counter() - began
        full = time.perf_counter() - began
        answer = self.chat.last
        assert answer is not None
        kind = "items" if answer.items else "why" if answer.explanation else "words"
        self.tally.counts |= Counter({"turns": self.tally.counts["turns"] + 1, kind: self.tally.counts[kind] + 1})
        if answer.items:
            self.tally.seconds["first"].append(first)
            self.tally.seconds["full"].append(full)
            self.tally.seconds["cpu"].append(time.process_time() - processor)
            self.last = answer
        else:
            self.tally.seconds["why" if answer.explanation else "feedback"].append(full)
        return answer

    def check(self, text: str, answer: Answer) -> None:
        """Everything an answer with items must satisfy; and that there are items where some are left."""
        shelf, twins = self.rec.shelf, {self._thing(i) for i in self.named | self.known if i in self.rec.shelf}
        left = {self._thing(i) for i in shelf if self._meets(i)} - twins
        wanted = min(self.chat.k, len(left))
        self._expect(
            len(answer.items) == wanted, "complete", f"{text!r}: {len(answer.items)} items, {wanted} expected: {answer}"
        )
        for item in answer.items:
            self.tally.counts["named"] += 1
            where = f"{text!r}: {item.title}"
            valid = item.item_id in shelf and shelf[item.item_id].title == item.title and item.title in answer.text
            self._expect(valid, "valid", where)
            self._expect(self._meets(item.item_id), "filters", where)
            self._expect(item.item_id not in self.named, "not repeated", where)
            self._expect(item.item_id not in self.known, "not in history", where)
            self.named.add(item.item_id)

    def feedback(self, kind: str, chinese: bool) -> None:
        """Say something of the first item of the last answer; see what the next list is with and without it."""
        before = self.chat.state()
        item = self.last.items[0]
        text = FEEDBACK[kind][chinese].format(item.title)
        answer = self.turn(text)
        self._expect(item.title in answer.text and not answer.items, "feedback", f"{text!r}: {answer}")
        self._changes(item.item_id, before)

    def _changes(self, item_id: str, before: Mapping[str, Any]) -> None:
        """The next list had they said nothing, liked or disliked an item: how far it changes, short and long."""
        lists = {kind: self._after(kind, item_id, before, LONG) for kind in ("nothing", "like", "dislike")}
        for kind in ("like", "dislike"):
            if len(lists["nothing"]) > self.chat.k:
                self.tally.counts[f"after {kind}"] += 1
                self.tally.counts[f"changed by {kind}"] += lists["nothing"][: self.chat.k] != lists[kind][: self.chat.k]
            self.tally.counts[f"reordered by {kind}"] += lists["nothing"] != lists[kind]
            both = set(lists["nothing"]) & set(lists[kind])
            old, new = ({i: n for n, i in enumerate(i for i in lists[k] if i in both)} for k in ("nothing", kind))
            alike = [i for i in both if self._overlap(i, item_id) >= ALIKE]
            if alike and len(alike) < len(both):
                self.tally.moves[kind].append(float(np.mean([new[i] - old[i] for i in alike])))

    def _after(self, kind: str, item_id: str, before: Mapping[str, Any], k: int) -> list[str]:
        chat = Chat.restore(self.rec, before)
        chat.k = k
        if kind != "nothing":
            (chat.like if kind == "like" else chat.dislike)(item_id)
        return [i.item_id for i in chat.more().items if i.item_id != item_id]

    def _overlap(self, a: str, b: str) -> float:
        one, other = ({*self.rec.shelf[i].text["genres"].split()} for i in (a, b))
        return len(one & other) / max(1, len(one | other))

    def _meets(self, item_id: str) -> bool:
        return all(test(self.rec.shelf[item_id]) for test in self.holds)

    def _thing(self, item_id: str) -> tuple[str, str]:
        """Catalogues hold some things twice."""
        item = self.rec.shelf[item_id]
        return plain(item.title), item.text.get("year", "")

    def _expect(self, holds: bool, check: str, where: str) -> None:
        self.tally.counts[f"{check}: asked"] += 1
        if not holds:
            self.tally.counts[f"{check}: failed"] += 1
            self.tally.failed.append(f"user {self.user}, {check}: {where}")


def session(rec: Recommender, user: str, number: int, tally: Tally, mode: str | None = None) -> None:
    """Five turns. `number` chooses the wish, the feedback and the last turn."""
    wish = WISHES[number % len(WISHES)]
    kind = list(FEEDBACK)[number % len(FEEDBACK)]
    talk = Session(rec, user, tally)
    talk.chat.mode = mode
    example = {i for title in ("Alien", "Toy Story") if title in wish.text for i in rec.shelf.titles[plain(title)]}
    talk.named |= example
    talk.holds = wish.holds
    talk.check(wish.text, talk.turn(wish.text))
    talk.holds += wish.adds
    talk.check(wish.then, talk.turn(wish.then))
    if talk.last.items:
        talk.feedback(kind, wish.chinese)
    more = LAST[1][wish.chinese]
    talk.check(more, talk.turn(more))
    last = LAST[number % len(LAST)][wish.chinese]
    answer = talk.turn(last)
    if number % len(LAST):
        talk.check(last, answer)
    else:
        talk._expect(answer.explanation is not None, "why", f"{last!r}: {answer}")


def report(tally: Tally, users: int, flags: argparse.Namespace, cold: float) -> dict[str, Any]:
    """All numbers as plain data."""
    c = tally.counts
    checks = {k.removesuffix(": asked"): {"asked": n, "failed": c[f"{k.removesuffix(': asked')}: failed"]}
              for k, n in c.items() if k.endswith(": asked")}  # fmt: skip
    times = {
        name: {"median_ms": 1000 * statistics.median(s), "p95_ms": 1000 * float(np.quantile(s, 0.95)), "n": len(s)}
        for name, s in tally.seconds.items()
        if s
    }
    feedback = {
        kind: {
            "turns": c[f"after {kind}"],
            "changed": c[f"changed by {kind}"],
            "lists_with_alike": len(moves),
            "alike_rise": sum(m < 0 for m in moves),
            "alike_fall": sum(m > 0 for m in moves),
            "mean_places": float(np.mean(moves or [0.0])),
        }
        for kind, moves in tally.moves.items()
    }
    return {
        "turns": c["turns"], "users": users, "answers_with_items": c["items"], "items_named": c["named"],
        "checks": checks, "feedback": feedback,
        "times": times, "cold_first_answer_ms": 1000 * cold, "mode": flags.mode, "failed": tally.failed,
    }  # fmt: skip


def show(found: Mapping[str, Any]) -> None:
    lines = [
        f"{found['turns']} turns, {found['users']} users, {found['answers_with_items']} answers with "
        f"{found['items_named']} items",
        *(f"  {n:<15} {c['asked'] - c['failed']} of {c['asked']}" for n, c in found["checks"].items()),
        *(
            f"  a {n} changes the next five in {f['changed']} of {f['turns']}; alike items rise in {f['alike_rise']}, "
            f"fall in {f['alike_fall']} of {f['lists_with_alike']} lists of {LONG}, by {f['mean_places']:+.1f} places"
            for n, f in found["feedback"].items()
        ),
        *(
            f"  {n:<9} median {t['median_ms']:.0f} ms, P95 {t['p95_ms']:.0f} ms (n = {t['n']})"
            for n, t in found["times"].items()
        ),
        f"  the first answer of the process: {found['cold_first_answer_ms']:.0f} ms",
        *(f"  FAILED {text}" for text in found["failed"][:20]),
    ]
    sys.stdout.write("\n".join(lines) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", "-a", default=str(measure.ROOT / "adapters" / "ml-100k"))
    parser.add_argument("--data", default=None)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--mode", default=None, help="scoring mode; by default the recommender's own")
    parser.add_argument("--json", type=Path, default=None)
    flags = parser.parse_args()
    rec = Recommender.load(flags.adapter, data=flags.data)
    if flags.mode:
        rec.mode(flags.mode)  # a misspelt one is refused before the first turn
    users = np.random.default_rng(flags.seed).permutation(list(rec.dataset.histories.interactions.user_ids))
    began = time.perf_counter()
    rec.chat(user=str(users[0])).ask("a comedy about friendship")
    cold = time.perf_counter() - began
    tally, number = Tally(), 0
    while tally.counts["turns"] < flags.turns:
        session(rec, str(users[number % len(users)]), number, tally, flags.mode)
        number += 1
    found = report(tally, min(number, len(users)), flags, cold)
    show(found)
    if flags.json:
        flags.json.write_text(json.dumps(found, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    return 1 if found["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
