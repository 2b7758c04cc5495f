"""Knowledge: what a table of facts (subject, relation, object) says of the items, joined to them as text fields.

`directed_by: Ridley Scott` is the field `directed_by`; where the object is an item of the catalogue its title is
written with the relation, `prequel: Alien`. An object that is an id without a name (m.02vxxgs of Freebase, Q42) says
nothing to a language model and is left out. Facts are read as a stream, one step from an item; in memory stay what is
joined and the links and names it needs. What is left out is counted by relation and reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from palate.data import columns as col
from palate.data import tables
from palate.data.catalog import Catalog
from palate.data.records import Records
from palate.data.rejects import MAX_CHARS, Reject, RejectLog
from palate.data.spec import KnowledgeSpec, TableSpec
from palate.data.tables import TableSource
from palate.errors import DataError

NO_NAME = "the object is an id without a name"
NO_ITEM = "the subject is no item"
NOT_ASKED = "the relation is not among `relations`"
BEYOND = "more objects than `most` for one field of an item"
AGAIN = "said before"
OPAQUE = re.compile(
    r"(m\.0|g\.1|/m/0|/g/1)[0-9a-z_]+|[QPL]\d+|(nm|tt|co)\d{5,}|_:\S+|[0-9a-f]{16,}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
)
"""Ids of Freebase, Wikidata and IMDb, blank nodes, hashes, UUIDs."""
LITERAL = re.compile(r'"(.*)"(@[\w-]+|\^\^\S+)?')

Value = TypeVar("Value")
Links = Mapping[str, Sequence[int]]
"""Entity -> rows of the catalogue."""


@dataclass(frozen=True)
class KnowledgeSources:
    """The table of facts, and where there are ones, the tables that link items to entities and name entities."""

    facts: TableSource
    link: TableSource | None = None
    names: TableSource | None = None


def sources(folder: Path, spec: KnowledgeSpec) -> KnowledgeSources:
    """The tables a spec names; DataError where one is missing or outside the folder."""

    def of(part: TableSpec | None) -> TableSource | None:
        return None if part is None else tables.source(folder, part)

    return KnowledgeSources(tables.source(folder, spec), of(spec.link), of(spec.names))


def join(
    catalog: Catalog, src: KnowledgeSources, spec: KnowledgeSpec, log: RejectLog, id_column: str = "item_id"
) -> Catalog:
    """The catalogue with a text field for every relation that says something of its items.

    Objects of one field are joined by commas, at most `spec.most`, the first in file order. Where the catalogue has
    the field already its own value is kept and an empty one is filled. Raises DataError for a missing column, where
    no subject is an item, and where a relation would fill the id, the title or media; TooManyRejects for bad rows.
    """
    links: Links = {i: (n,) for n, i in enumerate(catalog.item_ids)}
    if src.link is not None and spec.link is not None:
        links = _links(src.link, (spec.link.item, spec.link.entity), catalog.records.index, log)
    facts = _Facts(src.facts, spec, links, log)
    objects = _Objects(spec, links, catalog.titles)
    if src.names is not None and spec.names is not None:
        objects.name(src.names, (spec.names.entity, spec.names.name), facts.objects(), log)
    joined = _Joined(spec.most)
    for item, relation, value in facts:
        field = facts.fields[relation]
        if reason := joined.add(item, field, objects.text(relation, field, value)):
            facts.leave(relation, reason, value)
    facts.report()
    return _with_fields(catalog, joined, src.facts.name, {id_column, "item_id", "title"})


def field_of(relation: str) -> str:
    """The field that a relation fills unless told otherwise: its last part."""
    parts = [p for p in re.split(r"[./#:<>\s]+", relation) if p]
    return parts[-1] if parts else relation


def readable(value: str) -> str:
    """An object as people write it: `"Heat"@en` is Heat, http://dbpedia.org/resource/Ridley_Scott is Ridley Scott."""
    if literal := LITERAL.fullmatch(value):
        return literal[1].strip()
    value = value.removeprefix("<").removesuffix(">")
    if "://" in value:
        value = unquote(re.split(r"[/#]", value.rstrip("/#"))[-1]).replace("_", " ")
    return value.strip()


class _Facts:
    """The facts about items, as a stream of (catalogue row, relation, object)."""

    def __init__(self, src: TableSource, spec: KnowledgeSpec, links: Links, log: RejectLog) -> None:
        self.src, self.spec, self.links, self.log = src, spec, links, log
        self.fields: dict[str, str] = dict(spec.relations or {})
        self.left_out: Counter[tuple[str, str]] = Counter()
        self.examples: dict[tuple[str, str], str] = {}
        self.rows = 0

    def objects(self) -> set[str]:
        """Distinct objects of facts about items: a first pass, for which rows are not reported."""
        quiet = _Facts(self.src, self.spec, self.links, RejectLog(max_rejects=2**62))
        return {value for _, _, value in quiet}

    def __iter__(self) -> Iterator[tuple[int, str, str]]:
        before, found, good = self.log.rows[self.src.name], 0, 0
        columns = (self.spec.subject, self.spec.relation, self.spec.object)
        for subjects, relations, objects in _rows(self.src, columns, ("subject", "relation", "object"), self.log):
            good += len(subjects)
            rows = _mapped(subjects, lambda s: self.links.get(s, ()))
            for items, relation, value in zip(rows, relations.to_pylist(), objects.to_pylist(), strict=True):
                if not items:
                    self.leave(relation, NO_ITEM, value)
                elif self._field(relation) is None:
                    self.leave(relation, NOT_ASKED, value)
                else:
                    found += 1
                    for item in items:
                        yield item, relation, value
        self.log.settle(self.src.name, good + self.log.rows[self.src.name] - before)
        if not found:
            link = f" through {self.spec.link.path}" if self.spec.link else ""
            raise DataError(
                f"{self.src.name}: expected facts about items, none of {good:,} has a subject that is one{link} and a "
                "relation that is asked for; name the link table under knowledge.link in dataset.yaml, or take the "
                "knowledge table out"
            )

    def _field(self, relation: str) -> str | None:
        if self.spec.relations is None and relation not in self.fields:
            self.fields[relation] = field_of(relation)
        return self.fields.get(relation)

    def leave(self, relation: str, reason: str, value: str) -> None:
        """Count a fact that has no place among the items."""
        self.left_out[relation, reason] += 1
        self.examples.setdefault((relation, reason), value)

    def report(self) -> None:
        """Write down how many facts of which relation were left out and why."""
        for (relation, reason), count in sorted(self.left_out.items()):
            example = self.examples[relation, reason][:MAX_CHARS]
            self.log.add(Reject(self.src.name, None, relation, example, reason, "fact", count))


class _Objects:
    """Objects as text."""

    def __init__(self, spec: KnowledgeSpec, links: Links, titles: pa.Array) -> None:
        self.literal, self.links, self.titles = set(spec.literal), links, titles
        self.names: dict[str, str] = {}
        # where entities are numbers, a number is one of them, unless the relation is said to hold values
        self.numbered = bool(links) and all(e.isdigit() for e in links)

    def name(self, src: TableSource, columns: tuple[str, str], wanted: set[str], log: RejectLog) -> None:
        """Read the names of the wanted entities; of several the first counts."""
        before, good = log.rows[src.name], 0
        for entities, names in _rows(src, columns, ("entity", "name"), log):
            good += len(entities)
            for entity, name in zip(entities.to_pylist(), names.to_pylist(), strict=True):
                if entity in wanted:
                    self.names.setdefault(entity, name)
        log.settle(src.name, good + log.rows[src.name] - before)

    def text(self, relation: str, field: str, value: str) -> str | None:
        """What a field says of the object; None where that is an id without a name."""
        if relation in self.literal:
            return readable(value)
        if items := self.links.get(value):
            return f"{field.replace('_', ' ')}: {self.titles[items[0]].as_py()}"
        if value in self.names:
            return readable(self.names[value])
        shown = readable(value)
        opaque = OPAQUE.fullmatch(shown) is not None or (self.numbered and shown.isdigit())
        return None if opaque or not shown else shown


class _Joined:
    """Field -> catalogue row -> objects, each once."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.fields: dict[str, dict[int, dict[str, None]]] = {}

    def add(self, item: int, field: str, text: str | None) -> str | None:
        """Take an object; why not, where it is not taken."""
        if text is None:
            return NO_NAME
        told = self.fields.setdefault(field, {}).setdefault(item, {})
        if text in told:
            return AGAIN
        if len(told) >= self.most:
            return BEYOND
        told[text] = None
        return None


def _with_fields(catalog: Catalog, joined: _Joined, file: str, taken: set[str]) -> Catalog:
    own = catalog.records
    columns, text = dict(own.columns), list(catalog.text_fields)
    for field, told in joined.fields.items():
        if field in {*taken, catalog.title_column, *catalog.media_columns.values()}:
            raise DataError(
                f"{file}: a relation would fill {field!r}, which is the id, the title or a medium of the items; give "
                "it another field under knowledge.relations in dataset.yaml"
            )
        cells = pa.array([", ".join(told.get(n, ())) for n in range(len(own))], pa.large_string())
        has = columns.get(field)
        columns[field] = cells if has is None else pc.if_else(pc.equal(has, ""), cells, has)
        if field not in text:
            text.append(field)
    table = Records(own.ids, columns, own.lines, own.total, own.file)
    return Catalog(table, catalog.title_column, text, catalog.media_columns, catalog.folder)


def _links(src: TableSource, columns: tuple[str, str], index: Mapping[str, int], log: RejectLog) -> Links:
    """Entity -> its items. Rows of unknown items are rejected, as events of unknown items are."""
    links: dict[str, list[int]] = {}
    before, good = log.rows[src.name], 0
    for items, entities in _rows(src, columns, ("item", "entity"), log, known=index):
        good += len(items)
        for item, entity in zip(items.to_pylist(), entities.to_pylist(), strict=True):
            rows = links.setdefault(entity, [])
            if index[item] not in rows:
                rows.append(index[item])
    log.settle(src.name, good + log.rows[src.name] - before)
    return links


def _rows(
    src: TableSource,
    columns: Sequence[str],
    roles: Sequence[str],
    log: RejectLog,
    known: Mapping[str, int] | None = None,
) -> Iterator[list[pa.Array]]:
    """The columns of a table, chunk by chunk, as text on one line without space around it.

    Rows with an empty cell are rejected, and where `known` is given those whose first cell it lacks.
    """
    for n, chunk in enumerate(tables.stream(src, log)):
        if n == 0:
            for name, role in zip(columns, roles, strict=True):
                tables.require(chunk.table, name, src.name, role)
        cells = [col.titles(chunk.table[name]) for name in columns]
        kept = np.ones(chunk.table.num_rows, dtype=bool)
        for name, role, values in zip(columns, roles, cells, strict=True):
            bad = kept & col.is_empty(values)
            log.add_rows(src.name, chunk.lines[bad], name, [""] * int(bad.sum()), f"empty {role}")
            kept &= ~bad
        if known is not None:
            strange = kept & ~np.array(_mapped(cells[0], lambda i: i in known), dtype=bool)
            values = cells[0].filter(pa.array(strange)).to_pylist()
            log.add_rows(src.name, chunk.lines[strange], columns[0], values, "unknown item")
            kept &= ~strange
        yield [values.filter(pa.array(kept)) for values in cells]


def _mapped(cells: pa.Array, value: Callable[[str], Value]) -> list[Value]:
    """One value a cell, worked out once for each distinct one."""
    coded = cells.dictionary_encode()
    found = [value(c) for c in coded.dictionary.to_pylist()]
    return [found[n] for n in coded.indices.to_pylist()]
