"""Batch scoring: candidate files in, score files out, in bounded memory, through crashes, on one process or many.

candidates/ cuts tables into chunks -> run.py scores those that are this process' own -> parts.py keeps each
-> target.py puts them together as the output
"""

from palate.apps.scoring.job import Job, Progress, Summary
from palate.apps.scoring.newitems import add_new_items
from palate.apps.scoring.run import score_file
from palate.apps.scoring.share import Share

__all__ = ["Job", "Progress", "Share", "Summary", "add_new_items", "score_file"]
