"""Rivals of the method: other ways from a few targets to many maps, behind one signature."""
