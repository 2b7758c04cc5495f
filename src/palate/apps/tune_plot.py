"""The picture of a study: every trial's value with the best so far, and how much each key mattered."""

from __future__ import annotations

from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from palate.apps.plots import BLUE, GREY, ORANGE, canvas, finish

if TYPE_CHECKING:
    from palate.train.tune.report import Summary


def study_plot(path: str | Path, found: Summary) -> Path:
    """Draw ended trials, trials given up (at their best validation) and the best so far; beside it the importances,
    where there are any. Returns the path; its suffix says the format.
    """
    figure, axis = canvas(8.0 if found.importances else 5.5, 3.6)
    if found.importances:
        axis.remove()
        axis, bars = figure.subplots(1, 2, width_ratios=(3, 2))
        for each in (axis, bars):
            each.spines[["top", "right"]].set_visible(False)
        keys = list(found.importances)[::-1]
        bars.barh(keys, [found.importances[k] for k in keys], color=GREY, height=0.6)
        bars.set_xlabel("importance (share of variance, fANOVA)")
        bars.set_xlim(0, 1)
    ended = [(r.number, r.value) for r in found.rows if r.value is not None]
    given_up = [(r.number, max(r.reported.values())) for r in found.rows if r.state == "given up" and r.reported]
    axis.scatter(*zip(*ended, strict=True), color=BLUE, s=22, label="ended", zorder=3)
    if given_up:
        axis.scatter(*zip(*given_up, strict=True), color=GREY, s=22, marker="x", label="given up", zorder=3)
    best = list(accumulate((value for _, value in ended), max))
    last = max(r.number for r in found.rows)
    steps = [*(number for number, _ in ended), last]
    axis.step(steps, [*best, best[-1]], where="post", color=ORANGE, linewidth=1.5, label="best so far")
    axis.set_xlabel("trial")
    axis.set_ylabel(f"validation {found.metric}")
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(frameon=False, fontsize=8, loc="best")
    caption = f"{len(ended)} trials ended, {len(given_up)} given up; the best of many is luck in part"
    return finish(figure, path, f"Tuning {found.name}", caption)
