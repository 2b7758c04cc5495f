"""Trust, counted: files from strangers thrown at every door, and faults at every job; see docs/notes/2026-11-25-trust.md.

    python -m trust                       both tables, about 25 minutes on two quiet cores
    python -m trust --only images,zip     some targets or faults
    python -m trust --only images --seed 1 --case 4711     one input again, with its traceback

A target is one file in `fuzz/`, a fault one in `faults/`; both are found as plug-ins.
"""
