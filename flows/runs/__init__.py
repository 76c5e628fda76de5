"""A run from plan to published set."""
