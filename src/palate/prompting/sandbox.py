"""The Jinja that templates are written in: text made of values, and nothing that its length does not bound.

Names, attributes, subscripts, constants, comparisons, arithmetic on numbers, `~`, `{% if %}`, `{% for %}` and the
filters and methods listed here. Macros, `set`, `with`, `include` and the like are refused: a template that can name its
own results can double them sixty times.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import filters, nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_SOURCE = 20_000
"""Characters of a piece."""
MAX_DEPTH = 50
"""How deep tags and brackets may be nested, and operators and filters chained."""
MAX_TURNS = 100_000
"""Turns that all loops of a piece take together, each time it is filled."""
MAX_TEXT = 2_000_000
"""Characters that come out of a piece, or of one filter."""
METHODS = frozenset(
    {"items", "keys", "values", "get", "upper", "lower", "strip", "split", "startswith", "endswith", "cycle"}
)
"""What may be called, as in `profile.items()`."""
FILTERS = (
    "capitalize", "count", "d", "default", "first", "float", "int", "last", "length", "list", "lower", "map", "reject",
    "rejectattr", "reverse", "select", "selectattr", "sort", "string", "title", "trim", "truncate", "unique", "upper",
)  # fmt: skip
ALLOWED = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Name, nodes.Const, nodes.Tuple,
    nodes.List, nodes.Dict, nodes.Pair, nodes.Keyword, nodes.Filter, nodes.Test, nodes.Call, nodes.Getattr,
    nodes.Getitem, nodes.Slice, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.CondExpr,
    nodes.Concat, nodes.Add,
    nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv, nodes.Mod, nodes.Neg, nodes.Pos,
)  # fmt: skip
_LOOP, _VALUE = "_looped", "_value"


class Refused(Exception):
    """A piece uses what templates may not."""


class _Spent(threading.local):
    turns = 0


_spent = _Spent()


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja without loaders, globals, private attributes, mutation, or arithmetic on texts."""

    intercepted_binops = frozenset({"*", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise SecurityError(f"the operator {operator!r} is not allowed here")
        return super().call_binop(context, operator, left, right)


def _pairs(mapping: Mapping[str, str], between: str = ", ", link: str = " ") -> str:
    """Jinja filter: {"age": "24", "job": "artist"} -> "age 24, job artist"."""
    return _join([f"{name}{link}{value}" for name, value in mapping.items()], between)


def _join(parts: Iterable[Any], between: str = "") -> str:
    texts, link = [str(part) for part in parts], str(between)
    _fits(sum(map(len, texts)) + len(link) * len(texts))
    joined: str = link.join(texts)
    return joined


def _replace(text: Any, old: str, new: str) -> str:
    held: str = str(text)
    _fits(len(held) + held.count(str(old)) * len(str(new)))
    return held.replace(str(old), str(new))


def _round(value: float, digits: int = 0) -> float:
    if not 0 <= digits <= 10:
        raise SecurityError(f"round takes 0 to 10 digits, got {digits}")
    return round(float(value), digits)


def _fits(size: int) -> None:
    if size > MAX_TEXT:
        raise SecurityError(f"a text of {size:,} characters, more than {MAX_TEXT:,}")


def _looped(values: Any) -> Sequence[Any]:
    """What a loop goes over, its turns counted."""
    held = list(values.keys() if isinstance(values, Mapping) else values)
    _spent.turns += len(held)
    if _spent.turns > MAX_TURNS:
        raise SecurityError(f"its loops take more than {MAX_TURNS:,} turns")
    return held


def _written(value: Any) -> Any:
    """What is written of a value; of a method it would be where the program has it in memory."""
    if callable(value) and not isinstance(value, jinja2.Undefined):
        raise SecurityError("a method is not text; call it, as in `.upper()`")
    return value


# plain text, not HTML: escaping would corrupt titles
ENVIRONMENT = _Sandbox(
    undefined=jinja2.StrictUndefined, autoescape=False, trim_blocks=True, lstrip_blocks=True,
    keep_trailing_newline=True, finalize=_written,
)  # fmt: skip
ENVIRONMENT.globals.clear()
ENVIRONMENT.filters.clear()
ENVIRONMENT.filters.update({name: filters.FILTERS[name] for name in FILTERS})
ENVIRONMENT.filters.update(
    {"pairs": _pairs, "join": _join, "replace": _replace, "round": _round, _LOOP: _looped, _VALUE: _written}
)


class _Values(NodeTransformer):
    """Looks at whatever an attribute or a subscript gives, unless it is called: joined to a text or sorted, a method
    would be written like any value.
    """

    def visit_Call(self, node: nodes.Call) -> nodes.Node:
        assert isinstance(node.node, nodes.Getattr)
        node.node.node = self.visit(node.node.node)
        node.args = [self.visit(a) for a in node.args]
        for keyword in node.kwargs:
            keyword.value = self.visit(keyword.value)
        return node

    def visit_Getattr(self, node: nodes.Getattr | nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return nodes.Filter(node, _VALUE, [], [], None, None, lineno=node.lineno)

    visit_Getitem = visit_Getattr


def compiled(text: str) -> tuple[nodes.Template, jinja2.Template]:
    """A piece's tree and the piece, ready to be filled. Raises Refused, and what Jinja raises."""
    if len(text) > MAX_SOURCE:
        raise Refused(f"expected at most {MAX_SOURCE:,} characters, got {len(text):,}")
    try:
        tree = ENVIRONMENT.parse(text)
        _check(tree)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, _LOOP, [], [], None, None, lineno=loop.lineno)
        return ENVIRONMENT.parse(text), ENVIRONMENT.from_string(_Values().visit(tree))
    except RecursionError:
        raise Refused(f"nested too deeply; expected at most {MAX_DEPTH} levels") from None
    except (SyntaxError, ValueError, OverflowError) as error:  # of the Python that Jinja makes of it
        raise Refused(f"cannot be compiled: {error}") from None


def _check(tree: nodes.Node) -> None:
    """Refused where a node is not allowed, or stands too deep."""
    waiting = [(tree, 0)]
    while waiting:
        node, depth = waiting.pop()
        kind = type(node).__name__
        if depth > MAX_DEPTH:
            raise Refused(f"nested too deeply; expected at most {MAX_DEPTH} levels")
        if not isinstance(node, ALLOWED) or (isinstance(node, nodes.For) and node.recursive):
            what = (
                "a recursive loop"
                if isinstance(node, nodes.For)
                else {"Assign": "`set`", "Pow": "`**`"}.get(kind, kind)
            )
            raise Refused(f"{what} is not allowed in templates; use {{{{ }}}}, if, for and filters")
        if isinstance(node, nodes.Call) and not (isinstance(node.node, nodes.Getattr) and node.node.attr in METHODS):
            raise Refused(f"a call is not allowed here; what may be called is {', '.join(sorted(METHODS))}")
        if isinstance(node, nodes.Call) and (node.dyn_args or node.dyn_kwargs):
            raise Refused("`*` and `**` are not allowed in a call")
        waiting += [(child, depth + 1) for child in node.iter_child_nodes()]


def filled(template: jinja2.Template, values: Mapping[str, object]) -> str:
    """A piece as text. Raises SecurityError where it takes too many turns or grows too long."""
    _spent.turns = 0
    parts, size = [], 0
    for part in template.generate(values):
        parts.append(part)
        size += len(part)
        _fits(size)
    return "".join(parts)
