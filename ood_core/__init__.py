"""The method: pure functions from arrays, seeds and scalars to values."""
