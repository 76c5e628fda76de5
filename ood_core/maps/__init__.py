"""Maps in physical units: sets, ranges, and the files they come from."""
