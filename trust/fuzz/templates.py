"""Templates: YAML and Jinja from strangers, loaded, rendered, and nothing but text comes out."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import yaml

from trust import mutate
from trust.fuzz import SilentChange, Target

NAMES = ("wording", "labels", "profile", "context", "query", "history", "candidates", "facts", "item", "event", "gap", "media",
         "label", "item.title", "item.text", "wording.item", "item.details", "self", "loop", "range", "lipsum", "cycler", "namespace",
         "joiner", "dict", "x", "1", "'a'", "[1, 2]", "''", "9999999999", "1.5", "none", "true", "history[0]", "history[:3]")  # fmt: skip
ATTRIBUTES = ("__class__", "__mro__", "__subclasses__()", "__init__.__globals__", "__globals__", "_private", "format", "format_map",
              "upper()", "items()", "join(history)", "append(1)", "update({})", "f_back", "gi_frame", "mro()", "title", "x",
              "ljust(10**9)", "center(999999999)", "zfill(99999999)", "encode()", "replace('', history)", "split()", "expandtabs(99999999)")  # fmt: skip
FILTERS = ("pairs", "join(', ')", "join(history)", "upper", "list", "attr('__class__')", "attr('__init__')", "map('attr', '__class__') | list",
           "format(1)", "center(999999999)", "indent(99999999)", "replace('a', history)", "replace('', history)", "batch(1) | list", "sort",
           "random", "tojson", "pprint", "xmlattr", "urlize", "wordwrap(1)", "truncate(5)", "length", "sum", "slice(99999999) | list",
           "groupby('x')", "unique | list", "safe", "escape", "striptags", "first", "last", "int", "float", "round(99999)", "abs",
           "filesizeformat", "default('x')", "reverse | list", "map('join', history) | join", "pairs(history)", "string", "dictsort",
           "select('foo')", "nosuch", "join(join(history))")  # fmt: skip
WHOLE = (
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}", "{{ range(10**9) | list }}",
    "{% set x = 'a' * 10 %}{{ x }}", "{% set x = history ~ history %}" * 40 + "{{ x }}", "{% set x = history %}" + "{% set x = x ~ x %}" * 60 + "{{ x }}",
    "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}", "{% include '/etc/passwd' %}", "{% import 'os' as os %}",
    "{% extends 'x' %}", "{% for c in history recursive %}{{ loop(history) }}{% endfor %}", "{{ lipsum(n=99999) }}", "{{ 9**9**9 }}",
    "{{ 'a' * 10**9 }}", "{{ [0] * 10**9 }}", "{{ '%999999999d' % 1 }}", "{{ '{:>999999999}'.format(1) }}", "{{ '%999999999d' | format(1) }}",
    "{{ '{0.__class__}'.format(history) }}", "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ cycler.__init__.__globals__ }}",
    "{{ self._TemplateReference__context }}", "{% for c in history %}{% for d in history %}{% for e in history %}{% for f in history %}x"
    "{% endfor %}{% endfor %}{% endfor %}{% endfor %}", "{{ " + "(" * 300 + "1" + ")" * 300 + " }}", "{{ " + "-" * 3000 + "1 }}",
    "{{ " + "not " * 3000 + "1 }}", "{% if 1 %}" * 200 + "{% endif %}" * 200, "{{ " + "[" * 500 + "]" * 500 + " }}",
    "{{ 1 " + "+ 1 " * 5000 + "}}", "{{ history" + " | upper" * 3000 + " }}", "{{ history" + ".x" * 3000 + " }}", "{# " * 50,
    "{% block a %}{{ self.a() }}{% endblock %}", "{% call(x) f() %}{% endcall %}", "{% filter upper %}x{% endfilter %}", "{{ 10**10**10 }}",
    "{{ history | join(history) | join(history) | join(history) | join(history) }}", "{% set ns = namespace(x=1) %}{% set ns.x = ns %}{{ ns }}",
    "{{ 1 // 0 }}", "{{ 7 % 0 }}", "{{ 2 ** 99999999 }}", "{{ 1e308 * 10 }}", "{{ 99999999999 // 3 }}", "{{ history[9**9] }}", "{{ {}.x.y }}",
    "{{ 'a' + 'b' }}", "{{ 1 ~ 2 }}", "{{ history in history }}", "{{ item is defined }}", "{% raw %}{{ x }}{% endraw %}", "{%- trans -%}x{% endtrans %}",
    "{{ history | map('upper') | join | map('upper') | join }}", "{% do history.append(1) %}", "{% with x = history %}{{ x }}{% endwith %}",
    "\ue000{{ history }}", "{{ '\\x00' }}", "{% set history = 'x' %}{{ history }}", "{{ history.__class__ }}", "{{ '' | attr('__class__') }}",
)  # fmt: skip
KEYS = (
    "name",
    "mode",
    "language",
    "chat",
    "system",
    "user",
    "history_item",
    "candidate_item",
    "branch",
    "answer",
    "labels",
    "max_candidates",
)
MODES = ("likelihood", "yes_no", "letters", "rating", "rated", "explain", "chat", "embedding")


def expression(rng: Random) -> str:
    """A Jinja expression of names, attributes, filters and operators."""
    text = rng.choice(NAMES)
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        roll = rng.random()
        if roll < 0.35:
            text += f" | {rng.choice(FILTERS)}"
        elif roll < 0.65:
            text += f".{rng.choice(ATTRIBUTES)}"
        elif roll < 0.75:
            text += f"[{rng.choice(NAMES)}]"
        else:
            text = f"({text}) {rng.choice(('+', '-', '*', '**', '%', '//', '/', '~', '==', '<', 'in', 'and', 'is'))} {rng.choice(NAMES)}"
    return text


def jinja(rng: Random) -> str:
    """A piece of a template."""
    roll = rng.random()
    if roll < 0.2:
        return rng.choice(WHOLE)
    if roll < 0.3:
        return mutate.text(rng)
    body = f"{{{{ {expression(rng)} }}}}"
    roll = rng.random()
    if roll < 0.25:
        body = f"{{% for x in {expression(rng)} %}}{body}{{% endfor %}}"
    elif roll < 0.45:
        body = f"{{% if {expression(rng)} %}}{body}{{% endif %}}"
    elif roll < 0.55:
        body = f"{{% set x = {expression(rng)} %}}{body}"
    return body


class Templates(Target):
    name = "templates"
    about = "keys of the YAML changed; Jinja of attributes, filters, loops, macros: escapes, blow-ups, depth, odd text"

    def setup(self, folder: Path) -> None:
        from palate.prompting import template as shipped

        self.path = folder / "t.yaml"
        self.seeds = [yaml.safe_load(p.read_text("utf-8")) for p in sorted((shipped.folder() / "en").glob("*.yaml"))]
        long = "A long history of films that were watched. " * 20
        from palate.schema import Wording

        wording = Wording("movie", "movies", "watched", "viewer")
        item = {"title": "Red Harbour", "details": ["1971", "Drama"], "text": {"year": "1971"}}
        self.values: dict[str, Any] = {
            "wording": wording, "labels": ("Yes", "No"), "profile": {"age": "24"}, "context": {"time": "evening"}, "query": "fun",
            "history": long, "candidates": long, "facts": "f", "item": item, "event": {"rating": "4"}, "gap": "a day",
            "media": "", "label": "A",
        }  # fmt: skip

    def make(self, rng: Random) -> bytes:
        seed = dict(rng.choice(self.seeds))
        roll = rng.random()
        if roll < 0.12:
            return mutate.damaged(
                rng, yaml.safe_dump(seed).encode(), [b"{{", b"}}", b"{%", b"%}", b": ", b"*a", b"\xff"]
            )
        for _ in range(rng.choice((1, 1, 2, 3))):
            key = rng.choice(KEYS)
            if key == "mode":
                seed[key] = rng.choice(MODES)
            elif key == "labels" and rng.random() < 0.7:
                seed[key] = rng.choice(
                    (["Yes", "No"], ["A"], [], ["", "x"], [True, False], ["A"] * 2, [mutate.text(rng)])
                )
            elif key in ("system", "user", "history_item", "candidate_item", "branch", "answer"):
                seed[key] = f"{{{{ history }}}} {jinja(rng)}" if key == "user" and rng.random() < 0.8 else jinja(rng)
            elif roll < 0.4:
                seed[key] = mutate.value(rng)
        try:
            return yaml.safe_dump(seed).encode("utf-8", "surrogatepass")
        except Exception:
            return json.dumps(seed).encode("utf-8", "surrogatepass")

    def judge(self, case: bytes) -> None:
        from palate import prompting
        from palate.prompting.template import VARIABLES

        self.path.write_bytes(case)
        template = prompting.load(self.path)
        again = prompting.load(self.path)
        if again.hash != template.hash:
            raise SilentChange("loaded twice, two hashes")
        before = repr(self.values)
        for piece, names in VARIABLES.items():
            told = template.render(piece, {n: self.values[n] for n in names})
            for word in (
                "<class '",
                "<module ",
                "<function ",
                "<built-in",
                "<bound method",
                " object at 0x",
                "__globals__",
            ):
                if word in told and word not in case.decode("utf-8", "replace"):
                    raise SilentChange(f"{piece}: the inside of the program came out: {told[:200]!r}")
            if len(told) > 5_000_000:
                raise SilentChange(f"{piece}: {len(told)} characters from a template of {len(case)}")
        if repr(self.values) != before:
            raise SilentChange("a template has changed its values")
