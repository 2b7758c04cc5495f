"""The report: results of `palate evaluate` as one page that opens by itself, as Markdown, or as numbers alone.

files -> columns (a protocol and its seeds) -> sections of tables, figures and examples -> page | markdown
"""
