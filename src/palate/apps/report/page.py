"""A report as one HTML page: everything is inside, nothing is fetched and nothing runs in it.

Names and titles come from strangers: the template escapes every one. Figures are the only markup taken as it is; they
are drawn here, by a library that escapes what is written into them.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import jinja2
from markupsafe import Markup

from palate.apps.report.parts import Figure, Report


def page(report: Report) -> str:
    """A whole HTML document."""
    return _template().render(report=report)


def _drawn(figure: Figure) -> Markup:
    return Markup(figure.svg)  # noqa: S704 - drawn by matplotlib, which escapes the names in it


@cache
def _template() -> jinja2.Template:
    source = resources.files("palate.apps.report").joinpath("page.html").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["drawn"] = _drawn
    return environment.from_string(source)
