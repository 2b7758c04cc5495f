"""The drawings of a report: intervals, curves over k, slices, and the course of a training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from palate.apps.plots import smooth
from palate.apps.report import svg
from palate.apps.report.columns import Column
from palate.apps.report.parts import Cell, Figure, Part, Table
from palate.apps.report.slicing import Sliced
from palate.errors import DataError

MOST = 8
"""Systems drawn in one figure; a table shows all."""
LONG = (1, 2, 3, 5, 10, 20, 50, 100)
SHORT = (1, 2, 3, 5, 10, 15, 20)
METRICS_FILE = "metrics.jsonl"


def names(column: Column) -> list[str]:
    return list(column.runs)[:MOST]


def intervals(column: Column, name: str) -> Figure:
    """The headline metric of every system, with its interval; a line for a random order."""
    metric = column.metrics[0]
    found = [(n, v) for n in column.runs if (v := column.value(n, metric)) is not None]
    figure, axis = svg.canvas(0.9 + 0.42 * len(found))
    for row, (system, v) in enumerate(found):
        look = svg.style(row)
        if v.low is not None and v.high is not None:
            axis.plot([v.low, v.high], [row, row], color=look["color"], linewidth=2, solid_capstyle="butt")
        axis.plot(v.value, row, marker=look["marker"], color=look["color"], markersize=7)
        axis.annotate(svg.plain(system, 52), (0, row), (2, 7), xycoords=("axes fraction", "data"),
                      textcoords="offset points", color=svg.INK, fontsize=9,
                      bbox={"boxstyle": "square,pad=0.1", "facecolor": svg.CARD, "edgecolor": "none"})  # fmt: skip
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
    axis.set_ylim(len(found) - 0.5, -0.75)
    axis.set_xlim(0, max(v.high or v.value for _, v in found) * 1.05 or 1)
    axis.set_xlabel(f"{metric}, {svg.plain(column.label)}", fontsize=9)
    chance = column.first.at_random.get(metric)
    if chance is not None:
        axis.axvline(chance, color=svg.FAINT, linewidth=1, linestyle=(0, (2, 2)))
    told = "; ".join(f"{n} {v.value:.3f} {v.interval}".strip() for n, v in found)
    line = "" if chance is None else f" The dashed line: a random order, {chance:.3f}."
    return Figure(
        svg.markup(figure, name), f"{metric} under {column.label}: {told}.", f"Means and 95% intervals.{line}"
    )


def curves(column: Column, kind: str, name: str) -> list[Part]:
    """HR@k or NDCG@k over k, and the same as a table; nothing where ranks are missing."""
    ks = LONG if column.full else SHORT
    rows = {}
    for system in names(column):
        means = [column.values(system, f"{kind}@{k}") for k in ks]
        if all(m is not None for m in means):
            rows[system] = [float(m.mean()) for m in means if m is not None]
    if not rows:
        return []
    figure, axis = svg.canvas(2.9 + 0.2 * len(rows))
    lines = [axis.plot(ks, row, linewidth=1.8, markersize=4, **svg.style(n))[0] for n, row in enumerate(rows.values())]
    if column.full:
        axis.set_xscale("log")
    axis.set_xticks(ks, [str(k) for k in ks])
    axis.minorticks_off()
    axis.set_ylim(0)
    axis.set_xlabel("k", fontsize=9)
    axis.set_ylabel(f"{kind}@k, {svg.plain(column.label)}", fontsize=9)
    svg.legend(figure, list(rows), lines)
    alt = f"{kind}@k over k under {column.label}, {len(rows)} systems; the numbers are in the table below."
    left_out = len(column.runs) - len(rows)
    caption = f"{kind}@k, means over users." + (f" Not drawn: {left_out} systems more." if left_out else "")
    cells = [(system, [Cell(f"{v:.3f}") for v in row]) for system, row in rows.items()]
    table = Table(f"{kind}@k, {column.label}", ["system", *[f"k = {k}" for k in ks]], cells, folded=True)
    return [Figure(svg.markup(figure, name), alt, caption), table]


def slices(found: Sliced, name: str) -> Figure | None:
    """The metric over slices, systems side by side; None where ranks are missing."""
    shown = dict(list(found.known.items())[:MOST])
    if not shown:
        return None
    figure, axis = svg.canvas(3.0 + 0.2 * len(shown))
    handles = []
    for n, row in enumerate(shown.values()):
        look = svg.style(n)
        at = np.arange(len(row)) + (n - (len(shown) - 1) / 2) * min(0.12, 0.7 / len(shown))
        axis.vlines(at, [i.low for i in row], [i.high for i in row], color=look["color"], linewidth=1.6)
        points = axis.plot(
            at, [i.value for i in row], linestyle="", marker=look["marker"], color=look["color"], markersize=5
        )
        handles.append(points[0])
    labels = [f"{svg.plain(p.name.split(' (')[0], 14)}\nn = {p.n:,}" for p in found.slices]
    axis.set_xticks(range(len(labels)), labels)
    axis.grid(visible=False, axis="x")
    axis.set_ylim(0)
    axis.set_ylabel(f"{found.metric}, {svg.plain(found.column.label)}", fontsize=9)
    svg.legend(figure, list(shown), handles)
    alt = f"{found.metric} by {found.by} under {found.column.label}; the numbers are in the table below."
    return Figure(svg.markup(figure, name), alt, f"By {found.by}; means and 95% intervals.")


def training(run: Path, name: str) -> list[Figure]:
    """Loss and validation of a run folder, from its metrics.jsonl."""
    losses, scores = _journal(run)
    if not losses:
        raise DataError(
            f"{run / METRICS_FILE}: expected one step with a loss or more, got none; has it trained a step?"
        )
    figure, axis = svg.canvas(2.7)
    steps, values = [s for s, _ in losses], [v for _, v in losses]
    axis.plot(steps, values, color=svg.FAINT, linewidth=0.8, alpha=0.5)
    axis.plot(steps, smooth(values), color=svg.SERIES[0], linewidth=1.8)
    axis.set_xlabel("optimizer step", fontsize=9)
    axis.set_ylabel("training loss (nats)", fontsize=9)
    alt = f"Training loss of {run.name}: {values[0]:.3f} at the first step, {values[-1]:.3f} at step {steps[-1]:,g}."
    found = [Figure(svg.markup(figure, f"{name}-loss"), alt, f"{run.name}: loss of each step, and smoothed.")]
    if scores:
        figure, axis = svg.canvas(2.7 + 0.2 * len(scores))
        lines = [
            axis.plot(*zip(*row, strict=True), linewidth=1.8, **svg.style(n))[0]
            for n, row in enumerate(scores.values())
        ]
        axis.set_xlabel("optimizer step", fontsize=9)
        axis.set_ylim(0)
        svg.legend(figure, list(scores), lines)
        told = "; ".join(f"{m}: best {max(v for _, v in row):.3f}, last {row[-1][1]:.3f}" for m, row in scores.items())
        found.append(
            Figure(svg.markup(figure, f"{name}-valid"), f"Validation of {run.name}. {told}.", "On validation items.")
        )
    return found


Points = list[tuple[float, float]]


def _journal(run: Path) -> tuple[Points, dict[str, Points]]:
    """(step, loss) pairs, and by metric (step, value) pairs of validations. DataError names a line it cannot read."""
    path = run / METRICS_FILE
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise DataError(f"--run: expected a run folder with {METRICS_FILE}, got {str(run)!r}") from None
    losses: Points = []
    scores: dict[str, Points] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            step = float(row["step"])
            if "loss" in row:
                losses.append((step, float(row["loss"])))
            for key in row:
                if key.startswith("valid/"):
                    scores.setdefault(key.removeprefix("valid/"), []).append((step, float(row[key])))
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"{path}, line {number}: expected a step of a training as JSON, got {line[:60]!r} ({error})"
            ) from None
    return losses, scores
