"""Candidate files: what to score for whom, in Parquet, CSV or JSON lines."""

from palate.apps.candidates.rejects import Reject, Rejects
from palate.apps.candidates.requests import CandidateFile, precheck

__all__ = ["CandidateFile", "Reject", "Rejects", "precheck"]
