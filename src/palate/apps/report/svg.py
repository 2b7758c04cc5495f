"""Matplotlib figures as SVG markup for a page: text stays text, colours follow the page's light or dark.

A figure is drawn with stand-in colours; in the markup they become CSS variables of the page. Names inside the markup
get the figure's own prefix, as several figures share one page.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

INK, FAINT, LINE, CARD = "#010203", "#040506", "#070809", "#08090b"
SERIES = tuple(f"#0a0b{n:02x}" for n in range(1, 9))
"""Stand-in colours of the systems; the page's --s1 to --s8."""
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
WIDTH = 4.2
"""Inches; 403 pixels, so that a phone shows a figure nearly at its size."""
_STAND_INS = {INK: "var(--ink)", FAINT: "var(--faint)", LINE: "var(--line)", CARD: "var(--card)"} | {
    colour: f"var(--s{n})" for n, colour in enumerate(SERIES, 1)
}


def style(n: int) -> dict[str, Any]:
    """How series number n looks: colour, dashes and marker, so that no two differ in colour alone."""
    return {
        "color": SERIES[n % len(SERIES)],
        "linestyle": DASHES[n % len(DASHES)],
        "marker": MARKERS[n % len(MARKERS)],
    }


def plain(text: str, longest: int = 44) -> str:
    """A name as matplotlib writes it letter by letter: on one line, cut, with no mathematics in it."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split()) or "(no name)"
    return (line if len(line) <= longest else line[: longest - 1] + "…").replace("$", r"\$")


def canvas(height: float) -> tuple[Any, Any]:
    """A figure with one axis in the page's colours. height: inches."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    figure.patch.set_alpha(0)
    axis = figure.add_subplot()
    axis.patch.set_alpha(0)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(FAINT)
    axis.tick_params(colors=FAINT, labelcolor=INK, labelsize=9)
    axis.xaxis.label.set_color(INK)
    axis.yaxis.label.set_color(INK)
    axis.grid(color=LINE, linewidth=0.8)
    axis.set_axisbelow(True)
    return figure, axis


def legend(figure: Any, names: Sequence[str], handles: Sequence[Any]) -> None:
    """The series' names below the axis, one a line."""
    shown = [plain(name) for name in names]
    columns = 1 if max(map(len, shown)) > 22 else 2
    figure.legend(
        handles, shown, loc="outside lower left", frameon=False, fontsize=9, labelcolor=INK, ncols=columns,
        handlelength=3.2,
    )  # fmt: skip


def markup(figure: Any, name: str) -> str:
    """The figure as an <svg> element. name: letters, its own on the page."""
    import matplotlib as mpl

    data = io.StringIO()
    # a salt makes the names that matplotlib gives to clip paths the same on every run
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(data, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    return _inline(data.getvalue(), name)


def _inline(text: str, name: str) -> str:
    """An SVG document as an element of a page: no prologue, no names but its own, the page's colours and fonts."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    start, rest = text.split(">", 1)
    box = re.search(r'viewBox="([^"]*)"', start)
    size = " ".join(["0 0 1 1"] if box is None else [box[1]])
    rest = re.sub(r"<!--.*?-->", "", rest, flags=re.DOTALL)
    rest = re.sub(r'\bid="([^"]*)"', rf'id="{name}-\1"', rest)
    rest = re.sub(r'(?:xlink:)?href="#([^"]*)"', rf'href="#{name}-\1"', rest)
    rest = re.sub(r"url\(#([^)]*)\)", rf"url(#{name}-\1)", rest)
    rest = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", rest)
    rest = re.sub(r"\s*<style type=\"text/css\">[^<]*</style>", "", rest)
    for stand_in, colour in _STAND_INS.items():
        rest = rest.replace(stand_in, colour)
    wide = size.split()[2]
    return f'<svg viewBox="{size}" style="max-width:{float(wide) * 4 / 3:.0f}px" aria-hidden="true">{rest.strip()}'
