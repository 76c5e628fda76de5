"""The report of a run: one self-contained page and the same numbers as a record."""
