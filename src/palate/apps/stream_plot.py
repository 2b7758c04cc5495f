"""The picture of a replayed stream: quality over slices, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from palate.apps.plots import BLUE, GREEN, GREY, ORANGE, canvas, finish

if TYPE_CHECKING:
    from palate.evaluate.stream import StreamResult

STYLES = ("-", "--", ":", "-.")
SPREAD = 0.06
"""How far apart, in slices, the intervals of two arms stand."""


def over_time(path: str | Path, result: StreamResult, metric: str = "NDCG@10", group: str = "all") -> Path:
    """Draw one metric of every arm over the slices; whiskers are 95% intervals over users. Arms of one system share a
    colour. Returns the path; its suffix says the format.
    """
    from palate.evaluate.stream_report import day

    figure, axis = canvas(8.0, 4.2)
    systems = list(dict.fromkeys(arm.split(",")[0] for arm in result.arms))
    colours = dict(zip(systems, (BLUE, GREY, ORANGE, GREEN), strict=False))
    shown = []
    for place, arm in enumerate(result.arms):
        system = arm.split(",")[0]
        mine = [a for a in result.arms if a.split(",")[0] == system]
        found = [(n, result.value(arm, metric, group, n)) for n in range(len(result.slices))]
        shown += [f for _, f in found if f is not None]
        points = [(n + 1 + SPREAD * (place - len(result.arms) / 2), f) for n, f in found if f is not None]
        axis.errorbar(
            [x for x, _ in points],
            [f.value for _, f in points],
            yerr=[[f.value - f.low for _, f in points], [f.high - f.value for _, f in points]],
            color=colours.get(system, GREY),
            linestyle=STYLES[(len(mine) - 1 - mine.index(arm)) % len(STYLES)],
            marker="o",
            markersize=4,
            linewidth=1.6,
            elinewidth=0.8,
            label=arm,
        )
    axis.set_xticks(range(1, len(result.slices) + 1), [f"{n}\n{day(s.start)}" for n, s in enumerate(result.slices, 1)])
    axis.set_xlabel("slice of the stream, and when it begins")
    axis.set_ylabel(metric)
    axis.set_ylim(0, max(f.high for f in shown) * 1.4)  # room for the legend
    axis.legend(frameon=False, fontsize=7, ncols=2)
    asked = sum(len(s.users) for s in result.slices)
    caption = (
        f"{asked:,} questions, {group} users, seed {result.seed}; each item ranked among all its user had not chosen; "
        "whiskers: 95% bootstrap intervals over users"
    )
    return finish(figure, path, f"{result.dataset} replayed: {metric} over time", caption)
