"""What `palate evaluate --ablate modalities` found, as tables."""

from __future__ import annotations

from typing import Any

from palate.apps.report.parts import Cell, Lines, Part, Section, Table
from palate.apps.report.results import ResultFile
from palate.apps.report.tables import difference
from palate.errors import DataError
from palate.evaluate.ablate import FULL
from palate.evaluate.metrics import Paired


def section(studies: list[ResultFile]) -> Section:
    """One or more studies: their sentences, and values and differences on every slice."""
    parts: list[Part] = []
    for result in studies:
        assert result.ablation is not None
        parts.append(Lines(result.ablation.sentences))
        parts += [_table(result, part) for part in result.ablation.slices]
    lead = (
        "One adapter asked again without a modality, with one alone, and with vectors given to the wrong items "
        "(shuffled). It was not trained again. Differences are all modalities minus the row, paired over users; p "
        "values are not corrected for their number. Bold: the interval lies on one side of zero."
    )
    return Section("ablations", "What each modality adds", lead, parts)


def _table(result: ResultFile, part: dict[str, Any]) -> Table:
    study = result.ablation
    assert study is not None
    try:
        rows = []
        for name, values in part["values"].items():
            cells = [Cell(f"{v['value']:.3f}", f"[{v['low']:.3f}, {v['high']:.3f}]") for v in values.values()]
            minus = part["differences"].get(name)
            cells += [Cell("") for _ in values] if minus is None else [_minus(minus[m]) for m in values]
            rows.append((name, cells))
        metrics = list(next(iter(part["values"].values())))
        caption = f"{study.adapter}, {result.label}: {part['name']}, n = {part['n']:,}"
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration) as error:
        raise DataError(
            f"{result.file}: ablation.slices: expected name, n, values and differences of each slice, as `palate "
            f"evaluate --ablate` writes them ({type(error).__name__}: {error})"
        ) from None
    return Table(caption, ["system", *metrics, *[f"{FULL} {chr(0x2212)} it, {m}" for m in metrics]], rows)


def _minus(d: dict[str, float]) -> Cell:
    return difference(Paired(d["diff"], d["low"], d["high"], d["p"], int(d["n"])))
