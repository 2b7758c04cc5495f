"""Data: a folder of tables and media as a catalogue, histories and splits.

Dataset.open(folder)            .catalog .histories .users .wording .show .fingerprint
import_dataset(name_or_path, out, media=None)    any known layout into a clean folder
check(folder), stats(dataset)   what is there, what is missing, what was left out
splits.leave_one_out(dataset.histories.interactions)
"""

from __future__ import annotations

from palate.data import splits
from palate.data.catalog import Catalog
from palate.data.check import Report, check, stats
from palate.data.dataset import Dataset
from palate.data.histories import Histories
from palate.data.importing import import_dataset
from palate.data.spec import DatasetSpec, Show
from palate.data.splits import Split

__all__ = [
    "Catalog",
    "Dataset",
    "DatasetSpec",
    "Histories",
    "Report",
    "Show",
    "Split",
    "check",
    "import_dataset",
    "splits",
    "stats",
]
