"""Two small pictures for the demo and the notebooks: a learning curve and systems side by side.

Colours are Okabe and Ito's (2008), safe for colour-blind readers. Figures are built without pyplot, so
nothing global is touched and no display is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palate.errors import DataError

if TYPE_CHECKING:
    from palate.evaluate import Result

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#5F6B75"


def canvas(width: float, height: float) -> tuple[Any, Any]:
    """A figure with one clean axis."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.add_subplot()
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#D9DEE3", linewidth=0.6)
    axis.set_axisbelow(True)
    return figure, axis


def finish(figure: Any, path: str | Path, title: str, caption: str) -> Path:
    from textwrap import fill

    figure.suptitle(title, x=0.02, ha="left", fontsize=12, fontweight="bold")
    if caption:
        wide = int(figure.get_figwidth() * 16)
        figure.supxlabel(fill(caption, wide), x=0.02, ha="left", fontsize=8, color=GREY)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    return path


def smooth(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """Exponential moving average with the start's bias removed (Kingma and Ba, 2015)."""
    total, out = 0.0, []
    for n, value in enumerate(values, 1):
        total = weight * total + (1 - weight) * value
        out.append(total / (1 - weight**n))
    return out


def learning_curve(
    path: str | Path,
    losses: Sequence[tuple[float, float]],
    validation: Sequence[tuple[float, float]] = (),
    *,
    title: str = "Training",
    loss_label: str = "training loss (nats)",
    validation_label: str = "validation NDCG@10",
    caption: str = "",
) -> Path:
    """Draw training loss, raw and smoothed, with validation scores on their own axis. Returns the PNG's path.

    losses, validation: (optimizer step, value) pairs in step order. caption: a line with n, seed and data.
    Raises DataError where there is no loss to draw.
    """
    if not losses:
        raise DataError("expected one (step, loss) pair or more to draw, got none; has training logged a step?")
    figure, axis = canvas(7.0, 3.8)
    steps, values = [s for s, _ in losses], [v for _, v in losses]
    axis.plot(steps, values, color=BLUE, alpha=0.25, linewidth=1)
    lines = axis.plot(steps, smooth(values), color=BLUE, linewidth=2, label=f"{loss_label}, smoothed")
    axis.set_xlabel("optimizer step")
    axis.set_ylabel(loss_label, color=BLUE)
    if validation:
        right = axis.twinx()
        right.spines[["top"]].set_visible(False)
        points, scores = [s for s, _ in validation], [v for _, v in validation]
        lines += right.plot(points, scores, color=ORANGE, marker="o", markersize=5, linewidth=2, label=validation_label)
        right.set_ylabel(validation_label, color=ORANGE)
        right.set_ylim(0, max(*scores, 1e-9) * 1.25)
    axis.legend(handles=lines, loc="upper center", ncols=len(lines), frameon=False, fontsize=9)
    axis.margins(y=0.2)
    return finish(figure, path, title, caption)


def system_bars(path: str | Path, result: Result, metric: str | None = None, title: str | None = None) -> Path:
    """Draw one metric of every system as horizontal bars with 95% intervals. Returns the PNG's path.

    metric: one of the protocol's, by default its headline. The first system is highlighted; for lists of
    fixed length a dashed line shows what chance gets at HR@k.
    """
    metric = metric or result.protocol.metrics[0]
    rows = [(s.name, s.metrics[metric]) for s in result.systems]
    figure, axis = canvas(7.0, 1.6 + 0.5 * len(rows))
    axis.grid(visible=False, axis="y")
    axis.grid(visible=True, axis="x", color="#D9DEE3", linewidth=0.6)
    for n, (_, found) in enumerate(rows):
        axis.barh(n, found.value, height=0.6, color=BLUE if n == 0 else GREY, alpha=1.0 if n == 0 else 0.75)
        reach = [[max(0.0, found.value - found.low)], [max(0.0, found.high - found.value)]]
        axis.errorbar(found.value, n, xerr=reach, color="black", capsize=4, linewidth=1.2)
        axis.annotate(f"{found.value:.3f}", (found.high, n), (8, 0), textcoords="offset points", va="center")
    axis.set_yticks(range(len(rows)), [name for name, _ in rows])
    axis.invert_yaxis()
    axis.set_xlim(0, max(max(i.high for _, i in rows) * 1.15, 1e-9))
    axis.set_xlabel(f"{metric} (higher is better, 1 is perfect)")
    if result.protocol.negatives and metric.startswith("HR@"):
        chance = int(metric[3:]) / (result.protocol.negatives + 1)
        axis.axvline(chance, color=ORANGE, linestyle="--", linewidth=1.2)
        axis.annotate("chance", (chance, -0.42), (3, 0), textcoords="offset points", color=ORANGE, fontsize=8)
    caption = (
        f"{result.protocol.label}, n = {result.n:,} users, seed {result.seed}; bars: means, "
        "whiskers: 95% bootstrap intervals over users"
    )
    return finish(figure, path, title or f"{metric} on {result.dataset}", caption)
