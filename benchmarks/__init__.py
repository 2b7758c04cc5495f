"""Benchmarks: Palate beside what a user would otherwise write; medians and ratios from one run (see README.md)."""
