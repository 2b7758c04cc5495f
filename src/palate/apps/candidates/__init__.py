"""Candidate files: what to score for whom, in Parquet, CSV or JSON lines."""

from palate.apps.candidates.chunks import Chunk, Cutter
from palate.apps.candidates.rejects import Limit, Reject, Rejects
from palate.apps.candidates.requests import Parser, precheck
from palate.apps.candidates.tables import Table, find_tables

__all__ = ["Chunk", "Cutter", "Limit", "Parser", "Reject", "Rejects", "Table", "find_tables", "precheck"]
