"""A whole report from result files, and what else is given: the data set, an adapter, run folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import palate
from palate.apps.report import ablations, beyond, examples, figures, rated, slicing, tables
from palate.apps.report.columns import Column, columns
from palate.apps.report.facts import facts
from palate.apps.report.parts import Lines, Part, Report, Section, Table
from palate.apps.report.results import Loaded, ResultFile, check_one_data_set, read
from palate.data import Dataset
from palate.errors import BundleError, ConfigError, DataError, did_you_mean


@dataclass(frozen=True)
class Asked:
    """What a report is made of. names: what to call systems in place of their names in the files; reference: the system
    the others are subtracted from, by default the first; users, seed: how many examples, drawn how.
    """

    files: Sequence[Path]
    data: Path | None = None
    adapter: Path | None = None
    runs: Sequence[Path] = ()
    names: Sequence[str] = ()
    reference: str | None = None
    title: str | None = None
    users: int = 4
    seed: int = 1
    command: str = ""


@dataclass(frozen=True)
class Material:
    """The inputs, read and checked against one another: rankings by protocol, studies of --ablate, ratings."""

    asked: Asked
    columns: Sequence[Column]
    studies: Sequence[ResultFile]
    ratings: Sequence[ResultFile]
    reference: str
    dataset: Dataset | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)

    @property
    def first(self) -> ResultFile:
        return self.columns[0].first if self.columns else [*self.studies, *self.ratings][0]

    @property
    def results(self) -> list[ResultFile]:
        """All that goes into the report but studies of --ablate."""
        return [*(r for c in self.columns for r in c.results), *self.ratings]

    @property
    def main(self) -> Table:
        """The main table: of rankings, or of ratings where there are no rankings. DataError where there are neither."""
        if self.columns:
            return tables.main(self.columns)
        if self.ratings:
            return rated.main(self.ratings)
        raise DataError(
            "expected results for the main table, got studies of --ablate alone; add a result of `palate evaluate` "
            "without --ablate"
        )


def gather(asked: Asked) -> Material:
    """Read everything. Raises DataError, ConfigError or BundleError where it does not belong together, saying what."""
    loaded = [read(path) for path in asked.files]
    check_one_data_set([r for part in loaded for r in part.results])
    loaded = _named(loaded, asked.names)
    found = columns(loaded)
    studies = [r for part in loaded for r in part.results if r.ablation is not None]
    ratings = [r for part in loaded for r in part.results if r.levels]
    names = tables.systems(found)
    if asked.reference is not None and asked.reference not in names:
        raise ConfigError(
            f"--reference: no system is called {asked.reference!r}; {did_you_mean(asked.reference, names)}"
        )
    reference = asked.reference or next(iter(names), "")
    first = loaded[0].results[0]
    return Material(asked, found, studies, ratings, reference, _dataset(asked.data, first), _meta(asked.adapter, first))


def _named(loaded: Sequence[Loaded], pairs: Sequence[str]) -> list[Loaded]:
    """The files with systems called as --name options say. A system's name may hold an equals sign itself."""
    known = sorted({s.name for part in loaded for r in part.results for s in r.systems}, key=len, reverse=True)
    names: dict[str, str] = {}
    for pair in pairs:
        old = next((name for name in known if pair.startswith(f"{name}=")), None)
        new = "" if old is None else pair[len(old) + 1 :].strip()
        if old is None or not new:
            raise ConfigError(
                f"--name: expected SYSTEM=NAME with a system of the files, got {pair!r}; {did_you_mean(pair, known)}"
            )
        names[old] = new
    if not names:
        return list(loaded)
    return [part.model_copy(update={"results": [r.renamed(names) for r in part.results]}) for part in loaded]


def _dataset(folder: Path | None, first: ResultFile) -> Dataset | None:
    if folder is None:
        return None
    dataset = Dataset.open(folder)
    if dataset.fingerprint != first.data_fingerprint:
        raise DataError(
            f"--data {folder}: expected the data set of the results, {first.dataset} ({first.data_fingerprint[:16]} in "
            f"{first.file}), got {dataset.name} ({dataset.fingerprint[:16]})"
        )
    return dataset


def _meta(folder: Path | None, first: ResultFile) -> Mapping[str, Any]:
    if folder is None:
        return {}
    from palate.model.bundle import read_meta

    meta = read_meta(folder)
    trained = str((meta.get("data") or {}).get("fingerprint", ""))
    if trained and trained != first.data_fingerprint:
        raise BundleError(
            f"{folder}: expected an adapter trained on the data of the results, {first.data_fingerprint[:16]} in "
            f"{first.file}, got one trained on {trained[:16]}"
        )
    return meta


def report(found: Material) -> Report:
    """All sections there is something for; what is missing, and what would bring it, is said at the end."""
    asked = found.asked
    missing: list[str] = []
    main = found.main
    sections = [
        *(_ranked(found, missing) if found.columns else []),
        *([rated.section(found.ratings)] if found.ratings else []),
        *([ablations.section(list(found.studies))] if found.studies else []),
        *_training(found, missing),
        Section("facts", "To repeat it", "", facts(found.columns, [*found.studies, *found.ratings], asked, found.meta)),
    ]
    if missing:
        sections.append(Section("missing", "Not in this report", "", [Lines(missing)]))
    first = found.first
    names = dict.fromkeys(s.name for r in found.results for s in r.systems)
    lead = (
        f"{len(names)} systems, {len(found.results)} results on held-out data; report by Palate {palate.__version__}."
    )
    return Report(asked.title or f"Evaluation on {first.dataset}", lead, main, sections)


def _ranked(found: Material, missing: list[str]) -> list[Section]:
    """What is told of rankings."""
    return [
        _compared(found),
        _curves(found, missing),
        *_sliced(found, missing),
        *_beyond(found, missing),
        *_examples(found, missing),
    ]


def _compared(found: Material) -> Section:
    parts: list[Part] = [figures.intervals(c, f"i{n}") for n, c in enumerate(found.columns)]
    minus = tables.differences(found.columns, found.reference)
    parts += [p for p in (minus, *map(tables.per_seed, found.columns)) if p is not None]
    return Section("compared", "Side by side", "", parts)


def _curves(found: Material, missing: list[str]) -> Section:
    parts: list[Part] = []
    for n, c in enumerate(found.columns):
        for kind in ("HR", "NDCG"):
            parts += figures.curves(c, kind, f"{kind.lower()}{n}")
    if not parts:
        missing.append(
            "Curves over k: the files hold numbers alone; give those that `palate evaluate -o FILE.json` wrote."
        )
    lead = "How the first k places fare, for other k than the tables show." if parts else ""
    return Section("curves", "Over k", lead, parts)


def _sliced(found: Material, missing: list[str]) -> list[Section]:
    if found.dataset is None:
        missing.append("Slices by history and popularity: they need the data set, --data DIR.")
        return []
    parts: list[Part] = []
    for n, c in enumerate(found.columns):
        if not c.first.ranked:
            missing.append(f"Slices of {c.label}: {c.first.file} holds numbers alone, no ranks.")
            continue
        for k, kind in enumerate(slicing.sliced(c, slicing.cases(c, found.dataset), found.dataset)):
            drawn = figures.slices(kind, f"s{n}x{k}")
            parts += [*([drawn] if drawn else []), kind.table()]
    return [Section("slices", "For whom", slicing.lead(found.dataset), parts)] if parts else []


def _beyond(found: Material, missing: list[str]) -> list[Section]:
    parts = [t for c in found.columns if (t := beyond.table(c)) is not None]
    if not parts:
        missing.append("Beyond accuracy: the files hold none of it; evaluate again with this Palate.")
        return []
    return [Section("beyond", "Beyond accuracy", beyond.NOTE, parts)]


def _examples(found: Material, missing: list[str]) -> list[Section]:
    column, dataset = examples.showable(found.columns), found.dataset
    if column is None or dataset is None or not found.asked.users:
        if column is None:
            missing.append("Examples: no file has the best items of each user; evaluate again with this Palate.")
        elif dataset is None:
            missing.append("Examples with titles and pictures: they need the data set, --data DIR.")
        return []
    asked, pictures = slicing.cases(column, dataset), examples.Pictures()
    places = examples.chosen(column, found.asked.users, found.asked.seed)
    parts: list[Part] = [examples.example(column, p, asked[p], dataset, pictures) for p in places]
    if pictures.notes():
        parts.append(Lines(pictures.notes()))
    lead = (
        f"{column.label}, seed {column.seeds[0]}. {len(places)} {dataset.wording.person}s, drawn with seed "
        f"{found.asked.seed}: the first half among those where some system has the held-out {dataset.wording.item} in "
        f"its first {examples.TOP}, so these look better than the average; the others at random."
    )
    return [Section("examples", "Examples", lead, parts)]


def _training(found: Material, missing: list[str]) -> list[Section]:
    parts = [f for n, run in enumerate(found.asked.runs) for f in figures.training(run, f"t{n}")]
    if not parts:
        missing.append("The learning curve: it needs the run folder, --run runs/NAME.")
        return []
    return [Section("training", "Training", "", parts)]
